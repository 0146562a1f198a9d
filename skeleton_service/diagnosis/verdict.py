"""The verdict: symptom, component, alternatives, confidence and the evidence a person can check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

import pyarrow as pa

from exporter.contracts.diagnosis import Alternative, Component, Diagnosis, Failure, Layer, Symptom
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link
from exporter.contracts.skeleton import Skeleton
from skeleton_service.diagnosis.detection import UNREACHABLE_RATIO, is_failing, is_refused
from skeleton_service.diagnosis.paths import PathHistory, by_job, collect
from skeleton_service.diagnosis.votes import Suspect, rank_links

_THIRD = 3
_ALTERNATIVE_PROBABILITY = 0.01
_MAX_ALTERNATIVES = 3
_MTU_LOSS_RATIO = 0.1  # of full-size probes over a link; the fault may be younger than the records
_MTU_CONTRAST = 4  # how many times more they lose than small ones


def diagnose(records: pa.Table, fabric: Fabric, skeleton: Skeleton) -> Diagnosis:
    """Judge the recent records: one failure a job and symptom, plus one for each responder that refuses.

    Full-size probes (MTU) that fail where small ones live are an MTU failure; where both fail, it is loss.
    """
    failures: list[Failure] = []
    for job, paths in by_job(collect(records, fabric, skeleton.job)).items():
        failures += _refusals(job, paths)
        small = [path for path in paths if path.task != "MTU"]
        large = [path for path in paths if path.task == "MTU"]
        loss = _failure(job, small, fabric, "loss")
        size = _failure(job, large, fabric, "mtu")
        if loss is not None:
            failures.append(loss)
        if size is not None and _only_large(size.component, large, small):
            failures.append(size)
    return Diagnosis(version=1, failures=tuple(failures))


def _only_large(component: Component, large: Sequence[PathHistory], small: Sequence[PathHistory]) -> bool:
    """Whether full-size probes over a component die where small ones live: a lossy link loses both alike."""
    if component.kind == "link":
        paths = [[path for path in kind if component.name in (path.links or ())] for kind in (large, small)]
    else:  # too few to vote: compare the failing paths with their own small probes
        flows = {path.flow for path in large if is_failing(path)}
        paths = [[path for path in kind if path.flow in flows] for kind in (large, small)]
    ratio = _mean_loss(paths[0])
    return ratio >= _MTU_LOSS_RATIO and _mean_loss(paths[1]) < ratio / _MTU_CONTRAST


def _mean_loss(paths: Sequence[PathHistory]) -> float:
    sent = sum(path.sent for path in paths)
    return sum(len(path.losses) for path in paths) / sent if sent else 0.0


def _failure(job: str, paths: Sequence[PathHistory], fabric: Fabric, symptom: Symptom) -> Failure | None:
    failing = [path for path in paths if is_failing(path)]
    if not failing:
        return None
    if symptom == "loss" and all(path.loss_ratio >= UNREACHABLE_RATIO for path in failing):
        symptom = "unreachable"
    suspects = rank_links(paths, failing, fabric, replies_suffer=symptom != "mtu")
    voters = [path for path in failing if path.links is not None]
    layer: Layer = "underlay"
    if suspects and len(suspects[0].failing) > 1:
        best = suspects[0]
        component = Component(kind="link", name=best.link, location=location(best.link, fabric))
        alternatives = [
            Alternative(kind="link", name=other.link, score=round(other.probability, 3))
            for other in suspects[1:]
            if other.probability >= _ALTERNATIVE_PROBABILITY
        ][:_MAX_ALTERNATIVES]
        confidence = round(best.probability, 3)
        evidence = _evidence(best, suspects[1:], symptom)
        failing = list(best.failing)
    else:
        # One failing path alone cannot tell its links apart: name the pair's source RNIC last of all.
        layer = "unknown"
        source = failing[0].flow[0]
        component = Component(kind="rnic", name=source, location=None)
        links = failing[0].links or ()
        alternatives = [Alternative(kind="link", name=link, score=1.0) for link in links][:_MAX_ALTERNATIVES]
        confidence = 0.0
        evidence = (f"{len(failing)} failing path(s), {len(voters)} of them traced: too few to vote",)
    starts, detections = _times(failing)
    return Failure(
        id=_identity(job, symptom, component),
        job=job,
        start=starts,
        detected_at=detections,
        end=None,
        symptom=symptom,
        layer=layer,
        component=component,
        alternatives=tuple(alternatives),
        confidence=confidence,
        paths=tuple(sorted({path.ends for path in failing})),
        evidence=evidence,
    )


def _evidence(best: Suspect, others: Sequence[Suspect], symptom: Symptom) -> tuple[str, ...]:
    what = "full-size probes (small ones live)" if symptom == "mtu" else "probes"
    lines = [
        f"{len(best.failing)} of {best.crossing} traced paths over {best.link} lose {what}, "
        f"{best.loss_ratio:.1%} on average"
    ]
    lines += [
        f"next: {other.link}: {len(other.failing)} of {other.crossing} paths fail, {other.loss_ratio:.1%} on average"
        for other in others[:1]
    ]
    return tuple(lines)


def _refusals(job: str, paths: Sequence[PathHistory]) -> list[Failure]:
    refused: dict[str, list[PathHistory]] = defaultdict(list)
    for path in paths:
        if is_refused(path):
            refused[path.flow[1].partition(":")[0]].append(path)
    failures = []
    for host, blocked in sorted(refused.items()):
        component = Component(kind="agent", name=host)
        failures.append(
            Failure(
                id=_identity(job, "unreachable", component),
                job=job,
                start=min(path.refusals[0] for path in blocked),
                detected_at=min(path.refusals[1] for path in blocked),
                end=None,
                symptom="unreachable",
                layer="service",
                component=component,
                alternatives=(),
                confidence=1.0,
                paths=tuple(sorted({path.ends for path in blocked})),
                evidence=(f"{host} answers {len(blocked)} path(s) with a refusal: the network carries the probes",),
            )
        )
    return failures


def _times(failing: Sequence[PathHistory]) -> tuple[float, float]:
    """When the failure began, and when three of its losses had been seen."""
    losses = sorted(time for path in failing for time in path.losses)
    return losses[0], losses[min(_THIRD, len(losses)) - 1]


def _identity(job: str, symptom: str, component: Component) -> str:
    """Stable over repeated diagnoses of the same failure."""
    return sha256("\0".join((job, symptom, component.kind, component.name)).encode()).hexdigest()[:16]


def location(link: str, fabric: Fabric) -> str | None:
    """Where to walk to: rack, pod and zone of the host at an end, or the tiers of the two switches."""
    parts = []
    for end in split_link(link):
        interface = fabric.interfaces.get(end)
        if interface is not None:
            host = interface.host
            parts += [
                f"{what} {name}" for what, name in (("rack", host.rack), ("pod", host.pod), ("zone", host.zone)) if name
            ]
        elif (switch := fabric.switches.get(end.partition(":")[0])) is not None:
            parts.append(f"{switch.tier} {switch.name}")
    return ", ".join(parts) or None
