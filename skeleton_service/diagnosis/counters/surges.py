"""Counters that rise as they did not before, and as their peers do not now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from skeleton_service.diagnosis.counters.series import Flags, Floats, Integers, Metric

BASELINE_SECONDS = 300.0
"""How far back a series is compared with itself, and how long an episode may rest without being over."""
CONTRAST = 5.0
"""How many times the series' own past a rate must be (counters.md 5.3: "warn when > 5x" the baseline)."""
COMMON_SHARE = 1 / 3
"""Of the peers: where so many show it too, it is everybody's congestion and not this one's fault."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a rise must clear to be a surge.

    ``floor``: per second, scaled. ``least``: a count between two readings. ``held``: readings in a row. ``past`` and
    ``watched``: readings of the baseline, and seconds. ``quantile``: that of the baseline's rates which CONTRAST is to.
    ``alike``: peers that rise by this share of it show it too.
    """

    floor: float
    least: float
    held: int = 1
    past: int = 0
    watched: float = 0.0
    quantile: float = 0.5
    alike: float = 0.5


@dataclass(frozen=True, slots=True)
class Surge:
    """An episode of one series: rows of its metric, from the first that shows it to the last."""

    metric: Metric
    series: int
    first: int
    proven: int
    last: int
    rate: float
    """Mean from ``first`` to ``last``, per second, scaled."""
    risen_before: float
    """What the counter rose by in the rows of the baseline."""
    over: bool

    @property
    def start(self) -> float:
        return float(self.metric.times[self.first])

    @property
    def known(self) -> float:
        return float(self.metric.times[self.proven])

    @property
    def end(self) -> float | None:
        return float(self.metric.times[self.last]) if self.over else None

    @property
    def risen(self) -> float:
        """What the counter rose by in the rows of the episode."""
        return float(np.nansum(self.metric.rises[self.first : self.last + 1]))

    @property
    def seconds(self) -> float:
        return float(np.nansum(self.metric.seconds[self.first : self.last + 1]))

    @property
    def seconds_before(self) -> float:
        """How long the baseline is, at most BASELINE_SECONDS."""
        begin = self.metric.rows(self.series).start
        until = max(self.first - 2, begin)
        return min(float(self.metric.times[until] - self.metric.times[begin]), BASELINE_SECONDS)


def surges(metric: Metric, bar: Bar, scale: Floats | None = None) -> Iterator[Surge]:
    """Find the episodes of a metric, whose rates are multiplied by the ``scale`` of their series.

    A reading shows one when its rate and its rise clear the floor, and the rate CONTRAST times the baseline: the rates
    of the series in BASELINE_SECONDS before, but for the last, in which it may have begun. An episode begins with
    ``held`` such readings in a row that fewer than COMMON_SHARE of the peers (the metric's other series of the same
    priority or queue) show too; it goes on while readings exceed the baseline. What a reading says depends on no later
    one. O(rows), and O(baseline) for each row that may begin an episode.
    """
    if not len(metric.times):
        return
    factors = np.ones(len(metric.keys)) if scale is None else scale
    rates = metric.rises / metric.seconds * factors[metric.series]
    with np.errstate(invalid="ignore"):
        shown = (rates >= bar.floor) & (metric.rises >= bar.least)
    begins = shown.copy()
    for step in range(1, bar.held):
        begins &= np.roll(shown, step) & (metric.series == np.roll(metric.series, step))
    if bar.quantile == 1.0:  # only to be quick: rows that the newest of their baseline excludes
        newest = bar.held + 1
        with np.errstate(invalid="ignore"):
            low = np.roll(rates, newest) * CONTRAST > rates
        begins &= ~(low & (metric.series == np.roll(metric.series, newest)))
    busy, resumed = -1, -1
    for row in np.flatnonzero(begins).tolist():
        series = int(metric.series[row])
        if series == busy and row <= resumed:
            continue
        found = _episode(metric, bar, rates, shown, row)
        if found is not None:
            busy, resumed = series, found.last
            yield found if scale is None else replace(found, rate=found.rate * float(factors[series]))


def _episode(metric: Metric, bar: Bar, rates: Floats, shown: Flags, row: int) -> Surge | None:
    """The episode that a row proves, if it does; its rate is not scaled."""
    series, first = int(metric.series[row]), row - bar.held + 1
    own = metric.rows(series)
    since = np.searchsorted(metric.times[own], metric.times[first] - BASELINE_SECONDS) + own.start
    since = max(int(since), own.start + 1)
    baseline = np.sort(rates[since : first - 1])
    if len(baseline) < bar.past or metric.times[max(first - 2, own.start)] - metric.times[since - 1] < bar.watched:
        return None
    usual = float(baseline[int(bar.quantile * (len(baseline) - 1))]) if len(baseline) else 0.0
    lowest = float(np.min(rates[first : row + 1]))
    if lowest < CONTRAST * usual or _common(metric, rates, row, bar.alike * lowest):
        return None
    on = np.flatnonzero(shown[row : own.stop] & (rates[row : own.stop] > usual)) + row
    rests = np.flatnonzero(np.diff(metric.times[on]) > BASELINE_SECONDS)
    on = on[: int(rests[0]) + 1] if len(rests) else on
    last = int(on[-1])
    mean = float(metric.rises[first : last + 1].sum() / metric.seconds[first : last + 1].sum())
    before = float(metric.rises[since : first - 1].sum())
    return Surge(metric, series, first, row, last, mean, before, _over(metric, on, own.stop))


def _over(metric: Metric, on: Integers, stop: int) -> bool:
    """Whether an episode has ended: two rows later, and later than twice its longest rest."""
    last = int(on[-1])
    if stop - 1 - last < 2:
        return False
    longest = float(np.max(np.diff(metric.times[on]), initial=float(metric.seconds[last])))
    return bool(metric.times[stop - 1] - metric.times[last] > 2 * longest)


def _common(metric: Metric, rates: Floats, row: int, rate: float) -> bool:
    """Whether COMMON_SHARE of the peers, two at least, rise as much in the two readings up to now."""
    here, now = int(metric.series[row]), metric.times[row]
    level = metric.keys[here].level
    order = metric.by_time
    times = metric.times[order]
    low = np.searchsorted(times, now - 2 * metric.seconds[row], side="right")
    recent = order[low : np.searchsorted(times, now, side="right")]
    peers = {number for number in set(metric.series[recent].tolist()) - {here} if metric.keys[number].level == level}
    with np.errstate(invalid="ignore"):
        risen = set(metric.series[recent[rates[recent] >= rate]].tolist()) & peers
    return len(risen) > 1 and len(risen) >= COMMON_SHARE * len(peers)
