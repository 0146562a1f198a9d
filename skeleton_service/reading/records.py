"""Reading probe records (exporter.contracts.tables.ProbeRecord), the public sample's columns among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.codec import ContractError
from skeleton_service.reading.tables import load_tables

_TEXT = (
    "task_type", "src_node_id", "dst_node_id", "src_node_sn", "dst_node_sn", "src_ip", "dst_ip",
    "src_real_ip", "dst_real_ip", "dial", "src_tenant_id", "dst_tenant_id", "route", "job",
    "src_rnic", "dst_rnic", "error", "dns_name", "protocol",
)  # fmt: skip
_INTEGERS = ("ping_time", "src_port", "dst_port", "dscp", "packets_sent", "packets_lost", "probe_bytes", "starved")
_FLOATS = ("latency", "loss_rate")
KINDS = {
    **dict.fromkeys(_TEXT, pa.string()),
    **dict.fromkeys(_INTEGERS, pa.int64()),
    **dict.fromkeys(_FLOATS, pa.float64()),
}
REQUIRED = ("task_type", "ping_time", "src_node_id", "dst_node_id", "dial")
_RANGES = (
    ("packets_sent", 0, 1_000_000),
    ("packets_lost", 0, 1_000_000),
    ("loss_rate", 0.0, 1.0),
    ("dscp", 0, 63),
    ("latency", 0.0, 1e12),
    ("ping_time", 0, 1 << 62),
)
_TASKS = frozenset({"RDMA_PING", "TCP_PING", "UDP_PING", "TRACEROUTE", "MTU", "DNS"})


def read_records(sources: Sequence[str | Path]) -> pa.Table:
    """Read and join ``sources`` into one table with the columns of KINDS; raise ContractError."""
    if not sources:
        raise ContractError("probe records", "no source was given", "name a file or a URL")
    return pa.concat_tables([checked_records(table, name) for name, table in load_tables(sources, KINDS, REQUIRED)])


def checked_records(table: pa.Table, source: str) -> pa.Table:
    """The table, whose values can be; raise ContractError naming ``source`` where one cannot."""
    for column, legal in (("task_type", _TASKS), ("dial", frozenset({"success", "fail"}))):
        found = set(table[column].unique().to_pylist())
        if wrong := found - legal:
            shown = sorted(str(value) for value in wrong)[0]
            raise ContractError(source, f"column '{column}' holds {shown!r}", f"one of {', '.join(sorted(legal))}")
    if table["ping_time"].null_count:
        raise ContractError(source, "column 'ping_time' has an empty cell", "nanoseconds since the epoch")
    for column, least, most in _RANGES:
        outside = pc.or_(pc.less(table[column], least), pc.greater(table[column], most))
        if pc.any(outside).as_py() or (column == "loss_rate" and pc.any(pc.is_nan(table[column])).as_py()):
            raise ContractError(source, f"column '{column}' is outside {least} to {most}", "correct the row")
    if pc.any(pc.greater(table["packets_lost"], pc.coalesce(table["packets_sent"], 1))).as_py():
        raise ContractError(source, "column 'packets_lost' exceeds 'packets_sent'", "correct the row")
    return table
