"""What probes accuse: each failure that detectors found, with its suspects, its paths and what a person can check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.contracts.diagnosis import Symptom
from skeleton_service.diagnosis.degradation import Degradation
from skeleton_service.diagnosis.losses import Loss
from skeleton_service.diagnosis.observations import Path
from skeleton_service.diagnosis.paths import PathIndex
from skeleton_service.diagnosis.slowness import Slowdown
from skeleton_service.diagnosis.suspects import Filter, Suspect

UNREACHABLE_RATIO = 0.95
HELD_RATIO = 0.4
_DOWN, _UP = 0.8, 0.2


@dataclass(frozen=True, slots=True)
class Accusation:
    """What probes say of one failure."""

    start: float
    detected_at: float
    end: float | None
    symptom: Symptom
    suspect: Suspect
    scores: tuple[tuple[Suspect, float], ...]
    paths: tuple[Path, ...]
    lines: tuple[str, ...]
    some_flows: bool = False
    now_and_then: bool = False
    """Some probes of the same paths are late, others not."""
    tentative: bool = False
    """No failure unless the overlay's tables say so too."""


def of_loss(loss: Loss, index: PathIndex) -> Accusation:
    symptom = symptom_of_loss(loss)
    probes = "full-size probes (small ones live)" if loss.suspect.filter.large or loss.large else "probes"
    said = _said(loss.suspect.filter)
    ratio = loss.lost / loss.sent if loss.sent else 0.0
    lines = [
        f"{len(loss.failing)} of {len(loss.paths)} {' '.join([*said, 'paths'])} over {{}} lose "
        f"{probes}, {ratio:.1%} on average"
    ]
    return Accusation(
        loss.start,
        max(loss.detected_at, loss.start),
        loss.end,
        symptom,
        loss.suspect,
        loss.scores,
        tuple(index.paths[number] for number in loss.failing.tolist()),
        (*lines, *_contrast(loss.suspect)),
        some_flows=loss.found.part < 1,
    )


def of_slowdown(slow: Slowdown, index: PathIndex) -> Accusation:
    said = _said(slow.suspect.filter)
    line = (
        f"{len(slow.slow)} of {max(len(slow.paths), len(slow.slow))} {' '.join([*said, 'paths'])} over {{}} are slow: "
        f"round trips grew by {slow.microseconds:.0f} us" + (", now and then" if slow.partly else "")
    )
    return Accusation(
        min(slow.start, slow.detected_at),
        slow.detected_at,
        slow.end,
        "latency",
        slow.suspect,
        slow.scores,
        tuple(index.paths[number] for number in slow.slow.tolist()),
        (line, *_contrast(slow.suspect)),
        some_flows=slow.found.part < 1,
        now_and_then=slow.partly,
        tentative=slow.tentative,
    )


def of_degradation(slow: Degradation, index: PathIndex) -> Accusation:
    line = (
        f"{len(slow.slow)} of {len(slow.paths)} {' '.join([*_said(slow.suspect.filter), 'paths'])} over {{}} became "
        f"slower over hours: round trips by {slow.rise:.0%} in the median, Z = {slow.z:.1f}"
    )
    return Accusation(
        slow.start,
        slow.detected_at,
        slow.end,
        "latency",
        slow.suspect,
        slow.scores,
        tuple(index.paths[number] for number in slow.slow.tolist()),
        (line, *_contrast(slow.suspect)),
        some_flows=slow.found.part < 1,
    )


def accused_host(suspect: Suspect, accused: Accusation) -> str:
    """The host that a suspect is, or is on: the one that most of its paths have in common."""
    if suspect.kind in ("host", "cable", "vswitch"):
        return suspect.name.partition(":")[0]
    counts = Counter(
        host
        for path in accused.paths
        for host, container in zip(path.hosts, path.containers, strict=True)
        if suspect.kind != "container" or container == suspect.name
    )
    return min(counts, key=lambda host: (-counts[host], host))


def _contrast(suspect: Suspect) -> Iterator[str]:
    if suspect.kind == "circle":
        yield "as if these switches paused each other in a circle: draining any of them opens it"
    said = _said(suspect.filter)
    if said:
        yield f"other probes over the same are unharmed: look at what is special to {', '.join(said)}"


def _said(kinds: Filter) -> list[str]:
    """The kinds of probes that a partial fault hurts, in words."""
    return [
        word
        for word in (
            {True: "RDMA", False: "other than RDMA", None: ""}[kinds.rdma],
            "overlay" if kinds.overlay else "",
            f"DSCP {kinds.dscp}" if kinds.dscp is not None else "",
        )
        if word
    ]


def symptom_of_loss(loss: Loss) -> Symptom:
    if loss.suspect.filter.large or loss.large:
        return "mtu"
    sent, lost = loss.series
    seen = np.flatnonzero(lost)
    if not len(seen):
        return "loss"
    while_failing = slice(int(seen[0]), int(seen[-1]) + 1)
    sent, lost = sent[while_failing], lost[while_failing]
    if flaps(sent, lost):
        return "flap"
    if lost.sum() >= UNREACHABLE_RATIO * sent.sum():
        return "unreachable"
    # No cable is so bad and carries anything: something holds packets back.
    held = loss.suspect.kind == "cable" and lost.sum() >= HELD_RATIO * sent.sum()
    return "congestion" if held or loss.suspect.filter.dscp is not None else "loss"


def flaps(sent: NDArray[np.float64], lost: NDArray[np.float64]) -> bool:
    """Whether paths are dead and alive in turn, rather than lossy: seconds lose all or nothing, in runs.

    ``sent`` and ``lost`` are (seconds,) from the first loss to the last.
    """
    ratio = lost[sent > 0] / sent[sent > 0]
    if len(ratio) < 4 or lost.sum() >= UNREACHABLE_RATIO * sent.sum():
        return False
    state = np.where(ratio >= _DOWN, 1, np.where(ratio <= _UP, 0, -1))
    clear = state[state >= 0]
    if len(clear) < 0.6 * len(state):
        return False
    runs = np.split(clear, np.flatnonzero(np.diff(clear)) + 1)
    # A chance of a half gives runs as well, of two seconds in the mean: it takes probes enough in a second to tell.
    if float(np.median(sent[sent > 0])) < 3 and np.mean([len(run) for run in runs if run[0]] or [0]) < 2.5:
        return False
    return sum(bool(run[0]) for run in runs) >= 2
