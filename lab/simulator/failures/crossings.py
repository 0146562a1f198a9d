"""What the records can show of which flows cross which links, and therefore which failures look alike.

A trace shows the way of requests. The way of replies is seen only at the RNICs' cables, which both must cross.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from lab.simulator.failures.flows import Flows
from lab.simulator.failures.routing import Routes
from lab.simulator.failures.wiring import Booleans, Integers, Wiring


class Crossings:
    """``seen`` (P,): flows whose route is traced. Directions and links are those of ``Wiring``."""

    def __init__(self, wiring: Wiring, flows: Flows, routes: Routes, seen: Booleans) -> None:
        number = 2 * len(wiring.ends)
        self.cables = set(wiring.cables.tolist())
        crossed = np.zeros((2, number + 1, flows.number), bool)
        rows = np.arange(flows.number)[:, None]
        crossed[0, routes.there, rows] = True
        crossed[1, routes.back, rows] = True
        known = np.repeat(np.isin(np.arange(number // 2), wiring.cables), 2)[:, None]
        self._there: Booleans = crossed[0, :number] & (seen | known)
        self._back: Booleans = crossed[1, :number] & known
        pairs = flows.source * len(wiring.rnics) + flows.destination
        _, pair = np.unique(pairs, return_inverse=True)
        self._by_pair = np.argsort(pair, kind="stable")
        self._starts = np.flatnonzero(np.diff(pair[self._by_pair], prepend=-1))
        self._indices: dict[bytes, dict[bytes, list[tuple[int, bytes]]]] = {}

    def pairs(self) -> Integers:
        """(directions,): how many pairs of RNICs have a traced request that crosses each."""
        return self._count(self._there)

    def pairs_of_links(self) -> Integers:
        """(links,): the same of links, either way."""
        either = self._there[0::2] | self._there[1::2]
        return self._count(either)

    def _count(self, crossed: Booleans) -> Integers:
        met = np.logical_or.reduceat(crossed[:, self._by_pair], self._starts, axis=1)
        counts: Integers = np.count_nonzero(met, axis=1)
        return counts

    def requests(self, directions: Integers) -> Booleans:
        """Which flows have a traced request that crosses one of the directions: (P,)."""
        found: Booleans = np.logical_or.reduce(self._there[directions], axis=0)
        return found

    def twins(self, directions: Integers, flows: Booleans | None = None) -> list[int]:
        """Links, in either direction or both, whose failure would be seen by the same flows as that of ``directions``.

        ``flows`` restricts what feels it.
        """
        which = b"" if flows is None else _key(flows)
        if which not in self._indices:
            self._indices[which] = self._index(flows)
        mine = set((directions // 2).tolist())
        there, back = self._restricted(flows)
        there, back = np.logical_or.reduce(there[directions], axis=0), np.logical_or.reduce(back[directions], axis=0)
        own_cable = mine <= self.cables
        found = {
            link
            for link, theirs in self._indices[which].get(_key(there), ())
            if link not in mine and (theirs == _key(back) or not (own_cable and link in self.cables))
        }
        return sorted(found)

    def _restricted(self, flows: Booleans | None) -> tuple[Booleans, Booleans]:
        return (self._there, self._back) if flows is None else (self._there & flows, self._back & flows)

    def _index(self, flows: Booleans | None) -> dict[bytes, list[tuple[int, bytes]]]:
        """{pattern of requests: [(link, its pattern of replies)]} of each direction alone and of both."""
        there, back = self._restricted(flows)
        index: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
        for requests, replies, links in (
            (there, back, np.arange(len(there)) // 2),
            (there[0::2] | there[1::2], back[0::2] | back[1::2], np.arange(len(there) // 2)),
        ):
            for link, own in zip(links.tolist(), range(len(links)), strict=True):
                index[_key(requests[own])].append((link, _key(replies[own])))
        return index


def _key(pattern: Booleans) -> bytes:
    return np.packbits(pattern).tobytes()
