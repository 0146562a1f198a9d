"""The metric store: arrays in shared memory, one writer process, any number of readers.

A table (exporter.contracts.catalogue.Table) is a fixed-capacity array of rows; a row is one label
set with one float64 per metric, or per bucket of a histogram. The writer never waits: each row has a
sequence number that is odd while the row is being changed, and a reader that meets an odd or changed
number reads again (a seqlock, as in Linux' Documentation/locking/seqlock.rst). A row's values are
therefore read whole or not at all. A released row is gone from the next reading on. ``Store.read`` reads
row by row and needs no library; exporter.snapshot reads a whole table at once with numpy.

Memory is an anonymous file (memfd_create(2)) handed to the other process by descriptor: it has no
name to collide or to be left over. Untouched capacity costs no memory.

Sequence numbers order correctly on x86-64, where stores are not reordered; on weaker machines the
interpreter's own work between two stores makes a torn read very unlikely, not impossible.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import time
import weakref
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from exporter.contracts.metric import Table

_WORD = 8
HEADER_WORDS = 3  # per table: version of the set of rows, rows ever used (the high-water mark), last identity
ROW_WORDS = 4  # per row: sequence, identity (0 = free), length of the labels, when it was made (Unix nanoseconds)
ATTEMPTS = 5  # at reading a row that changes
_ABSENT = math.nan


class StoreFullError(RuntimeError):
    """A table has no free row left; the message names the table and its capacity."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a table lies, in 8-byte words from the start of the memory."""

    table: Table
    start: int
    capacity: int
    columns: int

    @property
    def row_words(self) -> int:
        return ROW_WORDS + self.columns + self.table.label_bytes // _WORD

    @property
    def end(self) -> int:
        return self.start + HEADER_WORDS + self.capacity * self.row_words

    def row(self, index: int) -> int:
        return self.start + HEADER_WORDS + index * self.row_words


def column_count(table: Table) -> int:
    """Columns of a row: one a metric; for a histogram one a bucket, one past the last bound, and the sum."""
    return sum(len(metric.buckets) + 2 if metric.kind == "histogram" else 1 for metric in table.metrics)


def _lay_out(tables: Sequence[tuple[Table, int]]) -> dict[str, Layout]:
    layouts: dict[str, Layout] = {}
    start = 0
    for table, capacity in tables:
        layouts[table.name] = Layout(table, start, capacity, column_count(table))
        start = layouts[table.name].end
    return layouts


@dataclass(frozen=True, slots=True)
class Row:
    """One label set and its values; NaN is absent. ``identity`` is never used again for another row."""

    identity: int
    labels: tuple[str, ...]
    values: Sequence[float]


class Store:
    """The memory of one writer process: create it in the parent, ``writer`` in one process, ``read`` anywhere."""

    def __init__(self, tables: Sequence[tuple[Table, int]], descriptor: int | None = None) -> None:
        """Lay out ``tables`` with their capacities; map ``descriptor`` when another process made the memory."""
        self._layouts = _lay_out(tables)
        size = max(layout.end for layout in self._layouts.values()) * _WORD
        if descriptor is None:
            descriptor = os.memfd_create("fabric-exporter-store", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
            weakref.finalize(self, os.close, descriptor)
        elif os.fstat(descriptor).st_size != size:
            raise ValueError(f"store has {os.fstat(descriptor).st_size} bytes, its layout {size}")
        self.descriptor = descriptor
        self._memory = memoryview(mmap.mmap(descriptor, size))
        self.words = self._memory.cast("Q")
        self.floats = self._memory.cast("d")
        self._labels: dict[str, dict[int, tuple[int, tuple[str, ...]]]] = {name: {} for name in self._layouts}
        self.torn_reads = 0

    @property
    def tables(self) -> list[Table]:
        return [layout.table for layout in self._layouts.values()]

    def layout(self, table: Table) -> Layout:
        return self._layouts[table.name]

    def version(self, table: Table) -> int:
        """Changes whenever a row of the table was added or removed."""
        return self.words[self._layouts[table.name].start]

    def writer(self, table: Table) -> TableWriter:
        return TableWriter(self, self._layouts[table.name])

    def clear(self) -> None:
        """Forget every row: for a writer that starts again on the memory of one that died.

        Identities and sequence numbers go on where they were: readers remember rows by the ones, and the others
        tell a reader in the middle of a row that it is another's now.
        """
        for layout in self._layouts.values():
            # One row more than was counted: the writer may have died in the middle of making it.
            for index in range(min(self.words[layout.start + 1] + 1, layout.capacity)):
                row = layout.row(index)
                self.words[row] |= 1
                self.words[row + 1] = 0
                self.words[row] += 1
            self.words[layout.start + 1] = 0
            self.words[layout.start] += 1

    def put_text(self, row: int, columns: int, text: bytes) -> None:
        start = (row + ROW_WORDS + columns) * _WORD
        self._memory[start : start + len(text)] = text
        self.words[row + 2] = len(text)

    def read(self, table: Table) -> Iterator[Row]:
        """Yield the live rows of a table. A row that changes under every attempt is left out and counted."""
        layout = self._layouts[table.name]
        cache = self._labels[table.name]
        words, floats = self.words, self.floats
        for index in range(min(words[layout.start + 1], layout.capacity)):
            row = layout.row(index)
            for _ in range(ATTEMPTS):
                before = words[row]
                if before & 1:
                    continue
                identity = words[row + 1]
                if identity == 0:
                    cache.pop(index, None)
                    break
                known = cache.get(index)
                if known is not None and known[0] == identity:
                    labels = known[1]
                else:
                    text = self._read_text(row, layout)
                    if words[row] != before:
                        continue
                    labels = tuple(json.loads(text))
                    cache[index] = (identity, labels)
                values = floats[row + ROW_WORDS : row + ROW_WORDS + layout.columns].tolist()
                if words[row] == before:
                    yield Row(identity, labels, values)
                    break
            else:
                self.torn_reads += 1

    def _read_text(self, row: int, layout: Layout) -> bytes:
        start = (row + ROW_WORDS + layout.columns) * _WORD
        return bytes(self._memory[start : start + min(self.words[row + 2], layout.table.label_bytes)])


def _encode(labels: Sequence[str], most: int) -> bytes:
    text = msgspec.json.encode(labels)
    if len(text) > most:
        raise ValueError(f"labels take {len(text)} bytes, more than {most}")
    return text


class TableWriter:
    """The writing side of one table. Only one process may hold it."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self._store = store
        self._layout = layout
        self._words = store.words
        self._floats = store.floats
        self._free: list[int] = []
        self._used = 0
        self._column = {}
        column = 0
        for metric in layout.table.metrics:
            self._column[metric.name] = column
            column += len(metric.buckets) + 2 if metric.kind == "histogram" else 1

    def column(self, name: str) -> int:
        """Index of a metric's (first) column in a row."""
        return self._column[name]

    def add(self, labels: Sequence[str], values: array[float] | None = None) -> RowWriter:
        """Allocate a row with these values, of type "d"; without, counters and buckets start at 0, gauges absent.

        Raise StoreFullError or ValueError.
        """
        layout = self._layout
        text = _encode(labels, layout.table.label_bytes)
        if self._free:
            index = self._free.pop()
        elif self._used < layout.capacity:
            index = self._used
            self._used += 1
        else:
            raise StoreFullError(f"table {layout.table.name!r} is full: {layout.capacity} rows")
        row = layout.row(index)
        words, floats = self._words, self._floats
        words[row] += 1
        self._store.put_text(row, layout.columns, text)
        at = row + ROW_WORDS
        if values is not None:
            floats[at : at + len(values)] = memoryview(values)
        for metric in layout.table.metrics if values is None else ():
            if metric.kind == "gauge":
                floats[at] = _ABSENT
                at += 1
            else:
                for _ in range(len(metric.buckets) + 2 if metric.kind == "histogram" else 1):
                    floats[at] = 0.0
                    at += 1
        words[layout.start + 2] += 1
        identity = words[row + 1] = words[layout.start + 2]
        words[row + 3] = time.time_ns()
        words[row] += 1
        words[layout.start + 1] = max(words[layout.start + 1], self._used)
        words[layout.start] += 1
        return RowWriter(self._store, row, index, identity)

    def remove(self, writer: RowWriter) -> None:
        """Release a row: its series vanish from the next reading on."""
        words = self._words
        words[writer.row] += 1
        words[writer.row + 1] = 0
        words[writer.row] += 1
        words[self._layout.start] += 1
        self._free.append(writer.index)


class RowWriter:
    """Writes one row. Group the changes of one event between ``begin`` and ``end``, so that readers see all."""

    __slots__ = ("_base", "_floats", "_words", "identity", "index", "row")

    def __init__(self, store: Store, row: int, index: int, identity: int) -> None:
        self._words = store.words
        self._floats = store.floats
        self._base = row + ROW_WORDS
        self.row = row
        self.index = index
        self.identity = identity

    def begin(self) -> None:
        self._words[self.row] += 1

    def end(self) -> None:
        self._words[self.row] += 1

    def add(self, column: int, amount: float = 1.0) -> None:
        self._floats[self._base + column] += amount

    def set(self, column: int, value: float) -> None:
        self._floats[self._base + column] = value

    def put(self, values: array[float]) -> None:
        """All columns at once, of type "d"."""
        self.begin()
        self._floats[self._base : self._base + len(values)] = memoryview(values)
        self.end()

    def get(self, column: int) -> float:
        return self._floats[self._base + column]
