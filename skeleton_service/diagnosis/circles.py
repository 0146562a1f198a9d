"""Circles of switches that may pause each other: two of one tier and two of the next, with all links among them.

The shortest circle in which priority flow control can lock up on a leaf-spine fabric (Guo et al., SIGCOMM 2016, 4.2).
All links of it stop at once, for one traffic class: taken one by one they would look like so many failures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from exporter.contracts.names import split_link

_MOST_LINKS = 60
_MOST_CIRCLES = 16
_JOINT = ":"
"""Between the switches in a circle's name: no node has it in its own."""


class Circle(NamedTuple):
    name: str
    links: tuple[tuple[str, ...], tuple[str, ...]]
    """Those of one switch, and those of the switch across: no packet crosses two of one of them the same way."""


def members(name: str) -> tuple[str, ...]:
    """The switches of a circle of this name."""
    return tuple(name.split(_JOINT))


def circles(gain_of: Mapping[str, float]) -> list[Circle]:
    """The circles that are made of these links, those first whose weakest side gains most.

    ``gain_of`` has links between switches, with how well each would explain losses by itself.
    """
    sides: dict[tuple[str, str], list[str]] = defaultdict(list)
    for link in sorted(gain_of, key=lambda each: (-gain_of[each], each))[:_MOST_LINKS]:
        one, other = sorted(end.partition(":")[0] for end in split_link(link))
        if one != other:
            sides[one, other].append(link)
    found = []
    for nodes in _squares(sides):
        own = [sides[side] for side in _around(nodes)]
        weakest = min(max(gain_of[link] for link in side) for side in own)
        # Around: first and second, second and across, across and last, last and first.
        links = tuple(sorted((*own[0], *own[3]))), tuple(sorted((*own[1], *own[2])))
        found.append((-weakest, Circle(_JOINT.join(sorted(nodes)), links)))
    return [circle for _, circle in sorted(found)[:_MOST_CIRCLES]]


def _squares(sides: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[tuple[str, str, str, str]]:
    """Four switches each, in the order around, of which each is linked to the next."""
    linked: dict[str, set[str]] = defaultdict(set)
    for one, other in sides:
        linked[one].add(other)
        linked[other].add(one)
    for first, across in combinations(sorted(linked), 2):
        for second, last in combinations(sorted(linked[first] & linked[across]), 2):
            if first < second:  # each square has two diagonals
                yield first, second, across, last


def _around(nodes: tuple[str, str, str, str]) -> Iterator[tuple[str, str]]:
    for place, node in enumerate(nodes):
        one, other = sorted((node, nodes[(place + 1) % len(nodes)]))
        yield one, other
