"""Paths that became slow: windows of 30 s, seven features, against the five minutes before (SkeletonHunter 5.2).

A window is abnormal when nearly all of its round trips, or its upper quartile, lie above everything that the path
showed in the look back, and by more than a floor. That nearly all do tells a slow component from congestion, which
leaves a queue empty now and then: a job's all-reduces and a checkpoint's writes raise medians and maxima, and go. That
a window is an outlier among those before is then the local outlier factor's to say (Breunig et al., SIGMOD 2000), with
round trips as logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from skeleton_service.diagnosis.quantiles import quantiles

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

STEP_SECONDS = 5
WINDOW_SECONDS = 30
LOOK_BACK_STEPS = 60
"""Windows looked back on, one a step: five minutes, which cover several iterations of a job."""
LEAST_STEPS = 25
FLOOR_RATIO, FLOOR_MICROSECONDS = 1.15, 3.0
PARTLY_RATIO, PARTLY_MICROSECONDS = 1.5, 10.0
OUTLIER_FACTOR = 1.5
NEIGHBOURS = 4

_SAMPLES = 30
_LEAST_SAMPLES = 10
_OLDEST_SAMPLE = 60.0
_NOW = 5
"""Samples that tell how late a path is now."""
_SPACING = 0.8  # seconds between samples that are kept, so that a window holds 30 s whatever the rate
_MIN, _P25, _P50, _P75, _MAX, _MEAN, _STD, _P10 = range(8)
_SEVEN = slice(0, 7)
BEYOND = 1.8
"""How far above its middle a window must lie, in terms of the highest of the look back."""


@dataclass(frozen=True, slots=True)
class Slow:
    """Paths whose last window is abnormal, and those that could be judged at all; (paths,) each."""

    judged: NDArray[np.bool_]
    steady: NDArray[np.bool_]
    """Nearly all probes are slow."""
    partly: NDArray[np.bool_]
    """Only the upper quartile rose: some are."""
    microseconds: NDArray[np.float64]
    """By how much the median, or of those that are slow in part the upper quartile, rose."""


class Latencies:
    """The last samples of every path, and the features of its last windows: 2.3 KiB a path."""

    def __init__(self) -> None:
        self._value = np.full((0, _SAMPLES), np.nan, np.float32)
        self._time = np.full((0, _SAMPLES), -np.inf)
        self._next = np.zeros(0, np.int64)
        self._features = np.full((0, LOOK_BACK_STEPS, 8), np.nan, np.float32)
        self._steps = np.zeros(0, np.int64)
        self._last = np.full((0, 8), np.nan, np.float32)
        self._pending: list[NDArray[np.float32]] = []
        """Features of the last windows, which overlap the one that is judged."""
        self.paths = 0

    def grow(self, paths: int) -> None:
        """Make room for so many paths."""
        room = len(self._next)
        if paths > room:
            more = max(paths - room, room // 4)
            self._value = np.concatenate([self._value, np.full((more, _SAMPLES), np.nan, np.float32)])
            self._time = np.concatenate([self._time, np.full((more, _SAMPLES), -np.inf)])
            self._next = np.concatenate([self._next, np.zeros(more, np.int64)])
            self._features = np.concatenate([self._features, np.full((more, LOOK_BACK_STEPS, 8), np.nan, np.float32)])
            self._steps = np.concatenate([self._steps, np.zeros(more, np.int64)])
        self.paths = max(self.paths, paths)

    def add(self, path: NDArray[np.int64], time: NDArray[np.float64], latency: NDArray[np.float64]) -> None:
        """Keep round trips (microseconds) of one second, one a path."""
        answered = np.isfinite(latency)
        path, first = np.unique(path[answered], return_index=True)
        time, latency = time[answered][first], latency[answered][first]
        due = time - self._time[path, self._next[path] - 1] >= _SPACING
        path, time, latency = path[due], time[due], latency[due]
        place = self._next[path] % _SAMPLES
        self._value[path, place] = np.log(latency)
        self._time[path, place] = time
        self._next[path] = (place + 1) % _SAMPLES

    def forget(self, path: int) -> None:
        """A path that takes another way has no past to be compared with."""
        self._features[path] = np.nan
        self._steps[path] = 0
        self._value[path] = np.nan
        self._time[path] = -np.inf
        for features in self._pending:
            if path < len(features):
                features[path] = np.nan

    def keep(self, kept: NDArray[np.int64]) -> None:
        """Forget all paths but these, which are numbered anew in this order."""
        self.grow(int(kept[-1]) + 1 if len(kept) else 0)
        self._value, self._time, self._next = self._value[kept], self._time[kept], self._next[kept]
        self._features, self._steps = self._features[kept], self._steps[kept]
        self._pending = [
            np.pad(each, ((0, max(0, self.paths - len(each))), (0, 0)), constant_values=np.nan)[kept]
            for each in self._pending
        ]
        self.paths = len(kept)

    def judge(self, now: float) -> Slow:
        """Close a window, and compare it with those before. To be called each step."""
        features = self._window(now)
        slow = self._compare(features)
        abnormal = slow.steady | slow.partly
        self._pending.append(np.where(abnormal[:, None], np.nan, features))
        if len(self._pending) > WINDOW_SECONDS // STEP_SECONDS:
            self._remember(self._pending.pop(0))
        return slow

    def onset(self, paths: Sequence[int], *, partly: bool = False) -> float:
        """Time of the first slow round trip of these paths, which became slow together; nan where nothing is known.

        The cut that makes most of the share of late ones before it and after it, with those of all paths in one row.
        """
        times, flags = [], []
        for path in paths:
            known = np.flatnonzero(np.isfinite(self._value[path]))
            order = known[np.argsort(self._time[path, known])]
            value = self._value[path, order]
            if len(value):
                level = value[-_NOW:].max() if partly else np.median(value[-_NOW:])
                times.append(self._time[path, order])
                cut = (np.nanmedian(self._features[path, :, _P50]) + level) / 2
                if partly:  # congestion, which comes and goes, is not what began
                    cut = max(cut, np.nanmax(self._features[path, :, _P75]))
                flags.append(value > cut)
        if not times:
            return float("nan")
        time, late = np.concatenate(times), np.concatenate(flags)
        if not late.any():
            return float(time.max())
        order = np.argsort(time, kind="stable")
        after = np.cumsum(late[order][::-1])[::-1]
        count = np.arange(len(late), 0, -1)
        likelihood = _binomial(after, count) + _binomial(late.sum() - after, len(late) - count)
        rises = after * len(late) >= late.sum() * count
        return float(time[order[int(np.argmax(np.where(rises, likelihood, -np.inf)))]])

    def outlier_factor(self, path: int) -> float:
        """Local outlier factor of the path's last window among those that it looks back on; 1 is ordinary."""
        from sklearn.neighbors import LocalOutlierFactor  # noqa: PLC0415 - slow to import, and seldom needed

        past = self._features[path, :, _SEVEN]
        past = past[np.isfinite(past).all(axis=1)][:: WINDOW_SECONDS // STEP_SECONDS].astype(np.float64)
        if len(past) <= NEIGHBOURS:
            return float("nan")
        window = self._last[path, _SEVEN].astype(np.float64)
        middle = np.median(past, axis=0)
        spread = np.maximum(np.median(np.abs(past - middle), axis=0), 0.02)
        with _threads().limit(limits=1):  # to wake others for ten windows takes a hundred times as long
            factor = LocalOutlierFactor(n_neighbors=NEIGHBOURS, novelty=True).fit((past - middle) / spread)
            return float(-factor.score_samples(((window - middle) / spread)[None])[0])

    def _window(self, now: float) -> NDArray[np.float32]:
        """(paths, 8) features of the samples of the last window; of paths probed seldom, of the last few samples."""
        count = self.paths
        time, value = self._time[:count], self._value[:count]
        inside = time > now - WINDOW_SECONDS
        seldom = inside.sum(axis=1) < _LEAST_SAMPLES
        if seldom.any():
            latest = np.sort(time[seldom], axis=1)[:, -_LEAST_SAMPLES]
            oldest = np.maximum(latest, now - _OLDEST_SAMPLE)
            inside[seldom] = time[seldom] >= oldest[:, None]
        chosen = np.where(inside, value, np.nan)
        features = np.full((count, 8), np.nan, np.float32)
        judged = (inside.sum(axis=1) >= _LEAST_SAMPLES) & (time.max(axis=1, initial=-np.inf) > now - WINDOW_SECONDS)
        if judged.any():
            own = np.sort(chosen[judged], axis=1)
            found = quantiles(own, (0.0, 0.25, 0.5, 0.75, 1.0, 0.1))
            features[judged] = np.column_stack([*found[:5], np.nanmean(own, axis=1), np.nanstd(own, axis=1), found[5]])
        self._last = features
        return features

    def _compare(self, features: NDArray[np.float32]) -> Slow:
        count = self.paths
        judged = np.isfinite(features[:, _P50]) & (self._steps[:count] >= LEAST_STEPS)
        steady, partly = np.zeros(count, bool), np.zeros(count, bool)
        rise = np.zeros(count)
        # Of a slow component even quick round trips are later than a quarter of the usual ones ever were.
        floors = (FLOOR_RATIO, FLOOR_MICROSECONDS), (PARTLY_RATIO, PARTLY_MICROSECONDS)
        for flags, place, among, (ratio, least) in zip(
            (steady, partly), (_P10, _P75), (_P25, _P75), floors, strict=True
        ):
            highest = np.fmax.reduce(self._features[:count, :, among], axis=1)
            own = np.flatnonzero(judged & (features[:, place] > highest))  # few: medians are dear
            window, usual = features[own, place], np.nanmedian(self._features[own, :, among], axis=1)
            level, before = np.exp(window), np.exp(usual)
            more = (level > before * ratio) & (level > before + least)
            flags[own] = more & (window - usual > BEYOND * (highest[own] - usual))
        for flags, place in zip((steady, partly & ~steady), (_P50, _P75), strict=True):
            usual = np.nanmedian(self._features[:count][flags][:, :, place], axis=1)
            rise[flags] = np.exp(features[flags, place]) - np.exp(usual)
        return Slow(judged, steady, partly & ~steady, rise)

    def _remember(self, features: NDArray[np.float32]) -> None:
        """Into the look-back: windows that were not abnormal."""
        known = np.flatnonzero(np.isfinite(features[:, _P50]))
        place = self._steps[known] % LOOK_BACK_STEPS
        self._features[known, place] = features[known]
        self._steps[known] += 1


@cache
def _threads() -> ThreadpoolController:
    """The thread pools of the libraries that are loaded by now."""
    from threadpoolctl import ThreadpoolController  # noqa: PLC0415 - it looks at all that is loaded

    return ThreadpoolController()


def _binomial(hits: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-likelihood of so many hits at the share that they are."""
    found: NDArray[np.float64] = xlogy(hits, hits / np.maximum(of, 1)) + xlogy(of - hits, 1 - hits / np.maximum(of, 1))
    return found
