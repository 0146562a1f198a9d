"""Which component degrades: paths that became slower over hours, located as losses are.

A path alone shows little of a creep of a few percent: its half hour may hold as few as 30 samples. So a path is flagged
on weak evidence, and the Z-test at the small alpha is that of the component, on all of its paths together. That must
have risen by more than a floor, since thousands of samples make the tiniest rise significant, and above what three
quarters of all paths rose by: what they have in common is the job's, or the day's, and no component's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from skeleton_service.diagnosis.drift import HALF_FLOOR, SLOT_SECONDS, WINDOW_SLOTS, Drift, Drifted, chance
from skeleton_service.diagnosis.likelihood import FLAG_RATIOS, Found, select
from skeleton_service.diagnosis.paths import PathIndex
from skeleton_service.diagnosis.suspects import Case, Suspect, case_of, of_flags

ALPHA = 1e-4
"""Chance that a healthy component looks degraded, one-sided; and, for a path, that it is flagged."""
PATH_ALPHA = 0.01
FLOOR = 2 * HALF_FLOOR
"""A component must be slower by that (log) in the last half hour and at its end, by half of it in the one before."""
LONE_RATIO, LONE_MICROSECONDS = 1.1, 2.0
"""What must have risen by more than both where fewer than ``LEAST_PATHS`` tell."""
LEAST_PATHS = 3
ALARM_GAIN = 8.0
"""Less than the short term asks for: the proof is the test of all paths together."""
HALF_HOUR = float(WINDOW_SLOTS * SLOT_SECONDS)
_BACKGROUND = 0.02
_MOST_WEIGHT = 3.0


@dataclass(slots=True, eq=False)
class Degradation:
    """A component that became slower over hours. Times are seconds since the epoch."""

    detected_at: float
    start: float
    suspect: Suspect
    found: Found
    scores: tuple[tuple[Suspect, float], ...]
    paths: NDArray[np.int64]
    """Those that cross it for sure, and those that are slower."""
    slow: NDArray[np.int64]
    rise: float
    """By which ratio the round trips of its paths grew, in the median."""
    z: float
    """Of all its paths together."""
    end: float | None = None


class Degradations:
    """The state of the detector of what degrades over hours."""

    def __init__(self, index: PathIndex, *, spraying: bool = False) -> None:
        self.index = index
        self.failures: list[Degradation] = []
        self.drift = Drift()
        self._spraying = spraying
        self._beyond = np.zeros(0)
        """(paths,) end of the first of the half hours in a row that each was flagged; infinite where it is not."""
        self._slot = -1

    def add(self, path: NDArray[np.int64], time: NDArray[np.float64], latency: NDArray[np.float64]) -> None:
        self.drift.grow(len(self.index))
        self.drift.add(path, time, latency)

    def forget(self, path: int) -> None:
        """The path takes another way from now on."""
        self.drift.grow(len(self.index))
        self.drift.forget(path)

    def keep(self, kept: NDArray[np.int64], number: NDArray[np.int64]) -> None:
        """Forget all paths but these; ``number`` (paths,) is what each is called from now on."""
        self.drift.grow(len(number))
        self.drift.keep(kept)
        self._beyond = np.concatenate([self._beyond, np.full(len(number) - len(self._beyond), np.inf)])[kept]
        for each in self.failures:
            each.paths, each.slow = number[each.paths], number[each.slow]

    def look(self, second: int, now: float, blamed: Callable[[float], NDArray[np.bool_]]) -> None:
        """At the end of a second: judge the half hour before if a slot is over.

        ``blamed`` says of which paths a failure is known that lasted until a time, or lasts.
        """
        slot = second // SLOT_SECONDS
        if slot == self._slot:
            return
        first, self._slot = self._slot < 0, slot
        if first:
            return
        self.drift.grow(len(self.index))
        drifted = self.drift.judge(slot, blamed(now - HALF_HOUR))
        flagged = (drifted.shift > HALF_FLOOR) & (drifted.z > -ndtri(PATH_ALPHA))
        self._beyond = np.concatenate([self._beyond, np.full(len(flagged) - len(self._beyond), np.inf)])
        self._beyond = np.where(flagged, np.minimum(self._beyond, now), np.inf)
        if flagged.any():
            self._locate(drifted, flagged, now)
        self._close(drifted, now)

    def _locate(self, drifted: Drifted, flagged: NDArray[np.bool_], now: float) -> None:
        numbers = np.flatnonzero(drifted.judged)
        weight = np.where(flagged, np.clip(drifted.z / -ndtri(PATH_ALPHA), 1.0, _MOST_WEIGHT), 1.0)
        seen = of_flags(numbers, flagged[numbers], weight[numbers], now, self.index)
        case = case_of(seen, self.index, background=_BACKGROUND, spraying=self._spraying, ratios=FLAG_RATIOS)
        for found in select(case.rows, case.columns, case.prior, ALARM_GAIN, ratios=FLAG_RATIOS):
            self._record(case, found, drifted, flagged, now)

    def _record(self, case: Case, found: Found, drifted: Drifted, flagged: NDArray[np.bool_], now: float) -> None:
        rows, weight = case.columns.column(found.column)
        crossing = np.unique(case.path[rows[weight > 0.04]])
        slow = crossing[flagged[crossing]]
        # Where a part of the flows is hurt, or routes are a matter of chance, healthy paths cross it as well.
        sure = np.unique(case.path[rows[weight > 0.999]]) if found.part >= 1 else slow
        paths = np.union1d(sure, slow)
        if not len(slow):
            return
        # What three quarters of all paths share; components that most paths cross cannot be told from the job.
        common, before = (
            max(float(np.quantile(each[drifted.judged], 0.25)), 0.0) for each in (drifted.shift, drifted.before)
        )
        rise = float(np.median(drifted.shift[paths])) - common
        earlier = float(np.median(drifted.before[paths])) - before
        z = float(drifted.z[paths].sum() / np.sqrt(len(paths)))
        recent = (
            float(np.nanmedian(drifted.recent[paths])) - common if np.isfinite(drifted.recent[paths]).any() else rise
        )
        if min(rise, recent) < FLOOR or earlier < HALF_FLOOR or chance(z) > np.log(ALPHA):
            return
        usual = float(np.median(drifted.usual[paths]))
        if len(paths) < LEAST_PATHS and usual * np.expm1(rise) < max(LONE_MICROSECONDS, usual * (LONE_RATIO - 1)):
            return
        lasting = (each for each in self.failures if each.end is None)
        known = next((each for each in lasting if len(np.intersect1d(each.slow, slow))), None)
        if known is None:
            # What a half hour holds that is beyond the floor on the whole began in its middle, on the whole.
            start = float(np.median(self._beyond[slow])) - HALF_HOUR / 2
            known = Degradation(now, start, case.suspects[found.column], found, (), paths, slow, rise, z)
            self.failures.append(known)
        order = np.argsort(-found.score, kind="stable")[:64]
        known.scores = tuple(
            (case.suspects[each], float(found.score[each])) for each in order if np.isfinite(found.score[each])
        )
        known.suspect, known.found, known.paths, known.slow = case.suspects[found.column], found, paths, slow
        known.rise, known.z = float(np.expm1(rise)), z

    def _close(self, drifted: Drifted, now: float) -> None:
        """End those whose paths are as quick as half the floor allows."""
        for each in self.failures:
            own = each.slow[drifted.judged[each.slow]]
            if each.end is None and len(own) and np.median(drifted.shift[own]) < HALF_FLOOR:
                each.end = now
