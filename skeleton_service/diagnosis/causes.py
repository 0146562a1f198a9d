"""What counters name: the cause that makes a suspect fail, or a failure that no probe sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from exporter.contracts.diagnosis import Failure
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link
from skeleton_service.diagnosis.circles import members
from skeleton_service.diagnosis.corroboration import AT_CABLE, AT_RNIC
from skeleton_service.diagnosis.counters import Anomaly
from skeleton_service.diagnosis.naming import Name, Ranked
from skeleton_service.diagnosis.suspects import Suspect

_CAUSES = (
    "pfc_deadlock", "pfc_storm", "bgp_flapping", "bgp_down", "mtu_mismatch", "ecn_absent", "gid_change", "rnic_absent",
    "pcie_stall", "rnic_pausing", "rnic_flapping", "rnic_down", "frames_too_long", "bit_errors", "port_flapping",
    "port_down", "agent_silent", "host_silent", "switch_unreachable",
)  # fmt: skip
"""Kinds of anomalies that name a cause by themselves, the most telling first."""
_ALONE = frozenset(_CAUSES) - {"pcie_stall", "host_silent", "agent_silent", "switch_unreachable", "rnic_pausing"}
"""Those that are a failure even where no probe sees anything."""

_ALONE_ERRORS = 10.0
"""Frames with errors per second from which on a link is sick whatever probes see."""
_SAME_SECONDS = 30.0
"""Anomalies of one device that begin within so long are one failure's."""
_MOST_LINES = 6


class Cause(NamedTuple):
    """A failure that counters alone tell of."""

    anomaly: Anomaly
    name: Name
    link: str | None
    """Of the port that the anomaly is at."""
    lines: tuple[str, ...]


def causes_alone(anomalies: Iterable[Anomaly], failures: Sequence[Failure], fabric: Fabric) -> Iterator[Cause]:
    """Anomalies that are failures by themselves, unless a known failure is of the devices that they are at."""
    left = [
        each
        for each in anomalies
        if (each.kind in _ALONE and (each.kind != "bit_errors" or each.magnitude >= _ALONE_ERRORS))
        and not _covered(each, failures, fabric)
    ]
    while left:
        first = min(left, key=lambda each: (_CAUSES.index(each.kind), each.start, each.component.name))
        nodes = _nodes(_ends_of(first, fabric))
        same = [
            each
            for each in left
            if abs(each.start - first.start) <= _SAME_SECONDS and nodes & _nodes(_ends_of(each, fabric))
        ]
        left = [each for each in left if each not in same]
        link = next((link for end in sorted(_ends_of(first, fabric)) if (link := fabric.link_of(end))), None)
        yield Cause(first, _cause(first, fabric), link, tuple(each.evidence for each in same[:_MOST_LINES]))


def is_around(anomaly: Anomaly, suspect: Suspect, fabric: Fabric) -> bool:
    """Whether an anomaly is at a device of the suspect, or at the other end of what it is connected to."""
    return bool(_nodes(_ends(suspect)) & _nodes(_ends_of(anomaly, fabric)))


def _nodes(ends: Iterable[str]) -> set[str]:
    return {end.partition(":")[0] for end in ends}


def renamed(
    ranked: list[Ranked], suspect: Suspect, concerning: Sequence[Anomaly]
) -> tuple[list[Ranked], Anomaly | None]:
    """The names, with the one first that counters give the suspect; and the anomaly that gives it."""
    vlan = [each for each in concerning if each.component.kind == "vlan" and each.kind == "queue_drops"]
    causes = sorted(
        (each for each in concerning if each.kind in _CAUSES), key=lambda each: (_CAUSES.index(each.kind), -each.weight)
    )
    told = (vlan or causes)[:1] if not any(each.kind == "pfc_deadlock" for each in causes) else causes[:1]
    if not told:
        return ranked, None
    cause = told[0]
    own = ranked[0]
    # A port counts what its cable does, and both ends of a cable that comes and goes count it.
    kinds = {each.kind for each in causes}
    both = suspect.kind == "cable" and "port_flapping" in kinds
    if both or (cause.kind in ("bit_errors", "port_down", "frames_too_long") and suspect.kind in ("link", "cable")):
        first = next((each.name for each in ranked if each.name.kind == "link"), own.name)
    elif cause.kind in ("port_down", "port_flapping", "bit_errors", "frames_too_long") and suspect.kind not in (
        "link",
        "cable",
    ):
        return ranked, None  # of a switch, a line card, a host: what its ports count does not narrow it down
    else:
        first = Name(cause.component.kind, cause.component.name)
        if cause.kind in AT_RNIC and suspect.kind not in ("cable", "link"):
            return ranked, None
    certainty = sum(each.probability for each in ranked if each.name in (first, own.name))
    rest = [each for each in ranked if each.name != first]
    if cause.kind in AT_RNIC | AT_CABLE:
        rest = [Ranked(each.name, each.probability * 0.2) if each.name == own.name else each for each in rest]
    return [Ranked(first, min(max(certainty, own.probability), 1.0)), *rest], cause


def _cause(anomaly: Anomaly, fabric: Fabric) -> Name:
    """What to call a failure that counters alone tell of."""
    if anomaly.kind in ("port_down", "bit_errors"):
        link = fabric.link_of(anomaly.component.name)
        if link is not None:
            return Name("link", link)
    return Name(anomaly.component.kind, anomaly.component.name)


def _ends(suspect: Suspect) -> tuple[str, ...]:
    if suspect.kind == "circle":
        return members(suspect.name)
    return split_link(suspect.name) if suspect.kind == "link" else (suspect.name,)


def _ends_of(anomaly: Anomaly, fabric: Fabric) -> set[str]:
    """The ports, or devices, that an anomaly is at, with the other ends of their links."""
    name = anomaly.component.name
    ends = set(split_link(name)) if anomaly.component.kind == "link" else {name}
    if anomaly.port:
        ends.add(f"{anomaly.node}:{anomaly.port}")
    return ends | {far for end in ends if (far := fabric.far_end(end)) is not None}


def _covered(anomaly: Anomaly, failures: Iterable[Failure], fabric: Fabric) -> bool:
    """Whether a failure that is known at that time is of a device that the anomaly is at."""
    nodes = _nodes(_ends_of(anomaly, fabric))
    for failure in failures:
        if not failure.start - 60 <= anomaly.start <= (failure.end or anomaly.start) + 60:
            continue
        name = failure.component.name
        ends = split_link(name) if failure.component.kind == "link" else (name,)
        if nodes & _nodes(ends):
            return True
    return False
