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
from exporter.switches.decoding import Labels, Names, Selection, decode_index
from exporter.switches.profile import BoundColumn, Column, TableProfile, bind
from exporter.switches.snmp import Oid, Rows, Session, Value, numbers

Floats = NDArray[np.float64]
_WIDTH = float(1 << 32)
_QUARTER = _WIDTH / 4
_EXACT_SHARE = 0.5
"""Rows that are asked for by name where at most this share of what a walk brings is wanted."""
REDISCOVERED = 40
"""Exact readings between two walks that find new rows: ten minutes, of a table that is read each quarter of one."""


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
    last: Floats = field(default_factory=lambda: np.zeros(0))
    """Of a 32-bit counter: raw values of the last reading."""
    wraps: Floats = field(default_factory=lambda: np.zeros(0))


class TableReader:
    """One table of one device. ``Names`` may change between readings; ``version`` says so."""

    def __init__(self, profile: TableProfile, selection: Selection) -> None:
        self.profile = profile
        self._selection = selection
        self._bound = bind(profile)
        self._belief = [column for column in profile.columns if column.believe is not None]
        self._known: dict[Oid, list[Oid]] = {}
        self._rows: dict[int, _Rows] = {}
        """{place of a bound column: its rows}."""
        self._version = -1
        self._left = 0
        """Exact readings before the next walk."""
        self._exact: list[Oid] = []

    def forget(self) -> None:
        """The device restarted, so that its rows may be others, and its counters are."""
        self._known.clear()
        self._rows.clear()
        self._exact, self._left, self._version = [], 0, -1

    async def read(self, session: Session, names: Names, boot: float) -> TableReading:
        """Read the table; ``boot`` is the Unix time at which sysUpTime was 0. Raise SnmpError."""
        if names.version != self._version:
            self._rows.clear()
            self._exact, self._left = [], 0
            self._version = names.version
        reading = TableReading()
        factors = await self._factors(session)
        if self._exact and self._left > 0:
            self._left -= 1
            values = await session.get(self._exact)
            reading.rows = len(values)
            for place, bound in enumerate(self._bound):
                rows = self._rows.get(place)
                if rows is not None and rows.labels:
                    self._add(reading, bound, rows, [values.get(oid) for oid in rows.oids], factors, boot)
            return reading
        walks: dict[Oid, Rows] = {}
        satisfied: set[Metric] = set()
        believed = await self._believed(session, names, walks, reading)
        for place, bound in enumerate(self._bound):
            if bound.column.fallback and bound.metric in satisfied:
                self._rows.pop(place, None)
                continue
            walk = await self._walk(session, bound.column.oid, walks, reading)
            rows = self._rows_of(place, bound, walk, names)
            reading.refused += rows.refused
            if not rows.labels:
                continue
            satisfied.add(bound.metric)
            raw = [value for _, value in walk]
            if len(rows.kept) != len(raw):
                raw = [raw[row] for row in rows.kept]
            told: Sequence[Value | None] = raw
            if believed is not None:
                told = [value if labels in believed else None for labels, value in zip(rows.labels, raw, strict=True)]
            self._add(reading, bound, rows, told, factors, boot)
        if believed is not None and not believed and any(walks[column.oid] for column in self._belief):
            reading.disabled = True
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
                    decoded = self._decode(column, oid, names)
                    if decoded is not None:
                        believed.add(decoded)
        return believed

    def _decode(self, column: Column, oid: Oid, names: Names) -> Labels | None:
        """Raise ValueError for an index that cannot be."""
        index = numbers(oid[len(column.oid) + 1 :])
        decoded = decode_index(self.profile.parts, index, names, self._selection)
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
        seen: set[Labels] = set()
        for number, (oid, _) in enumerate(walk):
            try:
                labels = self._decode(bound.column, oid, names)
            except ValueError:
                rows.refused += 1
                continue
            if labels is None:
                continue
            if labels in seen:  # two ports of one name: the first has it
                rows.refused += 1
                continue
            seen.add(labels)
            rows.kept.append(number)
            rows.oids.append(oid)
            rows.labels.append(labels)
        if bound.column.width == 32:
            before = {}
            if old is not None:
                before = dict(zip(old.oids, zip(old.last, old.wraps, strict=True), strict=True))
            rows.last = np.array([before.get(oid, (math.nan, 0.0))[0] for oid in rows.oids])
            rows.wraps = np.array([before.get(oid, (math.nan, 0.0))[1] for oid in rows.oids])
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
        boot: float,
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
            values = np.round(boot + values / 100, 2)
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
