"""What differences have in common: the line card, breakout group, LAG, switch or host that they all are of. Pure.

A card that comes back with defaults makes one difference a port; whoever swapped it needs the card's name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.contracts.diagnosis import Component, ComponentKind
from exporter.contracts.names import port_id
from exporter.contracts.verification import Group

Subject = tuple[str, str]
"""(item, what of it): ("ecn", "ECN of queue 3")."""


@dataclass(frozen=True, slots=True)
class Place:
    """A switch port or an RNIC, with what it is a part of. ``tier`` and ``facing`` are None of an RNIC."""

    node: str
    port: str
    tier: str | None = None
    facing: str | None = None
    link: str | None = None
    linecard: str | None = None
    breakout_group: str | None = None
    lag: str | None = None

    @property
    def id(self) -> str:
        return port_id(self.node, self.port)

    def components(self) -> Iterator[Component]:
        """What it is a part of, in the order in which they are named where two are the same ports."""
        parts: tuple[tuple[ComponentKind, str | None], ...] = (
            ("linecard", self.linecard),
            ("breakout_group", self.breakout_group),
            ("lag", self.lag),
        )
        for kind, name in parts:
            if name is not None:
                yield Component(kind=kind, name=port_id(self.node, name))
        yield Component(kind="host" if self.tier is None else "switch", name=self.node)


@dataclass(frozen=True, slots=True)
class Symptom:
    """One difference as one of its ports shows it; a link's may show at both ends."""

    finding: int
    place: Place
    subject: Subject
    found: str
    meant: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    component: Component
    rank: int
    of: int
    symptoms: list[Symptom]


def group(symptoms: Sequence[Symptom], compared: Mapping[Subject, Mapping[str, Sequence[Place]]]) -> list[Group]:
    """Groups of at least two differences, of one kind and value, on more than half of a component's ports.

    ``compared`` has the ports of each node that were compared, by subject. Whole components come first, the largest
    of them before its parts; a difference is in one group at most. O(symptoms log symptoms).
    """
    alike: dict[tuple[str, Subject, str], list[Symptom]] = defaultdict(list)
    for symptom in symptoms:
        alike[symptom.place.node, symptom.subject, symptom.found].append(symptom)
    candidates = [
        candidate
        for (node, subject, _), own in alike.items()
        for candidate in _candidates(own, compared.get(subject, {}).get(node, ()))
    ]
    candidates.sort(key=lambda each: (-len(each.symptoms) / each.of, -len(each.symptoms), each.rank))
    grouped: set[int] = set()
    groups = []
    for candidate in candidates:
        left = [symptom for symptom in candidate.symptoms if symptom.finding not in grouped]
        if len(left) < 2 or 2 * len(left) <= candidate.of:
            continue
        grouped.update(symptom.finding for symptom in left)
        groups.append(
            Group(
                component=candidate.component,
                item=left[0].subject[0],
                found=left[0].found,
                meant=" or ".join(dict.fromkeys(symptom.meant for symptom in left)),
                ports=len(left),
                of=candidate.of,
                findings=tuple(symptom.finding for symptom in left),
            )
        )
    # Of one component together, the largest component first: what a person sees at the top is what was swapped.
    largest: dict[Component, int] = {}
    for each in groups:
        largest[each.component] = max(each.ports, largest.get(each.component, 0))
    return sorted(groups, key=lambda each: (-largest[each.component], each.component.name, -each.ports))


def _candidates(symptoms: Sequence[Symptom], places: Sequence[Place]) -> Iterator[_Candidate]:
    totals: dict[Component, int] = defaultdict(int)
    for place in places:
        for component in place.components():
            totals[component] += 1
    parts: dict[Component, list[Symptom]] = defaultdict(list)
    ranks: dict[Component, int] = {}
    for symptom in symptoms:
        for rank, component in enumerate(symptom.place.components()):
            parts[component].append(symptom)
            ranks[component] = max(rank, ranks.get(component, 0))
    for component, own in parts.items():
        if len(own) >= 2:
            rank = 4 if component.kind in ("switch", "host") else ranks[component]
            yield _Candidate(component, rank, max(totals[component], len(own)), own)
