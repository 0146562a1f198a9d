"""Bytes into samples: transfers in continuous time, summed over each host's sampling intervals.

A *unit* is a set of RNICs of one container that carry the same bytes at the same instants: all of them, or those of
one rank where a container holds several. Everything here is per unit; sizes are bytes per RNIC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TX, RX = 0, 1
_SHORTEST_SECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class Entry:
    """What one call moved: ``source[i]`` to ``destination[i]``, ``size`` bytes per RNIC, from ``begin`` on.

    Arrays are broadcast to (iterations, pairs); ``begin`` is seconds into the window.
    """

    kind: str
    source: Integers
    destination: Integers
    begin: Floats
    seconds: Floats
    size: Floats


@dataclass(slots=True)
class Journal:
    """For tests of small jobs: every transfer, by pair of units."""

    entries: list[Entry] = field(default_factory=list)

    def note(self, kind: str, source: Integers, destination: Integers, begin: Any, seconds: Any, size: Any) -> None:
        shape = np.broadcast_shapes(np.shape(begin), (1, source.size))
        times, lengths, sizes = (np.broadcast_to(np.asarray(x, float), shape) for x in (begin, seconds, size))
        self.entries.append(Entry(kind, source, destination, times, lengths, sizes))

    def pairs(self) -> dict[tuple[int, int], float]:
        """{(sending unit, receiving unit): bytes per RNIC}"""
        sums: dict[tuple[int, int], float] = {}
        for entry in self.entries:
            for a, b, size in zip(entry.source, entry.destination, entry.size.sum(axis=0), strict=True):
                sums[int(a), int(b)] = sums.get((int(a), int(b)), 0.0) + float(size)
        return sums


class Traffic:
    """Sums bytes of transfers per unit and sample.

    ``host`` (units,) is the number of each unit's host: what stays on a host passes no RNIC. ``offset`` (units,) is
    by how many seconds the host's clock lags: sample k spans k to k + 1 steps, later by that.
    """

    def __init__(
        self, samples: int, step: float, host: Integers, offset: Floats, journal: Journal | None = None
    ) -> None:
        self.samples, self.step, self.host, self.offset, self.journal = samples, step, host, offset, journal
        # First differences over the samples: a burst of any length is four numbers. Two more columns for its end.
        self._slopes = np.zeros((2, host.size, samples + 2))

    @property
    def seconds(self) -> float:
        return self.samples * self.step

    def transfer(
        self,
        kind: str,
        source: Integers,
        destination: Integers,
        begin: Floats,
        seconds: Floats | float,
        size: Floats | float,
        until: float = np.inf,
    ) -> None:
        """Move ``size`` bytes per RNIC from each source to its destination, evenly over ``seconds``.

        ``source``, ``destination`` (pairs,); ``begin`` (iterations, pairs) seconds into the window, ``seconds`` and
        ``size`` broadcast to it. What would move after ``until`` is lost. O(iterations x pairs).
        """
        away = self.host[source] != self.host[destination]
        if not away.all():
            begin, seconds, size = (_columns(each, away) for each in (begin, seconds, size))
            source, destination = source[away], destination[away]
        self.outside(TX, source, begin, seconds, size, until)
        self.outside(RX, destination, begin, seconds, size, until)
        if self.journal is not None:
            self.journal.note(kind, source, destination, begin, seconds, size)

    def collective(
        self,
        kind: str,
        source: Integers,
        destination: Integers,
        begin: Floats,
        seconds: Floats,
        size: Floats,
        until: float = np.inf,
    ) -> None:
        """As ``transfer``, for all pairs at the same instants: ``begin``, ``seconds``, ``size`` are (bursts,).

        O(units x samples + bursts log bursts), by the cumulative bytes at the edges of the samples.
        """
        if begin.size == 0:
            return
        away = self.host[source] != self.host[destination]
        source, destination = source[away], destination[away]
        rate = size / np.maximum(seconds, _SHORTEST_SECONDS)
        end = np.minimum(begin + np.maximum(seconds, _SHORTEST_SECONDS), until)
        times = np.concatenate([np.minimum(begin, until), end])
        sequence = np.argsort(times, kind="stable")
        times = times[sequence]
        rates = np.cumsum(np.concatenate([rate, -rate])[sequence])
        sums = np.concatenate([[0.0], np.cumsum(rates[:-1] * np.diff(times))])
        far = float(np.abs(self.offset).max())
        low = int(np.clip((times[0] - far) // self.step, 0, self.samples))
        high = int(np.clip((times[-1] + far) // self.step + 1, low, self.samples))
        edges = np.arange(low, high + 1) * self.step
        for direction, units in ((TX, source), (RX, destination)):
            reached = np.interp(edges + self.offset[units, None], times, sums)
            portions = np.diff(reached, axis=1)
            # As first differences, like everything else here; members of a ring occur once each.
            slopes = np.diff(portions, axis=1, prepend=0.0, append=0.0)
            self._slopes[direction, units, low : high + 1] += slopes
        if self.journal is not None:
            self.journal.note(kind, source, destination, begin[:, None], seconds[:, None], size[:, None])

    def exchange(
        self,
        kind: str,
        members: Integers,
        begin: Floats,
        seconds: float,
        size: float,
        weights: Floats,
        until: float = np.inf,
    ) -> None:
        """All-to-all and back inside groups: each member sends ``size`` bytes to the members by their weights.

        ``members`` (groups, n); ``begin`` (iterations, groups); ``weights`` (iterations, groups, n) sum to 1 per group.
        What goes to the experts comes back, so sent and received are equal per member. Its own share stays.
        """
        number = members.shape[1]
        own = size * ((1 - weights) + (number - 1) * weights)
        moments = np.repeat(begin, number, axis=1)
        flat = own.reshape(own.shape[0], -1)
        self._add((TX, RX), members.ravel(), moments, seconds, flat, until)
        if self.journal is not None:
            for a in range(number):
                for b in range(number):
                    if a != b:
                        both = size * (weights[:, :, a] + weights[:, :, b])
                        self.journal.note(kind, members[:, a], members[:, b], begin, seconds, both)

    def outside(
        self,
        direction: int,
        units: Integers,
        begin: Floats,
        seconds: Floats | float,
        size: Floats | float,
        until: float = np.inf,
    ) -> None:
        """Count ``size`` bytes per RNIC at ``units`` alone; the other end is not part of the job."""
        self._add((direction,), units, begin, seconds, size, until)

    def _add(
        self,
        directions: tuple[int, ...],
        units: Integers,
        begin: Floats,
        seconds: Floats | float,
        size: Floats | float,
        until: float,
    ) -> None:
        long = np.maximum(seconds, _SHORTEST_SECONDS)
        base = np.broadcast_to(units * self._slopes.shape[2], begin.shape)
        start = (begin - self.offset[units]) / self.step
        stop = start + long / self.step
        limit = np.minimum((until - self.offset[units]) / self.step, self.samples)
        seen = (stop > 0) & (start < limit)
        sample = np.floor(start)
        # Most bursts are short beside the step and end in the sample they begin in: two numbers instead of four.
        short = seen & (stop <= sample + 1) & (stop <= limit) & (start >= 0)
        place = (base[short] + sample[short]).astype(np.int64)
        sizes = np.broadcast_to(size, begin.shape)[short]
        for direction in directions:
            flat = self._slopes[direction].ravel()
            np.add.at(flat, place, sizes)
            np.subtract.at(flat, place + 1, sizes)
        rest = seen & ~short
        if not rest.any():
            return
        height = np.broadcast_to(size * self.step / long, begin.shape)[rest]
        limit = np.broadcast_to(limit, begin.shape)[rest]
        for sign, moment in ((1.0, start[rest]), (-1.0, stop[rest])):
            position = np.clip(moment, 0.0, limit)
            whole = position.astype(np.int64)
            within = (position - whole) * (sign * height)
            for direction in directions:
                flat = self._slopes[direction].ravel()
                np.add.at(flat, base[rest] + whole, sign * height - within)
                np.add.at(flat, base[rest] + whole + 1, within)

    def sums(self) -> Floats:
        """Bytes per RNIC (2, units, samples): sent, received. Ends the summing."""
        np.cumsum(self._slopes, axis=2, out=self._slopes)
        # Rounding leaves crumbs of either sign where nothing moved.
        return np.maximum(self._slopes[:, :, : self.samples], 0.0, out=self._slopes[:, :, : self.samples])


def _columns(values: Floats | float, kept: NDArray[np.bool_]) -> Any:
    shaped = np.asarray(values)
    return shaped[..., kept] if shaped.ndim and shaped.shape[-1] == kept.size else values
