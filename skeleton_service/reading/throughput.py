"""Reading the throughput contract: CSV, CSV.gz, Parquet, a URL that serves the CSV, or Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from exporter.contracts.codec import ContractError
from skeleton_service.inference import Source, Throughput
from skeleton_service.inference.resample import MAX_RATE, Samples, make_grid, resample, sampling_steps
from skeleton_service.inference.series import Floats, Integers, Rates
from skeleton_service.reading.prometheus import Window, read_prometheus
from skeleton_service.reading.prometheusapi import PREFIX
from skeleton_service.reading.tables import read_batches

WORDS = pa.dictionary(pa.int32(), pa.string())
TEXT = ("job", "host", "container", "rnic")
NUMBERS = ("time", "tx_bytes_per_second", "rx_bytes_per_second")
REQUIRED = ("time", *TEXT, "tx_bytes_per_second", "rx_bytes_per_second")
KINDS = {**dict.fromkeys(TEXT, WORDS), **dict.fromkeys(NUMBERS, pa.float64()), "rank": pa.int64()}
MAX_INTERVALS = 1_000_000
LATEST = 1e11
"""The year 5138 in seconds since the epoch; today in milliseconds is later."""

QUORUM = 0.5
"""Groups of a job of which less is seen cannot be told."""

Numbers = NDArray[np.int32]

_NO_RANK = np.iinfo(np.int64).max


def read_throughput(
    sources: Sequence[str | Path], *, job: str | None = None, window: Window | None = None
) -> Throughput:
    """Read and join ``sources``, keep one job, and put it on a regular grid.

    A source is a file, a URL that serves the CSV, or ``prometheus:URL``, which is asked for ``window``. Rows may
    come in any order, with gaps, twice. Raises ContractError naming the source, the column and the remedy;
    several jobs without ``job`` are listed. Holds 20 bytes of each row of the job while reading, and
    8 of each endpoint and interval. O(rows), O(rows log rows) where an endpoint's rows are not in order of time.
    """
    if not sources:
        raise ContractError("throughput", "no source was given", "name a file or a URL")
    rows = _Rows(job)
    for name, batch in _read(sources, job, window or Window()):
        rows.add(batch, name)
    names = ", ".join(str(source) for source in sources)
    if len(rows.jobs) > 1:
        raise ContractError(
            names, f"column 'job' holds several jobs: {', '.join(sorted(rows.jobs))}", "choose one with --job"
        )
    if not rows.jobs:
        there = f", but of {', '.join(sorted(rows.others))}" if rows.others else ""
        problem = f"no rows of job {job!r}{there}" if job else "holds no rows"
        raise ContractError(names, problem, "observe the job for some iterations first")
    return rows.throughput(names)


def from_table(table: pa.Table) -> Throughput:
    """Put the rows of one job, in the contract's columns, on a regular grid."""
    rows = _Rows(None)
    for batch in table.to_batches():
        columns = [
            column.dictionary_encode() if pa.types.is_string(column.type) else column for column in batch.columns
        ]
        rows.add(pa.record_batch(columns, names=batch.schema.names), "throughput")
    return rows.throughput("throughput")


def _read(sources: Sequence[str | Path], job: str | None, window: Window) -> Iterator[tuple[str, pa.RecordBatch]]:
    tables = [source for source in sources if not str(source).startswith(PREFIX)]
    yield from read_batches(tables, KINDS, REQUIRED, quorum=QUORUM)
    for source in sources:
        if str(source).startswith(PREFIX):
            for batch in read_prometheus(str(source), job, window):
                yield str(source), batch


class _Rows:
    """The rows of one job, in 20 bytes each: number of the endpoint, time, rates."""

    def __init__(self, job: str | None) -> None:
        self._job = job
        self.jobs: set[str] = set()
        """Jobs of the rows that are wanted; of more than one, no row is kept."""
        self.others: set[str] = set()
        self._number: dict[tuple[str, str, str], int] = {}
        self._ranks: Integers = np.empty(0, dtype=np.int64)
        self._endpoint: list[Numbers] = []
        self._times: list[Floats] = []
        self._rates: tuple[list[Rates], list[Rates]] = ([], [])

    def add(self, batch: pa.RecordBatch, source: str) -> None:
        """Check and take the job's rows of ``batch``, whose text columns are dictionaries."""
        batch = self._of_job(batch)
        if not len(batch):
            return
        for name in TEXT:
            _check_text(batch.column(name), name, source)
        times, *rates = (_checked_numbers(batch.column(name), name, source) for name in NUMBERS)
        self.jobs |= set(_words(batch.column("job")))
        if len(self.jobs) > 1:
            return
        endpoint = self._endpoints(batch)
        self._endpoint.append(endpoint)
        self._times.append(times)
        for kept, values in zip(self._rates, rates, strict=True):
            kept.append(values.astype(np.float32))
        if "rank" in batch.schema.names:
            self._rank(endpoint, batch.column("rank"))

    def _of_job(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self._job is None:
            return batch
        column = batch.column("job")
        words = column.dictionary.to_pylist()
        if words == [self._job] and not column.null_count:
            return batch
        self.others.update(word for word in words if word not in (None, "", self._job))
        wanted = words.index(self._job) if self._job in words else -1
        return batch.filter(pc.equal(column.indices, wanted)) if wanted >= 0 else batch.slice(0, 0)

    def _endpoints(self, batch: pa.RecordBatch) -> Numbers:
        """The number of each row's endpoint, in the order in which endpoints were first seen."""
        columns = [batch.column(name) for name in ("host", "container", "rnic")]
        words = [column.dictionary.to_pylist() for column in columns]
        host, container, rnic = (column.indices.to_numpy().astype(np.int64) for column in columns)
        joint = pa.array((host * len(words[1]) + container) * len(words[2]) + rnic).dictionary_encode()
        rest, rnics = np.divmod(joint.dictionary.to_numpy(), len(words[2]))
        hosts, containers = np.divmod(rest, len(words[1]))
        keys = zip(
            *(
                [own[place] for place in places.tolist()]
                for own, places in zip(words, (hosts, containers, rnics), strict=True)
            ),
            strict=True,
        )
        numbers: Numbers = np.array([self._number.setdefault(key, len(self._number)) for key in keys], dtype=np.int32)
        endpoint: Numbers = numbers[joint.indices.to_numpy()]
        return endpoint

    def _rank(self, endpoint: Numbers, column: pa.Array) -> None:
        if column.null_count == len(column):
            return
        unseen = len(self._number) - len(self._ranks)
        self._ranks = np.pad(self._ranks, (0, unseen), constant_values=_NO_RANK)
        np.minimum.at(self._ranks, endpoint, pc.fill_null(column, _NO_RANK).to_numpy())

    def throughput(self, source: str) -> Throughput:
        """All rows on one grid, endpoints in bytewise order of host, container, RNIC. Lets go of the rows."""
        pa.default_memory_pool().release_unused()
        keys = sorted(self._number, key=lambda key: tuple(part.encode() for part in key))
        samples = self._sorted([self._number[key] for key in keys])
        steps = sampling_steps(samples)
        step = 1.0 if np.isnan(steps).all() else float(np.nanmedian(steps))
        span = float(samples.times.max() - samples.times.min())
        if span / step > MAX_INTERVALS:
            raise ContractError(
                source,
                f"column 'time' spans {span:.0f} s at a step of {step:g} s",
                "a clock is wrong, or the window is too long: leave those rows out",
            )
        grid = make_grid(samples.times, step)
        tx, rx, skew = resample(samples, steps, grid, step)
        ranks = dict(enumerate(None if rank == _NO_RANK else rank for rank in self._ranks.tolist()))
        endpoints = tuple(
            Source(host=host, container=container, rnic=rnic, rank=ranks.get(self._number[host, container, rnic]))
            for host, container, rnic in keys
        )
        return Throughput(job=next(iter(self.jobs)), endpoints=endpoints, times=grid, tx=tx, rx=rx, skew=skew)

    def _sorted(self, numbers: Sequence[int]) -> Samples:
        """The rows by endpoint, in the order of ``numbers``, then time."""
        small = np.uint16 if len(numbers) <= 1 << 16 else np.int32  # 16 bits are sorted in O(rows)
        place = np.empty(len(numbers), dtype=small)
        place[numbers] = np.arange(len(numbers))
        endpoint = place[_taken(self._endpoint)]
        order = np.argsort(endpoint, kind="stable")
        begins: Integers = np.cumsum([0, *np.bincount(endpoint)])
        times = _taken(self._times)
        late = np.diff(times[order], prepend=-np.inf) < 0
        late[begins[:-1]] = False
        if late.any():
            order = np.lexsort((times, endpoint))
        del endpoint, late
        times = times[order]
        tx, rx = (_taken(parts)[order] for parts in self._rates)
        return Samples(times, tx, rx, begins)


def _taken(parts: list[np.ndarray]) -> np.ndarray:
    """The parts as one, and nothing left of them."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def _words(column: pa.DictionaryArray) -> list[str]:
    """The words that ``column`` really holds: its dictionary may have more."""
    words: list[str] = column.unique().to_pylist()
    return words


def _check_text(column: pa.DictionaryArray, name: str, source: str) -> None:
    if column.null_count or ("" in column.dictionary.to_pylist() and "" in _words(column)):
        raise ContractError(source, f"column '{name}' has an empty cell", "every row needs it")


def _checked_numbers(column: pa.Array, name: str, source: str) -> Floats:
    values: Floats = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):  # NaN is the least and the greatest
        raise ContractError(source, f"column '{name}' holds NaN, infinity or an empty cell", "leave the row out")
    if name == "time":
        if low < 0 or high > LATEST:
            raise ContractError(
                source, f"column 'time' holds {low if low < 0 else high:.3g}", "seconds since the epoch"
            )
    elif low < 0:
        raise ContractError(source, f"column '{name}' is negative", "was it a counter reset? leave the row out")
    elif high > MAX_RATE:
        problem = f"column '{name}' holds {high:.3g}, more than any RNIC carries"
        raise ContractError(source, problem, "was it a counter reset? leave the row out")
    return values
