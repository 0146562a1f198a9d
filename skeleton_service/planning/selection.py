"""Which pairs of a job's RNICs are probed, from how many source ports each, within what an exporter can do."""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil

from exporter.contracts.fabric import Interface
from exporter.contracts.skeleton import Endpoint, Role
from skeleton_service.planning.mesh import in_ring, pair_count, strides, walk
from skeleton_service.planning.routes import Routes

LEAST_PEERS = 8
"""A member of a large group keeps so many peers, rather than all its source ports: dead hosts must not cut it apart."""

_MOST_PORTS = 65535
_LOOKED_AT = 64
"""Off-skeleton pairs are looked for in so many times as many; a skeleton that leaves fewer is nearly a full mesh."""


@dataclass(frozen=True, slots=True)
class Member:
    """An endpoint and the RNIC that it is on, by which it is known here."""

    endpoint: Endpoint
    interface: Interface
    id: str
    """The RNIC's, ``host:rnic``."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two RNICs that are to probe one another, from ``ports`` source ports each."""

    one: Member
    other: Member
    role: Role
    ports: int


class Selection:
    """Pairs taken so far, each pair of RNICs once; ``wanted_ports`` gives the ports for a number of paths.

    ``target_count`` gives the targets of a pair, one way, for its number of source ports; it grows with them.

    ``wanted`` counts the pairs that were asked for, joined by any path or not. A ``limit`` is of targets that start at
    one RNIC, all of its pairs together. Time and memory grow with the pairs taken, not with those asked for.
    """

    def __init__(self, routes: Routes, wanted_ports: Callable[[int], int], target_count: Callable[[int], int]) -> None:
        self.pairs: list[Pair] = []
        self.wanted = 0
        self._routes = routes
        self._wanted_ports = wanted_ports
        self._target_count = target_count
        self._targets: Counter[str] = Counter()
        self._known: set[tuple[str, str]] = set()
        self._meshes: defaultdict[str, set[int]] = defaultdict(set)
        self._mesh_count = 0

    def add_edges(self, edges: Iterable[tuple[Member, Member, Role]], limit: int) -> None:
        """Take pairs asked for one by one; where they are too many for an RNIC, some of them, evenly by their names."""
        asked = [edge for edge in edges if edge[0].id != edge[1].id]
        asked.sort(key=lambda edge: zlib.crc32(" ".join(self._key(*edge[:2])).encode()))
        degree = Counter(member.id for one, other, _ in asked for member in (one, other))
        most = self._ports_within(limit // min(max(degree.values(), default=1), LEAST_PEERS))
        for one, other, role in asked:
            if self._key(one, other) not in self._known:
                self.wanted += 1
                self._known.add(self._key(one, other))
                pair = self._pair(one, other, role, most)
                if pair is not None and self._fits([pair], limit):
                    self._take(pair)

    def add_mesh(self, members: Iterable[Member], role: Role, limit: int) -> None:
        """Take all pairs of a group, or as many strides of its ring (skeleton_service.planning.mesh) as fit."""
        ring = _ring(members)
        self._mesh_count += 1
        for member in ring:
            self._meshes[member.id].add(self._mesh_count)
        self.wanted += pair_count([member.interface for member in ring])
        free = limit - max((self._targets[member.id] for member in ring), default=0)
        most = self._ports_within(free // max(min(len(ring) - 1, LEAST_PEERS), 1))
        for stride in strides(len(ring)):
            step: dict[tuple[str, str], Pair | None] = {}
            known = 0
            for place, one in enumerate(ring):
                other = ring[(place + stride) % len(ring)]
                key = self._key(one, other)
                if one.endpoint.host == other.endpoint.host or key in step:
                    continue
                if key in self._known:
                    known += 1
                else:
                    step[key] = self._pair(one, other, role, most)
            pairs = [pair for pair in step.values() if pair is not None]
            if stride > 1 and not self._fits(pairs, limit):
                return
            self.wanted -= known
            self._known.update(step)
            for pair in pairs:
                self._take(pair)

    def add(self, one: Member, other: Member, limit: int) -> None:
        """Take a pair that nobody asked for."""
        pair = self._pair(one, other, "basic", self._ports_within(limit // LEAST_PEERS))
        if pair is not None:
            self._known.add(self._key(one, other))
            self._take(pair)

    def explore(self, rails: Iterable[Iterable[Member]], share: float, generation: int, limit: int) -> None:
        """Take same-rail pairs that nobody asked for, ``share`` times as many as there are; others each generation."""
        rings = [_ring(rail) for rail in rails]
        size = sum(len(ring) * (len(ring) // 2) for ring in rings)
        missing = ceil(share * len(self.pairs))
        digest = hashlib.blake2s(str(generation).encode(), digest_size=8).digest()
        start = int.from_bytes(digest, "big") % max(size, 1)
        for number in islice(walk(size, start), max(_LOOKED_AT * missing, 1000)):
            if not missing:
                return
            one, other = _pair_at(rings, number)
            if one.endpoint.host == other.endpoint.host or self._asked_for(one, other):
                continue
            pair = self._pair(one, other, "basic", self._ports_within(limit // LEAST_PEERS))
            if pair is not None and self._fits([pair], limit):
                self._known.add(self._key(one, other))
                self._take(pair)
                missing -= 1

    def _ports_within(self, targets: int) -> int:
        return max(bisect_right(range(1, _MOST_PORTS + 1), targets, key=self._target_count), 1)

    def _asked_for(self, one: Member, other: Member) -> bool:
        both = self._meshes.get(one.id, set()) & self._meshes.get(other.id, set())
        return bool(both) or self._key(one, other) in self._known

    def _key(self, one: Member, other: Member) -> tuple[str, str]:
        return (one.id, other.id) if one.id < other.id else (other.id, one.id)

    def _pair(self, one: Member, other: Member, role: Role, most_ports: int) -> Pair | None:
        paths = self._routes.count(one.id, other.id)
        return Pair(one, other, role, min(self._wanted_ports(paths), most_ports)) if paths else None

    def _fits(self, pairs: Sequence[Pair], limit: int) -> bool:
        more: Counter[str] = Counter()
        for pair in pairs:
            more[pair.one.id] += self._target_count(pair.ports)
            more[pair.other.id] += self._target_count(pair.ports)
        return all(self._targets[name] + targets <= limit for name, targets in more.items())

    def _take(self, pair: Pair) -> None:
        self.pairs.append(pair)
        self._targets[pair.one.id] += self._target_count(pair.ports)
        self._targets[pair.other.id] += self._target_count(pair.ports)


def _ring(members: Iterable[Member]) -> list[Member]:
    """In a ring, one for each RNIC: containers that share an RNIC share its paths."""
    at: dict[str, Member] = {}
    for member in sorted(members, key=lambda member: member.endpoint.id):
        at.setdefault(member.id, member)
    return [at[interface.id] for interface in in_ring([member.interface for member in at.values()])]


def _pair_at(rings: Sequence[Sequence[Member]], number: int) -> tuple[Member, Member]:
    """The pair of this number, if the pairs of each ring are numbered stride by stride, one ring after the other."""
    for ring in rings:
        size = len(ring) * (len(ring) // 2)
        if number < size:
            place, stride = number % len(ring), 1 + number // len(ring)
            return ring[place], ring[(place + stride) % len(ring)]
        number -= size
    raise IndexError(number)
