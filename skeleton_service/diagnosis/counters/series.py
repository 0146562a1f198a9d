"""Counter samples as series, all of a metric together, so that whole metrics are worked on at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.names import port_id

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_KEY = ("node", "port", "priority", "queue", "vlan", "peer")


class Key(NamedTuple):
    """What a series of a metric is of."""

    node: str
    port: str | None
    priority: int | None
    queue: int | None
    vlan: int | None
    peer: str | None

    @property
    def end(self) -> str:
        """``switch:port`` or ``host:rnic``; the node where there is no port."""
        return self.node if self.port is None else port_id(self.node, self.port)

    @property
    def level(self) -> int | None:
        """The traffic class it is of: priority or queue."""
        return self.priority if self.queue is None else self.queue


@dataclass(frozen=True, eq=False)
class Metric:
    """All series of a metric, one after the other, each in order of time; ``starts`` has one more than there are."""

    name: str
    keys: tuple[Key, ...]
    starts: Integers
    times: Floats
    values: Floats

    @cached_property
    def first(self) -> Flags:
        """(rows,): whether a row is its series' first."""
        flags = np.zeros(len(self.times), bool)
        flags[self.starts[:-1]] = True
        return flags

    @cached_property
    def series(self) -> Integers:
        """(rows,): the number of each row's series."""
        return np.repeat(np.arange(len(self.keys)), np.diff(self.starts))

    @cached_property
    def rises(self) -> Floats:
        """(rows,): what a counter rose by since the row before; NaN in a series' first row.

        A decrease is a reset, and the new value counts from 0.
        """
        rises = np.diff(self.values, prepend=np.nan)
        rises = np.where(rises < 0, self.values, rises)
        rises[self.first] = np.nan
        return rises

    @cached_property
    def seconds(self) -> Floats:
        """(rows,): time since the row before, NaN in a series' first row."""
        seconds = np.diff(self.times, prepend=np.nan)
        seconds[self.first] = np.nan
        return seconds

    @cached_property
    def changed(self) -> Flags:
        """(rows,): whether a gauge is another than in the row before."""
        changed: Flags = np.diff(self.values, prepend=np.nan) != 0
        return changed & ~self.first

    @cached_property
    def by_time(self) -> Integers:
        """All rows in order of time."""
        return np.argsort(self.times, kind="stable")

    @cached_property
    def place(self) -> dict[Key, int]:
        return {key: number for number, key in enumerate(self.keys)}

    def rows(self, number: int) -> slice:
        """The rows of a series."""
        return slice(int(self.starts[number]), int(self.starts[number + 1]))

    def runs(self, shown: Flags) -> Iterator[tuple[int, int, int]]:
        """(series, first row, last row) of each longest run of rows of a series that are ``shown`` (rows,)."""
        begins = np.flatnonzero(shown & (self.first | ~np.roll(shown, 1)))
        ends = np.flatnonzero(shown & np.roll(self.first | ~shown, -1))
        return zip(self.series[begins].tolist(), begins.tolist(), ends.tolist(), strict=True)

    def lasts(self, row: int) -> bool:
        """Whether a row is the newest of its series."""
        return row + 1 == len(self.times) or bool(self.first[row + 1])

    def at(self, key: Key, time: float) -> float | None:
        """The last value of a series at a time; None where there is none."""
        number = self.place.get(key)
        if number is None:
            return None
        own = self.rows(number)
        before = int(np.searchsorted(self.times[own], time, side="right"))
        return float(self.values[own.start + before - 1]) if before else None


@dataclass(frozen=True, eq=False)
class Samples:
    """All samples of known metrics until a time. Where a series has two at one time, the larger counts."""

    metrics: dict[str, Metric]

    def get(self, name: str) -> Metric:
        """A metric by name, empty where nothing was read."""
        found = self.metrics.get(name)
        return _NOTHING if found is None else found

    def each(self, names: tuple[str, ...]) -> Iterator[Metric]:
        return (self.metrics[name] for name in names if name in self.metrics)


_NOTHING = Metric("", (), np.zeros(1, np.int64), np.zeros(0), np.zeros(0))


def gather(table: pa.Table, known: frozenset[str], until: float) -> Samples:
    """Sort samples into series. O(n log n); rows of other metrics, or later than ``until``, are left out."""
    wanted = pc.and_(
        pc.is_in(table["metric"], value_set=pa.array(sorted(known), pa.string())),
        pc.less_equal(table["time"], until),
    )
    table = table.filter(wanted).combine_chunks()
    if not len(table):
        return Samples({})
    times, values = table["time"].to_numpy(), table["value"].to_numpy()
    names, code = _encode(table["metric"])
    parts = []
    size = len(names)
    for column in _KEY:
        words, own = _encode(table[column])
        size *= len(words)
        if size >= 1 << 62:  # only the combinations that there are
            some, code = np.unique(code, return_inverse=True)
            size = len(some) * len(words)
        code = code * len(words) + own
        parts.append((words, own))
    metric = _encode(table["metric"])[1]
    order = np.lexsort((times, code))
    code, times, values = code[order], times[order], values[order]
    distinct = np.flatnonzero(np.append(True, (code[1:] != code[:-1]) | (times[1:] != times[:-1])))
    values = np.maximum.reduceat(values, distinct)
    order, code, times = order[distinct], code[distinct], times[distinct]
    starts = np.flatnonzero(np.append(True, code[1:] != code[:-1]))
    ends = np.append(starts[1:], len(code))
    heads = order[starts]
    keys = [Key(*key) for key in zip(*(_spell(words, own[heads]) for words, own in parts), strict=True)]
    of = metric[heads]
    edges = [*np.flatnonzero(np.append(True, of[1:] != of[:-1])).tolist(), len(heads)]
    metrics = {}
    for low, high in pairwise(edges):
        begin, end = int(starts[low]), int(ends[high - 1])
        bounds = np.append(starts[low:high], end) - begin
        name = str(names[of[low]])
        metrics[name] = Metric(name, tuple(keys[low:high]), bounds, times[begin:end], values[begin:end])
    return Samples(metrics)


_Words = list[str | int | None]


def _encode(column: pa.ChunkedArray) -> tuple[_Words, Integers]:
    """(different values in order, None first; the number of each row's)."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    words = encoded.dictionary.to_pylist()
    order = sorted(range(len(words)), key=lambda number: (words[number] is not None, words[number]))
    rank = np.empty(len(words), np.int64)
    rank[order] = np.arange(len(words))
    return [words[number] for number in order], rank[encoded.indices.to_numpy(zero_copy_only=False)]


def _spell(words: _Words, codes: Integers) -> _Words:
    return [words[code] for code in codes.tolist()]
