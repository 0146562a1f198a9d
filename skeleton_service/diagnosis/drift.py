"""Paths that become slower over hours: Z-tests of half hours against a healthy one (SkeletonHunter 5.2, long term).

Healthy round trips are log-normal. A reference of the path is estimated on half an hour, at T, and half hours up to
T + 1.5 h are tested against it: what creeps is absorbed by a look back of minutes, and not by this. A window ends each
five minutes, so that a steep creep need not wait for the full half hour.

Of the log-normal the lower quartile is compared, and its deviation is taken from the lower half alone. Whoever probes
twice a minute may meet the all-reduces of one half hour and none of the next, as both have a rhythm: means and medians
follow the share of probes that met a burst, while a quarter of all probes finds the queues empty either way.

A reference is refreshed from healthy half hours alone, and none that lies far above the first one is healthy, however
little it is above the last: no creep is absorbed step by step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri

from skeleton_service.diagnosis.quantiles import quantiles

SLOT_SECONDS = 300
WINDOW_SLOTS = 6
"""Slots of a window: half an hour."""
REFERENCE_SLOTS = 18
"""Slots that a reference serves: T to T + 1.5 h."""
LEAST_SAMPLES = 30
HALF_FLOOR = float(np.log(1.025))
"""Half of the rise, in logs, from which on a component has degraded: less is healthy."""

_T = TypeVar("_T", bound=np.generic)
_SAMPLES = 60
_SPACING = 4.9  # seconds between samples that are kept, so that a slot's fill it
_KEPT_SLOTS = WINDOW_SLOTS + 1  # and the one that is being filled
_RECENT_SLOTS = 2
_QUARTILE = 0.25
_ERROR = float(np.sqrt(_QUARTILE * (1 - _QUARTILE)) / (np.exp(-(ndtri(_QUARTILE) ** 2) / 2) / np.sqrt(2 * np.pi)))
"""Standard error of a normal sample's lower quartile, in deviations over the root of its size: 1.36."""
_LEAST_DEVIATION = 0.01
_FASTER = -3.72


@dataclass(frozen=True, slots=True)
class Drifted:
    """The last half hour of every path beside its reference; (paths,) each, logs of round trips."""

    judged: NDArray[np.bool_]
    shift: NDArray[np.float64]
    """By how much it is slower; 0 where not judged."""
    error: NDArray[np.float64]
    """Standard error of the shift; infinite where not judged."""
    before: NDArray[np.float64]
    """The shift half an hour ago; 0 where not judged."""
    recent: NDArray[np.float64]
    """The shift of the last ten minutes; NaN where not judged, or few were probed."""
    usual: NDArray[np.float64]
    """Round trip of the reference, microseconds."""

    @property
    def z(self) -> NDArray[np.float64]:
        return self.shift / self.error


def chance(z: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Log of the chance that a healthy path looks that much slower (one-sided)."""
    return np.asarray(log_ndtr(-np.asarray(z)))


class Drift:
    """Samples of the last half hour of every path, and its reference: 1.8 KiB a path."""

    def __init__(self) -> None:
        self._value = np.full((0, _KEPT_SLOTS, _SAMPLES), np.nan, np.float32)
        self._count = np.zeros((0, _KEPT_SLOTS), np.int16)
        self._time = np.zeros(0)
        """When the last sample was kept."""
        self._born = np.zeros(0, np.int64)
        """Slot of the first sample over the present route; 0 before."""
        self._centre = np.full((0, _KEPT_SLOTS), np.nan, np.float32)
        """Of the windows that ended with the last slots."""
        self._reference = np.full((0, 3), np.nan, np.float32)
        """Centre, its standard error, and the centre of the first reference ever."""
        self._since = np.zeros(0, np.int64)
        """Slot in which the reference was taken."""
        self._slot = 0
        self.paths = 0

    def grow(self, paths: int) -> None:
        """Make room for so many paths."""
        room = len(self._time)
        if paths > room:
            more = max(paths - room, room // 4)
            self._value, self._centre = _longer(self._value, more, np.nan), _longer(self._centre, more, np.nan)
            self._count, self._time = _longer(self._count, more, 0), _longer(self._time, more, -np.inf)
            self._reference = _longer(self._reference, more, np.nan)
            self._born, self._since = _longer(self._born, more, 0), _longer(self._since, more, 0)
        self.paths = max(self.paths, paths)

    def add(self, path: NDArray[np.int64], time: NDArray[np.float64], latency: NDArray[np.float64]) -> None:
        """Keep round trips (microseconds) of one second, one a path."""
        if not len(time):
            return
        self._open(int(time[0] // SLOT_SECONDS))
        place = self._slot % _KEPT_SLOTS
        # Few are due: most of a second's samples, where there is one a second, go no further than here.
        due = np.isfinite(latency) & (time - self._time[path] >= _SPACING) & (self._count[path, place] < _SAMPLES)
        path, first = np.unique(path[due], return_index=True)
        self._value[path, place, self._count[path, place]] = np.log(latency[due][first])
        self._count[path, place] += 1
        self._time[path] = time[due][first]
        self._born[path] = np.where(self._born[path] == 0, self._slot, self._born[path])

    def forget(self, path: int) -> None:
        """A path that takes another way has no past to be compared with."""
        self._value[path] = self._centre[path] = self._reference[path] = np.nan
        self._count[path] = self._born[path] = 0

    def keep(self, kept: NDArray[np.int64]) -> None:
        """Forget all paths but these, which are numbered anew in this order."""
        self._value, self._count, self._time = self._value[kept], self._count[kept], self._time[kept]
        self._born, self._centre = self._born[kept], self._centre[kept]
        self._reference, self._since = self._reference[kept], self._since[kept]
        self.paths = len(kept)

    def judge(self, slot: int, excused: NDArray[np.bool_]) -> Drifted:
        """Compare the half hour before a slot with the references. To be called as each slot begins.

        Of paths ``excused``, which something else is known to hurt, nothing is said, and nothing is kept.
        """
        self._open(slot)
        centre, deviation, count = self._window(WINDOW_SLOTS, LEAST_SAMPLES)
        recent, *_ = self._window(_RECENT_SLOTS, LEAST_SAMPLES * _RECENT_SLOTS // WINDOW_SLOTS)
        enough = (count >= LEAST_SAMPLES) & ~excused
        self._centre[: self.paths, slot % _KEPT_SLOTS] = np.where(enough, centre, np.nan)
        error = _ERROR * deviation / np.sqrt(np.maximum(count, 1))
        reference = self._reference[: self.paths]
        known = np.isfinite(reference[:, 0])
        age = slot - self._since[: self.paths]
        judged = enough & known & (age >= WINDOW_SLOTS)
        # The window of half an hour ago is over there in the ring, just after the one that was written.
        earlier = self._centre[: self.paths, (slot - WINDOW_SLOTS) % _KEPT_SLOTS]
        drifted = Drifted(
            judged,
            np.where(judged, centre - reference[:, 0], 0.0),
            np.where(judged, np.hypot(error, reference[:, 1]), np.inf),
            np.where(judged & np.isfinite(earlier), earlier - reference[:, 0], 0.0),
            np.where(judged, recent - reference[:, 0], np.nan),
            np.exp(reference[:, 0].astype(np.float64)),
        )
        first = enough & ~known & (self._born[: self.paths] > 0) & (slot - self._born[: self.paths] >= WINDOW_SLOTS)
        healthy = (drifted.shift < HALF_FLOOR) & (centre - reference[:, 2] < HALF_FLOOR)
        fresh = first | (judged & (age >= REFERENCE_SLOTS) & healthy)
        fastest = np.where(fresh & (first | (drifted.z < _FASTER)), centre, reference[:, 2])
        self._reference[: self.paths][fresh] = np.column_stack([centre, error, fastest])[fresh]
        self._since[: self.paths][fresh] = slot
        return drifted

    def _open(self, slot: int) -> None:
        """Begin a slot, in the place of the oldest."""
        for each in range(max(self._slot + 1, slot - _KEPT_SLOTS + 1), slot + 1):
            place = each % _KEPT_SLOTS
            self._value[:, place] = self._centre[:, place] = np.nan
            self._count[:, place] = 0
        self._slot = max(self._slot, slot)

    def _window(self, slots: int, least: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Lower quartile, deviation of the lower half, and number of the samples of the last slots, by path."""
        places = [(self._slot - back) % _KEPT_SLOTS for back in range(1, slots + 1)]
        count = self._count[: self.paths, places].sum(axis=1, dtype=np.int64)
        centre, deviation = np.full(self.paths, np.nan), np.full(self.paths, np.nan)
        own = np.flatnonzero(count >= least)
        if len(own):
            ordered = np.sort(self._value[own][:, places].reshape(len(own), -1), axis=1)
            tenth, quarter, half = quantiles(ordered, (0.1, _QUARTILE, 0.5))
            centre[own] = quarter
            deviation[own] = np.maximum((half - tenth) / -ndtri(0.1), _LEAST_DEVIATION)
        return centre, deviation, count


def _longer(rows: NDArray[_T], more: int, value: float) -> NDArray[_T]:
    return np.concatenate([rows, np.full((more, *rows.shape[1:]), value, rows.dtype)])
