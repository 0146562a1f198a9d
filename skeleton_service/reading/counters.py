"""Reading counter samples (exporter.contracts.tables.CounterSample)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.codec import ContractError
from exporter.contracts.counters import is_counter
from skeleton_service.reading.tables import load_tables

KINDS = {
    "time": pa.float64(),
    "metric": pa.string(),
    "node": pa.string(),
    "port": pa.string(),
    "priority": pa.int64(),
    "queue": pa.int64(),
    "vlan": pa.int64(),
    "peer": pa.string(),
    "value": pa.float64(),
}
REQUIRED = ("time", "metric", "node", "value")
_RANGES = (("priority", 0, 7), ("queue", 0, 255), ("vlan", 1, (1 << 24) - 1))  # a VXLAN network identifier too


def read_counters(sources: Sequence[str | Path]) -> pa.Table:
    """Read and join ``sources`` into one table with the columns of KINDS; raise ContractError.

    Metrics that nobody knows are read too: what judges the samples leaves them out.
    """
    if not sources:
        raise ContractError("counter samples", "no source was given", "name a file or a URL")
    return pa.concat_tables([checked_counters(table, name) for name, table in load_tables(sources, KINDS, REQUIRED)])


def checked_counters(table: pa.Table, source: str) -> pa.Table:
    """The table, whose values can be; raise ContractError naming ``source`` where one cannot."""
    for column in REQUIRED:
        if table[column].null_count:
            raise ContractError(source, f"column '{column}' has an empty cell", "leave out what was not read")
    for column in ("time", "value"):
        if not pc.all(pc.is_finite(table[column]), min_count=0).as_py():
            raise ContractError(source, f"column '{column}' holds a value that is not finite", "correct the row")
    for column, least, most in _RANGES:
        outside = pc.or_(pc.less(table[column], least), pc.greater(table[column], most))
        if pc.any(outside).as_py():
            raise ContractError(source, f"column '{column}' is outside {least} to {most}", "correct the row")
    if pc.any(pc.less(table["time"], 0.0)).as_py():
        raise ContractError(source, "column 'time' is negative", "seconds since the epoch")
    negative = set(table.filter(pc.less(table["value"], 0.0))["metric"].unique().to_pylist())
    if wrong := sorted(filter(is_counter, negative)):
        raise ContractError(source, f"counter '{wrong[0]}' is negative", "counters are cumulative")
    return table
