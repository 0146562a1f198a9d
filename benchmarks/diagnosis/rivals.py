"""The same records put to two simpler methods that find lossy links: 007's votes and deTector's hit ratios.

Both are told what the service is told of paths: which links each crosses, and which probes were lost on the way there.
What fails is pooled over epochs that follow one another: an incident. Neither knows latency, overlays or counters, and
neither names anything but links.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isclose
from statistics import median

import msgspec

from benchmarks.diagnosis.judge import MOST_NAMED
from benchmarks.diagnosis.observed import EPOCH_SECONDS, Hop, Observation
from exporter.contracts.diagnosis import Alternative, Component, Diagnosis, Failure
from exporter.contracts.fabric import Fabric

LEAST_HIT_RATIO = 0.6
"""Of the paths over a link, the share that fails, for it to be a suspect (deTector, ATC'17)."""

Blame = Callable[[Sequence[Observation]], list[list[str]]]
"""From all observations of an incident to the links that are broken, each with those that the method rates alike."""


def voting(incident: Sequence[Observation]) -> list[list[str]]:
    """The link with most votes: a failing path gives each of its h links 1/h (007, NSDI'18)."""
    votes: defaultdict[str, float] = defaultdict(float)
    for path in incident:
        if path.failing:
            for link, _ in path.hops:
                votes[link] += 1 / len(path.hops)
    most = max(votes.values(), default=0.0)
    return [sorted(link for link, own in votes.items() if isclose(own, most))] if votes else []


def set_cover(incident: Sequence[Observation]) -> list[list[str]]:
    """The fewest links that explain the failing paths, found greedily, of those that most paths over them fail.

    deTector's PLL (ATC'17). Its probes come back the way they went; ours cross a link one way, so that each
    direction of a link has a hit ratio of its own. A path fails that failed in any epoch.
    """
    failing: defaultdict[tuple[tuple[str, str], tuple[Hop, ...]], bool] = defaultdict(bool)
    for path in incident:
        failing[path.ends, path.hops] |= path.failing
    crossing = Counter(hop for _, hops in failing for hop in hops)
    hit: defaultdict[Hop, set[object]] = defaultdict(set)
    for key, fails in failing.items():
        for hop in key[1] if fails else ():
            hit[hop].add(key)
    suspects: defaultdict[str, set[object]] = defaultdict(set)
    for hop, paths in hit.items():
        if len(paths) > LEAST_HIT_RATIO * crossing[hop]:
            suspects[hop[0]] |= paths
    blamed = []
    while suspects:
        explained = max(suspects.values(), key=len)
        blamed.append(sorted(link for link, paths in suspects.items() if paths == explained))
        suspects = defaultdict(set, {link: rest for link, paths in suspects.items() if (rest := paths - explained)})
    return blamed


RIVALS: Mapping[str, Blame] = {"voting": voting, "set cover": set_cover}


def blame(observations: Sequence[Observation], method: Blame) -> Diagnosis:
    """A failure for each link that a method blames in each incident."""
    failures = []
    for incident in _incidents(observations):
        failing = [path for path in incident if path.failing]
        for link, *alike in method(incident):
            own = [path for path in failing if any(link == name for name, _ in path.hops)]
            first = _first(own)
            others = (Alternative(kind="link", name=name, score=1.0) for name in alike[: MOST_NAMED - 1])
            failures.append(
                Failure(
                    id=f"{link} {first[0].epoch}", job="", symptom="loss", layer="underlay",
                    alternatives=tuple(others), confidence=1.0,
                    start=median(path.first_loss for path in first if path.first_loss is not None),  # some are stray
                    detected_at=first[0].begin + EPOCH_SECONDS,
                    end=None,
                    component=Component(kind="link", name=link),
                    paths=tuple(sorted({path.ends for path in own})),
                    evidence=(),
                )
            )  # fmt: skip
    return Diagnosis(version=1, failures=tuple(failures))


def _first(observations: Sequence[Observation]) -> list[Observation]:
    """Those of the first epoch."""
    epoch = min(path.epoch for path in observations)
    return [path for path in observations if path.epoch == epoch]


def _incidents(observations: Sequence[Observation]) -> Iterator[list[Observation]]:
    """All observations of each run of epochs in which some path fails."""
    epochs: defaultdict[int, list[Observation]] = defaultdict(list)
    for path in observations:
        epochs[path.epoch].append(path)
    incident: list[Observation] = []
    for epoch in range(max(epochs, default=-1) + 2):
        if any(path.failing for path in epochs[epoch]):
            incident += epochs[epoch]
        elif incident:
            yield incident
            incident = []


def in_links(truth: Diagnosis, fabric: Fabric) -> Diagnosis:
    """The truth for who can name links alone: an RNIC's cable is the RNIC, and a port's link is the port."""
    return msgspec.structs.replace(truth, failures=tuple(_in_links(failure, fabric) for failure in truth.failures))


def _in_links(failure: Failure, fabric: Fabric) -> Failure:
    link = fabric.link_of(failure.component.name) if failure.component.kind in ("rnic", "port") else None
    if link is None:
        return failure
    others = tuple(other for other in failure.alternatives if other.name != link)
    same = Alternative(kind="link", name=link, score=1.0)
    return msgspec.structs.replace(failure, alternatives=(same, *others))
