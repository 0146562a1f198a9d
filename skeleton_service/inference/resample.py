"""Irregular samples onto a regular grid, keeping bytes: what an interval carried is neither lost nor invented."""

from __future__ import annotations

import numpy as np

from skeleton_service.inference.series import Floats

ON_GRID = 0.02
"""Samples this close to the grid, in steps, are taken as they are: interpolation would blur bursts."""


def sampling_step(times: Floats) -> float:
    """The most usual distance between successive distinct instants of one endpoint; 1 s when there is one."""
    gaps = np.diff(np.unique(times))
    return float(np.median(gaps)) if gaps.size else 1.0


def make_grid(times: Floats, step: float) -> Floats:
    """The ends of regular intervals that cover ``times``, anchored where most samples lie within the step."""
    phases = np.exp(2j * np.pi * times / step)
    anchor = float(np.angle(phases.mean())) / (2 * np.pi) * step
    first = np.round((times.min() - anchor) / step)
    last = np.round((times.max() - anchor) / step)
    return anchor + step * np.arange(first, last + 1)


def off_grid(times: Floats, grid: Floats, step: float) -> float:
    """How far these instants typically lie off the grid, in steps, 0 to 0.5."""
    position = (times - grid[0]) / step
    return float(np.median(np.abs(position - np.round(position))))


def resample(times: Floats, rates: Floats, grid: Floats, step: float) -> Floats:
    """Mean rate over each grid interval, NaN where no sample reaches into it.

    ``times`` (samples,) are the ends of the sampled intervals in any order, ``rates`` (samples,) their
    means. A sample covers the time since the previous one, but no more than one step. Samples of the
    same instant are averaged, so the order of rows does not matter. O(samples log samples).
    """
    instants, inverse = np.unique(times, return_inverse=True)
    values = np.bincount(inverse, weights=rates) / np.bincount(inverse)
    result = np.full(grid.size, np.nan)
    position = (instants - grid[0]) / step
    nearest = np.round(position).astype(np.int64)
    if np.all(np.abs(position - nearest) <= ON_GRID):
        inside = (nearest >= 0) & (nearest < grid.size)
        result[nearest[inside]] = values[inside]
        return result
    widths = np.minimum(np.diff(instants, prepend=instants[0] - step), step)
    edges = np.column_stack((instants - widths, instants)).ravel()
    carried = np.cumsum(np.column_stack((np.zeros_like(values), values * widths)).ravel())
    observed = np.cumsum(np.column_stack((np.zeros_like(widths), widths)).ravel())
    ends = np.concatenate(([grid[0] - step], grid))
    amount, seen = np.diff(np.interp(ends, edges, carried)), np.diff(np.interp(ends, edges, observed))
    known = seen > step / 2
    result[known] = amount[known] / seen[known]
    return result
