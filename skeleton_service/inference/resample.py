"""Irregular samples onto a regular grid, keeping bytes: what an interval carried is neither lost nor invented."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from skeleton_service.inference.series import Floats, Integers, Rates

ON_GRID = 0.02
"""Samples this close to the grid, in steps, are taken as they are: interpolation would blur bursts."""

GAP = 1.5
"""A sample this many of its endpoint's steps after the one before speaks for its last step alone."""

COARSEST = 2.0
"""A sample speaks for no more than so many steps of the grid: an endpoint read more rarely stays mostly unknown."""

MAX_RATE = 1e12
"""Bytes per second that no RNIC carries (8 Tbit/s): a counter was reset."""

_ANCHOR_SAMPLES = 1 << 20
_BLOCK_CELLS = 1 << 18


@dataclass(frozen=True, slots=True)
class Samples:
    """Mean rates of intervals that end at ``times`` (samples,), in seconds since the epoch.

    Sorted by endpoint, then time; endpoint i has the samples ``begins[i]:begins[i + 1]``, at least one.
    ``tx`` and ``rx`` (samples,) are bytes per second.
    """

    times: Floats
    tx: Rates
    rx: Rates
    begins: Integers

    def by_endpoint(self, values: Floats) -> Iterator[Floats]:
        """Yield each endpoint's part of ``values`` (samples,)."""
        return (values[begin:end] for begin, end in pairwise(self.begins.tolist()))


def sampling_steps(samples: Samples) -> Floats:
    """Seconds between successive instants of each endpoint (endpoints,), gaps aside; NaN where it has but one.

    The mean over as many steps as were taken, so that jitter does not add up over the window.
    """
    steps = np.full(len(samples.begins) - 1, np.nan)
    for row, times in enumerate(samples.by_endpoint(samples.times)):
        distances = np.diff(times)
        distances = distances[distances > 0]
        if distances.size:
            usual = np.median(distances)
            steps[row] = distances.sum() / np.round(distances / usual).sum()
    return steps


def make_grid(times: Floats, step: float) -> Floats:
    """The ends of regular intervals that cover ``times``, anchored where most samples lie within the step."""
    some = times[:: 1 + times.size // _ANCHOR_SAMPLES]
    anchor = float(np.angle(np.exp(2j * np.pi * (some / step)).mean())) / (2 * np.pi) * step
    first = np.round((times.min() - anchor) / step)
    last = np.round((times.max() - anchor) / step)
    grid: Floats = anchor + step * np.arange(first, last + 1)
    return grid


def resample(samples: Samples, steps: Floats, grid: Floats, step: float) -> tuple[Rates, Rates, float]:
    """Mean rates over each grid interval, NaN where less than half of it was observed: (tx, rx, skew).

    ``steps`` are those of ``sampling_steps``, ``tx`` and ``rx`` are (endpoints, intervals). A sample covers
    the time since the one before; after a gap, one step of its endpoint. Samples of one instant are averaged.
    ``skew`` is how far the instants of nine of ten endpoints typically lie off the grid at most, in steps.
    O(samples).
    """
    count = len(steps)
    tx, rx = np.full((2, count, grid.size), np.nan, dtype=np.float32)
    off: list[float] = []
    rows = max(_BLOCK_CELLS // grid.size, 1)
    own = np.nan_to_num(steps / step, nan=1.0)
    whole = np.round(own)
    own = np.where((np.abs(own - whole) <= ON_GRID) & (whole > 0), whole, own)
    for top in range(0, count, rows):
        bounds = samples.begins[top : top + rows + 1]
        span = slice(int(bounds[0]), int(bounds[-1]))
        part = Samples(samples.times[span], samples.tx[span], samples.rx[span], bounds - bounds[0])
        block = slice(top, top + len(bounds) - 1)
        off += _resample_block(part, own[block], grid, step, tx[block], rx[block])
    return tx, rx, float(np.quantile(off, 0.9))


def _resample_block(samples: Samples, own: Floats, grid: Floats, step: float, tx: Rates, rx: Rates) -> list[float]:
    """Fill ``tx`` and ``rx``, return how far each endpoint is off the grid, in steps.

    Positions are in steps: interval k of the grid is (k, k + 1].
    """
    samples = _average_repeated(samples)
    begins, counts = samples.begins[:-1], np.diff(samples.begins)
    endpoint = np.repeat(np.arange(len(own)), counts)
    position = (samples.times - grid[0]) / step + 1
    fold = np.minimum(own, 1.0)[endpoint]
    off = np.abs(position / fold - np.round(position / fold)) * fold
    skew = [float(np.median(own_off)) for own_off in samples.by_endpoint(off)]
    nearest = np.round(position)
    on_grid = np.maximum.reduceat(np.abs(position - nearest), begins) <= ON_GRID
    position = np.where(on_grid[endpoint], nearest, position)

    longest = np.where(own <= COARSEST, own, 1.0)[endpoint]
    width = np.diff(position, prepend=0.0)
    width[begins] = np.inf
    width = np.where(width < GAP * longest, width, longest)
    start = position - width
    sums = np.zeros((3, len(own) * grid.size))
    for ahead in range(int(np.ceil(width.max())) + 1):
        cell = np.floor(start) + ahead
        overlap = np.minimum(position, cell + 1) - np.maximum(start, cell)
        (hit,) = np.nonzero((overlap > 0) & (cell >= 0) & (cell < grid.size))
        place = endpoint[hit] * grid.size + cell[hit].astype(np.int64)
        covered = overlap[hit]
        for row, weights in enumerate((covered, covered * samples.tx[hit], covered * samples.rx[hit])):
            sums[row] += np.bincount(place, weights, sums.shape[1])
    seen = sums[0].reshape(tx.shape)
    known = seen > 0.5
    for target, total in ((tx, sums[1]), (rx, sums[2])):
        target[known] = total.reshape(tx.shape)[known] / seen[known]
    return skew


def _average_repeated(samples: Samples) -> Samples:
    """One sample for each endpoint and instant, the mean of those there are."""
    fresh = np.diff(samples.times, prepend=np.nan) != 0
    fresh[samples.begins[:-1]] = True
    if fresh.all():
        return samples
    (first,) = np.nonzero(fresh)
    repeats = np.diff(first, append=len(fresh))
    tx, rx = ((np.add.reduceat(rates, first, dtype=np.float64) / repeats) for rates in (samples.tx, samples.rx))
    return Samples(
        samples.times[first], tx.astype(np.float32), rx.astype(np.float32), np.searchsorted(first, samples.begins)
    )
