"""The rows of one device in a table of the store, written at once: one at a time would cost more than reading them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporter.contracts.metric import Metric, Table
from exporter.store import ROW_WORDS, RowWriter, Store, TableWriter
from exporter.switches.decoding import Labels
from exporter.switches.table import ColumnValues, Floats


class StoreTable:
    """One table of the store, with its memory as arrays. Shared by all devices of the process, its only writer."""

    def __init__(self, store: Store, table: Table) -> None:
        layout = store.layout(table)
        self.table = table
        self.writer: TableWriter = store.writer(table)
        words = np.frombuffer(store.words, np.uint64)
        self._rows = words[layout.row(0) : layout.end].reshape(layout.capacity, layout.row_words)
        self._values = self._rows[:, ROW_WORDS : ROW_WORDS + layout.columns].view(np.float64)

    def put(self, places: NDArray[np.int64], values: Floats) -> None:
        """Write whole rows: no reader sees one half written (exporter/store.py)."""
        self._rows[places, 0] += np.uint64(1)
        self._values[places] = values
        self._rows[places, 0] += np.uint64(1)


class _Part(NamedTuple):
    """What one table of the profile gave of one metric: rows of the block, and values."""

    labels: Sequence[Labels]
    rows: NDArray[np.int64]
    values: Floats


class Block:
    """One device's rows. Several tables of its profile may give values of one metric: the earlier one's count."""

    def __init__(self, stored: StoreTable, switch: str) -> None:
        self._stored = stored
        self._switch = switch
        self._column = {metric: number for number, metric in enumerate(stored.table.metrics)}
        self._row: dict[Labels, int] = {}
        self._writers: list[RowWriter] = []
        self._places = np.zeros(0, np.int64)
        self._values = np.zeros((0, len(stored.table.metrics)))
        self._absent = array("d", [math.nan] * len(stored.table.metrics))
        """Of a row that nobody has written yet: no counter is 0 meanwhile."""
        self._parts: dict[Metric, dict[tuple[int, int], _Part]] = {}
        """{metric: {(place of a table in the profile, which of its columns of the metric): its part}}."""
        self._derived: set[int] = set()
        """Columns that are worked out from others: no row lives by them."""
        self._changed = False

    @property
    def labels(self) -> Sequence[Labels]:
        return list(self._row)

    def column(self, metric: Metric) -> Floats:
        """Values of a metric in the order of ``labels``; NaN is absent."""
        return self._values[:, self._column[metric]]

    def put(self, source: int, columns: Sequence[ColumnValues]) -> None:
        """Take what a table of the profile, by its place there, gave; raise StoreFullError."""
        gone = {
            (metric, key): part
            for metric, parts in self._parts.items()
            for key, part in parts.items()
            if key[0] == source
        }
        told: dict[Metric, bool] = {}
        """{metric: whether its rows are others than before}."""
        number: dict[Metric, int] = {}
        for column in columns:
            metric = column.metric
            place = number[metric] = number.get(metric, -1) + 1
            old = gone.pop((metric, (source, place)), None)
            same = old is not None and old.labels is column.labels
            rows = old.rows if old is not None and same else self._rows_of(column.labels)
            self._parts.setdefault(metric, {})[source, place] = _Part(column.labels, rows, column.values)
            told[metric] = told.get(metric, False) or not same
        for metric, key in gone:
            del self._parts[metric][key]
            told[metric] = True
        for metric, others in told.items():
            self._changed |= others
            self._fill(metric, fresh=others)

    def drop(self, source: int) -> None:
        """Forget what a table of the profile gave: its values are too old to be shown."""
        for metric, parts in self._parts.items():
            own = [key for key in parts if key[0] == source]
            for key in own:
                del parts[key]
            if own:
                self._fill(metric, fresh=True)
                self._changed = True

    def put_derived(self, metric: Metric, values: Floats) -> None:
        """Values in the order of ``labels``, worked out from other columns."""
        self._derived.add(self._column[metric])
        self._values[:, self._column[metric]] = values

    def write(self) -> None:
        """Show readers what has come since the last time; rows without any value go."""
        if self._changed:
            self._remove_empty()
            self._changed = False
        if len(self._places):
            self._stored.put(self._places, self._values)

    def _fill(self, metric: Metric, fresh: bool) -> None:
        number = self._column[metric]
        parts = self._parts[metric]
        if fresh or len(parts) > 1:  # of several, none takes away what another gave before
            self._values[:, number] = np.nan
        for key in sorted(parts, reverse=True):
            part = parts[key]
            if len(parts) == 1:
                self._values[part.rows, number] = part.values
            else:  # what an earlier table does not tell, a later one may
                told = ~np.isnan(part.values)
                self._values[part.rows[told], number] = part.values[told]

    def _rows_of(self, labels: Sequence[Labels]) -> NDArray[np.int64]:
        """Rows of the block for these labels; new ones are made. Raise StoreFullError, with those made until then."""
        new: list[int] = []
        try:
            for own in labels:
                if own not in self._row:
                    writer = self._stored.writer.add((self._switch, *own), self._absent)
                    self._row[own] = len(self._writers)
                    self._writers.append(writer)
                    new.append(writer.index)
        finally:
            if new:
                self._places = np.append(self._places, new)
                self._values = np.vstack([self._values, np.full((len(new), self._values.shape[1]), np.nan)])
        return np.array([self._row[own] for own in labels], np.int64)

    def _remove_empty(self) -> None:
        told = np.delete(self._values, list(self._derived), axis=1)
        alive: NDArray[np.bool_] = ~np.all(np.isnan(told), axis=1)
        if alive.all():
            return
        for writer, lives in zip(self._writers, alive.tolist(), strict=True):
            if not lives:
                self._stored.writer.remove(writer)
        number = np.cumsum(alive) - 1
        self._row = {labels: int(number[row]) for labels, row in self._row.items() if alive[row]}
        self._writers = [writer for writer, lives in zip(self._writers, alive.tolist(), strict=True) if lives]
        self._places, self._values = self._places[alive], self._values[alive]
        for parts in self._parts.values():
            for key, part in parts.items():
                kept = alive[part.rows]
                if kept.all():
                    parts[key] = part._replace(rows=number[part.rows])
                else:  # the labels are no longer those of the rows, so that the next reading finds them anew
                    parts[key] = _Part((), number[part.rows[kept]], part.values[kept])


class Blocks:
    """All of one device, by the tables of the store."""

    def __init__(self, stored: dict[Table, StoreTable], switch: str) -> None:
        self._stored = stored
        self._switch = switch
        self._blocks: dict[Table, Block] = {}

    def of(self, table: Table) -> Block:
        block = self._blocks.get(table)
        if block is None:
            block = self._blocks[table] = Block(self._stored[table], self._switch)
        return block

    def put(self, source: int, columns: Sequence[ColumnValues]) -> None:
        """Raise StoreFullError when the device has more rows than there is room for."""
        of_table: dict[Table, list[ColumnValues]] = {}
        for column in columns:
            of_table.setdefault(column.table, []).append(column)
        for table, own in of_table.items():
            self.of(table).put(source, own)

    def drop(self, source: int) -> None:
        for block in self._blocks.values():
            block.drop(source)

    def write(self) -> None:
        for block in self._blocks.values():
            block.write()
