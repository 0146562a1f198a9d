"""Which links a set of probed pairs can tell apart, and which further pairs would split the rest.

A failing link fails the probes that cross it. Two links are told apart when some pair has a path that
crosses one of them and not the other; where ECMP spreads a pair over parallel spines, its own source
ports do that. What they cannot split is the way up to a spine and the way down from it, as long as all
pairs stay on one rail: every path over the one crosses the other.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement, product

from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link, split_port

Pair = tuple[str, str]  # two interfaces, host:rnic
MODULUS = (1 << 61) - 1
CANDIDATES_PER_CLASS = 6
LARGEST_SEARCH = 2000


class Signatures:
    """For a pair, a number per link that stands for the set of the pair's paths over it.

    The number is the sum, over the paths through the link, of the product of pseudo-random link weights:
    links on the same paths get the same one, others differ but for a chance of 2^-61. It is found by
    counting paths from both ends, O(links of the pair), once per pair of switches the RNICs hang off.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._core: dict[Pair, tuple[dict[str, int], int]] = {}

    def of(self, pair: Pair) -> dict[str, int]:
        """{link: number} over all links of a pair's equal-cost paths; empty when there is no path."""
        own = {link for link in (self._fabric.link_of(end) for end in pair) if link is not None}
        key = (self._fabric.leaf_of(pair[0]), self._fabric.leaf_of(pair[1]))
        if key not in self._core:
            links = self._fabric.possible_links(*pair)
            self._core[key] = _count(links - own, *key) if links else ({}, 0)
        core, total = self._core[key]
        return {**core, **dict.fromkeys(own, total)} if total else {}


def _count(links: Iterable[str], source: str, destination: str) -> tuple[dict[str, int], int]:
    edges = sorted((link, *(split_port(end)[0] for end in split_link(link))) for link in links)
    around: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for link, a, b in edges:
        around[a].append((link, b))
        around[b].append((link, a))
    weight = {link: _weight(link) for link, _, _ in edges}
    layers = [[source]]
    depth = {source: 0}
    while layers[-1]:
        layers.append([])
        for here in layers[-2]:
            for _, there in around[here]:
                if there not in depth:
                    depth[there] = len(layers) - 1
                    layers[-1].append(there)
    down: dict[str, int] = defaultdict(int, {source: 1})
    up: dict[str, int] = defaultdict(int, {destination: 1})
    order = [vertex for layer in layers for vertex in layer]
    for here in order:
        for link, there in around[here]:
            if depth[there] == depth[here] + 1:
                down[there] = (down[there] + down[here] * weight[link]) % MODULUS
    for here in reversed(order):
        for link, there in around[here]:
            if depth[there] == depth[here] + 1:
                up[here] = (up[here] + up[there] * weight[link]) % MODULUS
    numbers = {}
    for link, a, b in edges:
        near, far = (a, b) if depth[a] < depth[b] else (b, a)
        numbers[link] = down[near] * weight[link] % MODULUS * up[far] % MODULUS
    return numbers, up[source]


@lru_cache(maxsize=1 << 18)
def _weight(link: str) -> int:
    return int.from_bytes(hashlib.sha256(link.encode()).digest()[:7], "big")


class Partition:
    """Links in blocks that nothing so far tells apart; of those alone in theirs, most are let go of."""

    def __init__(self, links: Iterable[str]) -> None:
        self._block = dict.fromkeys(sorted(links, key=str.encode), 0)
        self._size = {0: len(self._block)}

    def copy(self) -> Partition:
        other = Partition(())
        other._block, other._size = dict(self._block), dict(self._size)
        return other

    def gain(self, signature: dict[str, int]) -> int:
        """How many more blocks there would be."""
        return sum(len(parts) - whole for parts, whole in self._parts(signature))

    def refine(self, signature: dict[str, int]) -> None:
        for parts, whole in list(self._parts(signature)):
            for number, links in enumerate(parts.values()):
                if number >= whole:
                    fresh = len(self._size)
                    self._size[self._block[links[0]]] -= len(links)
                    self._size[fresh] = len(links)
                    for link in links:
                        self._block[link] = fresh
            for links in parts.values():
                if self._size[self._block[links[0]]] == 1:
                    del self._block[links[0]]

    def _parts(self, signature: dict[str, int]) -> Iterable[tuple[dict[int, list[str]], int]]:
        """Per block touched: its touched links by number, and 1 when no link of it is left untouched, else 0."""
        touched: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for link in sorted(signature.keys() & self._block.keys()):
            touched[self._block[link]][signature[link]].append(link)
        for block, parts in touched.items():
            yield parts, int(sum(map(len, parts.values())) == self._size[block])

    def ambiguous(self) -> tuple[tuple[str, ...], ...]:
        """Blocks of two or more links, each sorted, in order."""
        blocks: dict[int, list[str]] = defaultdict(list)
        for link, block in self._block.items():
            blocks[block].append(link)
        return tuple(sorted(tuple(links) for links in blocks.values() if len(links) > 1))


def separate(
    fabric: Fabric, probed: Sequence[Pair], interfaces: Sequence[str], redundancy: int
) -> tuple[list[Pair], tuple[tuple[str, ...], ...]]:
    """Return the extra pairs that split what ``probed`` leaves ambiguous, and what stays so with them.

    Extra pairs are drawn from ``interfaces``, never on one host. Each is the one that splits most of
    the links on the probed pairs' possible paths, in ``redundancy`` independent rounds, so that one
    broken host does not take the distinction away. O(rounds x extra x candidates x links of a pair).
    """
    signatures = Signatures(fabric)
    start = Partition({link for pair in probed for link in signatures.of(pair)})
    for pair in probed:
        start.refine(signatures.of(pair))
    whole, extra = start.copy(), []
    taken = {_in_order(pair) for pair in probed}
    for _ in range(redundancy):
        partition = start.copy()
        candidates = _candidates(fabric, interfaces, partition, taken)
        options = [(pair, signatures.of(pair)) for pair in candidates]
        while options:
            gains = [partition.gain(signature) for _, signature in options]
            best = max(range(len(options)), key=gains.__getitem__)
            if not gains[best]:
                break
            pair, signature = options[best]
            partition.refine(signature)
            whole.refine(signature)
            extra.append(pair)
            taken.add(pair)
            options = [option for option, gain in zip(options, gains, strict=True) if gain and option[0] != pair]
    return extra, whole.ambiguous()


def _in_order(pair: Pair) -> Pair:
    return pair if pair[0] < pair[1] else (pair[1], pair[0])


def _candidates(fabric: Fabric, interfaces: Sequence[str], partition: Partition, taken: set[Pair]) -> list[Pair]:
    """A few pairs between every two switches, and from every RNIC with an ambiguous link to every switch."""
    unclear = {link for block in partition.ambiguous() for link in block}
    if not unclear:
        return []
    below: dict[str, list[str]] = defaultdict(list)
    for interface in interfaces:
        below[fabric.leaf_of(interface)].append(interface)
    found: dict[Pair, None] = {}

    def offer(pairs: Iterable[Pair], limit: int) -> None:
        for pair in map(_in_order, pairs):
            if not limit:
                break
            if split_port(pair[0])[0] != split_port(pair[1])[0] and pair not in taken:
                found[pair] = None
                limit -= 1

    leaves = sorted(below, key=str.encode)
    near = {split_port(end)[0] for link in unclear for end in split_link(link)}
    for one, other in combinations_with_replacement(leaves, 2):
        if one in near or other in near:
            offer(_diagonal(below[one], below[other]), CANDIDATES_PER_CLASS)
        if len(found) > LARGEST_SEARCH:
            break
    for interface in interfaces:
        if fabric.link_of(interface) in unclear and len(found) < 2 * LARGEST_SEARCH:
            for leaf in leaves:
                offer(product([interface], below[leaf]), 1)
    return list(found)


def _diagonal(first: Sequence[str], second: Sequence[str]) -> Iterable[Pair]:
    """All pairs, such that the first few share no end."""
    return ((a, second[(place + shift) % len(second)]) for shift in range(len(second)) for place, a in enumerate(first))
