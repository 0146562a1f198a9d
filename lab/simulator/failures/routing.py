"""Which links the packets of a flow cross, there and back: equal-cost multipath by hash, and anew when links die."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lab.simulator.failures.flows import TCP, Flows
from lab.simulator.failures.wiring import BORDER, Booleans, Integers, Wiring

WIDTH = 6  # directed links of the longest way
NOWHERE = -1
Way = list[int]


@dataclass(frozen=True, slots=True)
class Hashing:
    """How switches spread flows. ``resilient``: only the flows of a dead link move; otherwise all may.

    ``symmetric``: replies take the way of their requests back.
    """

    seed: int
    symmetric: bool
    resilient: bool

    def choose(self, options: list[int], key: int, switch: str) -> int:
        """The link among ``options`` for the flow ``key`` at a switch."""
        salt = _number(switch) ^ self.seed
        if self.resilient:  # the highest of random weights: a dead link's flows alone choose again
            return max(options, key=lambda link: hash((key, salt, link)))
        return options[hash((key, salt)) % len(options)]


@cache
def _number(name: str) -> int:
    return int.from_bytes(name.encode(), "big") % (2**61 - 1)


@dataclass(frozen=True, slots=True)
class Routes:
    """``there``, ``back`` (P, WIDTH): directions of links in order; NOWHERE behind the last."""

    there: Integers
    back: Integers

    def crossing(self, directions: Integers | Sequence[int]) -> tuple[Booleans, Booleans]:
        """Which flows' (requests, replies) cross one of the directions: (P,) each."""
        return _any(np.isin(self.there, directions)), _any(np.isin(self.back, directions))


def _any(hits: Booleans) -> Booleans:
    found: Booleans = np.logical_or.reduce(hits, axis=1)
    return found


def route(wiring: Wiring, flows: Flows, hashing: Hashing, dead: Collection[int] = (), *, carrier: str = "") -> Routes:
    """All flows' ways while the links ``dead`` carry nothing and routing knows it; a way round must be left.

    ``carrier``: the switch through which traffic goes to the second site, where there is one.
    """
    alive = {number for number in range(len(wiring.ends)) if number not in set(dead)}

    @cache
    def between(low: str, high: str) -> list[int]:
        return [link for link in wiring.upward.get(low, []) if wiring.nodes[link][1] == high and link in alive]

    @cache
    def upward(leaf: str, target: str) -> list[int]:
        """Living links of a leaf to switches that still reach the target leaf."""
        links = [link for link in wiring.upward.get(leaf, []) if link in alive]
        return [link for link in links if between(target, wiring.nodes[link][1])]

    cables, leaves = wiring.cables.tolist(), wiring.leaves

    def way(source: int, destination: int, key: int) -> Way:
        first, last = 2 * cables[source], 2 * cables[destination] + 1
        leaf, target = leaves[source], leaves[destination]
        if leaf == target:
            return [first, last]
        if source >= wiring.computing:
            return reversed_way(abroad(destination, source, key))
        if destination >= wiring.computing:
            return abroad(source, destination, key)
        up = hashing.choose(upward(leaf, target), key, "" if hashing.symmetric else leaf)
        spine = wiring.nodes[up][1]
        choices = between(target, spine)
        if hashing.symmetric:  # the same member both ways, by its place among the parallel links
            down = choices[between(leaf, spine).index(up) % len(choices)]
        else:
            down = hashing.choose(choices, key, spine)
        return [first, 2 * up, 2 * down + 1, last]

    def abroad(inside: int, outside: int, key: int) -> Way:
        """Over any spine to the border, and through the carrier that is in use to the second site."""
        leaf, remote = leaves[inside], leaves[outside]
        up = hashing.choose([link for link in wiring.upward[leaf] if link in alive], key, leaf)
        exit_link, entry_link = between(BORDER, carrier)[0], between(remote, carrier)[0]
        to_border = between(wiring.nodes[up][1], BORDER)[0]
        cable, far = 2 * cables[inside], 2 * cables[outside] + 1
        return [cable, 2 * up, 2 * to_border, 2 * exit_link, 2 * entry_link + 1, far]

    def reversed_way(forward: Way) -> Way:
        return [direction ^ 1 for direction in reversed(forward)]

    there = np.full((flows.number, WIDTH), NOWHERE)
    back = np.full((flows.number, WIDTH), NOWHERE)
    rows = zip(
        flows.source.tolist(), flows.destination.tolist(), flows.source_port.tolist(), (flows.task == TCP).tolist(),
        strict=True,
    )  # fmt: skip
    for number, (source, destination, port, tcp) in enumerate(rows):
        out = way(source, destination, hash((source, destination, port, tcp)))
        home = (
            reversed_way(out)
            if hashing.symmetric
            else way(destination, source, hash((destination, source, tcp, port, 1)))
        )
        there[number, : len(out)] = out
        back[number, : len(home)] = home
    return Routes(there, back)
