"""Reading one table of a profile: by walks, or by exact requests where few of its rows are wanted.

What an index means is worked out when a walk differs from the one before; else a reading is a comparison of two lists
and one conversion a column, which is what makes half a million rows every few seconds affordable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.contracts.metric import Metric, Table
from exporter.switches.decoding import Decoded, Labels, Names, Selection, decode_index
from exporter.switches.profile import BoundColumn, Column, TableProfile, bind
from exporter.switches.snmp import MAX_ROWS, Oid, Rows, Session, Value, numbers

Floats = NDArray[np.float64]
_WIDTH = float(1 << 32)
_QUARTER = _WIDTH / 4
WRAP_SECONDS = _WIDTH / 100
"""Of sysUpTime."""
_SLACK = 60.0  # seconds: an uptime is some seconds older than the table
_EXACT_SHARE = 0.5
"""Rows that are asked for by name where at most this share of what a walk brings is wanted."""
REDISCOVERED = 40
"""Exact readings between two walks that find new rows: ten minutes, of a table that is read each quarter of one."""


@dataclass(frozen=True, slots=True)
class Started:
    """When the device's agent started, Unix time, and for how long it runs, seconds (sysUpTime); NaN is unknown."""

    boot: float
    uptime: float

    def time_of(self, ticks: Floats) -> Floats:
        """Unix times of what happened at these values of sysUpTime, which wraps after 497 days."""
        seconds = ticks / 100
        return np.round(self.boot + np.where(seconds > self.uptime + _SLACK, seconds - WRAP_SECONDS, seconds), 2)


@dataclass(frozen=True, slots=True)
class ColumnValues:
    """One metric's values. ``labels`` is the same object as long as the rows are the same."""

    table: Table
    metric: Metric
    labels: Sequence[Labels]
    values: Floats


@dataclass(slots=True)
class TableReading:
    columns: list[ColumnValues] = field(default_factory=list)
    rows: int = 0
    """Values that the device sent."""
    refused: int = 0
    disabled: bool = False
    """The device says that it does not count this, or not yet."""

    @property
    def empty(self) -> bool:
        return not any(np.isfinite(column.values).any() for column in self.columns)


@dataclass(slots=True)
class _Rows:
    """What a column's walk means: which of its rows are wanted, and whose they are."""

    kept: list[int] = field(default_factory=list)
    """Places in the walk."""
    oids: list[Oid] = field(default_factory=list)
    labels: list[Labels] = field(default_factory=list)
    refused: int = 0
    groups: NDArray[np.int64] | None = None
    """Of rows that are added up: the place among ``labels`` of each."""
    last: Floats = field(default_factory=lambda: np.zeros(0))
    """Of a 32-bit counter: raw values of the last reading."""
    wraps: Floats = field(default_factory=lambda: np.zeros(0))


class TableReader:
    """One table of one device. ``Names`` may change between readings; ``version`` says so."""

    def __init__(self, profile: TableProfile, selection: Selection) -> None:
        self.profile = profile
        self._selection = selection
        self._bound = bind(profile)
        self._parts = profile.parts
        self._decoded: dict[str, Decoded | ValueError | None] = {}
        """Of the reading that is going on: columns of a table have the same indexes."""
        self._belief = [column for column in profile.columns if column.believe is not None]
        self._known: dict[Oid, list[Oid]] = {}
        self._rows: dict[int, _Rows] = {}
        """{place of a bound column: its rows}."""
        self._counted: dict[int, dict[Oid, tuple[float, float]]] = {}
        """{place of a bound column: {row that is not there now: raw value and wraps of its 32-bit counter}}."""
        self._having: dict[Metric, set[Labels]] = {}
        """{metric: rows that a column gave which is no fallback}: none of them is ever taken from another column, or a
        counter would jump between two."""
        self._needless: dict[int, int] = {}
        """{place of a fallback: for how many rows of others it had nothing to add}."""
        self._version = -1
        self._left = 0
        """Exact readings before the next walk."""
        self._exact: list[Oid] = []

    def forget(self) -> None:
        """The device restarted, so that its rows may be others, and its counters are."""
        self._known.clear()
        self._rows.clear()
        self._counted.clear()
        self._having.clear()
        self._needless.clear()
        self._exact, self._left, self._version = [], 0, -1

    async def read(self, session: Session, names: Names, started: Started) -> TableReading:
        """Read the table; ``started`` is for columns that tell times. Raise SnmpError."""
        if names.version != self._version:
            for place in self._rows:
                self._change(place)
            self._having.clear()
            self._needless.clear()
            self._exact, self._left = [], 0
            self._version = names.version
        self._decoded.clear()
        reading = TableReading()
        factors = await self._factors(session)
        if self._exact and self._left > 0:
            self._left -= 1
            values = await session.get(self._exact)
            reading.rows = len(values)
            for place, bound in enumerate(self._bound):
                rows = self._rows.get(place)
                if rows is not None and rows.labels:
                    self._add(reading, bound, rows, [values.get(oid) for oid in rows.oids], factors, started)
            if 2 * len(values) < len(self._exact):  # they are others now
                self._left = 0
            return reading
        walks: dict[Oid, Rows] = {}
        believed = await self._believed(session, names, walks, reading)
        for place, bound in enumerate(self._bound):
            having = self._having.setdefault(bound.metric, set())
            if bound.column.fallback and self._needless.get(place) == len(having):
                continue
            walk = await self._walk(session, bound.column.oid, walks, reading)
            rows = self._rows_of(place, bound, walk, names)
            reading.refused += rows.refused
            if not bound.column.fallback:
                having.update(rows.labels)
            elif not rows.labels and having:
                self._needless[place] = len(having)
            if not rows.labels:
                continue
            raw = [value for _, value in walk]
            if len(rows.kept) != len(raw):
                raw = [raw[row] for row in rows.kept]
            told: Sequence[Value | None] = raw
            if believed is not None:
                own = rows.labels if rows.groups is None else [rows.labels[place] for place in rows.groups.tolist()]
                told = [value if labels in believed else None for labels, value in zip(own, raw, strict=True)]
            self._add(reading, bound, rows, told, factors, started)
        if believed is not None and not believed and any(walks[column.oid] for column in self._belief):
            reading.disabled = True
        self._decoded.clear()
        self._plan_exact(reading)
        return reading

    async def _factors(self, session: Session) -> dict[Oid, float]:
        """Scalars of the device that values are multiplied by; one that it does not tell makes them absent."""
        oids = list(dict.fromkeys(bound.column.times for bound in self._bound if bound.column.times is not None))
        if not oids:
            return {}
        told = await session.get(oids)
        return {oid: float(value) for oid, value in told.items() if isinstance(value, int) and value > 0}

    async def _walk(self, session: Session, oid: Oid, walks: dict[Oid, Rows], reading: TableReading) -> Rows:
        if oid not in walks:
            known = self._known.get(oid, [])
            rows = walks[oid] = await session.walk(oid, known)
            reading.rows += len(rows)
            oids = [row for row, _ in rows]
            if oids != known:
                self._known[oid] = oids
                for place, bound in enumerate(self._bound):
                    if bound.column.oid == oid:
                        self._change(place)
        return walks[oid]

    def _change(self, place: int) -> None:
        """The rows of a column are others: its places mean something else, its 32-bit counters stay the same ones."""
        rows = self._rows.get(place)
        if rows is not None:
            rows.kept = [-1]

    async def _believed(
        self, session: Session, names: Names, walks: dict[Oid, Rows], reading: TableReading
    ) -> set[Labels] | None:
        """Labels of the rows that the device says it counts; None where it need not say."""
        if not self._belief:
            return None
        believed: set[Labels] = set()
        for column in self._belief:
            for oid, value in await self._walk(session, column.oid, walks, reading):
                if value == column.believe:
                    try:
                        decoded = self._decode(column, oid, names)
                    except ValueError:
                        reading.refused += 1
                        continue
                    if decoded is not None:
                        believed.add(decoded)
        return believed

    def _decode(self, column: Column, oid: Oid, names: Names) -> Labels | None:
        """Raise ValueError for an index that cannot be."""
        index = oid[len(column.oid) + 1 :]
        if index not in self._decoded:
            try:
                self._decoded[index] = decode_index(self._parts, numbers(index), names, self._selection)
            except ValueError as error:
                self._decoded[index] = error
        decoded = self._decoded[index]
        if isinstance(decoded, ValueError):
            raise decoded
        if decoded is None or (column.case is not None and decoded.case != column.case):
            return None
        if column.priority is None:
            return decoded.labels
        if self._selection.priorities is not None and column.priority not in self._selection.priorities:
            return None
        return (*decoded.labels, str(column.priority))

    def _rows_of(self, place: int, bound: BoundColumn, walk: Rows, names: Names) -> _Rows:
        old = self._rows.get(place)
        if old is not None and old.kept != [-1]:
            return old
        rows = _Rows()
        taken = self._having.get(bound.metric, set()) if bound.column.fallback else set()
        place_of: dict[Labels, int] = {}
        groups: list[int] = []
        for number, (oid, _) in enumerate(walk):
            try:
                labels = self._decode(bound.column, oid, names)
            except ValueError:
                rows.refused += 1
                continue
            if labels is None or labels in taken:
                continue
            if labels in place_of and not self.profile.adds:  # two ports of one name: the first has it
                rows.refused += 1
                continue
            if labels not in place_of:
                place_of[labels] = len(rows.labels)
                rows.labels.append(labels)
            groups.append(place_of[labels])
            rows.kept.append(number)
            rows.oids.append(oid)
        if len(rows.labels) < len(rows.oids):
            rows.groups = np.array(groups, np.int64)
        if bound.column.width == 32:
            counted = self._counted.setdefault(place, {})
            if old is not None:
                counted.update(zip(old.oids, zip(old.last.tolist(), old.wraps.tolist(), strict=True), strict=True))
            before = [counted.pop(oid, (math.nan, 0.0)) for oid in rows.oids]
            rows.last = np.array([last for last, _ in before])
            rows.wraps = np.array([wraps for _, wraps in before])
            if len(counted) > MAX_ROWS:
                counted.clear()
        self._rows[place] = rows
        return rows

    def _plan_exact(self, reading: TableReading) -> None:
        wanted = list(dict.fromkeys(oid for rows in self._rows.values() for oid in rows.oids))
        few = bool(wanted) and not self._belief and len(wanted) <= _EXACT_SHARE * reading.rows
        self._exact, self._left = (wanted, REDISCOVERED) if few else ([], 0)

    def _add(
        self,
        reading: TableReading,
        bound: BoundColumn,
        rows: _Rows,
        raw: Sequence[Value | None],
        factors: dict[Oid, float],
        started: Started,
    ) -> None:
        column = bound.column
        values, refused = _floats(column, raw)
        if bound.metric.kind == "counter":
            negative = values < 0
            if negative.any():
                refused += int(negative.sum())
                values[negative] = math.nan
            if column.width == 32:
                values = _unwrapped(rows, values)
        if column.times is not None:
            values = values * factors.get(column.times, math.nan)
        if column.scale != 1.0:
            values = _scaled(values, column.scale)
        if column.since_boot:
            values = started.time_of(values)
        if rows.groups is not None:
            values = _summed(rows.groups, values, len(rows.labels))
        reading.refused += refused
        reading.columns.append(ColumnValues(bound.table, bound.metric, rows.labels, values))


def _floats(column: Column, raw: Sequence[Value | None]) -> tuple[Floats, int]:
    """Values as numbers, NaN where absent, and how many were of a type that the column cannot have."""
    values: list[Any]
    if column.byte is None and set(map(type, raw)) == {int}:
        values, refused = list(raw), 0
    else:
        values, refused = _each(column, raw)
    if column.map is not None:
        mapped = column.map
        otherwise = math.nan if column.otherwise is None else column.otherwise
        values = [None if value is None else mapped.get(value, otherwise) for value in values]
    elif column.absent:
        absent = column.absent
        values = [None if value in absent else value for value in values]
    return np.array(values, dtype=np.float64), refused  # None becomes NaN


def _each(column: Column, raw: Sequence[Value | None]) -> tuple[list[int | None], int]:
    result: list[int | None] = []
    refused = 0
    for value in raw:
        number: int | None = None
        if value is None:
            pass
        elif column.byte is not None:
            if isinstance(value, bytes) and len(value) > column.byte:
                number = value[column.byte]
            else:
                refused += 1
        elif isinstance(value, int):
            number = value
        else:
            refused += 1
        result.append(number)
    return result, refused


def _summed(groups: NDArray[np.int64], values: Floats, count: int) -> Floats:
    """Sums of the rows of each group; NaN where none has a value."""
    told = ~np.isnan(values)
    sums = np.bincount(groups[told], values[told], minlength=count)
    return np.where(np.bincount(groups[told], minlength=count) > 0, sums, np.nan)


def _scaled(values: Floats, scale: float) -> Floats:
    """By a division where that is exact: 57 percent are 0.57, and not 0.5700000000000001."""
    inverse = round(1 / scale)
    return values / inverse if inverse > 1 and math.isclose(scale * inverse, 1.0, rel_tol=1e-12) else values * scale


def _unwrapped(rows: _Rows, values: Floats) -> Floats:
    """Numbers of 32 bits as if they had more.

    One that was in the last quarter and is in the first now has wrapped; any other that went back was reset, and
    starts again. (A wrap is missed where a counter does half of its range between two readings.)
    """
    back = values < rows.last
    wrapped = back & (rows.last >= _WIDTH - _QUARTER) & (values < _QUARTER)
    rows.wraps = np.where(back, np.where(wrapped, rows.wraps + 1, 0.0), rows.wraps)
    rows.last = np.where(np.isnan(values), rows.last, values)
    return values + _WIDTH * rows.wraps
