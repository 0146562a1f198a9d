"""Encodes the stores as OTLP requests: the same series as /metrics, with start times and ends.

A push depends on what the receiver knows. A counter's start time is when its row was made; when its
value falls, just after the push before (OTLP data model, "Resets and gaps"). A counter that a device
has counted since long ago begins with a point whose start and time are equal, which says that its start
is unknown. A series that the receiver knows and that is no more gets one point without a value. What the
receiver knows is remembered when a push is delivered, and not before; it is never more than one push.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from exporter import __version__
from exporter.contracts.metric import Metric, Table
from exporter.exposition import Series
from exporter.otlp.wire import PointFormat, attributes, metric_message, request
from exporter.snapshot import Snapshot, Snapshots
from exporter.store import Store

SCOPE = ("fabric-exporter", __version__)
_MAX_BYTES = 3_500_000  # of points in a request: gRPC receivers take 4 MiB by default


@dataclass(frozen=True, slots=True)
class Request:
    body: bytes
    points: int


@dataclass(slots=True)
class _KnownTable:
    """What a push said of a table. Rows x metrics, but ``values`` rows x columns."""

    time_ns: int
    rows: Snapshot
    present: NDArray[np.bool_]
    starts_ns: NDArray[np.uint64]


@dataclass(slots=True)
class _KnownSeries:
    samples: Sequence[tuple[Sequence[str], float]]
    attributes: list[bytes]
    started_ns: int


@dataclass(slots=True)
class _Known:
    """What a receiver knows after a push."""

    tables: dict[tuple[Store, Table], _KnownTable] = field(default_factory=dict)
    series: dict[Metric, _KnownSeries] = field(default_factory=dict)


@dataclass(slots=True)
class Push:
    """Requests to send in their order: first those that end series, ``endings`` in number."""

    requests: list[Request]
    endings: int
    _known: _Known


class Encoder:
    """Holds encoded labels between pushes, and what the receiver knows. Not for concurrent use."""

    def __init__(self, resource: Mapping[str, str], max_points: int, snapshots: Snapshots | None = None) -> None:
        """``max_points`` is the most of one request."""
        self._resource = resource
        self._max_points = max_points
        self._snapshots = snapshots or Snapshots()
        self._formats: dict[Metric, PointFormat] = {}
        self._prefixes: dict[tuple[Store, Metric], dict[int, bytes]] = {}
        self._known = _Known()

    def encode(self, stores: Sequence[Store], joined: Iterable[Series], time_ns: int) -> Push:
        """Read everything there is at ``time_ns`` (Unix nanoseconds). Series left out since the last push end."""
        now = _Known()
        live: dict[Metric, list[bytes]] = {}
        for store in stores:
            for table in store.tables:
                for metric, points in self._encode_table(now, store, table, time_ns) if table.metrics else ():
                    live.setdefault(metric, []).extend(points)  # two processes may have rows of one table
        for family in joined:
            live[family.metric] = self._encode_series(now, family, time_ns)
        endings = list(self._requests(self._endings(now, time_ns)))
        return Push(endings + list(self._requests(live.items())), len(endings), now)

    def delivered(self, push: Push) -> None:
        """The receiver has got ``push``: the next one is told apart from it."""
        self._known = push._known

    def _format(self, metric: Metric) -> PointFormat:
        return self._formats.setdefault(metric, PointFormat(metric))

    def _encode_table(
        self, now: _Known, store: Store, table: Table, time_ns: int
    ) -> Iterator[tuple[Metric, list[bytes]]]:
        rows = self._snapshots.read(store, table)
        first = _first_columns(table)
        present = ~np.isnan(rows.values[:, first])
        known = self._known.tables.get((store, table))
        starts = _starts(table, rows, known, time_ns)
        now.tables[store, table] = _KnownTable(time_ns, rows, present, starts)
        for index, metric in enumerate(table.metrics):
            prefixes = self._row_prefixes(store, metric, rows)
            here = np.flatnonzero(present[:, index])
            width = len(metric.buckets) + 2 if metric.kind == "histogram" else 1
            values = rows.values[here, first[index] : first[index] + width]
            yield (
                metric,
                self._format(metric).live(
                    prefixes if len(here) == len(prefixes) else [prefixes[row] for row in here.tolist()],
                    values,
                    starts[here, index],
                    time_ns,
                ),
            )

    def _row_prefixes(self, store: Store, metric: Metric, rows: Snapshot) -> list[bytes]:
        """The encoded labels of each row, made when the row is new."""
        old, how = self._prefixes.get((store, metric), {}), self._format(metric)
        new = {
            identity: old.get(identity) or how.prefix(attributes(how.attributes_field, metric.labels, labels))
            for identity, labels in zip(rows.identities.tolist(), rows.labels, strict=True)
        }
        self._prefixes[store, metric] = new
        return list(new.values())

    def _encode_series(self, now: _Known, family: Series, time_ns: int) -> list[bytes]:
        metric, known = family.metric, self._known.series.get(family.metric)
        how = self._format(metric)
        if known is not None and known.samples is family.samples:
            labels = known.attributes
        else:
            labels = [attributes(how.attributes_field, metric.labels, values) for values, _ in family.samples]
        now.series[metric] = _KnownSeries(family.samples, labels, family.started_ns)
        values = np.array([value for _, value in family.samples], np.float64).reshape(-1, 1)
        starts = np.full(len(labels), min(family.started_ns, time_ns), np.uint64)
        return how.live(map(how.prefix, labels), values, starts, time_ns)

    def _endings(self, now: _Known, time_ns: int) -> Iterator[tuple[Metric, list[bytes]]]:
        """Points without a value for all that was and is no more."""
        for (store, table), before in self._known.tables.items():
            after = now.tables.get((store, table))
            # A row made anew for the same labels, as after a restart, lets the series go on.
            width = len(table.labels)
            places = {} if after is None else {labels[:width]: at for at, labels in enumerate(after.rows.labels)}
            for index, metric in enumerate(table.metrics):
                how = self._format(metric)
                gone = [
                    row
                    for row in _gone(before, after, index)
                    if after is None
                    or (place := places.get(before.rows.labels[row][:width])) is None
                    or not after.present[place, index]
                ]
                encoded = [attributes(how.attributes_field, metric.labels, before.rows.labels[row]) for row in gone]
                yield metric, how.stale(encoded, before.starts_ns[gone, index], time_ns)
        for metric, series in self._known.series.items():
            here = now.series.get(metric)
            if here is None or here.samples is not series.samples:
                kept = set(here.attributes) if here is not None else set()
                lost = [labels for labels in series.attributes if labels not in kept]
                starts = np.full(len(lost), series.started_ns, np.uint64)
                yield metric, self._format(metric).stale(lost, starts, time_ns)

    def _requests(self, families: Iterable[tuple[Metric, list[bytes]]]) -> Iterator[Request]:
        """Pack points into as few requests as their limits allow."""
        metrics: list[bytes] = []
        room, space = self._max_points, _MAX_BYTES
        for metric, points in families:
            longest = max(map(len, points), default=1)
            taken = 0
            while taken < len(points):
                count = min(len(points) - taken, room, space // longest)
                if count <= 0:
                    yield Request(request(self._resource, SCOPE, metrics), self._max_points - room)
                    metrics, room, space = [], self._max_points, _MAX_BYTES
                    continue
                metrics.append(metric_message(metric, points[taken : taken + count]))
                taken, room, space = taken + count, room - count, space - count * longest
        if metrics:
            yield Request(request(self._resource, SCOPE, metrics), self._max_points - room)


def _first_columns(table: Table) -> list[int]:
    widths = [len(metric.buckets) + 2 if metric.kind == "histogram" else 1 for metric in table.metrics]
    return [sum(widths[:index]) for index in range(len(widths))]


def _starts(table: Table, rows: Snapshot, known: _KnownTable | None, time_ns: int) -> NDArray[np.uint64]:
    """Start time of each row and metric. A clock that was set back may put none after the time of the push."""
    made = rows.started_ns if table.counts_from_zero else np.full(len(rows.labels), time_ns, np.uint64)
    starts = np.repeat(np.minimum(made, np.uint64(time_ns))[:, np.newaxis], len(table.metrics), axis=1)
    if known is None:
        return starts
    here, there = _same_rows(rows, known.rows)
    counters = [metric.kind == "counter" for metric in table.metrics]
    first = _first_columns(table)
    fell = (rows.values[here][:, first] < known.rows.values[there][:, first]) & counters
    since = np.where(fell, np.uint64(known.time_ns + 1), known.starts_ns[there])
    seen = known.present[there] | table.counts_from_zero
    starts[here] = np.minimum(np.where(seen, since, starts[here]), np.uint64(time_ns))
    return starts


def _same_rows(rows: Snapshot, known: Snapshot) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of the rows that both hold, in the one and in the other."""
    if np.array_equal(rows.identities, known.identities):
        every = np.arange(len(rows.identities))
        return every, every
    _, here, there = np.intersect1d(rows.identities, known.identities, assume_unique=True, return_indices=True)
    return here, there


def _gone(before: _KnownTable, after: _KnownTable | None, index: int) -> list[int]:
    """Rows of ``before`` that had a value of the metric ``index`` and have none in ``after``."""
    was = before.present[:, index]
    if after is None:
        return np.flatnonzero(was).tolist()
    here, there = _same_rows(after.rows, before.rows)
    still = np.zeros(len(was), bool)
    still[there] = after.present[here, index]
    return np.flatnonzero(was & ~still).tolist()
