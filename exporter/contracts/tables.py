"""The tabular contracts: throughput, probe records, counter samples. One struct is one row.

Files are CSV, CSV.gz, JSONL or Parquet; columns are matched by name, in any order, unknown ones
ignored. An absent value is an empty cell, never 0.
"""

from __future__ import annotations

from typing import Literal

from exporter.contracts.codec import Contract

TaskType = Literal["RDMA_PING", "TCP_PING", "UDP_PING", "TRACEROUTE", "MTU", "DNS"]


class ThroughputRow(Contract, frozen=True, kw_only=True):
    """Mean rates of one RNIC over the interval that ends at ``time`` (seconds since the epoch)."""

    time: float
    job: str
    host: str
    container: str
    rnic: str
    tx_bytes_per_second: float
    rx_bytes_per_second: float
    rank: int | None = None


class ProbeRecord(Contract, frozen=True, kw_only=True):
    """One probe. Names follow the public SkeletonHunter sample, which is read as it is.

    ``ping_time`` is int64 nanoseconds since the epoch, ``latency`` microseconds (absent on failure),
    ``loss_rate`` a ratio 0-1. ``*_node_id`` is a container, ``*_node_sn`` a host, ``*_ip`` the overlay
    and ``*_real_ip`` the underlay address. ``dst_ip`` is not unique: key on node and RNIC. ``route`` is
    a JSON array of hops in order, each a switch, ``switch:port`` (where the packet came in) or an
    address, null where a hop is silent; absent in records that carry none. ``error`` of a failed probe is
    ``refused`` (the far host answered that nobody listens), ``restarted`` (the next reply's boot epoch shows that
    the responder was restarting), ``reply lost`` (the responder's count proves
    that the probe arrived), or ``timeout`` (none of these); absent where the writer does not tell. ``starved``
    is 1 where the prober was short of CPU as it sent or judged the probe, 0 where it was not. A DNS record is a
    query for ``dns_name`` to the resolver ``dst_node_id``; one that was answered, but with no address, has failed
    with loss rate 0. A TRACEROUTE that fails has an ``error`` too: ``silent``, or ``unreachable`` where a router said
    so. ``protocol`` is that of the flow it traced; absent is ``udp``.
    """

    task_type: TaskType
    ping_time: int
    src_node_id: str
    dst_node_id: str
    src_node_sn: str
    dst_node_sn: str
    src_ip: str
    dst_ip: str
    src_real_ip: str
    dst_real_ip: str
    src_port: int | None
    dst_port: int | None
    dial: Literal["success", "fail"]
    latency: float | None
    loss_rate: float | None
    src_tenant_id: str | None = None
    dst_tenant_id: str | None = None
    route: str | None = None
    job: str | None = None
    src_rnic: str | None = None
    dst_rnic: str | None = None
    dscp: int | None = None
    packets_sent: int | None = None
    packets_lost: int | None = None
    probe_bytes: int | None = None
    error: str | None = None
    starved: Literal[0, 1] | None = None
    dns_name: str | None = None
    protocol: Literal["udp", "tcp"] | None = None


class CounterSample(Contract, frozen=True, kw_only=True):
    """One counter or gauge reading: raw cumulative for counters, a decrease is a reset."""

    time: float
    metric: str
    node: str
    port: str | None
    priority: int | None
    queue: int | None = None
    vlan: int | None = None
    peer: str | None = None
    value: float
