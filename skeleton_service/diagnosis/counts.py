"""How many probes of each path were sent and lost in each of the last seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HORIZON = 128
"""Seconds that are kept: 4 bytes each of a path, and 32 bytes of each record that tells of a loss."""

_RING = HORIZON + 1
_THERE, _BACK, _UNTOLD = range(3)


class _Lost(NamedTuple):
    """Records of one second that tell of losses: arrays of one length."""

    path: NDArray[np.int64]
    time: NDArray[np.float64]
    kind: NDArray[np.int64]
    probes: NDArray[np.int64]


_NONE = _Lost(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Window:
    """Sums over some seconds; one element a path."""

    sent: NDArray[np.float64]
    lost: NDArray[np.float64]


class Counts:
    """A ring of seconds for every path. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self._sent = np.zeros((_RING, 0), np.uint32)
        """(seconds, paths) sent until the end of each second, modulo 2^32: a window is a difference."""
        self._lost: dict[int, _Lost] = {}
        self.paths = 0
        self.second = 0
        """The latest second that anything was counted in."""

    def grow(self, paths: int) -> None:
        """Make room for so many paths."""
        room = self._sent.shape[1]
        if paths > room:
            self._sent = np.pad(self._sent, ((0, 0), (0, max(paths - room, room // 4))))
        self.paths = max(self.paths, paths)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """Forget all paths but these, which are numbered anew in this order."""
        number = np.full(self.paths, -1)
        number[kept] = np.arange(len(kept))
        self._sent = self._sent[:, kept]
        self.paths = len(kept)
        for second, lost in self._lost.items():
            known = number[lost.path] >= 0
            self._lost[second] = _Lost(number[lost.path[known]], lost.time[known], lost.kind[known], lost.probes[known])

    def add(
        self,
        second: int,
        path: NDArray[np.int64],
        time: NDArray[np.float64],
        sent: NDArray[np.int64],
        lost: NDArray[np.int64],
        back: NDArray[np.bool_],
        untold: NDArray[np.bool_],
    ) -> None:
        """Count the probes of one second; those of seconds that are over the horizon are not kept."""
        if second > self.second:
            fresh = [each % _RING for each in range(max(self.second + 1, second - HORIZON), second + 1)]
            self._sent[fresh] = self._sent[self.second % _RING]
            self.second = second
            for old in [each for each in self._lost if each <= second - HORIZON]:
                del self._lost[old]
        elif second <= self.second - HORIZON:
            return
        probes = np.bincount(path, sent, self.paths).astype(np.uint32)
        for each in range(second, self.second + 1):
            self._sent[each % _RING, : self.paths] += probes
        lossy = lost > 0
        if lossy.any():
            kind = np.where(untold, _UNTOLD, np.where(back, _BACK, _THERE))
            found = _Lost(path[lossy], time[lossy], kind[lossy], lost[lossy])
            known = self._lost.get(second, _NONE)
            self._lost[second] = _Lost(*(np.concatenate(pair) for pair in zip(known, found, strict=True)))

    def sent(self, first: int, last: int) -> NDArray[np.float64]:
        """(paths,) probes sent in the seconds ``first`` to ``last``, both counted in, as far as they are kept."""
        first, last = self._kept(first, last)
        until, before = (self._sent[each % _RING, : self.paths] for each in (last, first - 1))
        return (until - before).astype(np.float64)

    def lost(self, first: int, last: int) -> NDArray[np.float64]:
        """(paths,) probes lost, whichever way."""
        lost = self._events(first, last)
        return np.bincount(lost.path, lost.probes, self.paths).astype(np.float64)

    def window(self, first: int, last: int) -> Window:
        return Window(self.sent(first, last), self.lost(first, last))

    def losses(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Path and time of every record that tells of a loss, second by second."""
        lost = self._events(first, last)
        return lost.path, lost.time

    def series(self, paths: NDArray[np.int64], first: int, last: int) -> NDArray[np.int32]:
        """(4, paths, seconds) sent, lost there, lost on the way back, lost untold, of some paths."""
        first, last = self._kept(first, last)
        seconds = last - first + 1
        until = self._sent[np.ix_(np.arange(first - 1, last + 1) % _RING, paths)]
        place = np.full(self.paths, -1)
        place[paths] = np.arange(len(paths))
        series = np.zeros((4, len(paths), seconds), np.int32)
        series[0] = np.diff(until, axis=0).T
        for second in range(first, last + 1):
            lost = self._lost.get(second, _NONE)
            own = place[lost.path] >= 0
            np.add.at(series[:, :, second - first], (1 + lost.kind[own], place[lost.path[own]]), lost.probes[own])
        return series

    def total(self, paths: NDArray[np.int64], first: int, last: int) -> NDArray[np.float64]:
        """(2, seconds) sent and lost of some paths together."""
        first, last = self._kept(first, last)
        until = self._sent[np.ix_(np.arange(first - 1, last + 1) % _RING, paths)]
        own = self.mask(paths)
        lost = [
            float(each.probes[own[each.path]].sum())
            for each in (self._lost.get(second, _NONE) for second in range(first, last + 1))
        ]
        return np.stack([np.diff(until, axis=0).sum(axis=1, dtype=np.float64), lost])

    def quiet(self, paths: NDArray[np.int64]) -> int:
        """Seconds up to now in which none of these paths lost anything; at most the horizon."""
        own = self.mask(paths)
        for second in range(self.second, self.second - HORIZON, -1):
            if own[self._lost.get(second, _NONE).path].any():
                return self.second - second
        return HORIZON

    def mask(self, paths: NDArray[np.int64]) -> NDArray[np.bool_]:
        own = np.zeros(self.paths, bool)
        own[paths] = True
        return own

    def _events(self, first: int, last: int) -> _Lost:
        first, last = self._kept(first, last)
        events = [self._lost[second] for second in range(first, last + 1) if second in self._lost]
        return _Lost(*(np.concatenate(each) for each in zip(*events, strict=True))) if events else _NONE

    def _kept(self, first: int, last: int) -> tuple[int, int]:
        first = max(first, self.second - HORIZON + 1)
        return first, max(min(last, self.second), first - 1)
