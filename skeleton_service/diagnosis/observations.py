"""Probe records as arrays: which path, when, how many were sent and lost, and the routes that traces found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from sys import intern
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from exporter.contracts.addresses import canonical, is_ipv6
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import endpoint_id

_TASKS = ("UDP_PING", "RDMA_PING", "TCP_PING", "MTU")
_IDENTITY = (
    "task_type", "src_node_sn", "src_rnic", "src_real_ip", "dst_node_sn", "dst_rnic", "dst_real_ip",
    "src_port", "dst_port", "dscp", "src_node_id", "dst_node_id", "src_ip", "dst_ip", "job", "protocol",
)  # fmt: skip
"""Columns that tell paths apart."""
_LARGEST_CODE = 1 << 62

_SEEN = ("ping_time", "dial", "error", "latency", "loss_rate", "packets_sent", "packets_lost", "starved", "route")
"""The other columns that are read."""

Egresses = tuple[str, ...]
"""A route: the end where the packet leaves for each link, source side first (``Fabric.egresses_of_route``)."""


class Flow(NamedTuple):
    """What a route hangs on. Ends are RNICs (``host:rnic``)."""

    source: str
    destination: str
    source_port: int | None
    destination_port: int | None
    """Of RoCE 4791, which tells its flows from those of UDP probes; None where a record does not say."""
    tcp: bool
    overlay: bool
    follows: bool = False
    """Full-size probes, which are taken to go where small ones of their source port go, unless they are traced."""


class Path(NamedTuple):
    """The probes that are counted together: those of one flow, type, traffic class and pair of containers."""

    flow: Flow
    task: str
    dscp: int | None
    containers: tuple[str, str]
    overlay_destination: str | None
    """Overlay address probed; None on the underlay."""
    job: str

    @property
    def ends(self) -> tuple[str, str]:
        """Endpoint ids (``container/rnic``)."""
        source, destination = self.containers
        flow = self.flow
        return (
            endpoint_id(source, flow.source.partition(":")[2]),
            endpoint_id(destination, flow.destination.partition(":")[2]),
        )

    @property
    def hosts(self) -> tuple[str, str]:
        return self.flow.source.partition(":")[0], self.flow.destination.partition(":")[0]


class Trace(NamedTuple):
    time: float
    flow: Flow
    egresses: Egresses


@dataclass(frozen=True, slots=True)
class Observations:
    """Probes in order of time: one element a record. Times are seconds since the epoch, of the source host's clock."""

    paths: tuple[Path, ...]
    path: NDArray[np.int64]
    """Which of ``paths``."""
    time: NDArray[np.float64]
    sent: NDArray[np.int64]
    lost: NDArray[np.int64]
    latency: NDArray[np.float64]
    """Microseconds; NaN where a probe failed or its round trip is not to be trusted (starved)."""
    lost_back: NDArray[np.bool_]
    """Whether the responder's count proves that the lost probes arrived."""
    lost_untold: NDArray[np.bool_]
    """Whether the record does not say which way the probes were lost. Where no record ever says that a reply was, a
    time-out says nothing either."""
    refused: NDArray[np.bool_]
    """The far host answered that nobody listens, or its responder restarted: the network carries the probes."""
    traces: tuple[Trace, ...]
    """Complete routes, in order of time."""


def observe(records: pa.Table, fabric: Fabric, job: str) -> Observations:
    """Sort the records (``skeleton_service.reading.records.KINDS``) into paths; those that name no job are of ``job``.

    Records of RNICs outside the topology, of hosts that are drained, and of queries to resolvers are left out. So are
    losses that a prober short of processor booked. O(rows x log rows).
    """
    records = records.select([*_IDENTITY, *_SEEN])
    records = records.filter(pc.is_in(records["task_type"], pa.array([*_TASKS, "TRACEROUTE"])))
    groups, representatives = groups_of(records, _IDENTITY)
    found = [_path(row, fabric, job) for row in representatives]
    known = sorted({path for path in found if path is not None}, key=repr)
    number = {path: index for index, path in enumerate(known)}
    which = np.array([-1 if path is None else number[path] for path in found] or [-1], np.int64)[groups]

    time = _floats(records, "ping_time") / 1e9
    order = np.argsort(time, kind="stable")
    order = order[which[order] >= 0]
    traces = _traces(records, order, which, known, time, fabric)
    is_probe = np.array([path.task != "TRACEROUTE" for path in known] or [False])
    starved = _integers(records, "starved", 0) == 1
    order = order[is_probe[which[order]] & ~(starved & _fails(records))[order]]

    sent = np.maximum(_sent(records), 0)
    lost = _lost(records, sent)
    told, back, refused = (
        pc.fill_null(pc.is_in(records["error"], pa.array(values)), False).to_numpy()
        for values in (["timeout", "reply lost"], ["reply lost"], ["refused", "restarted"])
    )
    latency = np.where(starved | (lost > 0), np.nan, _floats(records, "latency"))
    return Observations(
        tuple(known),
        which[order],
        time[order],
        sent[order],
        np.where(refused, 0, lost)[order],
        np.where(latency > 0, latency, np.nan)[order],
        back[order],
        ~told[order],
        refused[order],
        traces,
    )


def groups_of(records: pa.Table, names: Sequence[str]) -> tuple[NDArray[np.int64], list[dict[str, object]]]:
    """For each row the number of its group, whose rows are alike in these columns; and for each group their values."""
    codes = np.zeros(len(records), np.int64)
    largest = 1
    for name in names:
        column = pc.dictionary_encode(records[name], null_encoding="encode")
        chunk = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(chunk, pa.ChunkedArray):
            chunk = pa.concat_arrays(chunk.chunks) if chunk.num_chunks else pa.array([], chunk.type)
        size = max(1, len(chunk.dictionary))
        if largest * size > _LARGEST_CODE:
            _, codes = np.unique(codes, return_inverse=True)
            largest = int(codes.max(initial=0)) + 1
        codes = codes * size + chunk.indices.to_numpy(zero_copy_only=False)
        largest *= size
    _, first, groups = np.unique(codes, return_index=True, return_inverse=True)
    return groups, records.select(list(names)).take(pa.array(first)).to_pylist()


def _path(row: dict[str, object], fabric: Fabric, job: str) -> Path | None:
    source, destination = (interface_of(row, side, fabric) for side in ("src", "dst"))
    if source is None or destination is None:
        return None
    if "drained" in (fabric.interfaces[source].host.state, fabric.interfaces[destination].host.state):
        return None
    task = str(row["task_type"])
    overlay = any(
        row[f"{side}_ip"] and _address(row[f"{side}_ip"]) not in fabric.interfaces[end].rnic.addresses
        for side, end in (("src", source), ("dst", destination))
    )
    port, far_port, dscp, address = row["src_port"], row["dst_port"], row["dscp"], row["dst_ip"]
    return Path(
        Flow(
            source,
            destination,
            port if isinstance(port, int) else None,
            far_port if isinstance(far_port, int) else None,
            task == "TCP_PING" or (task == "TRACEROUTE" and row["protocol"] == "tcp"),
            overlay,
            follows=task == "MTU",
        ),
        task,
        dscp if isinstance(dscp, int) else None,
        (intern(str(row["src_node_id"] or "")), intern(str(row["dst_node_id"] or ""))),
        str(address) if overlay and address else None,
        str(row["job"] or job),
    )


def interface_of(row: Mapping[str, object], side: str, fabric: Fabric) -> str | None:
    """The RNIC of one side: by host and RNIC name, else by underlay address; overlay addresses are not unique."""
    host, rnic = row[f"{side}_node_sn"], row[f"{side}_rnic"]
    if host and rnic and f"{host}:{rnic}" in fabric.interfaces:
        return intern(f"{host}:{rnic}")  # many paths share their ends
    interface = fabric.by_address.get(_address(row[f"{side}_real_ip"]))
    return None if interface is None else intern(interface.id)


def _address(value: object) -> str:
    """An address in the spelling of the topology; what is none, as it is."""
    text = str(value or "")
    if is_ipv6(text):
        with suppress(ValueError):
            return canonical(text)
    return text


def _traces(
    records: pa.Table,
    order: NDArray[np.int64],
    which: NDArray[np.int64],
    paths: Sequence[Path],
    time: NDArray[np.float64],
    fabric: Fabric,
) -> tuple[Trace, ...]:
    """Complete routes of any record that carries one; each distinct text is read once a flow."""
    routed = pc.and_(pc.equal(records["dial"], "success"), pc.greater(pc.utf8_length(records["route"]), 0))
    chosen = order[pc.fill_null(routed, False).to_numpy()[order]]
    if not len(chosen):
        return ()
    texts = records["route"].take(pa.array(chosen)).to_pylist()
    read: dict[tuple[Flow, str], Egresses | None] = {}
    traces = []
    for row, text in zip(chosen.tolist(), texts, strict=True):
        flow = paths[which[row]].flow
        if (flow, text) not in read:
            read[flow, text] = fabric.egresses_of_route(flow.source, _hops(text), flow.destination)
        egresses = read[flow, text]
        if egresses is not None:
            traces.append(Trace(float(time[row]), flow, egresses))
    return tuple(traces)


def _hops(text: str) -> list[str | None]:
    """A route column; anything but a JSON array of strings and nulls is no route."""
    try:
        hops = json.loads(text)
    except (ValueError, RecursionError):
        return [None]
    if not isinstance(hops, list) or not all(hop is None or isinstance(hop, str) for hop in hops):
        return [None]
    return hops


def _fails(records: pa.Table) -> NDArray[np.bool_]:
    fails: NDArray[np.bool_] = pc.equal(records["dial"], "fail").to_numpy()
    return fails


def _sent(records: pa.Table) -> NDArray[np.int64]:
    """Probes sent; where nobody says of how many a ratio is, of a hundred."""
    ratio = np.nan_to_num(_floats(records, "loss_rate"))
    return np.where(
        (ratio > 0) & (ratio < 1), _integers(records, "packets_sent", 100), _integers(records, "packets_sent", 1)
    )


def _lost(records: pa.Table, sent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Probes lost: as counted; else as the ratio says; of a failed dial all."""
    told = _integers(records, "packets_lost", -1)
    ratio = np.nan_to_num(_floats(records, "loss_rate"))
    guessed = np.where(_fails(records), sent, np.rint(ratio * sent).astype(np.int64))
    return np.where(told >= 0, told, guessed)


def _floats(records: pa.Table, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = pc.cast(records[name], pa.float64(), safe=False).to_numpy()
    return values


def _integers(records: pa.Table, name: str, absent: int) -> NDArray[np.int64]:
    values: NDArray[np.int64] = pc.fill_null(records[name], absent).to_numpy()
    return values
