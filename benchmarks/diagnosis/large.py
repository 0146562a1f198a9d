"""A large fabric with a dead line card, as probe records in memory: what the cost of a diagnosis is measured on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.simulated_fleet import address, host_name, rnic_name, route, topology
from exporter.contracts.diagnosis import Component, Diagnosis, Failure
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import endpoint_id, port_id
from exporter.contracts.topology import Switch, Topology
from skeleton_service.reading.records import KINDS

HOSTS, RAILS, SOURCE_PORTS = 512, 8, range(49152, 49168)
SECONDS = 60
"""Of records, a probe of each path a second. The line card dies halfway."""

BEGIN = 1_790_000_000
DEAD = ("spine-0", "1")
"""The switch and its line card that dies."""

_PORTS_OF_CARD = 16
"""A spine has a port for each leaf: a line card serves two pods, and a tenth of all paths between random hosts."""

_STRAY_LOSS = 1e-5


@dataclass(frozen=True, slots=True)
class Large:
    """``failing`` paths cross the dead line card, in both directions alike: replies take the same way back."""

    topology: Topology
    records: pa.Table
    truth: Diagnosis
    failing: int


@dataclass(frozen=True, slots=True)
class _Path:
    hosts: tuple[int, int]
    rail: int
    source_port: int

    @property
    def rnics(self) -> tuple[str, str]:
        near, far = self.hosts
        return port_id(host_name(near), rnic_name(self.rail)), port_id(host_name(far), rnic_name(self.rail))

    @property
    def endpoints(self) -> tuple[str, str]:
        near, far = self.hosts
        return endpoint_id(_container(near), rnic_name(self.rail)), endpoint_id(_container(far), rnic_name(self.rail))

    @property
    def hops(self) -> list[str]:
        near, far = self.hosts
        return route(address(near, self.rail), self.source_port, address(far, self.rail))

    def row(self) -> dict[str, object]:
        """What all records of a path have in common, and its route."""
        columns: dict[str, object] = {"src_port": self.source_port, "route": json.dumps(self.hops)}
        for side, host in zip(("src", "dst"), self.hosts, strict=True):
            columns[f"{side}_node_id"] = _container(host)
            columns[f"{side}_node_sn"] = host_name(host)
            columns[f"{side}_rnic"] = rnic_name(self.rail)
            columns[f"{side}_real_ip"] = address(host, self.rail)
        return columns


def _container(host: int) -> str:
    return f"c-{host_name(host)}"


def large(count: int, seed: int = 1) -> Large:
    """``count`` random paths, each on one rail between two hosts."""
    draw = np.random.default_rng(seed)
    fabric = Fabric(_with_line_cards(topology(HOSTS)))
    switch, card = DEAD
    dead = {
        fabric.link_of(port_id(switch, port.name)) for port in fabric.switches[switch].ports if port.linecard == card
    }
    paths = list(_paths(draw, count))
    crossed = [fabric.links_of_route(path.rnics[0], path.hops, path.rnics[1]) or () for path in paths]
    fails = np.array([not dead.isdisjoint(links) for links in crossed])
    flows = pa.Table.from_pylist([path.row() for path in paths])
    died = BEGIN + SECONDS / 2
    failure = Failure(
        id="", job="job", start=died, detected_at=died, end=None, symptom="unreachable", layer="underlay",
        component=Component(kind="linecard", name=port_id(*DEAD)), alternatives=(), confidence=1.0,
        paths=tuple(path.endpoints for path, failed in zip(paths, fails.tolist(), strict=True) if failed),
        evidence=(),
    )  # fmt: skip
    return Large(
        topology=fabric.topology,
        records=pa.concat_tables([_traces(flows), _probes(draw, flows, fails)]),
        truth=Diagnosis(version=1, failures=(failure,)),
        failing=int(fails.sum()),
    )


def _paths(draw: np.random.Generator, count: int) -> Iterator[_Path]:
    near = draw.integers(HOSTS, size=count)
    far = (near + draw.integers(1, HOSTS, size=count)) % HOSTS
    rail, port = draw.integers(RAILS, size=count), draw.choice(SOURCE_PORTS, size=count)
    for one, other, own, number in zip(near.tolist(), far.tolist(), rail.tolist(), port.tolist(), strict=True):
        yield _Path((one, other), own, number)


def _with_line_cards(fabric: Topology) -> Topology:
    def carded(switch: Switch) -> Switch:
        ports = (
            msgspec.structs.replace(port, linecard=str(1 + number // _PORTS_OF_CARD))
            for number, port in enumerate(switch.ports)
        )
        return msgspec.structs.replace(switch, ports=tuple(ports)) if switch.tier == "spine" else switch

    return msgspec.structs.replace(fabric, switches=tuple(map(carded, fabric.switches)))


def _traces(flows: pa.Table) -> pa.Table:
    task, dial = (pa.repeat(text, flows.num_rows) for text in ("TRACEROUTE", "success"))
    return _records(flows, task_type=task, dial=dial, ping_time=pa.repeat(BEGIN * 10**9, flows.num_rows))


def _probes(draw: np.random.Generator, flows: pa.Table, fails: NDArray[np.bool_]) -> pa.Table:
    """In the order of time; each path has a moment of the second of its own."""
    second, path = np.divmod(np.arange(SECONDS * flows.num_rows), flows.num_rows)
    time = second + np.sort(draw.uniform(size=flows.num_rows))[path]
    lost = (fails[path] & (time >= SECONDS / 2)) | (draw.uniform(size=path.size) < _STRAY_LOSS)
    said = pa.array(lost.astype(np.int8))
    return _records(
        flows.drop_columns(["route"]).take(pa.array(path)),
        task_type=pa.repeat("UDP_PING", path.size),
        ping_time=pa.array(BEGIN * 10**9 + (time * 1e9).astype(np.int64)),
        dial=pa.array(["success", "fail"]).take(said),
        error=pa.array([None, "timeout"]).take(said),
        latency=pa.array(draw.gamma(20.0, 0.8, size=path.size), mask=lost),
        loss_rate=pa.array(lost.astype(np.float64)),
        dst_port=pa.repeat(65300, path.size),
        dscp=pa.repeat(26, path.size),
    )


def _records(flows: pa.Table, **columns: pa.Array) -> pa.Table:
    """With all columns of probe records; those that are not given are empty."""
    own = {name: flows[name] for name in flows.column_names} | columns
    return pa.table(
        {name: own.get(name, pa.nulls(flows.num_rows, kind)) for name, kind in KINDS.items()},
        schema=pa.schema(list(KINDS.items())),
    )
