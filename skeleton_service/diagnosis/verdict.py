"""The verdict: symptom, component, alternatives, confidence and the evidence a person can check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

import msgspec
import pyarrow as pa

from exporter.contracts.diagnosis import Alternative, Component, Diagnosis, Failure, Layer, Symptom
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link
from exporter.contracts.skeleton import Skeleton
from skeleton_service.diagnosis.detection import UNREACHABLE_RATIO, is_failing, is_refused
from skeleton_service.diagnosis.paths import PathHistory, by_class, by_job, collect
from skeleton_service.diagnosis.votes import Suspect, rank_links

_THIRD = 3
_ALTERNATIVE_PROBABILITY = 0.01
_MAX_ALTERNATIVES = 3
_MTU_LOSS_RATIO = 0.1  # of full-size probes over a link; the fault may be younger than the records
_CONTRAST = 4  # how many times more the probes of one kind lose than those of another that live
_EXPECTED_LOSSES = 5  # of probes that lived, had they lost as those that did not: fewer prove nothing


def diagnose(records: pa.Table, fabric: Fabric, skeleton: Skeleton, *, spraying: bool = False) -> Diagnosis:
    """Judge the recent records: one failure a job and symptom, plus one for each responder that refuses.

    Full-size probes (MTU) that fail where small ones live are an MTU failure; where both fail, it is loss. Traffic
    classes are judged apart, first that of most paths; how another fares over the component is evidence. ``spraying``
    says that the fabric sprays packets, so that paths without a route cross all links that they may.
    """
    failures: list[Failure] = []
    for job, paths in by_job(collect(records, fabric, skeleton.job, spraying=spraying)).items():
        failures += _refusals(job, paths)
        classes = by_class(paths)
        found = (_loss(job, classes, fabric), _mtu(job, classes, fabric))
        failures += [failure for failure in found if failure is not None]
    return Diagnosis(version=1, failures=tuple(failures))


def _small(paths: Sequence[PathHistory]) -> list[PathHistory]:
    return [path for path in paths if path.task != "MTU"]


def _loss(job: str, classes: Sequence[Sequence[PathHistory]], fabric: Fabric) -> Failure | None:
    for own in classes:
        failure = _failure(job, _small(own), fabric, "loss")
        if failure is not None:
            others = (_small(other) for other in classes if other is not own)
            lines = tuple(line for other in others if (line := _compared(failure, _small(own), other)))
            return msgspec.structs.replace(failure, evidence=failure.evidence + lines)
    return None


def _mtu(job: str, classes: Sequence[Sequence[PathHistory]], fabric: Fabric) -> Failure | None:
    for own in classes:
        large = [path for path in own if path.task == "MTU"]
        failure = _failure(job, large, fabric, "mtu")
        if failure is not None and _only_large(failure.component, large, _small(own)):
            return failure
    return None


def _over(component: Component, paths: Sequence[PathHistory], like: Sequence[PathHistory]) -> list[PathHistory]:
    """Those of ``paths`` that cross a link; of another component, those of the flows that fail among ``like``."""
    if component.kind == "link":
        return [path for path in paths if component.name in (path.shares or ())]
    flows = {path.flow for path in like if is_failing(path)}
    return [path for path in paths if path.flow in flows]


def _only_large(component: Component, large: Sequence[PathHistory], small: Sequence[PathHistory]) -> bool:
    """Whether full-size probes over a component die where small ones live: a lossy link loses both alike."""
    ratio = _mean_loss(_over(component, large, large))
    return ratio >= _MTU_LOSS_RATIO and _mean_loss(_over(component, small, large)) < ratio / _CONTRAST


def _compared(failure: Failure, own: Sequence[PathHistory], other: Sequence[PathHistory]) -> str | None:
    """What another traffic class's fate over the component says; None when it says nothing.

    Compared are flows that are probed in both: they take the same way, in the same direction.
    """
    failing, beside = _over(failure.component, own, own), _over(failure.component, other, own)
    both = {path.flow for path in failing} & {path.flow for path in beside}
    failing = [path for path in failing if path.flow in both]
    beside = [path for path in beside if path.flow in both]
    ratio, sent = _mean_loss(failing), sum(path.sent for path in beside)
    if ratio * sent < _EXPECTED_LOSSES or failing[0].dscp is None or beside[0].dscp is None:
        return None
    said = f"{len(beside)} path(s) of DSCP {beside[0].dscp} over the same lose {_mean_loss(beside):.1%}"
    if _mean_loss(beside) < ratio / _CONTRAST:
        return f"{said}: look at the queue of DSCP {failing[0].dscp} (buffer, ECN, PFC), not at the cable"
    return f"{said}: not the fault of one queue"


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
    voters = [path for path in failing if path.shares is not None and not path.sprayed]
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
        links = failing[0].shares or ()
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
    known = "sprayed" if best.failing[0].sprayed else "traced"
    lines = [
        f"{len(best.failing)} of {best.crossing} {known} paths over {best.link} lose {what}, "
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
