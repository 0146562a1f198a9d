"""Probe records as the simpler methods want them: per path and 30 s what was sent and lost, and the links crossed."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.fabric import Fabric
from exporter.contracts.names import endpoint_id, split_link
from exporter.contracts.plan import ROCE_PORT

EPOCH_SECONDS = 30.0
"""007 adds up votes every 30 s, and so often deTector looks for links."""

LEAST_LOSSES = 2
LEAST_LOSS_RATIO = 0.01

_SIDE = ("node_id", "node_sn", "rnic", "real_ip")
_ENDS = tuple(f"{side}_{column}" for side in ("src", "dst") for column in _SIDE)
_PATH = (*_ENDS, "src_port", "task_type", "dscp")
_TRACED = (*_ENDS, "src_port", "task_type", "dst_port", "protocol", "route")
_PROBES = ("RDMA_PING", "TCP_PING", "UDP_PING", "MTU")
_NO_LOSS = ("refused", "restarted", "reply lost")
"""Errors of probes that arrived."""

_Flow = tuple[str, str, int | None, str]
"""Source RNIC, destination RNIC, source port, protocol: what ECMP hashes."""

Hop = tuple[str, str]
"""A link, and the end of it that the packet leaves by."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A path in one epoch; times are seconds since the epoch."""

    ends: tuple[str, str]
    """Endpoint ids."""
    hops: tuple[Hop, ...]
    """Of the last complete trace before the first loss, source side first; else of the first after it."""
    epoch: int
    begin: float
    """Of the epoch."""
    sent: int
    lost: int
    first_loss: float | None

    @property
    def failing(self) -> bool:
        return self.lost >= LEAST_LOSSES and self.lost > LEAST_LOSS_RATIO * self.sent


def observe(records: pa.Table, fabric: Fabric) -> list[Observation]:
    """Observations of all paths that were ever traced; probes whose reply alone was lost count as answered.

    Time grows with the rows in compiled code, with paths x epochs and the distinct traces in Python.
    """
    if not records.num_rows:
        return []
    begin = pc.min(records["ping_time"]).as_py()
    routes = _routes(records, fabric)
    found = []
    for row in _per_epoch(records, begin).to_pylist():
        flow = _flow(row, fabric, _protocol(row["task_type"]))
        if flow is None or flow not in routes:
            continue
        times, hops = routes[flow]
        first = row["first_loss_min"]
        asked = row["ping_time_max"] if first is None else first
        found.append(
            Observation(
                ends=(_endpoint(row, "src", flow[0]), _endpoint(row, "dst", flow[1])),
                hops=hops[max(bisect_right(times, asked) - 1, 0)],
                epoch=row["epoch"],
                begin=begin / 1e9 + row["epoch"] * EPOCH_SECONDS,
                sent=row["sent_sum"],
                lost=row["lost_sum"],
                first_loss=None if first is None else first / 1e9,
            )
        )
    return found


def _per_epoch(records: pa.Table, begin: int) -> pa.Table:
    """One row for each path and epoch."""
    probes = records.filter(pc.is_in(records["task_type"], pa.array(_PROBES)))
    sent = pc.coalesce(probes["packets_sent"], 1)
    failed = pc.equal(probes["dial"], "fail")
    rate = pc.if_else(failed, 1.0, pc.coalesce(probes["loss_rate"], 0.0))
    lost = pc.coalesce(probes["packets_lost"], pc.round(pc.multiply(rate, sent)).cast(pa.int64()))
    lost = pc.if_else(pc.is_in(probes["error"], pa.array(_NO_LOSS)), 0, lost)
    time = probes["ping_time"].combine_chunks()
    epoch = (time.to_numpy(zero_copy_only=False) - begin) // int(EPOCH_SECONDS * 1e9)
    table = probes.select([*_PATH, "ping_time"])
    table = table.append_column("epoch", pa.array(epoch.astype(np.int64)))
    table = table.append_column("sent", sent).append_column("lost", lost)
    table = table.append_column("first_loss", pc.if_else(pc.greater(lost, 0), probes["ping_time"], None))
    wanted = [("sent", "sum"), ("lost", "sum"), ("first_loss", "min"), ("ping_time", "max")]
    return table.group_by([*_PATH, "epoch"]).aggregate(wanted)


def _routes(records: pa.Table, fabric: Fabric) -> dict[_Flow, tuple[list[int], list[tuple[Hop, ...]]]]:
    """{flow: times of its complete traces in order, ns, and the hops of each}."""
    told = pc.greater(pc.binary_length(pc.coalesce(records["route"], "")), 0)
    traced = pc.and_(told, pc.equal(records["dial"], "success"))
    rows = records.filter(traced).select([*_TRACED, "ping_time"])
    known: dict[tuple[str, str, str], tuple[Hop, ...] | None] = {}
    seen: dict[_Flow, list[tuple[int, tuple[Hop, ...]]]] = defaultdict(list)
    for row in rows.to_pylist():
        flow = _flow(row, fabric, _traced_protocol(row))
        if flow is None:
            continue
        key = (flow[0], flow[1], row["route"])
        if key not in known:
            links = fabric.links_of_route(flow[0], json.loads(row["route"]), flow[1])
            known[key] = None if links is None else _hops(flow[0], links)
        hops = known[key]
        if hops is not None:
            seen[flow].append((row["ping_time"], hops))
    return {flow: ([time for time, _ in sorted(own)], [hops for _, hops in sorted(own)]) for flow, own in seen.items()}


def _hops(source: str, links: tuple[str, ...]) -> tuple[Hop, ...]:
    """Links with the end that each is left by, from an RNIC on."""
    hops, here = [], source
    for link in links:
        near, far = split_link(link)
        if here not in (near, near.partition(":")[0]):
            near, far = far, near
        hops.append((link, near))
        here = far.partition(":")[0]
    return tuple(hops)


def _flow(row: dict[str, Any], fabric: Fabric, protocol: str) -> _Flow | None:
    ends = [_interface(row, side, fabric) for side in ("src", "dst")]
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1], row["src_port"], protocol)


def _interface(row: dict[str, Any], side: str, fabric: Fabric) -> str | None:
    name = f"{row[f'{side}_node_sn']}:{row[f'{side}_rnic']}"
    if name in fabric.interfaces:
        return name
    interface = fabric.by_address.get(row[f"{side}_real_ip"] or "")
    return None if interface is None else interface.id


def _endpoint(row: dict[str, Any], side: str, interface: str) -> str:
    return endpoint_id(row[f"{side}_node_id"], interface.partition(":")[2])


def _protocol(task: str) -> str:
    return {"TCP_PING": "tcp", "RDMA_PING": "rdma"}.get(task, "udp")


def _traced_protocol(row: dict[str, Any]) -> str:
    """As skeleton_service.diagnosis reads it: of the flow that was traced."""
    if row["protocol"] == "tcp":
        return "tcp"
    return "rdma" if row["dst_port"] == ROCE_PORT else _protocol(row["task_type"])


def path_hours(records: pa.Table) -> float:
    """Hours from the first to the last probe of each path, added up."""
    probes = records.filter(pc.is_in(records["task_type"], pa.array(_PROBES)))
    lives = probes.select([*_PATH, "ping_time"]).group_by(_PATH).aggregate([("ping_time", "min"), ("ping_time", "max")])
    return float(pc.sum(pc.subtract(lives["ping_time_max"], lives["ping_time_min"])).as_py() or 0) / 3.6e12
