"""Probe records per path: how many were sent and lost, and which links the path crosses."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from exporter.contracts.fabric import Fabric
from exporter.contracts.names import endpoint_id

RECENT_SECONDS = 30.0
"""The part of the records that is judged, counted back from the last one: 30 probes of a 1 Hz path."""

_NO_PROBES = frozenset({"TRACEROUTE", "DNS"})
"""Records that are no probe of a path."""

Flow = tuple[str, str, int | None]
"""Source RNIC and destination RNIC (``host:rnic``), source port: what ECMP and the route hang on."""


@dataclass(slots=True)
class PathHistory:
    """The recent probes of one path, type and traffic class; times are seconds since the epoch, in order."""

    flow: Flow
    task: str
    job: str
    ends: tuple[str, str]
    """Endpoint ids (``container/rnic``)."""
    sent: int = 0
    losses: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    dscp: int | None = None
    shares: Mapping[str, float] | None = None
    """{link: share of its probes that cross it}, 1 for those of a route; None where it has none."""
    sprayed: bool = False
    """Whether each probe, and each reply, takes some equal-cost path of its own."""
    replies_lost: int = 0
    """Of the losses, those whose probe arrived: lost on the way back."""
    since_answer: int = 0
    """Losses after the last answer: which way they went is not known yet."""
    answered: bool = False
    tells_direction: bool = True
    """Whether whoever wrote the records says of each loss which way it went."""

    @property
    def loss_ratio(self) -> float:
        return len(self.losses) / self.sent if self.sent else 0.0


def collect(records: pa.Table, fabric: Fabric, job: str, *, spraying: bool = False) -> list[PathHistory]:
    """Group the recent records by path; those that name no job are of ``job``.

    A path without a route crosses no link that anybody knows; in a fabric that is ``spraying``, all that it may.

    Rows may come in any order; records of RNICs outside the topology are left out. Recent is counted back
    from the last probe of each source host: the clocks of two hosts are never compared.
    """
    rows = sorted(_rows(records), key=lambda row: row["ping_time"])
    if not rows:
        return []
    last = {row["src_node_sn"]: row["ping_time"] for row in rows if row["task_type"] not in _NO_PROBES}
    routes: dict[tuple[Flow, bool], tuple[str, ...]] = {}  # ECMP hashes the protocol too
    histories: dict[tuple[Flow, str, int | None], PathHistory] = {}
    for row in rows:
        source, destination = _interface(row, "src", fabric), _interface(row, "dst", fabric)
        if source is None or destination is None:
            continue
        flow = (source, destination, row["src_port"])
        if row["route"] and row["dial"] == "success":
            links = fabric.links_of_route(source, _hops(row["route"]), destination)
            if links is not None:
                routes[flow, _is_tcp(row)] = links
        if row["task_type"] in _NO_PROBES:
            continue
        if row["ping_time"] < last[row["src_node_sn"]] - int(RECENT_SECONDS * 1e9):
            continue
        key = (flow, row["task_type"], row["dscp"])
        history = histories.get(key)
        if history is None:
            ends = (
                endpoint_id(row["src_node_id"], source.partition(":")[2]),
                endpoint_id(row["dst_node_id"], destination.partition(":")[2]),
            )
            history = PathHistory(flow, row["task_type"], row["job"] or job, ends, dscp=row["dscp"])
            histories[key] = history
        _count(history, row)
    for history in histories.values():
        route = routes.get((history.flow, history.task == "TCP_PING"))
        if route is not None:
            history.shares = dict.fromkeys(route, 1.0)
        elif spraying:
            history.shares = fabric.link_shares(*history.flow[:2]) or None
            history.sprayed = True
    return [histories[key] for key in sorted(histories, key=str)]


def _rows(records: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in records.to_batches():
        yield from batch.to_pylist()


def _count(history: PathHistory, row: dict[str, Any]) -> None:
    sent = row["packets_sent"] or 1
    lost = row["packets_lost"]
    if lost is None:
        lost = round((row["loss_rate"] or 0.0) * sent) if row["dial"] == "success" else sent
    time = row["ping_time"] / 1e9
    history.sent += sent
    if row["error"] in ("refused", "restarted"):
        history.refusals.append(time)
        return
    history.losses += [time] * lost
    if lost == 0:
        history.answered, history.since_answer = True, 0
    elif row["error"] == "reply lost":
        history.replies_lost += lost
    else:
        history.since_answer += lost
        history.tells_direction &= row["error"] == "timeout"


def _interface(row: dict[str, Any], side: str, fabric: Fabric) -> str | None:
    """The RNIC of one side: by host and RNIC name, else by underlay address; overlay addresses are not unique."""
    host, rnic = row[f"{side}_node_sn"], row[f"{side}_rnic"]
    if host and rnic and f"{host}:{rnic}" in fabric.interfaces:
        return f"{host}:{rnic}"
    interface = fabric.by_address.get(row[f"{side}_real_ip"] or "")
    return None if interface is None else interface.id


def _is_tcp(row: dict[str, Any]) -> bool:
    return bool(row["task_type"] == "TCP_PING" or row["protocol"] == "tcp")


def _hops(text: str) -> list[str | None]:
    """A route column; anything but a JSON array of strings and nulls is no route."""
    try:
        hops = json.loads(text)
    except (ValueError, RecursionError):
        return [None]
    if not isinstance(hops, list) or not all(hop is None or isinstance(hop, str) for hop in hops):
        return [None]
    return hops


def by_class(paths: Sequence[PathHistory]) -> list[list[PathHistory]]:
    """The paths of each traffic class, that of most paths first: a queue loses packets of its own class alone."""
    classes: dict[int | None, list[PathHistory]] = defaultdict(list)
    for path in paths:
        classes[path.dscp].append(path)
    return sorted(classes.values(), key=len, reverse=True)


def by_job(histories: list[PathHistory]) -> dict[str, list[PathHistory]]:
    jobs: dict[str, list[PathHistory]] = defaultdict(list)
    for history in histories:
        jobs[history.job].append(history)
    return dict(sorted(jobs.items()))
