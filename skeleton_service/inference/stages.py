"""The order of pipeline stages: which position groups are neighbours.

Two things tell. Neighbouring stages burst almost together, so their series are more alike than those of
distant stages (the paper's time shift, section 5.1, without needing it resolved in one burst). And only
the first and last stage have one neighbour: what they send and receive differs, the one's excess being
the other's lack. The order is known up to reversal, which the skeleton does not need.

A pair of neighbours that is missed is a path nobody watches. So the order is estimated again from
resampled iterations, and every adjacency that turns up counts, as does that of orders hardly longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np

from skeleton_service.inference.groups import features
from skeleton_service.inference.series import Floats, Integers, Rates

RESAMPLINGS = 24
SEEN = 0.08
"""An adjacency in at least this share of the resamplings is kept."""

TIE = 0.1
"""Exchanging two neighbours that lengthens the path by less than this share leaves their order open."""

OUTSTANDING = 1.25
"""The excess of two stages names them the ends where it is this much larger than that of any stage between."""

EXACT = 7
STARTS = 8


@dataclass(frozen=True, slots=True)
class Stages:
    """``order`` lists group numbers from one end to the other; ``adjacent`` are sorted pairs of group numbers.

    ``agreement`` is the share of resamplings with the same adjacencies.
    """

    order: tuple[int, ...]
    adjacent: frozenset[tuple[int, int]]
    agreement: float


def order_stages(tx: Rates, rx: Rates, block: int) -> Stages:
    """Order the groups whose mean rates are ``tx`` and ``rx`` (groups, samples), bytes per second.

    ``block`` is the length of one iteration in samples, the unit of resampling. Deterministic: the
    resampling is seeded. O(resamplings x groups^2 x (samples + groups)).
    """
    groups, samples = tx.shape
    if groups < 3:
        order = tuple(range(groups))
        return Stages(order, frozenset(pairwise(order)), 1.0)
    levels = features(tx, rx)
    excess = np.nan_to_num(tx.astype(np.float64) - rx)
    everything = np.arange(samples)
    best = _estimates(levels, excess, everything)
    adjacent = set().union(*map(_adjacencies, best), _ties(best[-1], _unlikeness(levels)))
    random = np.random.default_rng(0)
    seen: dict[tuple[int, int], int] = {}
    same = 0
    block = min(max(block, 2), max(samples // 3, 1))
    for _ in range(RESAMPLINGS):
        begins = random.integers(0, samples - block + 1, size=-(-samples // block))
        picked = (begins[:, None] + np.arange(block)[None, :]).ravel()
        orders = _estimates(levels, excess, picked)
        found = set().union(*map(_adjacencies, orders))
        same += found == _adjacencies(best[-1])
        for pair in found:
            seen[pair] = seen.get(pair, 0) + 1
    adjacent |= {pair for pair, times in seen.items() if times >= SEEN * RESAMPLINGS}
    return Stages(best[-1], frozenset(adjacent), same / RESAMPLINGS)


def _adjacencies(order: tuple[int, ...]) -> set[tuple[int, int]]:
    return {(min(a, b), max(a, b)) for a, b in pairwise(order)}


def _unlikeness(levels: Floats) -> Floats:
    """One less the correlation (groups, groups) of the groups' log rates."""
    centred = levels - levels.mean(axis=1, keepdims=True)
    normal = centred / np.maximum(np.sqrt((centred**2).sum(axis=1, keepdims=True)), 1e-12)
    unlike: Floats = 1 - normal @ normal.T
    return unlike


def _ties(order: tuple[int, ...], apart: Floats) -> set[tuple[int, int]]:
    """The adjacencies that orders nearly as short have, where they exchange two neighbours."""
    way = list(order)
    shortest = float(apart[way[:-1], way[1:]].sum())
    found: set[tuple[int, int]] = set()
    for place in range(1, len(way) - 2):
        other = [*way[:place], way[place + 1], way[place], *way[place + 2 :]]
        if float(apart[other[:-1], other[1:]].sum()) < (1 + TIE) * shortest:
            found |= _adjacencies(tuple(other))
    return found


def _estimates(levels: Floats, excess: Floats, picked: Integers) -> list[tuple[int, ...]]:
    """The order by likeness alone, and the order by likeness between the ends that the excess names."""
    samples = excess.shape[1]
    apart = _unlikeness(levels[:, np.concatenate((picked, picked + samples))])
    opposed = excess[:, picked] @ excess[:, picked].T
    first, last = np.unravel_index(int(np.argmin(opposed)), opposed.shape)
    orders = [_shortest_path(apart, None)]
    between = np.delete(np.arange(len(opposed)), [first, last])
    size = np.sqrt(np.diag(opposed))
    # Where the pipeline carries little beside the all-reduces, all that tells stages apart by excess is chance.
    outstanding = min(size[first], size[last]) > OUTSTANDING * size[between].max(initial=0)
    if first != last and opposed[first, last] < 0 and outstanding:
        orders.append(_shortest_path(apart, (int(first), int(last))))
    return orders


def _shortest_path(apart: Floats, ends: tuple[int, int] | None) -> tuple[int, ...]:
    """The shortest way through all groups, optionally between given ends; exact up to 7 groups.

    Beyond, nearest neighbour from several starts, improved by reversing stretches.
    """
    count = len(apart)
    if ends is not None:
        # Far ends cost the same everywhere but at the ends, so the shortest path puts them there.
        apart = apart.copy()
        toll = 4 * float(apart.max()) + 1
        for end in ends:
            apart[end, :] += toll
            apart[:, end] += toll
    if count <= EXACT:
        ways = np.array([way for way in permutations(range(count)) if way[0] < way[-1]])
        lengths = apart[ways[:, :-1], ways[:, 1:]].sum(axis=1)
        return tuple(int(place) for place in ways[int(np.argmin(lengths))])
    starts = list(ends) if ends else [int(s) for s in np.argsort(-apart.sum(axis=1))[:STARTS]]
    ways_found = [_improve(_greedy(apart, start), apart) for start in starts]
    best = min(ways_found, key=lambda way: float(apart[way[:-1], way[1:]].sum()))
    return tuple(best if best[0] < best[-1] else best[::-1])


def _greedy(apart: Floats, start: int) -> list[int]:
    way, left = [start], set(range(len(apart))) - {start}
    while left:
        way.append(min(left, key=lambda place: (apart[way[-1], place], place)))
        left.remove(way[-1])
    return way


def _improve(way: list[int], apart: Floats) -> list[int]:
    """Reverse stretches while that shortens the path."""
    count = len(way)
    for _ in range(10 * count):
        order = np.array(way)
        steps = np.zeros((count, count))
        # Reversing way[i..j] replaces the steps into i and out of j; at the path's ends there is no step.
        before, after = order[:-1], order[1:]
        into = np.concatenate(([0.0], apart[before, after]))
        out = np.concatenate((apart[before, after], [0.0]))
        steps -= into[:, None] + out[None, :]
        steps[1:, :] += apart[np.ix_(order[:-1], order)]
        steps[:, :-1] += apart[np.ix_(order, order[1:])]
        steps[np.tril_indices(count)] = 0
        i, j = np.unravel_index(int(np.argmin(steps)), steps.shape)
        if steps[i, j] > -1e-12:
            break
        way = [*way[:i], *way[i : j + 1][::-1], *way[j + 1 :]]
    return way
