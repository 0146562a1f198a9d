"""Which pairs of a large group are probed: a circulant graph, of as many strides as there is room for.

Members stand in a ring, and a stride joins each with the one so many places on. All members then have equally many
peers, near and far; with the stride 1 the graph is connected, and to cut it takes as many edges as a member has
(Mader 1971: vertex-transitive graphs). All strides together are the full mesh.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from math import gcd

from exporter.contracts.fabric import Interface

_GOLDEN = (5**0.5 - 1) / 2


def walk(size: int, start: int = 0) -> Iterator[int]:
    """Each of 0 to ``size`` - 1 once, from ``start`` on, such that any few in a row lie evenly spread."""
    step = next(step for step in count(max(round(size * _GOLDEN), 1)) if gcd(step, size) == 1)
    return ((start + number * step) % size for number in range(size))


def strides(members: int) -> Iterator[int]:
    """All strides of a ring of so many members, 1 first; of a ring of 2n, the last one joins each pair twice."""
    return (1 + number for number in walk(members // 2))


def in_ring(interfaces: Sequence[Interface]) -> list[Interface]:
    """The interfaces in a ring that does not depend on their order; those of one host, who are no pairs, lie apart."""
    seen: Counter[str] = Counter()
    places: dict[str, int] = {}
    for interface in sorted(interfaces, key=lambda interface: interface.id):
        places[interface.id] = seen[interface.host.name]
        seen[interface.host.name] += 1
    return sorted(interfaces, key=lambda interface: (places[interface.id], interface.id))


def pair_count(interfaces: Sequence[Interface]) -> int:
    """How many pairs a full mesh has; two RNICs of one host are none."""
    own = Counter(interface.host.name for interface in interfaces).values()
    return (len(interfaces) * (len(interfaces) - 1) - sum(some * (some - 1) for some in own)) // 2
