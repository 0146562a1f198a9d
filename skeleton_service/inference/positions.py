"""Position groups: which units stand at the same place of different data-parallel replicas.

Units at the same place burst at the same time with the same volume, because data parallelism splits
nothing but the data (SkeletonHunter, section 5.1). The paper compares short-time spectra; their
magnitude forgets *when* a burst came, which is what separates pipeline stages. So the series
themselves are compared, at the same instants: whatever the job does, the units of one place do it
together, through pauses, restarts and changes of period.

How many groups there are is asked of each unit: how much better do the *other* members of its group
foretell its series than the next best group does? That ratio, the margin, is large where groups are
places. Merge two places, and all members foretell badly; split one, and both halves foretell alike. So
no threshold on likeness is needed. (The paper's own objective is least when every unit is alone.)

What tells places apart differs from job to job: the faint traffic of the pipeline, or only the bursts of
the all-reduce. So the series are looked at on several scales, from logarithmic to linear, and the scale
with the clearest margin decides. On some of them only what a unit sends and receives at once counts:
reads from storage and checkpoints go one way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import squareform

from skeleton_service.inference.participants import Participants
from skeleton_service.inference.series import Floats, Integers, Rates, Throughput

BOTH_WAYS = ((0.02, 0.0), (0.2, 0.0), (0.0, 20.0))
EXCHANGED = ((0.2, 0.0), (0.0, 0.5), (0.0, 20.0))
"""Scales, by where they turn from linear to logarithmic: shares of the mean rate, and of the rate of a burst."""

BUSY = 0.2
BURST = 0.995
"""The quantile of rates, over units and time, that is taken for the rate of a burst."""

ALIKE_LANES = 0.1
"""Lanes whose series differ by less than this share of their variation carry the same, and are averaged."""

SAMPLED_UNITS = 768
"""Up to this many units are compared with one another; the others join the group they are nearest to."""

MOST_UNITS = 0.1
EVERY_UNIT = 1.15
MOST = 1.4
"""Groups are places where each unit has at least the first margin, and nine of ten have the second."""

CLEAR = 2.0
"""Groups that came out equally large by themselves are places where nine of ten units have this margin."""

ABOUT = 0.6
MOST_MOVED = 0.3
"""Clusters so uneven that more than this share would change groups are no places."""

ABSENT = 0.125
"""Of places, at most this share is empty: one host of eight without an exporter."""

SURE = 3.0
ALL_BUT, MUCH_LESS = 0.96, 3.0
"""One group that misses more than this leaves doubt where finer groups, clear or not, miss less by this ratio."""


@dataclass(frozen=True, slots=True)
class Partition:
    """``labels[unit]`` is the group, 0-based; groups are equally large, but for a few units that were never seen.

    ``foretold`` is the share (up to 1) of the units' variation in time that the other members of their
    groups foretell. ``margin`` is by how much the other members foretell a unit better than the next best
    group, as a ratio of squared errors that nine of ten units reach; 1 where that is not clear enough for
    places, infinite for one group.
    ``levels`` (units, features) are the series on the scale that showed it. ``unclear`` says of one group
    that there probably are more, which could not be told apart; ``foretold`` is what those foretell.
    """

    labels: Integers
    foretold: float
    margin: float
    levels: Rates
    unclear: bool = False

    @property
    def count(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def equal(self) -> bool:
        """Whether no group lacks units."""
        return np.unique(np.bincount(self.labels)).size == 1


def find_positions(throughput: Throughput, participants: Participants) -> Partition:
    """The clearest partition of the units into groups of two or more places; one group where none is clear.

    For two units or more. O(units^2 x features) up to ``SAMPLED_UNITS`` units, then
    O(units x groups x features).
    """
    whole: list[Partition] = []
    clear: list[Partition] = []
    foretold, best, unclear = 0.0, 0.0, False
    for levels in scaled_levels(throughput, participants):
        one, *finer = _partitions(levels, len(throughput.times))
        whole.append(one)
        # Where one group explains nearly all, clocks and noise make up much of what is left: groups of any size.
        nearly_all = one.foretold >= ALL_BUT
        enough = SURE if nearly_all else 1.0
        clear += [found for found in finer if found.margin > enough and (found.equal or not nearly_all)]
        finest = max((partition.foretold for partition in finer), default=0.0)
        best = max(best, finest)
        if one.foretold < ALL_BUT and 1 - finest < (1 - one.foretold) / MUCH_LESS:
            foretold, unclear = max(foretold, finest), True
    # Units at the ends of rings, which send or receive alone, look like a group of their own: absence comes last.
    equal = [found for found in clear if found.equal]
    clear = equal or [found for found in clear if 1 - found.foretold <= MUCH_LESS * (1 - best)]
    if not clear:
        one = max(whole, key=lambda partition: partition.foretold)
        return replace(one, foretold=max(one.foretold, foretold), unclear=unclear)
    clearest = max(partition.margin for partition in clear)
    # Stages that come in pairs make coarser groups that are about as clear.
    return max(
        (partition for partition in clear if partition.margin >= ABOUT * clearest),
        key=lambda partition: (partition.count, partition.margin),
    )


def scaled_levels(throughput: Throughput, participants: Participants) -> Iterator[Rates]:
    """The units' series (units, features) on each scale, sent before received.

    Lanes that carry the same are averaged, others kept apart. What was not observed takes the mean over
    units at that instant.
    """
    rows = participants.rows
    busy = participants.busy()
    mean = float(np.nanmean(throughput.tx[busy]) + np.nanmean(throughput.rx[busy])) / 2
    sample = busy[:: max(1, len(busy) // 256)]
    burst = float(np.nanquantile(np.concatenate((throughput.tx[sample], throughput.rx[sample])), BURST))
    samples = len(throughput.times)
    alike: bool | None = None
    for of_mean, of_burst in BOTH_WAYS:
        levels = _levels(throughput, participants, of_mean * mean + of_burst * burst or 1.0)
        if alike is None:
            alike = rows.shape[1] > 1 and _lanes_alike(levels)
        yield _known(levels, average=alike)
    for of_mean, of_burst in EXCHANGED:
        levels = _levels(throughput, participants, of_mean * mean + of_burst * burst or 1.0)
        yield _known(np.fmin(levels[:, :, :samples], levels[:, :, samples:]), average=bool(alike))
    if not participants.by_rail:
        # Of ring neighbours on one host, one sends and one receives on the network: busy are both.
        levels = _levels(throughput, participants, BUSY * mean or 1.0)
        yield _known(np.fmax(levels[:, :, :samples], levels[:, :, samples:]), average=bool(alike))


def _known(levels: Rates, *, average: bool) -> Rates:
    """Levels (units, lanes, samples) as (units, features) without gaps."""
    if average:
        levels = _mean(levels, axis=1)[:, None, :]
    typical = np.nan_to_num(_mean(levels, axis=0))
    missing = np.isnan(levels)
    levels[missing] = np.broadcast_to(typical, levels.shape)[missing]
    return levels.reshape(len(levels), -1)


def _levels(throughput: Throughput, participants: Participants, floor: float) -> Rates:
    """Rates (units, lanes, 2 x samples) as log(1 + rate / floor), NaN where nothing is known.

    Far above the floor that is the logarithm, which makes a sample's noise alike for all rates, since noise
    grows with the rate; far below it is linear.
    """
    samples, rows = len(throughput.times), participants.rows
    levels = np.full((*rows.shape, 2 * samples), np.nan, dtype=np.float32)
    for lane in range(rows.shape[1]):
        own = participants.heard[:, lane]
        levels[own, lane, :samples] = throughput.tx[rows[own, lane]]
        levels[own, lane, samples:] = throughput.rx[rows[own, lane]]
    levels /= floor
    return np.log1p(levels, out=levels)


def _mean(values: Rates, axis: int) -> Rates:
    """The mean of what is known, NaN where nothing is; without numpy's warning about that."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    result: Rates = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return result


def _lanes_alike(levels: Rates) -> bool:
    some = levels[:: max(1, len(levels) // 64)]
    across = np.nanmean((some - _mean(some, axis=1)[:, None, :]) ** 2)
    over_time = np.nanmean((some - _mean(some, axis=2)[:, :, None]) ** 2)
    return bool(across < ALIKE_LANES * over_time)


def _partitions(levels: Rates, samples: int) -> Iterator[Partition]:
    """Every feasible partition of the units (units, features) into equal groups of two or more.

    Where units may be absent, also those whose clusters are as large as one another but for a few.
    """
    units = len(levels)
    variation = float(levels.reshape(units, -1, samples).var(axis=2, dtype=np.float64).sum()) * samples
    levels = levels - levels.mean(axis=0)  # moves no distance, and keeps subtractions precise
    chosen = _spread(levels, min(units, SAMPLED_UNITS))
    apart = _squared_distances(levels[chosen])
    tree = linkage(np.sqrt(squareform(apart, checks=False)), "ward")
    for count in (k for k in range(1, (units + 1) // 2 + 1) if _nearly_equal(units, -(-units // k), k)):
        cut = np.zeros(len(chosen), dtype=np.int64)
        if count > 1:
            cut = fcluster(tree, count, "maxclust").astype(np.int64) - 1
        if cut.max() + 1 != count or _uneven(cut) > MOST_MOVED:
            continue
        for labels in _groups(levels, chosen, cut, apart):
            own, other = foretelling_errors(levels, labels)
            margins = np.sort(other / np.maximum(own, 1e-12))
            margin = float(margins[int(MOST_UNITS * (units - 1))]) if count > 1 else np.inf
            equal = bool((np.bincount(labels) * count == units).all())
            natural = equal and bool((cut == labels[chosen]).all())
            # Differences between NICs and clocks make groups too, but those have units that stand between two.
            between = margins[0] < EVERY_UNIT or margin < (MOST if equal else CLEAR)
            if between and not (natural and margin >= CLEAR):
                margin = 1.0
            yield Partition(labels, 1 - float(own.sum()) / max(variation, 1e-12), margin, levels)


def _groups(levels: Rates, chosen: Integers, cut: Integers, apart: Rates) -> Iterator[Integers]:
    """The labels (units,) that clusters of the chosen units may stand for: evened out, or as they came out."""
    units, count = len(levels), int(cut.max()) + 1
    largest = int(np.bincount(cut).max())
    whole = units % count == 0
    if len(chosen) < units:
        if whole or _nearly_equal(len(chosen), largest, count):
            labels = _join(levels, chosen, cut)
            if _nearly_equal(units, int(np.bincount(labels, minlength=count).max()), count):
                yield labels
        return
    if whole:
        yield _even(cut, apart, count)
    if largest * count != units and _nearly_equal(units, largest, count):
        yield cut


def foretelling_errors(levels: Rates, labels: Integers) -> tuple[Floats, Floats]:
    """Squared errors (units,) of foretelling each unit by the others of its group, and by the best other group.

    ``levels`` (units, features) are centred, as those of a `Partition`. A unit alone in its group is foretold as
    well as units in company typically are: some groups have two members or more.
    """
    sizes = np.bincount(labels)
    centres = np.stack([levels[labels == label].mean(axis=0) for label in range(len(sizes))])
    squared = (levels**2).sum(axis=1)[:, None] - 2 * levels @ centres.T + (centres**2).sum(axis=1)
    rows = np.arange(len(labels))
    own = squared[rows, labels].astype(np.float64) * (sizes / np.maximum(sizes - 1, 1))[labels] ** 2
    alone = sizes[labels] == 1
    own[alone] = np.median(own[~alone])
    squared[rows, labels] = np.inf
    return own, squared.min(axis=1).astype(np.float64)


def foretelling_error(levels: Rates, labels: Integers) -> float:
    """Sum over units of the squared distance to the mean of the other members of their group, two at least."""
    own, _ = foretelling_errors(levels, labels)
    return float(own.sum())


def group_means(throughput: Throughput, participants: Participants, labels: Integers) -> Floats:
    """Mean rates of each group (groups, 2, samples), sent and received, over units and lanes.

    Where nothing of a group was observed, as when its one host began to count anew, they are the mean of all groups.
    """
    means = np.zeros((int(labels.max()) + 1, 2, len(throughput.times)), dtype=np.float32)
    for label in range(len(means)):
        own = participants.rows[labels == label][participants.heard[labels == label]]
        for direction, rates in enumerate((throughput.tx, throughput.rx)):
            means[label, direction] = _mean(rates[own], axis=0)
    return np.nan_to_num(np.where(np.isfinite(means), means, _mean(means, axis=0))).astype(np.float64)


def _squared_distances(centred: Rates) -> Rates:
    """Squared Euclidean distances (units, units) between rows whose mean is about 0, which keeps them precise."""
    norms = (centred**2).sum(axis=1)
    result: Rates = np.maximum(norms[:, None] + norms[None, :] - 2 * centred @ centred.T, 0)
    np.fill_diagonal(result, 0)
    return result


def _spread(levels: Rates, count: int) -> Integers:
    """Choose ``count`` units evenly by their mean level: independent of their order and names."""
    if count == len(levels):
        return np.arange(count)
    order = np.argsort(levels.mean(axis=1), kind="stable")
    chosen: Integers = order[np.linspace(0, len(levels) - 1, count).round().astype(np.int64)]
    return chosen


def _join(levels: Rates, chosen: Integers, cut: Integers) -> Integers:
    """Each unit joins the group whose mean is nearest; twice, since means over all members are better."""
    groups = int(cut.max()) + 1
    centres = np.stack([levels[chosen[cut == group]].mean(axis=0) for group in range(groups)])
    labels: Integers = cut
    for _ in range(2):
        labels = np.argmin((centres**2).sum(axis=1) - 2 * levels @ centres.T, axis=1).astype(np.int64)
        if np.unique(labels).size < groups:
            return labels
        centres = np.stack([levels[labels == group].mean(axis=0) for group in range(groups)])
    return labels


def _nearly_equal(units: int, largest: int, count: int) -> bool:
    """Whether ``count`` groups of at most ``largest`` lack a few units of being as large as one another.

    Fewer than a group has: of a whole group, nobody could tell whether it is absent, or one is split in two.
    """
    absent = largest * count - units
    return absent < largest and absent <= ABSENT * largest * count


def _uneven(labels: Integers) -> float:
    """The share of members that groups of equal size would have to do without."""
    sizes = np.bincount(labels)
    return float(np.maximum(sizes - labels.size / sizes.size, 0).sum()) / labels.size


def _even(labels: Integers, apart: Rates, count: int) -> Integers:
    """Even out cluster sizes: members go to the cluster that is nearest and has room."""
    size = labels.size // count
    if (np.bincount(labels, minlength=count) == size).all():
        return labels
    cost = np.stack([apart[:, labels == label].mean(axis=1) for label in range(count)], axis=1)
    _, slot = linear_sum_assignment(np.repeat(cost, size, axis=1))
    even: Integers = (slot // size).astype(np.int64)
    return even
