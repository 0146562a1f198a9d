"""The shape of a job: its stages, its replicas, and which of its units talk to each other beyond the groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise

import numpy as np

from skeleton_service.inference.chain import DEEPEST, chain_closes, exchanged, find_chain
from skeleton_service.inference.ends import ends_meet
from skeleton_service.inference.likeness import log_levels, unlikeness
from skeleton_service.inference.participants import Participants
from skeleton_service.inference.pipeline import order_stages
from skeleton_service.inference.positions import Partition, find_positions, group_means, scaled_levels
from skeleton_service.inference.ranks import Numbering, agreeing, far_better, rank_order, unit_ranks
from skeleton_service.inference.replicas import (
    Deviations,
    Match,
    conservation,
    deviations,
    hand_over,
    match,
    number_replicas,
)
from skeleton_service.inference.series import Floats, Integers, Throughput

LONG_SAMPLES = 120
LONG_ITERATIONS, LONGER_ITERATIONS = 10, 18
"""Timing orders stages after this many samples and iterations, and tells replicas apart after more iterations: before,
chance looks the same, and so do the clocks of few hosts."""

SOME = 0.6
"""Replicas are told apart where this share of neighbouring stages has certain partners throughout: what replicas share
shows everywhere, and partners in a few places are made by experts, or clocks, that replicas do not share."""

HANDED_OVER = 5.0
"""The last stage hands over to the first where bytes say so by this many deviations of chance."""

CHEAP = 0.05
"""Shared embeddings can hide in the gradients' all-reduce: the ends are joined where that costs no more than this."""

COMPARED_UNITS = 1024
NEARBY = 4
"""In jobs of more units than this, stages are compared with this many others: the work stays in proportion."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Units by number, as in `Participants`.

    ``stages`` (units,) in pipeline order; ``replicas`` (units,), -1 where not known; ``pairs`` (pairs, 2) of
    units in different stages that exchange bytes. ``foretold`` is the share of the units' variation in time
    that the shape explains, up to 1. ``unclear``: stages there are, but they could not be told apart, so that
    all units are one group.
    """

    stages: Integers
    replicas: Integers
    pairs: Integers
    foretold: float
    unclear: bool = False

    @property
    def count(self) -> int:
        return int(self.stages.max()) + 1

    @property
    def replicated(self) -> int:
        """How many replicas there are: units of the largest stage, as others may lack some."""
        return int(np.bincount(self.stages).max())

    @property
    def chain(self) -> bool:
        """Whether every unit is a stage: a pipeline without data parallelism."""
        return self.count == len(self.stages)


def find_shape(throughput: Throughput, participants: Participants, period_seconds: float) -> Shape | None:
    """Infer the shape of a job with this iteration period; None for less than two units.

    With data parallelism, groups of units and the order of the stages; without, a chain of units.
    """
    if participants.units < 2:
        return None
    ranks = unit_ranks(throughput, participants)
    block = round(period_seconds / throughput.step_seconds)
    chain = _chained(throughput, participants, ranks, block)
    if chain is not None:
        return chain
    partition = find_positions(throughput, participants)
    numbering = None
    if ranks is not None and partition.count == 1:
        numbering = far_better(scaled_levels(throughput, participants), ranks)
    if ranks is not None and numbering is None:
        numbering = agreeing(partition, ranks)
    if partition.count > 1 or numbering is not None:
        return _grouped(throughput, participants, partition, numbering, block)
    units = np.arange(participants.units)
    return Shape(np.zeros_like(units), units, _no_pairs(), partition.foretold, unclear=partition.unclear)


def _grouped(
    throughput: Throughput,
    participants: Participants,
    partition: Partition,
    numbering: Numbering | None,
    block: int,
) -> Shape:
    """Order the groups and match their members: by ranks that agree with the groups, else by what flows."""
    labels = partition.labels if numbering is None else numbering.stages
    away = deviations(throughput, participants, labels)
    means = group_means(throughput, participants, labels)
    groups = [np.flatnonzero(labels == label) for label in range(len(means))]
    others: list[Match] = []
    iterations = len(throughput.times) / block if len(throughput.times) >= LONG_SAMPLES else 0.0
    trusted = iterations >= LONGER_ITERATIONS
    if numbering is not None:
        groups = [group[np.argsort(numbering.replicas[group])] for group in groups]
        matches = [Match(np.stack(ends, axis=1), certain=True) for ends in pairwise(groups)]
        if trusted:
            # What flows may know better than ranks who is whose partner; then both are kept.
            measured = [match(away, here, there, participants.lanes) for here, there in pairwise(groups)]
            others = [found for found, ranked in zip(measured, matches, strict=True) if found.contradicts(ranked)]
    else:
        conserved = None
        if iterations >= LONG_ITERATIONS:
            conserved = conservation(away, groups, participants.lanes, _candidates(means, len(labels)))
        ordered = order_stages(means, block, conserved)
        groups, means = [groups[label] for label in ordered.order], means[list(ordered.order)]
        place = {label: stage for stage, label in enumerate(ordered.order)}
        labels = np.array([place[label] for label in labels.tolist()])
        joined = [tuple(sorted((place[a], place[b]))) for a, b in ordered.adjacent]
        matched = partial(match, away, lanes=participants.lanes, replicas=max(map(len, groups)))
        matches = [matched(here, there, trusted=trusted) for here, there in pairwise(groups)]
        if sum(found.certain for found in matches) < SOME * len(matches):
            trusted = False
            matches = [matched(here, there, trusted=False) for here, there in pairwise(groups)]
        others = [matched(groups[a], groups[b], trusted=trusted) for a, b in joined if b - a != 1]
    replicas = number_replicas(labels, matches)
    pairs = [found.pairs for found in (*matches, *others)]
    if len(groups) > 2:
        around = _around(away, groups, replicas, participants.lanes, trusted=trusted)
        cost = sum(map(len, pairs)) + sum(len(group) * (len(group) - 1) / 2 for group in groups)
        meet = ends_meet(means)
        if meet is None:
            meet = hand_over(away, groups[0], groups[-1], participants.lanes) >= HANDED_OVER
        if meet or len(around) <= CHEAP * cost:
            pairs.append(around)
    every = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0) if pairs else _no_pairs()
    return Shape(labels, replicas, every, partition.foretold)


def _around(away: Deviations, groups: list[Integers], replicas: Integers, lanes: int, *, trusted: bool) -> Integers:
    """The pairs of the first and the last stage: of one replica, where replicas are known."""
    first, last = groups[0], groups[-1]
    if (replicas[first] < 0).any() or (replicas[last] < 0).any():
        return match(away, first, last, lanes, replicas=max(map(len, groups)), trusted=trusted).pairs
    _, here, there = np.intersect1d(replicas[first], replicas[last], return_indices=True)
    return np.stack((first[here], last[there]), axis=1)


def _candidates(means: Floats, units: int) -> list[tuple[int, int]]:
    """The pairs of groups that may be neighbours: all, or in a large job those that are among the most alike."""
    if units <= COMPARED_UNITS:
        return list(combinations(range(len(means)), 2))
    nearest = np.argsort(unlikeness(log_levels(means)), axis=1, kind="stable")[:, 1 : 1 + NEARBY]
    return sorted({(min(a, b), max(a, b)) for a, row in enumerate(nearest.tolist()) for b in row})


def _chained(throughput: Throughput, participants: Participants, ranks: Integers | None, block: int) -> Shape | None:
    """A pipeline without data parallelism: every unit is a stage."""
    if not 3 <= participants.units <= DEEPEST:
        return None
    means = exchanged(group_means(throughput, participants, np.arange(participants.units)))
    chain = find_chain(means, block, rank_order(ranks))
    if chain is None:
        return None
    found, foretold = chain
    stages = np.empty(participants.units, dtype=np.int64)
    stages[list(found.order)] = np.arange(participants.units)
    pairs = sorted(found.adjacent)
    first, *_, last = found.order
    if chain_closes(means[list(found.order)]) and (min(first, last), max(first, last)) not in found.adjacent:
        pairs.append((first, last))
    return Shape(stages, np.zeros_like(stages), np.array(pairs, dtype=np.int64), foretold)


def _no_pairs() -> Integers:
    return np.empty((0, 2), dtype=np.int64)
