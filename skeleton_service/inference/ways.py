"""The shortest way through all stages, and those that are nearly as short."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise, permutations

import numpy as np

from skeleton_service.inference.series import Floats, Integers

Pair = tuple[int, int]

EXACT = 7
"""Up to so many stages every order is tried."""

STARTS = 8


def shortest_path(apart: Floats, ends: Pair | None = None) -> tuple[int, ...]:
    """The shortest way through all groups (groups, groups), between given ends if any; exact up to 7 groups.

    Beyond, nearest neighbour from several starts, improved by reversing stretches.
    """
    count = len(apart)
    if ends is not None:
        # A toll on all ways to the ends is paid once where they are ends, and twice elsewhere.
        apart = apart.copy()
        toll = 4 * float(apart.max()) * count + 1
        for end in ends:
            apart[end, :] += toll
            apart[:, end] += toll
    if count <= EXACT:
        ways = np.array([way for way in permutations(range(count)) if way[0] <= way[-1]])
        lengths = apart[ways[:, :-1], ways[:, 1:]].sum(axis=1)
        return tuple(int(place) for place in ways[int(np.argmin(lengths))])
    starts: Integers = np.array(ends or np.argsort(-apart.sum(axis=1), kind="stable")[:STARTS])
    ways_found = [_improve(_greedy(apart, int(start)), apart) for start in starts]
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


def adjacencies(order: tuple[int, ...]) -> set[Pair]:
    """The sorted pairs of neighbours in an order."""
    return {(min(a, b), max(a, b)) for a, b in pairwise(order)}


def way_length(order: tuple[int, ...], apart: Floats) -> float:
    return float(sum(apart[a, b] for a, b in pairwise(order)))


def near_ties(order: tuple[int, ...], apart: Floats, longer: float, ends: Pair | None) -> set[Pair]:
    """The adjacencies of orders that differ little, are no more than ``longer``, and have these ends, if any."""
    shortest = way_length(order, apart)
    found: set[Pair] = set()
    for other in _others(order):
        if ends is not None and {other[0], other[-1]} != set(ends):
            continue
        if way_length(other, apart) - shortest < longer:
            found |= adjacencies(other)
    return found


def _others(order: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The orders that exchange two neighbours, or that reverse a stretch."""
    count = len(order)
    for n in range(count - 1):
        yield (*order[:n], order[n + 1], order[n], *order[n + 2 :])
    for first, last in combinations(range(count), 2):
        if last - first > 1 and (first, last) != (0, count - 1):
            yield (*order[:first], *order[first : last + 1][::-1], *order[last + 1 :])
