"""Reads a whole table of the store at once: numpy copies what Store.read would read row by row.

For the renderers, which read every row every few seconds. The rules are those of exporter.store: a row's
values are read whole or not at all, and a row that changes under every attempt is left out and counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from exporter.contracts.metric import Table
from exporter.store import ATTEMPTS, ROW_WORDS, Store

_PAUSE = 0.0005  # seconds between attempts: a writer changes a row in microseconds, unless it lost its processor
_LABELS_AT_ONCE = 4096  # rows: their labels take some megabytes
_decode = msgspec.json.Decoder(tuple[str, ...]).decode


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The live rows of a table, in the order of their places; all four have one entry a row."""

    identities: NDArray[np.uint64]
    """Never used again for another row, so equal arrays mean equal labels."""
    started_ns: NDArray[np.uint64]
    """When each row was made, which is when its counters were 0; Unix nanoseconds."""
    labels: list[tuple[str, ...]]
    values: NDArray[np.float64]
    """Rows x columns of the table; NaN is absent."""


class _TableReader:
    """Remembers the labels of the rows it has read. Not for concurrent use."""

    def __init__(self, store: Store, table: Table) -> None:
        layout = store.layout(table)
        whole = np.frombuffer(store.words, np.uint64)
        self._store = store
        self._used = whole[layout.start + 1 : layout.start + 2]
        self._rows = whole[layout.row(0) : layout.end].reshape(layout.capacity, layout.row_words)
        self._head = ROW_WORDS + layout.columns
        self._label_bytes = table.label_bytes
        self._labels: list[tuple[str, ...]] = [()] * layout.capacity
        self._labelled = np.zeros(layout.capacity, np.uint64)  # the identity whose labels are known, by place
        self._last_identities = np.zeros(0, np.uint64)
        self._last_labels: list[tuple[str, ...]] = []

    def read(self) -> Snapshot:
        rows = self._rows[: min(int(self._used[0]), len(self._rows))]
        copied, whole = self._copy(rows, np.arange(len(rows)))
        waiting = np.flatnonzero(~whole)
        copied[waiting] = 0
        for _ in range(ATTEMPTS - 1):
            if not len(waiting):
                break
            time.sleep(_PAUSE)
            copy, whole = self._copy(rows, waiting)
            copied[waiting[whole]] = copy[whole]
            waiting = waiting[~whole]
        self._store.torn_reads += len(waiting)
        live = np.flatnonzero(copied[:, 1])  # a row left out is all zeros, like a free one
        if len(live) < len(copied):
            copied = copied[live]
        identities = copied[:, 1].copy()
        if not np.array_equal(identities, self._last_identities):
            self._last_identities, self._last_labels = identities, [self._labels[place] for place in live.tolist()]
        return Snapshot(
            identities=identities,
            started_ns=copied[:, 3].copy(),
            labels=self._last_labels,
            values=copied[:, ROW_WORDS:].copy().view(np.float64),
        )

    def _copy(
        self, rows: NDArray[np.uint64], places: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Rows at these places without their labels, which are read where they are new; and which of them are whole."""
        every = len(places) == len(rows)  # by slices, which costs half of what places do
        before = rows[:, 0].copy() if every else rows[places, 0]
        copy = rows[:, : self._head].copy() if every else rows[places, : self._head]
        whole = (before & np.uint64(1) == 0) & (before == (rows[:, 0] if every else rows[places, 0]))
        new = np.flatnonzero(whole & (copy[:, 1] != 0) & (copy[:, 1] != self._labelled[places]))
        for start in range(0, len(new), _LABELS_AT_ONCE):
            some = new[start : start + _LABELS_AT_ONCE]
            whole[some] = self._read_labels(rows, places[some], copy[some])
        return copy, whole

    def _read_labels(
        self, rows: NDArray[np.uint64], places: NDArray[np.int64], copy: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Read the labels of rows that are new; return which of them did not change meanwhile."""
        texts = rows[places, self._head :]
        whole: NDArray[np.bool_] = rows[places, 0] == copy[:, 0]
        places, copy, texts = places[whole], copy[whole], texts[whole]
        width, data = texts.itemsize * texts.shape[1], texts.tobytes()
        lengths = np.minimum(copy[:, 2], np.uint64(self._label_bytes)).tolist()
        for number, (place, length) in enumerate(zip(places.tolist(), lengths, strict=True)):
            self._labels[place] = _decode(data[number * width : number * width + length])
        self._labelled[places] = copy[:, 1]
        return whole


class Snapshots:
    """Reads any table of any store; share one between renderers that take turns. Not for concurrent use."""

    def __init__(self) -> None:
        self._readers: dict[tuple[Store, str], _TableReader] = {}

    def read(self, store: Store, table: Table) -> Snapshot:
        reader = self._readers.get((store, table.name))
        if reader is None:
            reader = self._readers[store, table.name] = _TableReader(store, table)
        return reader.read()
