"""Reading the throughput contract: CSV, CSV.gz, Parquet, or a URL that serves the CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.codec import ContractError
from skeleton_service.inference import Source, Throughput
from skeleton_service.inference.resample import make_grid, off_grid, resample, sampling_step
from skeleton_service.inference.series import Floats, Integers
from skeleton_service.tables import load_tables

TEXT = ("job", "host", "container", "rnic")
NUMBERS = ("time", "tx_bytes_per_second", "rx_bytes_per_second")
REQUIRED = ("time", *TEXT, "tx_bytes_per_second", "rx_bytes_per_second")
MAX_INTERVALS = 1_000_000
KINDS = {**dict.fromkeys(TEXT, pa.string()), **dict.fromkeys(NUMBERS, pa.float64()), "rank": pa.int64()}


def read_throughput(sources: Sequence[str | Path], *, job: str | None = None) -> Throughput:
    """Read and join ``sources``, keep one job, and put it on a regular grid.

    Rows may come in any order, with gaps, twice. Raises ContractError naming the source, the column and
    the remedy; several jobs without ``job`` are listed. O(rows log rows).
    """
    if not sources:
        raise ContractError("throughput", "no source was given", "name a file or a URL")
    tables = [_select(table, name, job) for name, table in load_tables(sources, KINDS, REQUIRED)]
    table = pa.concat_tables(tables)
    names = ", ".join(str(source) for source in sources)
    jobs = sorted(value for value in pc.unique(table["job"]).to_pylist())
    if len(jobs) > 1:
        raise ContractError(names, f"column 'job' holds several jobs: {', '.join(jobs)}", "choose one with --job")
    if not jobs:
        raise ContractError(
            names, f"no rows of job {job!r}" if job else "holds no rows", "observe the job for some iterations first"
        )
    return from_table(table)


def from_table(table: pa.Table) -> Throughput:
    """Put the rows of one job, in the contract's columns and free of blanks, on a regular grid."""
    times = table["time"].to_numpy()
    rates = [table[name].to_numpy() for name in ("tx_bytes_per_second", "rx_bytes_per_second")]
    endpoint, sources = _endpoints(table)
    order = np.lexsort((times, endpoint))
    begins = np.searchsorted(endpoint[order], np.arange(len(sources) + 1))
    rows = [order[begins[n] : begins[n + 1]] for n in range(len(sources))]
    step = float(np.median([sampling_step(times[own]) for own in rows]))
    if (times.max() - times.min()) / step > MAX_INTERVALS:
        raise ContractError(
            "throughput",
            f"column 'time' spans {times.max() - times.min():.0f} s at a step of {step:g} s",
            "a clock is wrong, or the window is too long: leave those rows out",
        )
    grid = make_grid(times, step)
    tx, rx = np.full((2, len(sources), grid.size), np.nan, dtype=np.float32)
    for row, own in enumerate(rows):
        for target, values in ((tx, rates[0]), (rx, rates[1])):
            target[row] = resample(times[own], values[own], grid, step)
    skew = max(off_grid(times[own], grid, step) for own in rows)
    return Throughput(job=table["job"][0].as_py(), endpoints=sources, times=grid, tx=tx, rx=rx, skew=skew)


def _endpoints(table: pa.Table) -> tuple[Integers, tuple[Source, ...]]:
    """Number the endpoints in bytewise order: (number of each row's endpoint, the endpoints)."""
    codes, words = [], []
    for name in ("host", "container", "rnic"):
        column = table[name].combine_chunks().dictionary_encode()
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        codes.append(column.indices.to_numpy().astype(np.int64))
        words.append(column.dictionary.to_pylist())
    flat = (codes[0] * len(words[1]) + codes[1]) * len(words[2]) + codes[2]
    _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    keys = [tuple(words[part][codes[part][row]] for part in range(3)) for row in first.tolist()]
    order = sorted(range(len(keys)), key=lambda index: tuple(part.encode() for part in keys[index]))
    place = np.empty(len(keys), dtype=np.int64)
    place[order] = np.arange(len(keys))
    endpoint: Integers = place[inverse]
    ranks: list[int | None] = [None] * len(keys)
    if "rank" in table.column_names:
        known = pc.is_valid(table["rank"]).to_numpy()
        values = pc.fill_null(table["rank"], 0).to_numpy()
        lowest = np.full(len(keys), np.iinfo(np.int64).max)
        np.minimum.at(lowest, endpoint[known], values[known])
        ranks = [None if value == np.iinfo(np.int64).max else int(value) for value in lowest]
    return endpoint, tuple(
        Source(host=keys[index][0], container=keys[index][1], rnic=keys[index][2], rank=ranks[number])
        for number, index in enumerate(order)
    )


def _select(table: pa.Table, source: str, job: str | None) -> pa.Table:
    """Check and keep the contract's columns and the wanted job's rows; a host without a container has none."""
    table = table.filter(pc.equal(table["job"], job)) if job is not None else table
    for name in TEXT:
        if table[name].null_count or pc.any(pc.equal(table[name], "")).as_py():
            raise ContractError(source, f"column '{name}' has an empty cell", "every row needs it")
    for name in NUMBERS:
        values: Floats = table[name].to_numpy() if len(table) else np.empty(0)
        if not np.isfinite(values).all():
            raise ContractError(source, f"column '{name}' holds NaN, infinity or an empty cell", "leave the row out")
        if (values < 0).any():
            raise ContractError(source, f"column '{name}' is negative", "was it a counter reset?")
    return table
