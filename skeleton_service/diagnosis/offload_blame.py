"""Who is to blame for flows that RNICs do not hold as they should: what the faulty ones have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from exporter.contracts.diagnosis import ComponentKind
from skeleton_service.diagnosis.overlay_findings import OffloadFault
from skeleton_service.diagnosis.overlay_tables import Destination

_MOST = 0.5
"""A container, or an RNIC beside sound ones, is to blame when more than this share of its flows is faulty."""
_NEARLY_ALL = 0.9
"""The share for an RNIC that is its host's only one, where nothing tells it from the virtual switch."""
Suspect = tuple[ComponentKind, str]
"""Kind and name of a component."""
_ORDER: dict[ComponentKind, int] = {"container": 0, "rnic": 1, "vswitch": 2}
"""Of those that explain equally much, the first."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A host's packets to one destination, with what is wrong with how they are offloaded, if anything is."""

    host: str
    destination: Destination
    rnic: str | None
    """``host:rnic`` of the RNIC that sends it; None where nothing tells."""
    container: str | None
    fault: OffloadFault | None = None
    evidence: str = ""

    @property
    def suspects(self) -> list[Suspect]:
        named: tuple[tuple[ComponentKind, str | None], ...] = (
            ("container", self.container),
            ("rnic", self.rnic),
            ("vswitch", self.host),
        )
        return [(kind, name) for kind, name in named if name is not None]


def blame(kind: OffloadFault, faulty: list[Flow], total: Mapping[Suspect, int]) -> dict[Suspect, list[Flow]]:
    """Each faulty flow under the component that explains most, of those most of whose other flows are faulty too.

    A greedy set cover: what one component explains says nothing about another. What none explains is left to the
    virtual switches. ``total`` counts the flows of each component, faulty or not.
    """
    left: dict[Suspect, dict[int, Flow]] = defaultdict(dict)
    for number, flow in enumerate(faulty):
        for suspect in flow.suspects:
            left[suspect][number] = flow
    total = dict(total)
    blamed: dict[Suspect, list[Flow]] = defaultdict(list)

    def take(suspect: Suspect) -> None:
        for number, flow in list(left[suspect].items()):
            blamed[suspect].append(flow)
            for each in flow.suspects:
                del left[each][number]
                total[each] -= 1

    queue = [(-len(own), _ORDER[suspect[0]], suspect) for suspect, own in left.items()]
    heapify(queue)
    while queue:
        count, order, suspect = heappop(queue)
        own = left[suspect]
        if len(own) < -count:  # some have been explained since
            heappush(queue, (-len(own), order, suspect))
        elif own and _explains(kind, suspect, own.values(), left, total):
            take(suspect)
    for flow in faulty:
        take(("vswitch", flow.host))
    return {suspect: own for suspect, own in blamed.items() if own}


def _explains(
    kind: OffloadFault,
    suspect: Suspect,
    own: Collection[Flow],
    left: Mapping[Suspect, Collection[int]],
    total: Mapping[Suspect, int],
) -> bool:
    """Whether a component is to blame for its faulty flows; ``left`` and ``total`` count what nothing explains yet."""
    share = len(own) / total[suspect]
    hosts = {flow.host for flow in own}
    if suspect[0] == "container":
        return share > _MOST and len(hosts) > 1
    if suspect[0] == "vswitch":
        return share > _MOST
    host: Suspect = ("vswitch", min(hosts))
    alone = len(own) == len(left[host])  # no faulty flow of its host is another RNIC's
    if kind in ("other-next", "stale-entry"):  # what it holds is wrong, not what it lacks
        return alone
    return share >= _NEARLY_ALL or (alone and share > _MOST and total[host] > total[suspect])
