"""What the control process and the RDMA process must agree on."""

from __future__ import annotations

import msgspec

from exporter.contracts.catalogue import PATH, RDMA, RTT_TABLE, Table
from exporter.probing.settings import RESPONDER_PACKETS_PER_SECOND
from exporter.rdma.introduction import INTRODUCTION_PORT


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
    return [(PATH, max_paths), (RTT_TABLE, 2 * max_paths), (RDMA, max(rnics, 1))]
