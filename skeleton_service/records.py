"""Reading probe records (exporter.contracts.tables.ProbeRecord), the public sample's columns among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from exporter.contracts.codec import ContractError
from skeleton_service.tables import load_table

_TEXT = (
    "task_type", "src_node_id", "dst_node_id", "src_node_sn", "dst_node_sn", "src_ip", "dst_ip",
    "src_real_ip", "dst_real_ip", "dial", "src_tenant_id", "dst_tenant_id", "route", "job",
    "src_rnic", "dst_rnic", "error",
)  # fmt: skip
_INTEGERS = ("ping_time", "src_port", "dst_port", "dscp", "packets_sent", "packets_lost", "probe_bytes")
_FLOATS = ("latency", "loss_rate")
KINDS = {
    **dict.fromkeys(_TEXT, pa.string()),
    **dict.fromkeys(_INTEGERS, pa.int64()),
    **dict.fromkeys(_FLOATS, pa.float64()),
}
REQUIRED = ("task_type", "ping_time", "src_node_id", "dst_node_id", "dial")
_TASKS = frozenset({"RDMA_PING", "TCP_PING", "UDP_PING", "TRACEROUTE", "MTU", "DNS"})


def read_records(sources: Sequence[str | Path]) -> pa.Table:
    """Read and join ``sources`` into one table with the columns of KINDS; raise ContractError."""
    if not sources:
        raise ContractError("probe records", "no source was given", "name a file or a URL")
    tables = []
    for source in sources:
        table = load_table(source, KINDS, REQUIRED)
        for column, legal in (("task_type", _TASKS), ("dial", frozenset({"success", "fail"}))):
            found = set(table[column].unique().to_pylist())
            if wrong := found - legal:
                shown = sorted(str(value) for value in wrong)[0]
                raise ContractError(
                    str(source), f"column '{column}' holds {shown!r}", f"one of {', '.join(sorted(legal))}"
                )
        if table["ping_time"].null_count:
            raise ContractError(str(source), "column 'ping_time' has an empty cell", "nanoseconds since the epoch")
        tables.append(table)
    return pa.concat_tables(tables)
