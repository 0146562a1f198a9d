"""Which member of one stage talks to which member of the next.

Members of a stage do the same at almost the same time. What is left of a unit's series when its group's
mean is taken away is noise, and the timing of its own replica: a micro-batch that its replica was late
with falls into the next sample. The bytes that one stage sends are those that the next stage of the same
replica receives, in the same sample. So the deviations in *sent* of one and in *received* of the other
correlate where two units are neighbours, at no lag, and nowhere else. Lanes and iterations add up.

Where the deviations do not tell, nothing is guessed: all pairs of the two stages are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from skeleton_service.inference.participants import Participants
from skeleton_service.inference.positions import group_means
from skeleton_service.inference.series import Floats, Integers, Rates, Throughput

FLOOR = 0.02
LARGEST = 0.3
"""Deviations beyond this share of the group's rate are somebody else's traffic: a read from storage, say."""

INDEPENDENT = 1e-8
"""Directions of states that vary by less than this share of the largest are combinations of the others."""

CERTAIN = ((2, 6.0), (3, 4.5), (5, 2.0))
"""Up to this many replicas, by how many deviations of chance the best assignment must surpass one that exchanges two
partners. Deviations of few replicas mirror each other, which leaves little to compare."""

CERTAIN_OF_MANY = ((10, 1.1), (1 << 30, 0.6))
"""The same for more replicas, in deviations of the scores of those that are not partners."""

STRETCHES, TIME_AND_AGAIN = 30, 1.5
"""The window is cut into so many stretches. What the best assignment gains must be this many times the root of the
sum of squares of what it gains in each: partners agree time and again, chance and one odd event do not."""

MOST = 0.6
"""Partners are believed where this share of a stage's units has certain ones."""

LAGS = tuple(range(4, 20))
"""Lags, in samples, at which neighbours' deviations have nothing in common but chance."""

MEASURED_UNITS = 24
MEASURED_CHANCES = 12


@dataclass(frozen=True, slots=True)
class Deviations:
    """``sent`` and ``received`` (units, lanes * samples), relative to the mean of the unit's group."""

    sent: Rates
    received: Rates


def deviations(throughput: Throughput, participants: Participants, labels: Integers) -> Deviations:
    """What is left of each unit's series without its group's mean, as a share of that mean."""
    rows = participants.rows
    found = np.zeros((2, *rows.shape, len(throughput.times)), dtype=np.float32)
    for label, means in enumerate(group_means(throughput, participants, labels)):
        floors = FLOOR * means.mean(axis=1) + 1e-9
        for direction, rates in enumerate((throughput.tx, throughput.rx)):
            floor = float(floors[direction])
            lasting = _states(means, floors, direction)
            for lane in range(rows.shape[1]):
                own = np.flatnonzero((labels == label) & participants.heard[:, lane])
                if own.size < 2:
                    continue
                series = rates[rows[own, lane]]
                known = np.isfinite(series)
                mean = np.where(known, series, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
                away = np.where(known, (series - mean) / (mean + floor), 0).astype(np.float32)
                away = np.clip(away, -LARGEST, LARGEST)
                found[direction, own, lane] = away - (away @ lasting) @ lasting.T
    sent, received = found.reshape(2, len(rows), -1)
    return Deviations(sent, received)


def _states(means: Floats, floors: Floats, direction: int) -> Rates:
    """An orthonormal basis (samples, states) of deviations that depend on nothing but what the group does then.

    ``means`` (2, samples) are the group's, sent and received. What a unit always has more of than its peers, at
    bursts or between them, is its NIC's or its experts' load; what it always has earlier or later is its host's
    clock. Neither is the timing of a replica. What the group does is what it sends and receives in a sample, in
    the one before and in the one after, up to products of two of these.
    """
    levels = means / floors[:, None]
    heights = np.log1p(levels)
    heights /= np.maximum(heights.max(axis=1, keepdims=True), 1e-12)
    level = levels[direction]
    early, late = (np.clip((np.roll(level, lag) - level) / (level + 1), -LARGEST, LARGEST) for lag in (1, -1))
    context = [np.roll(height, lag) for height in heights for lag in (0, 1, -1)]
    products = [one * other for one, other in combinations_with_replacement(context, 2)]
    weight = level / (level + 1)
    shapes = np.stack((early, late, *(weight * shape for shape in (np.ones_like(level), *context, *products))), axis=1)
    shapes /= np.maximum(np.linalg.norm(shapes, axis=0), 1e-12)
    sizes, directions = np.linalg.eigh(shapes.T @ shapes)
    independent = sizes > INDEPENDENT * sizes[-1]
    states: Rates = (shapes @ (directions[:, independent] / np.sqrt(sizes[independent]))).astype(np.float32)
    return states


@dataclass(frozen=True, slots=True)
class Match:
    """``pairs`` (pairs, 2) of unit numbers may talk; ``certain`` says that each unit has one partner at most."""

    pairs: Integers
    certain: bool

    def contradicts(self, other: Match) -> bool:
        """Whether this is certain of other pairs."""
        return self.certain and {*map(tuple, self.pairs.tolist())} != {*map(tuple, other.pairs.tolist())}


def match(
    found: Deviations, first: Integers, second: Integers, lanes: int, *, replicas: int = 0, trusted: bool = True
) -> Match:
    """Match the units of two adjacent stages, of at most ``replicas`` each; nobody where not ``trusted``.

    A unit's partner is certain when no exchange of partners with another unit comes near the best
    assignment. Units that are not certain are all paired with one another. Where a stage lacks units, those
    that are absent are partners too, of whom nothing is known: whoever they are certain for has no pair.
    """
    here, there = _facing(found, first, second)
    size = max(len(first), len(second), replicas)
    common = _by_stretch(here, there, lanes)
    common = np.pad(common, ((0, 0), (0, size - len(first)), (0, size - len(second))))
    partner = linear_sum_assignment(-common.sum(axis=0))[1]
    matched = common[:, :, partner]
    best = np.diagonal(matched, axis1=1, axis2=2)
    gains = best[:, :, None] + best[:, None, :] - matched - matched.transpose(0, 2, 1)
    gain, spread = gains.sum(axis=0), np.sqrt((gains**2).sum(axis=0))
    here_seen, there_seen = np.arange(size) < len(first), partner < len(second)
    strangers = matched.sum(axis=0)[np.outer(here_seen, there_seen) & ~np.eye(size, dtype=bool)]
    least = 2 * _doubt(min(len(first), len(second)), strangers, _chance(here, there, lanes))
    np.fill_diagonal(gain, np.inf)
    certain = (gain > np.maximum(least, TIME_AND_AGAIN * spread)).all(axis=1)
    # Among many units some stand out by chance: they count where most do.
    certain &= trusted and certain.mean() >= MOST
    sure, left = certain & here_seen & there_seen, partner[~certain & there_seen]
    loose = np.stack(np.meshgrid(first[~certain[: len(first)]], second[left], indexing="ij"), axis=-1).reshape(-1, 2)
    pairs = np.concatenate((np.stack((first[sure[: len(first)]], second[partner[sure]]), axis=1), loose))
    return Match(pairs.astype(np.int64), bool(certain.all()))


def conservation(found: Deviations, groups: list[Integers], lanes: int, pairs: list[tuple[int, int]]) -> Floats:
    """How well each pair of groups' best assignment conserves bytes (groups, groups), in deviations of chance.

    The mean over the assignment's pairs of units. Only ``pairs`` are looked at; others are 0. A unit alone in
    its group deviates from nobody: its scores are NaN.
    """
    scores = np.zeros((len(groups), len(groups)))
    shares = []
    best = {}
    for number, (a, b) in enumerate(pairs):
        here, there = _facing(found, groups[a], groups[b])
        common = here @ there.T
        size = float(np.sqrt((here**2).sum() * (there**2).sum())) / len(here)
        best[a, b] = float(common[linear_sum_assignment(-common)].mean()) / max(size, 1e-12)
        if number % max(1, len(pairs) // MEASURED_CHANCES) == 0:
            shares.append(_chance(here, there, lanes) / max(size, 1e-12))
    for (a, b), score in best.items():
        scores[a, b] = scores[b, a] = score / max(float(np.median(shares)), 1e-12)
    alone = [label for label, group in enumerate(groups) if len(group) == 1]
    scores[alone, :] = scores[:, alone] = np.nan
    return scores


def conserved_share(found: Deviations, first: Integers, second: Integers) -> float:
    """How much of what the best assignment conserves these pairs do, first with first and so on: up to 1."""
    here, there = _facing(found, first, second)
    common = here @ there.T
    best = float(common[linear_sum_assignment(-common)].sum())
    return float(common.diagonal().sum()) / best if best > 0 else 1.0


def hand_over(found: Deviations, first: Integers, second: Integers, lanes: int) -> float:
    """How much better bytes sent fit bytes received than timing alone explains, in deviations of chance.

    Stages of one replica are late together, neighbours or not: then sent fits sent as well as received.
    """
    here, there = _facing(found, first, second)
    alike = np.concatenate((found.sent[second], found.received[second]), axis=1)
    common = here @ there.T
    assigned = linear_sum_assignment(-common)
    chance = _chance(here, there, lanes)
    crossed = float(common[assigned].mean()) / chance
    return min(crossed, crossed - float((here @ alike.T)[assigned].mean()) / chance)


def _doubt(units: int, strangers: Floats, chance: float) -> float:
    """By how much an assignment of ``units`` must be better than another; ``strangers`` are scores of no partners."""
    for most, enough in CERTAIN:
        if units <= most:
            return enough * chance
    enough = next(enough for most, enough in CERTAIN_OF_MANY if units <= most)
    return enough * max(float(strangers.std()), chance / 4)


def _facing(found: Deviations, first: Integers, second: Integers) -> tuple[Rates, Rates]:
    """Sent and received of one group, and received and sent of the other: (units, 2 x lanes x samples) each."""
    here = np.concatenate((found.sent[first], found.received[first]), axis=1)
    return here, np.concatenate((found.received[second], found.sent[second]), axis=1)


def _by_stretch(here: Rates, there: Rates, lanes: int) -> Floats:
    """The scores of all pairs (stretches, units, units) of what `_facing` gives, in each stretch of the window."""
    here, there = (series.reshape(len(series), 2 * lanes, -1) for series in (here, there))
    samples = here.shape[2]
    bounds = np.linspace(0, samples, min(STRETCHES, samples) + 1).round().astype(np.int64)
    scores = [np.tensordot(here[:, :, a:b], there[:, :, a:b], ((1, 2), (1, 2))) for a, b in pairwise(bounds)]
    return np.stack(scores).astype(np.float64)


def _chance(here: Rates, there: Rates, lanes: int) -> float:
    """The standard deviation of scores between series that have nothing in common: the same, shifted in time."""
    here, there = here[:MEASURED_UNITS], there[:MEASURED_UNITS]
    samples = there.shape[1] // (2 * lanes)
    turned = there.reshape(len(there), 2 * lanes, samples)
    lags = [lag for lag in LAGS if lag < samples // 2] or [max(samples // 2, 1)]
    scores = [here @ np.roll(turned, lag, axis=2).reshape(len(there), -1).T for lag in (*lags, *(-x for x in lags))]
    return max(float(np.sqrt(np.mean(np.square(scores)))), 1e-12)


def number_replicas(stages: Integers, matches: list[Match]) -> Integers:
    """The replica of each unit (units,), where every stage is matched with the next for certain; -1 otherwise.

    A unit whose partner in the stage before is absent has the number that is left, if there is one alone.
    """
    replicas = np.full(len(stages), -1, dtype=np.int64)
    if not all(found.certain for found in matches):
        return replicas
    numbers = np.arange(np.bincount(stages).max())
    first = np.flatnonzero(stages == 0)
    replicas[first] = numbers[: len(first)]
    for stage, found in enumerate(matches, start=1):
        replicas[found.pairs[:, 1]] = replicas[found.pairs[:, 0]]
        own = np.flatnonzero(stages == stage)
        left = np.setdiff1d(numbers, replicas[own])
        if len(left) == 1:
            replicas[own[replicas[own] < 0]] = left
    return replicas
