"""How many ways equal-cost routing has: the stopping rule of Paris traceroute's multipath detection algorithm.

Augustin, Friedman, Teixeira: Multipath tracing with Paris traceroute (E2EMON 2007). Flows that differ in their source
port alone are traced one after the other. A hop that led them to k different next hops is taken to have no others when
that many flows would have shown, with the confidence wanted, one of k + 1 equally likely ones that is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from math import comb

CONFIDENCE = 0.95
"""Of each hop for itself: a route of many hops is less certain than each of them."""

Node = tuple[int, str]
"""(hop number, address); the source is (0, its address)."""


@cache
def flows_needed(next_hops: int, confidence: float = CONFIDENCE) -> int:
    """Flows after which a hop has just ``next_hops`` next ones: 6 for 1, 11 for 2, 16 for 3. O(flows x next hops).

    The least n for which n flows over K = next_hops + 1 equally likely ways miss one or more of them with a
    probability of at most 1 - confidence; by inclusion and exclusion that is the sum over j = 1 .. K of
    (-1)^(j + 1) C(K, j) (1 - j / K)^n.
    """
    ways = next_hops + 1
    flows = ways
    while _missing(ways, flows) > 1 - confidence:
        flows += 1
    return flows


def _missing(ways: int, flows: int) -> float:
    """Probability that not each of ``ways`` is met by ``flows``; in whole numbers, since the terms are far above 1."""
    misses = sum((-1) ** (j + 1) * comb(ways, j) * (ways - j) ** flows for j in range(1, ways + 1))
    return float(misses / ways**flows)


class Multipath:
    """The ways met so far from one source to one destination."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.routes: dict[tuple[str | None, ...], list[int]] = {}
        """{hops, the destination among them where it answered: source ports}, in order of discovery."""
        self.flows = 0
        self.next_hops: dict[Node, Counter[str]] = {(0, source): Counter()}
        """{a hop that answered: how many flows went on to each address}; silence is no address."""

    def add(self, source_port: int, hops: Sequence[str | None]) -> None:
        self.flows += 1
        self.routes.setdefault(tuple(hops), []).append(source_port)
        here: str | None = self._source
        for number, hop in enumerate(hops):
            if here is not None and hop is not None:
                self.next_hops.setdefault((number, here), Counter())[hop] += 1
            if hop is not None:
                self.next_hops.setdefault((number + 1, hop), Counter())
            here = hop

    @property
    def undecided(self) -> list[Node]:
        """Hops with next ones of which there may be more."""
        return [node for node, found in self.next_hops.items() if not self.is_decided(node) and found]

    def is_decided(self, node: Node) -> bool:
        found = self.next_hops[node]
        return found.total() >= flows_needed(len(found))

    @property
    def conclusive(self) -> bool:
        """Whether every hop is decided; never before there were flows enough for a single way."""
        return self.flows >= flows_needed(1) and not self.undecided
