"""Comparing skeletons: as sets of pairs, as sets of groups, and what is the most that may be inferred of a pipeline."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations, pairwise, product

from exporter.contracts.skeleton import Skeleton

Pair = frozenset[str]


def pairs(skeleton: Skeleton) -> set[Pair]:
    return {frozenset((a, b)) for a, b, _ in skeleton.pairs()}


def groups(skeleton: Skeleton) -> set[frozenset[str]]:
    return {frozenset(group.members) for group in skeleton.groups}


def unmatched(truth: Skeleton) -> set[Pair]:
    """All that traffic can say where replicas cannot be told apart.

    The groups, and every pair of two neighbouring stages, first and last being neighbours too: between the same local
    RNICs of two containers on different hosts.
    """
    host = {end.id: end.host for end in truth.endpoints}
    at: dict[tuple[int, int], list[str]] = defaultdict(list)
    own: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    for end in truth.endpoints:
        assert end.stage is not None
        own[end.container].append((end.rail or 0, end.id, end.stage))
    for rnics in own.values():
        for lane, (_, name, stage) in enumerate(sorted(rnics)):
            at[lane, stage].append(name)
    stages = 1 + max(stage for _, stage in at)
    lanes = {lane for lane, _ in at}
    adjacent = {*pairwise(range(stages)), (0, stages - 1)}
    found = {
        frozenset(ends)
        for lane, (here, there) in product(lanes, adjacent)
        for ends in product(at[lane, here], at[lane, there])
    }
    found |= {frozenset(ends) for group in truth.groups for ends in combinations(group.members, 2)}
    return {ends for ends in found if len({host[end] for end in ends}) == 2}
