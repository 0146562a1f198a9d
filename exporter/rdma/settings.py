"""What the control process and the RDMA process must agree on."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta

from exporter.contracts.catalogue import (
    FAILING_TRACE,
    MOST_CONNECTIONS,
    MOST_ROUTE_CHANGES,
    PATH,
    RDMA,
    RDMA_INFO_TABLE,
    RDMA_TRACING,
    RELIABLE,
    RELIABLE_FAILURE,
    RELIABLE_OPERATION,
    RELIABLE_OPERATIONS,
    RELIABLE_REASONS,
    RELIABLE_SERVING,
    ROUTE,
    ROUTE_CHANGE,
    RTT_TABLE,
)
from exporter.contracts.codec import ContractError
from exporter.contracts.metric import Table
from exporter.contracts.plan import INTRODUCTION_PORT, Target
from exporter.probing.settings import RESPONDER_PACKETS_PER_SECOND

MAX_RELIABLE_BYTES = 262_144
_ACK_UNIT_SECONDS = 4.096e-6
_LATEST = 4
"""A device may take up to four times the ACK timeout (InfiniBand Architecture, 9.7.6.1.3)."""


class Reliable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reliable connections, as a job has them: section ``rdma.reliable`` of the configuration."""

    period_seconds: Annotated[float, Meta(ge=0.1, le=60)] = 10.0
    bytes: Annotated[int, Meta(ge=256, le=MAX_RELIABLE_BYTES)] = 65_536
    """Of the large WRITE, and of the READ that fetches them back."""
    ack_timeout_seconds: Annotated[float, Meta(ge=0.001, le=8)] = 0.067
    """Rounded up to what devices know, 4.096 us x 2^t."""
    retries: Annotated[int, Meta(ge=0, le=6)] = 3
    """7 is without end, of soft-RoCE for lost packets too."""

    @property
    def ack_timeout_exponent(self) -> int:
        return math.ceil(math.log2(self.ack_timeout_seconds / _ACK_UNIT_SECONDS))

    @property
    def ack_timeout_ns(self) -> int:
        return 4096 << self.ack_timeout_exponent

    @property
    def longest_seconds(self) -> float:
        """How long an operation can take until its retries are exhausted."""
        return (self.retries + 1) * _LATEST * self.ack_timeout_ns / 1e9


def check_reliable(reliable: Reliable, source: str) -> None:
    """Raise ContractError where an operation could outlast the period."""
    longest = reliable.longest_seconds
    if longest > reliable.period_seconds:
        problem = f"section 'rdma.reliable': retries may take {longest:.3g} s, longer than its period_seconds"
        raise ContractError(source, problem, "raise that, or lower retries or ack_timeout_seconds")


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """As those of the prober, which traces too."""

    period_seconds: float
    max_hops: int
    packets_per_second_per_switch: float
    switches: dict[str, str]
    """Address -> switch: a switch answers from the address of the port where the packet came in."""
    spraying: bool = False


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """What the topology says of the shortest paths between two RNICs."""

    source_address: str
    destination_address: str
    hops: int
    """Switches on each."""
    last_addresses: tuple[str, ...]
    """From which the last of them may answer."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """Every other message: what to probe, and the ways of these paths, as far as they are known."""

    targets: tuple[Target, ...]
    ways: tuple[Way, ...] = ()


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
    tracing: TraceSettings | None = None
    """None: nothing is traced, for without a topology nobody knows where a trace must end."""
    reliable: Reliable | None = None


def rdma_tables(max_paths: int, rnics: int, *, reliable: bool = False) -> list[tuple[Table, int]]:
    """As of the prober."""
    routes = [(ROUTE, max_paths), (FAILING_TRACE, max_paths), (RDMA_TRACING, 1)]
    routes.append((ROUTE_CHANGE, min(max_paths, MOST_ROUTE_CHANGES)))
    devices = [(RDMA, max(rnics, 1)), (RDMA_INFO_TABLE, max(rnics, 1))]
    tables = [(PATH, max_paths), (RTT_TABLE, 2 * max_paths), *devices, *routes]
    if reliable:
        connections = min(MOST_CONNECTIONS * max(rnics, 1), max_paths)
        operations = connections * len(RELIABLE_OPERATIONS)
        tables += [
            (RELIABLE, connections),
            (RELIABLE_OPERATION, operations),
            (RELIABLE_FAILURE, operations * len(RELIABLE_REASONS)),
            (RELIABLE_SERVING, max(rnics, 1)),
        ]
    return tables
