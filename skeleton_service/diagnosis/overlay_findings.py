"""What may be wrong with the tables of an overlay, and how it is told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from exporter.contracts.diagnosis import Component

RoutingFault = Literal["missing-entry", "drop", "wrong-next-hop", "wrong-container", "loop", "unknown-vtep"]
OffloadFault = Literal["not-held", "other-next", "stale-entry", "not-offloaded", "repeatedly-offloaded"]

_MAX_EVIDENCE = 8


@dataclass(frozen=True, slots=True)
class OverlayFinding:
    """One component whose tables are wrong in one way.

    Routing faults make destinations unreachable; so does an RNIC that holds another next hop. The other faults of
    offloading make them slow.
    """

    kind: RoutingFault | OffloadFault
    component: Component
    alternatives: tuple[Component, ...]
    flows: tuple[tuple[str, str], ...]
    """(host that sends, overlay destination), sorted."""
    evidence: tuple[str, ...]


def merged(findings: Iterable[OverlayFinding]) -> list[OverlayFinding]:
    """One finding a kind and component, that of most flows first."""
    groups: dict[tuple[str, str, str], list[OverlayFinding]] = defaultdict(list)
    for finding in findings:
        groups[finding.kind, finding.component.kind, finding.component.name].append(finding)
    together = [
        replace(
            own[0],
            alternatives=tuple(dict.fromkeys(other for finding in own for other in finding.alternatives)),
            flows=tuple(sorted({flow for finding in own for flow in finding.flows})),
            evidence=shortened(dict.fromkeys(line for finding in own for line in finding.evidence)),
        )
        for _, own in sorted(groups.items())
    ]
    return sorted(together, key=lambda finding: -len(finding.flows))


def shortened(lines: Iterable[str]) -> tuple[str, ...]:
    """The first lines of many, with how many there are besides."""
    first = list(lines)
    more = len(first) - _MAX_EVIDENCE
    return (*first[:_MAX_EVIDENCE], *((f"and {more} more",) if more > 0 else ()))
