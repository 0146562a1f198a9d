"""Reads a whole table of the store at once: numpy copies what Store.read would read row by row.

For the renderers, which read every row every few seconds. The rules are those of exporter.store: a row's
values are read whole or not at all, and a row that changes under every attempt is left out and counted.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.contracts.metric import Table
from exporter.store import ATTEMPTS, ROW_WORDS, Store

_PAUSE = 0.0005  # seconds between attempts: a writer changes a row in microseconds, unless it lost its processor


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

    def read(self) -> Snapshot:
        rows, places = self._rows, np.arange(min(int(self._used[0]), len(self._rows)))
        copied = np.zeros((len(places), self._head), np.uint64)
        waiting = places
        for attempt in range(ATTEMPTS):
            before = rows[waiting, 0]
            copy = rows[waiting, : self._head]
            whole = (before & np.uint64(1) == 0) & (before == rows[waiting, 0])
            identities = copy[:, 1]
            for index in np.flatnonzero(whole & (identities != 0) & (identities != self._labelled[waiting])).tolist():
                whole[index] = self._read_labels(int(waiting[index]), copy[index])
            copied[waiting[whole]] = copy[whole]
            waiting = waiting[~whole]
            if not len(waiting):
                break
            if attempt + 1 < ATTEMPTS:
                time.sleep(_PAUSE)
        self._store.torn_reads += len(waiting)
        live = np.flatnonzero(copied[:, 1])  # a row left out is still all zeros, like a free one
        copied = copied[live]
        labels = self._labels
        return Snapshot(
            identities=copied[:, 1].copy(),
            started_ns=copied[:, 3].copy(),
            labels=[labels[place] for place in live.tolist()],
            values=copied[:, ROW_WORDS:].copy().view(np.float64),
        )

    def _read_labels(self, place: int, copy: NDArray[np.uint64]) -> bool:
        """Read the labels of a row that is new; return False when it changed meanwhile."""
        row = self._rows[place]
        text = row[self._head :].tobytes()[: min(int(copy[2]), self._label_bytes)]
        if row[0] != copy[0]:
            return False
        self._labels[place] = tuple(json.loads(text))
        self._labelled[place] = copy[1]
        return True


class Snapshots:
    """Reads any table of any store; share one between renderers that take turns. Not for concurrent use."""

    def __init__(self) -> None:
        self._readers: dict[tuple[Store, str], _TableReader] = {}

    def read(self, store: Store, table: Table) -> Snapshot:
        reader = self._readers.get((store, table.name))
        if reader is None:
            reader = self._readers[store, table.name] = _TableReader(store, table)
        return reader.read()
