"""What the control process and the RDMA process must agree on."""

from __future__ import annotations

import msgspec

from exporter.contracts.catalogue import FAILING_TRACE, PATH, RDMA, ROUTE, RTT_TABLE, Table
from exporter.contracts.plan import RESPONDER_PORT
from exporter.probing.settings import RESPONDER_PACKETS_PER_SECOND

INTRODUCTION_PORT = RESPONDER_PORT + 1


class RdmaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """First message down the pipe."""

    host: str
    rnics: dict[str, str]
    """RNIC, which is the name of its RDMA device -> address."""
    key: bytes
    timeout_seconds: float
    max_paths: int
    responder_packets_per_second: float = RESPONDER_PACKETS_PER_SECOND
    port: int = INTRODUCTION_PORT


def rdma_tables(max_paths: int, rnics: int) -> list[tuple[Table, int]]:
    """As of the prober; nothing traces RDMA flows yet, so that the tables of routes stay empty."""
    routes = [(ROUTE, max_paths), (FAILING_TRACE, max_paths)]
    return [(PATH, max_paths), (RTT_TABLE, 2 * max_paths), (RDMA, max(rnics, 1)), *routes]
