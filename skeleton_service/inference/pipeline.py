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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations

import numpy as np

from skeleton_service.inference.series import Floats, Integers

Pair = tuple[int, int]

FLOOR = 0.2
RESAMPLINGS = 24
SEEN = 0.08
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

AGREES = 1.0
"""The order of ranks may be longer than the best found by half of what neighbours in a chain are apart at least (one
by each witness), and still be taken: noise does that. Exchanging two stages mostly costs more."""

HALF = 0.6
"""The first and last stage of a plain pipeline carry half of what the others do, between bursts: they have one
neighbour. Where model chunks are interleaved they carry three quarters or more."""

BURST = 0.995
QUIET_SHARES = (0.08, 0.2, 0.5)
"""What counts as between bursts: samples below these shares of a burst, the strictest that leaves enough."""

ENOUGH = 0.1
LIKE_BURSTS = 0.3
SHARED = 0.012
"""The share of a stage's bytes that both ends move at once while all stages between them are much quieter: shared
embeddings do. Parameters that are gathered take the ends longer too, but they begin with all others."""

FAINT = 0.02

DEEPEST, WATCHED = 256, 30
"""No pipeline has more stages than this; and with fewer samples chance makes chains."""

CLOSER = 1.5
"""Neighbours in a pipeline foretell a stage better than all stages do, by this ratio of squared errors at least."""

LESS = 0.93
"""The ends of such a pipeline carry less than the others, a half to seven eighths, and the others the same: what sets
the ends apart is more than what differs between the others."""

ONE_WAY = 2.0
"""A stage sends about as much as it receives. What does this much more of one is the member of a ring, whose other
neighbour is on its own host."""

TWINS = 0.75
"""Two that carry less, and are less unlike than others are by this ratio, are no ends but replicas of one stage."""

MUCH_LESS, LEAST, EQUAL = 0.88, 0.1, 1.5
EXACT = 7
STARTS = 8


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
        longer = max(NEAR, NEAR_SHARE * _length(best, apart))
        found = adjacencies(best) | _ties(best, apart, longer, ends)
        if _length(best, apart) - _length(free, apart) > CONTRADICTED:
            found |= adjacencies(free)
        return Stages(best, frozenset(found))
    best = shortest_path(apart, ends)
    found = adjacencies(best) | _ties(best, apart, TIE * _length(best, apart), ends)
    return Stages(best, frozenset(found | _resampled(levels, block, ends, unlikeness)))


def _resampled(levels: Floats, block: int, ends: Pair | None, apart: Callable[[Floats], Floats]) -> set[Pair]:
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


def find_chain(means: Floats, block: int, ranked: tuple[int, ...] | None = None) -> tuple[Stages, float] | None:
    """The stages of a pipeline without replicas, whose units exchange ``means`` (units, 2, samples), bytes per second.

    And the share of the units' variation in time that their two neighbours foretell. None where units
    that are next to each other foretell no better than all of them do, or no two of them, the ends, carry less.
    ``means`` are as `exchanged` has them, ``block`` is as for `order_stages`. ``ranked`` is the order of the
    units' ranks: it is taken where the traffic does not say otherwise.
    """
    units, _, samples = means.shape
    if not 3 <= units <= DEEPEST or samples < WATCHED:
        return None
    ends = _chain_ends(means)
    if ends is None:
        return None
    levels = log_levels(means)
    unlike = unlikeness(levels)
    if unlike[ends] < TWINS * float(np.median(unlike[list(ends)])):
        return None
    apart = _estranged(levels)
    best = shortest_path(apart, ends)
    course = course_levels(means)
    by_neighbours = missed_by_neighbours(course[list(best)])
    by_all = float(((course - course.mean(axis=0)) ** 2).sum()) * (units / (units - 1)) ** 2
    if by_neighbours * CLOSER > by_all:
        return None
    foretold = 1 - by_neighbours / max(float((course**2).sum()), 1e-12)
    if (
        ranked is not None
        and {ranked[0], ranked[-1]} == set(ends)
        and _length(ranked, apart) - _length(best, apart) < AGREES
    ):
        return Stages(ranked, frozenset(adjacencies(ranked))), foretold
    found = adjacencies(best) | _ties(best, apart, NEAR, ends) | _resampled(levels, block, ends, _estranged)
    return Stages(best, frozenset(found)), foretold


def exchanged(means: Floats) -> Floats:
    """What units without replicas can have exchanged with each other at most, of their ``means`` (units, 2, samples).

    What one of them receives, two others have sent: reads from storage are more than that. So are checkpoints, the
    other way. Three units or more.
    """
    opposite = means[:, ::-1]
    third, second, first = np.sort(opposite, axis=0)[-3:]
    # The two that move most, but for the unit itself.
    others = first + second + third - np.maximum(opposite, third)
    bounded: Floats = np.minimum(means, others)
    return bounded


def _chain_ends(means: Floats) -> Pair | None:
    """The two units that carry less than the others, which carry the same; None where there are none such."""
    carried = _carried(means)
    order = np.argsort(carried, kind="stable")
    ends, inside = order[:2], carried[order[2:]]
    if carried[ends[1]] >= LESS * inside[0] or inside[-1] - inside[0] >= inside[0] - carried[ends[1]]:
        return None
    if (means[ends].sum(axis=2).max(axis=1) > ONE_WAY * carried[ends]).any():
        return None
    return int(ends[0]), int(ends[1])


def chain_closes(means: Floats) -> bool:
    """Whether the first and the last unit of a chain, whose ``means`` (units, 2, samples) are in order, exchange bytes.

    All that a chain's units carry is the pipeline's: there is no burst of gradients to look beside.
    """
    carried = _carried(means)
    half = HALF * float(np.median(carried[1:-1]))
    return bool(min(carried[0], carried[-1]) >= half) or _shared(means.min(axis=1))


def _carried(means: Floats) -> Floats:
    """What each unit (units,) of a chain carries in all, the lesser of sent and received: storage goes one way."""
    carried: Floats = means.sum(axis=2).min(axis=1)
    return carried


def _estranged(levels: Floats) -> Floats:
    """How far units without replicas are from each other (units, units), by both witnesses alike.

    Neighbours are busy together, and what one sends, the other receives. Each witness counts relative to what it
    says of the unit that is nearest, typically: where single micro-batches show, only the second tells neighbours.
    """
    apart = np.zeros((len(levels), len(levels)))
    for unlike in (unlikeness(levels), unlikeness(levels, crossed=True)):
        np.fill_diagonal(unlike, np.inf)
        nearest = np.sqrt(np.maximum(unlike.min(axis=1), 1e-12))
        apart += unlike / nearest[:, None] / nearest[None, :]
    np.fill_diagonal(apart, 0)
    return apart


def course_levels(means: Floats) -> Floats:
    """The log rates (units, 2, samples) of `find_chain`'s units, each less its mean over time.

    The ends carry half of what the others do all the time: it is the course of time that is foretold.
    """
    levels = log_levels(means).reshape(means.shape)
    course: Floats = levels - levels.mean(axis=2, keepdims=True)
    return course


def missed_by_neighbours(chain: Floats) -> float:
    """The squared error of foretelling each of ``chain`` (units, 2, samples), in order, by the two beside it.

    By what they do alike, or, where single micro-batches show, by their received for what is sent: the lesser.
    """
    inner = chain[1:-1]
    beside = (chain[:-2] + chain[2:]) / 2
    missed = min(float(((inner - by) ** 2).sum()) for by in (beside, beside[:, ::-1]))
    return missed * len(chain) / (len(chain) - 2)


def find_ends(means: Floats) -> Pair | None:
    """The first and the last stage by what stages carry between bursts; None where that does not tell.

    ``means`` as for `order_stages`, three groups or more. The ends have one neighbour: in a plain pipeline
    they carry half of what the others do, with interleaved model chunks three quarters or more.
    """
    carried = _between_bursts(means)
    if carried is None:
        return None
    order = np.argsort(carried, kind="stable")
    least, most = carried[order[2]], carried[order[-1]]
    if carried[order[1]] > MUCH_LESS * least or carried[order[0]] < LEAST * least or most > EQUAL * least:
        return None
    return int(order[0]), int(order[1])


def ends_meet(means: Floats) -> bool | None:
    """Whether the first and the last stage exchange bytes, by what stages carry; None where that does not tell.

    ``means`` (stages, 2, samples) as for `order_stages`, three stages or more, in their order.
    """
    if _shared(means.sum(axis=1)):
        return True
    carried = _between_bursts(means)
    return None if carried is None else bool(min(carried[0], carried[-1]) >= HALF * float(np.median(carried[1:-1])))


def _between_bursts(means: Floats) -> Floats | None:
    """What each group (groups,) typically carries between bursts, relative to all; None where bursts are everything."""
    carried = means.sum(axis=1)
    usual = carried.mean(axis=0)
    burst = float(np.quantile(carried, BURST))
    for share in QUIET_SHARES:
        quiet = (carried.max(axis=0) < share * burst) & (usual > FAINT * share * burst)
        if quiet.mean() >= ENOUGH:
            return np.array([_typical(own[quiet], usual[quiet]) for own in carried])
    if float(np.median(usual)) > LIKE_BURSTS * burst:  # what is between bursts is as much as they are
        return np.array([_typical(own, usual) for own in carried])
    return None


def _typical(carried: Floats, between: Floats) -> float:
    """The median of what one stage carries relative to others, samples that carry much counting for more."""
    ratio = carried / np.maximum(between, 1e-12)
    order = np.argsort(ratio)
    weight = np.cumsum(between[order])
    return float(ratio[order][np.searchsorted(weight, weight[-1] / 2)])


def _shared(carried: Floats) -> bool:
    """Whether the ends alone are busy for a while, as the all-reduce of shared embeddings has it."""
    burst = float(np.quantile(carried, BURST))
    both, between = np.minimum(carried[0], carried[-1]), carried[1:-1].max(axis=0)
    alone = (between < both / 2) & (both > FAINT * burst)
    return float((both - between)[alone].sum()) > SHARED * float(carried.sum(axis=1).mean())


def log_levels(means: Floats) -> Floats:
    """Log rates (groups, 2 x samples) of mean rates (groups, 2, samples), so that bursts do not drown the rest."""
    flat = np.nan_to_num(means.reshape(len(means), -1))
    levels: Floats = np.log1p(flat / (FLOOR * float(flat.mean()) or 1.0))
    return levels


def unlikeness(levels: Floats, *, crossed: bool = False) -> Floats:
    """One less the correlation (groups, groups) of the groups' log rates; ``crossed``, of sent with received."""
    centred = levels - levels.mean(axis=1, keepdims=True)
    normal = centred / np.maximum(np.sqrt((centred**2).sum(axis=1, keepdims=True)), 1e-12)
    unlike: Floats = 1 - normal @ (np.roll(normal, normal.shape[1] // 2, axis=1) if crossed else normal).T
    return unlike


def adjacencies(order: tuple[int, ...]) -> set[Pair]:
    """The sorted pairs of neighbours in an order."""
    return {(min(a, b), max(a, b)) for a, b in pairwise(order)}


def _length(order: tuple[int, ...], apart: Floats) -> float:
    return float(sum(apart[a, b] for a, b in pairwise(order)))


def _ties(order: tuple[int, ...], apart: Floats, longer: float, ends: Pair | None) -> set[Pair]:
    """The adjacencies of orders that differ little, are no more than ``longer``, and have these ends, if any."""
    shortest = _length(order, apart)
    found: set[Pair] = set()
    for other in _others(order):
        if ends is not None and {other[0], other[-1]} != set(ends):
            continue
        if _length(other, apart) - shortest < longer:
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
