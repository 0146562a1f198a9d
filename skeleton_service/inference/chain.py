"""Pipelines without data parallelism: every unit is a stage."""

from __future__ import annotations

import numpy as np

from skeleton_service.inference.ends import HALF, ends_share
from skeleton_service.inference.likeness import log_levels, unlikeness
from skeleton_service.inference.pipeline import NEAR, Stages, resampled
from skeleton_service.inference.series import Floats
from skeleton_service.inference.ways import Pair, adjacencies, near_ties, shortest_path, way_length

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

AGREES = 1.0
"""The order of ranks may be longer than the best found by half of what neighbours in a chain are apart at least (one
by each witness), and still be taken: noise does that. Exchanging two stages mostly costs more."""


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
        and way_length(ranked, apart) - way_length(best, apart) < AGREES
    ):
        return Stages(ranked, frozenset(adjacencies(ranked))), foretold
    found = adjacencies(best) | near_ties(best, apart, NEAR, ends) | resampled(levels, block, ends, _estranged)
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
    return bool(min(carried[0], carried[-1]) >= half) or ends_share(means.min(axis=1))


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
