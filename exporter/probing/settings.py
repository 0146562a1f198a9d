"""What the control process and the prober must agree on: the first message, and how the memory is laid out."""

from __future__ import annotations

import msgspec

from exporter.contracts.catalogue import (
    DNS,
    DNS_ANSWER_TABLE,
    DNS_DURATION_TABLE,
    DNS_RCODES,
    FAILING_TRACE,
    MOST_ROUTE_CHANGES,
    PATH,
    PATH_MTU_LIMIT,
    PROBER,
    ROUTE,
    ROUTE_CHANGE,
    RTT_TABLE,
)
from exporter.contracts.metric import Table
from exporter.contracts.plan import RESPONDER_PORT
from exporter.probing.ceilings import Ceilings

RESULT_CAPACITY = 1 << 16
RESPONDER_PACKETS_PER_SECOND = 1000.0


class DnsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of whom: the section ``dns``, with what it takes from resolv.conf."""

    resolvers: tuple[tuple[str, str, int], ...]
    """(label, address, port); an IPv6 address may have a zone."""
    names: tuple[tuple[str, tuple[str, ...]], ...]
    """(label, names to ask for in turn until one has an address). A first label ``*`` of these is a new one each time,
    so that no cache holds it."""
    period_seconds: float
    timeout_seconds: float
    max_queries_per_second: float


class ProberSettings(msgspec.Struct, frozen=True, kw_only=True):
    """First message down the pipe: what does not change while the process lives."""

    host: str
    addresses: dict[str, str]
    """Local RNIC address -> RNIC name. Only these are bound, answered on or probed from."""
    key: bytes
    timeout_seconds: float
    max_paths: int
    responder: bool
    responder_port: int = RESPONDER_PORT
    responder_packets_per_second: float = RESPONDER_PACKETS_PER_SECOND
    ceilings: Ceilings = Ceilings()
    trace_period_seconds: float
    trace_max_hops: int
    switches: dict[str, str] = {}
    """Address -> switch, for traces: a switch answers from the address of the port where the packet came in."""
    spraying: bool = False
    dns: DnsSettings | None = None


def prober_tables(max_paths: int, dns: DnsSettings | None = None) -> list[tuple[Table, int]]:
    """Tables of the prober's store with their capacities; both processes lay the memory out by this."""
    # A histogram has a path that books to it, or is about to go because the plan just changed.
    tables = [(PATH, max_paths), (RTT_TABLE, 2 * max_paths), (PROBER, 1)]
    tables += [(table, max_paths) for table in (ROUTE, FAILING_TRACE, PATH_MTU_LIMIT)]
    tables.append((ROUTE_CHANGE, min(max_paths, MOST_ROUTE_CHANGES)))
    if dns is not None:
        resolvers, names = len(dns.resolvers), len(dns.names)
        tables.append((DNS, resolvers * names))
        tables.append((DNS_ANSWER_TABLE, resolvers * names * len(DNS_RCODES)))
        tables.append((DNS_DURATION_TABLE, resolvers))
    return tables
