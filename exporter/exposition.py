"""Renders the stores as Prometheus text (exposition format 0.0.4).

The text of a family is kept between scrapes in pieces, name and labels apart from the number, so that a
scrape formats only the values that have changed and joins the pieces. Rendering happens in the control
process, never on the probing loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from exporter.contracts.metric import Metric, Table
from exporter.snapshot import Snapshot, Snapshots
from exporter.store import Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


_EXACT = 1e15
"""Below it whole numbers are written as such."""


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def label_text(names: Sequence[str], values: Sequence[str]) -> str:
    """``a="1",b="2"``; empty labels are left out, since Prometheus holds empty and absent to be the same."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in zip(names, values, strict=False) if value)


def number(value: float) -> str:
    if -_EXACT < value < _EXACT and value == int(value):
        return str(int(value))
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text := repr(value), text)


def _number_lines(values: NDArray[np.float64]) -> list[str]:
    """``number`` of each value, with a newline: whole columns of whole numbers are what switches tell."""
    if (np.abs(values) < _EXACT).all():  # neither infinite nor NaN
        whole = values.astype(np.int64)
        if (whole == values).all():
            return [f"{value}\n" for value in whole.tolist()]
    return [f"{number(value)}\n" for value in values.tolist()]


@cache
def header(metric: Metric) -> str:
    return f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"


@dataclass(frozen=True, slots=True)
class Series:
    """A family that is not a column of a table: joined from others, or of another source.

    Renderers keep what they made of ``samples`` for as long as they are given the same object.
    """

    metric: Metric
    samples: Sequence[tuple[Sequence[str], float]]
    started_ns: int = 0
    """When its counters were 0, Unix nanoseconds; only counters need it."""


class _Lines:
    """The sample lines of one family as ``name{labels} ``, ``number``, ``name{labels} ``, ``number``, …"""

    def __init__(self) -> None:
        self._rows = np.zeros(0, np.uint64)
        self._values = np.zeros(0)
        self.pieces: list[str] = []

    def update(
        self, rows: NDArray[np.uint64], values: NDArray[np.float64], prefixes: Callable[[], Iterable[str]]
    ) -> list[str]:
        """Return the pieces for ``values``, in the order of ``prefixes``, which is called when ``rows`` differ."""
        pieces = self.pieces
        if not np.array_equal(rows, self._rows):
            pieces = self.pieces = [""] * (2 * len(values))
            pieces[::2] = prefixes()
            pieces[1::2] = _number_lines(values)
        else:
            changed = np.flatnonzero(values != self._values)
            if 2 * len(changed) > len(values):  # as counters do: all at once is quicker
                pieces[1::2] = _number_lines(values)
            else:
                for index, line in zip((2 * changed + 1).tolist(), _number_lines(values[changed]), strict=True):
                    pieces[index] = line
        self._rows, self._values = rows, values
        return pieces


@dataclass(slots=True)
class Renderer:
    """Holds the text of the last scrape. One per /metrics endpoint; not for concurrent use."""

    snapshots: Snapshots = field(default_factory=Snapshots)
    _lines: dict[tuple[Store, Metric], _Lines] = field(default_factory=dict)
    _labels: dict[tuple[Store, str], tuple[NDArray[np.uint64], list[str]]] = field(default_factory=dict)
    _joined: dict[Metric, tuple[Sequence[object], str]] = field(default_factory=dict)
    _rendered: dict[tuple[Store, str], Snapshot] = field(default_factory=dict)
    """What the lines of each table say."""

    def render(self, stores: Sequence[Store], joined: Iterable[Series] = ()) -> bytes:
        pieces: list[str] = []
        holders: dict[Table, list[Store]] = {}
        for store in stores:
            for table in store.tables:
                if table.metrics:
                    holders.setdefault(table, []).append(store)
        for table, holding in holders.items():
            self._render_table(pieces, holding, table)
        pieces += [self._render_joined(family) for family in joined]
        return "".join(pieces).encode()

    def _render_table(self, pieces: list[str], stores: Sequence[Store], table: Table) -> None:
        """The families of a table, each under one header: several processes may have rows of one table."""
        parts = []
        for store in stores:
            rows = self.snapshots.read(store, table)
            same = self._unchanged(store, table, rows)
            parts.append((store, rows, self._label_texts(store, table, rows.identities, rows.labels), same))
        column = 0
        for metric in table.metrics:
            width = len(metric.buckets) + 2 if metric.kind == "histogram" else 1
            made: list[str] = []
            for store, rows, labels, same in parts:
                columns = slice(column, column + width)
                if all(same[columns]):
                    made += self._lines[store, metric].pieces
                else:
                    made += self._lines_of(store, metric, rows, labels, columns)
            column += width
            if made:
                pieces.append(header(metric))
                pieces += made

    def _unchanged(self, store: Store, table: Table, rows: Snapshot) -> list[bool]:
        """Which columns have the same values in the same rows as when they were last rendered."""
        old = self._rendered.get((store, table.name))
        self._rendered[store, table.name] = rows
        if old is None or not np.array_equal(old.identities, rows.identities):
            return [False] * rows.values.shape[1]
        equal = (rows.values == old.values) | (np.isnan(rows.values) & np.isnan(old.values))
        same: list[bool] = equal.all(axis=0).tolist()
        return same

    def _lines_of(
        self, store: Store, metric: Metric, rows: Snapshot, labels: Sequence[str], columns: slice
    ) -> list[str]:
        lines = self._lines.setdefault((store, metric), _Lines())
        if metric.kind == "histogram":
            values = _cumulative(rows.values[:, columns])
            return lines.update(rows.identities, values, partial(_histogram_prefixes, metric, labels))
        column = columns.start
        present = np.flatnonzero(~np.isnan(rows.values[:, column]))  # NaN is absent
        prefixes = partial(_prefixes, metric, labels, present.tolist())
        return lines.update(rows.identities[present], rows.values[present, column], prefixes)

    def _label_texts(
        self, store: Store, table: Table, identities: NDArray[np.uint64], labels: Sequence[Sequence[str]]
    ) -> list[str]:
        """The label text of each row, made when the row is new."""
        known, texts = self._labels.get((store, table.name), (np.zeros(0, np.uint64), []))
        if not np.array_equal(known, identities):
            old = dict(zip(known.tolist(), texts, strict=True))
            texts = [
                old.get(identity) or label_text(table.labels, values)
                for identity, values in zip(identities.tolist(), labels, strict=True)
            ]
            self._labels[store, table.name] = identities, texts
        return texts

    def _render_joined(self, family: Series) -> str:
        metric = family.metric
        samples, text = self._joined.get(metric, (None, ""))
        if samples is not family.samples:
            labels = [label_text(metric.labels, values) for values, _ in family.samples]
            prefixes = _prefixes(metric, labels, range(len(labels)))
            lines = [f"{prefix}{number(value)}\n" for prefix, (_, value) in zip(prefixes, family.samples, strict=True)]
            text = header(metric) + "".join(lines) if lines else ""
            self._joined[metric] = (family.samples, text)
        return text


def _prefixes(metric: Metric, labels: Sequence[str], present: Iterable[int]) -> list[str]:
    name = metric.name
    return [f"{name}{{{labels[index]}}} " if labels[index] else f"{name} " for index in present]


def _cumulative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of buckets and sum -> cumulative buckets, sum and count, flat.

    The store keeps buckets apart so that an event touches one of them.
    """
    lines = np.empty((len(values), values.shape[1] + 1))
    np.cumsum(values[:, :-1], axis=1, out=lines[:, :-2])
    lines[:, -2] = values[:, -1]
    lines[:, -1] = lines[:, -3]
    return lines.ravel()


def _histogram_prefixes(metric: Metric, labels: Iterable[str]) -> list[str]:
    name = metric.name
    bounds = [f'le="{bound!r}"' for bound in metric.buckets] + ['le="+Inf"']
    prefixes: list[str] = []
    for text in labels:
        joint = "," if text else ""
        prefixes += [f"{name}_bucket{{{text}{joint}{bound}}} " for bound in bounds]
        prefixes += [f"{name}_sum{{{text}}} ", f"{name}_count{{{text}}} "]
    return prefixes
