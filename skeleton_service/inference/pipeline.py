"""The order of pipeline stages: which position groups exchange activations.

Two independent witnesses, each of which knows the order up to its direction only:

* *Conservation.* What one stage sends in a sample, its neighbours receive in that sample. So the
  deviations of single replicas (`replicas`) correlate, sent with received, between neighbours.
* *Likeness.* Neighbouring stages are busy almost at the same time, so their series are more alike than
  those of distant stages (the paper's time shift, section 5.1, without needing it resolved in one burst).

A pair of neighbours that is missed is a path nobody watches. Where the first witness is silent, the order
is estimated again from resampled iterations, and every adjacency that turns up counts.

The ends are neighbours too where model chunks are interleaved (the last stage hands over to the first), and
where the first and the last stage share their embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from skeleton_service.inference.ends import find_ends
from skeleton_service.inference.likeness import log_levels, unlikeness
from skeleton_service.inference.series import Floats
from skeleton_service.inference.ways import Pair, adjacencies, near_ties, shortest_path, way_length

RESAMPLINGS, SEEN = 24, 0.08
"""An adjacency in at least this share of the resamplings is kept."""

TIE = 0.1
"""Exchanging two neighbours that lengthens the path by less than this share leaves their order open."""

HEARD, CLEARLY = 3.0, 10.0
"""Conservation speaks where the best scores of stages, in deviations of chance, are typically above this, and counts
in full from the second on: faint scores come as well from experts that are asked at the same time."""

WEIGHT = 1.5
"""What conservation counts for beside likeness, each relative to what it typically is between neighbours."""

CONTRADICTED = WEIGHT / 2
"""Where ends make the way this much longer, half a pair that conserves nothing, the way without them counts too."""

NEAR, NEAR_SHARE = 0.25, 0.02
"""Two orders are both possible where they differ by less than this share of a typical step, or of the whole way."""


@dataclass(frozen=True, slots=True)
class Stages:
    """``order`` lists group numbers from one end to the other; ``adjacent`` are sorted pairs of group numbers."""

    order: tuple[int, ...]
    adjacent: frozenset[Pair]


def order_stages(means: Floats, block: int, conserved: Floats | None = None) -> Stages:
    """Order the groups whose mean rates, sent and received, are ``means`` (groups, 2, samples), bytes per second.

    ``block`` is the length of one iteration in samples, the unit of resampling; ``conserved`` (groups,
    groups) are the scores of conservation, NaN where they cannot tell: likeness alone places such a group.
    Deterministic: the resampling is seeded.
    O(resamplings x groups^2 x (samples + groups)).
    """
    groups = len(means)
    if groups < 3:
        order = tuple(range(groups))
        return Stages(order, frozenset(pairwise(order)))
    levels = log_levels(means)
    ends = find_ends(means)
    apart = unlikeness(levels)
    nearest = np.maximum(np.sort(apart, axis=1)[:, 1], 1e-12)
    apart /= np.sqrt(np.outer(nearest, nearest))
    best_two = np.zeros((groups, 2)) if conserved is None else np.sort(np.nan_to_num(conserved), axis=1)[:, -2:]
    other, typical = np.median(best_two, axis=0).tolist()
    if conserved is not None and typical >= HEARD:
        # A group that cannot tell is as near to all as a second neighbour is: nearer, and it would bridge gaps.
        conserved = np.where(np.isnan(conserved), other, conserved)
        apart += WEIGHT * min(typical / CLEARLY, 1.0) * np.clip(1 - conserved / typical, 0, 1)
        np.fill_diagonal(apart, 0)
        best, free = shortest_path(apart, ends), shortest_path(apart)
        longer = max(NEAR, NEAR_SHARE * way_length(best, apart))
        found = adjacencies(best) | near_ties(best, apart, longer, ends)
        if way_length(best, apart) - way_length(free, apart) > CONTRADICTED:
            found |= adjacencies(free)
        return Stages(best, frozenset(found))
    best = shortest_path(apart, ends)
    found = adjacencies(best) | near_ties(best, apart, TIE * way_length(best, apart), ends)
    return Stages(best, frozenset(found | resampled(levels, block, ends, unlikeness)))


def resampled(levels: Floats, block: int, ends: Pair | None, apart: Callable[[Floats], Floats]) -> set[Pair]:
    """The adjacencies that turn up in resampled iterations, with distances ``apart`` of ``levels``."""
    random = np.random.default_rng(0)
    seen: dict[Pair, int] = {}
    samples = levels.shape[1] // 2
    block = min(max(block, 2), max(samples // 3, 1))
    for _ in range(RESAMPLINGS):
        begins = random.integers(0, samples - block + 1, size=-(-samples // block))
        picked = (begins[:, None] + np.arange(block)[None, :]).ravel()
        other = shortest_path(apart(levels[:, np.concatenate((picked, picked + samples))]), ends)
        for pair in adjacencies(other):
            seen[pair] = seen.get(pair, 0) + 1
    return {pair for pair, times in seen.items() if times >= SEEN * RESAMPLINGS}
