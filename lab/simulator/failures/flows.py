"""A job on the fabric, and what is probed of it: the flows, each with its class, its size and its rhythm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.contracts.names import endpoint_id
from exporter.contracts.plan import RESPONDER_PORT, ROCE_PORT
from exporter.contracts.skeleton import Edge, Endpoint, Group, Parallelism, Skeleton, Window
from lab.simulator.failures.wiring import Booleans, Floats, Integers, Wiring

UDP, RDMA, TCP = range(3)
TASKS = ("UDP_PING", "RDMA_PING", "TCP_PING")
LOSSLESS_DSCP, DEFAULT_DSCP = 26, 0
MTU_SECONDS = 10.0
FULL_BYTES, OVERLAY_BYTES, SMALL_BYTES = 9000, 8950, 92
FEWEST, MOST = 60, 300


@dataclass(frozen=True, slots=True)
class Job:
    """``container`` (RNICs,): who owns each RNIC. ``overlay`` (RNICs,): its overlay address. One job, one tenant."""

    name: str
    skeleton: Skeleton
    container: tuple[str, ...]
    overlay: tuple[str, ...]
    vni: int

    def endpoint(self, wiring: Wiring, rnic: int) -> str:
        return endpoint_id(self.container[rnic], wiring.rnics[rnic].partition(":")[2])


@dataclass(frozen=True, slots=True)
class Flows:
    """What is probed, one row each (P,). ``source`` and ``destination`` are RNICs by index.

    ``full``: full-size probes (MTU records) of a flow that is also in the list with small ones. ``overlay``: between
    containers, inside VXLAN. ``period`` and ``phase`` in seconds.
    """

    source: Integers
    destination: Integers
    source_port: Integers
    destination_port: Integers
    task: Integers
    dscp: Integers
    full: Booleans
    overlay: Booleans
    period: Floats
    phase: Floats

    @property
    def number(self) -> int:
        return int(self.source.size)

    def touching(self, rnics: list[int]) -> Booleans:
        return np.isin(self.source, rnics) | np.isin(self.destination, rnics)


def draw_job(draw: np.random.Generator, wiring: Wiring, *, split: bool = False) -> Job:
    """A data- and pipeline-parallel job on all hosts; with ``split`` two containers share the RNICs of each."""
    name = f"job-{int(draw.integers(16**4)):04x}"
    owners: list[str] = [""] * len(wiring.rnics)
    units: list[list[int]] = []
    labels = iter(draw.choice(16**5, size=2 * len(wiring.hosts), replace=False).tolist())
    for rnics in wiring.hosts.values():
        halves = [rnics[: len(rnics) // 2], rnics[len(rnics) // 2 :]] if split else [rnics]
        for half in halves:
            label = f"{name}-{next(labels):05x}"
            for rnic in half:
                owners[rnic] = label
        units.append(rnics)
    hosts = len(units)
    degrees = [d for d in range(2, hosts + 1) if hosts % d == 0]
    replicas = int(draw.choice(degrees))
    stages = hosts // replicas
    places = draw.permutation(hosts).reshape(stages, replicas)
    rails = len(units[0])
    at = [[[units[place][rail] for place in row] for row in places.tolist()] for rail in range(rails)]
    owners[wiring.computing :] = [rnic.partition(":")[0] for rnic in wiring.rnics[wiring.computing :]]
    listed = [endpoint_id(owners[rnic], full.partition(":")[2]) for rnic, full in enumerate(wiring.rnics)]
    groups = tuple(
        Group(role="dp", stage=stage, rail=rail, members=tuple(sorted((listed[r] for r in row), key=str.encode)))
        for rail in range(rails)
        for stage, row in enumerate(at[rail])
    )
    edges = tuple(
        Edge(a=listed[at[rail][stage][replica]], b=listed[at[rail][stage + 1][replica]], role="pp")
        for rail in range(rails)
        for stage in range(stages - 1)
        for replica in range(replicas)
    )
    own = {rnic: (stage, replica) for stage in range(stages) for replica in range(replicas) for rail in range(rails)
           for rnic in (at[rail][stage][replica],)}  # fmt: skip
    cards = [(host, rnic) for host in wiring.topology.hosts for rnic in host.rnics]
    endpoints = tuple(
        Endpoint(id=listed[number], host=host.name, container=owners[number], rnic=card.name, rail=card.rail,
                 ip=card.ip, stage=own[number][0], replica=own[number][1])
        for number, (host, card) in enumerate(cards) if number in own
    )  # fmt: skip
    skeleton = Skeleton(
        version=1,
        job=name,
        window=Window(start=0.0, end=900.0, step_seconds=1.0),
        period_seconds=round(float(np.exp(draw.uniform(np.log(4.0), np.log(60.0)))), 2),
        confidence=1.0,
        fallback=None,
        parallelism=Parallelism(dp=replicas, pp=stages, position_groups=len(groups)),
        endpoints=tuple(sorted(endpoints, key=lambda end: end.id.encode())),
        groups=groups,
        edges=edges,
    )
    overlay = tuple(f"172.16.{number >> 8}.{number & 255}" for number in range(1, len(wiring.rnics) + 1))
    return Job(name, skeleton, tuple(owners), overlay, int(draw.integers(100, 5000)))


@dataclass(frozen=True, slots=True)
class Kinds:
    """Which kinds of probes a case must have; what is None is drawn."""

    overlay: bool | None = None
    rdma: bool | None = None
    full: bool | None = None


def draw_flows(draw: np.random.Generator, wiring: Wiring, job: Job, kinds: Kinds, *, paper_rate: bool) -> Flows:
    """Flows over the job's pairs, both ways, from several source ports: 60 to 300 of them.

    Large groups are probed as rings. The lossless class on all pairs; on some also the default one, TCP, full size,
    and the overlay's.
    """
    number = {job.endpoint(wiring, rnic): rnic for rnic in range(wiring.computing)}
    pairs: set[tuple[int, int]] = set()
    for group in job.skeleton.groups:
        members = [number[member] for member in group.members]
        if len(members) <= 3:
            pairs |= {(a, b) for a in members for b in members if a < b}
        else:
            pairs |= {tuple(sorted((a, b))) for a, b in zip(members, members[1:] + members[:1], strict=True)}  # type: ignore[misc]
    pairs |= {(number[edge.a], number[edge.b]) for edge in job.skeleton.edges}
    ordered = np.array([ways for pair in sorted(pairs) for ways in (pair, pair[::-1])], dtype=np.int64)

    overlay = kinds.overlay if kinds.overlay is not None else draw.random() < 0.7
    rdma = kinds.rdma if kinds.rdma is not None else draw.random() < 0.6
    full = kinds.full if kinds.full is not None else draw.random() < 0.5
    main = RDMA if rdma else UDP
    room = max(FEWEST, int(np.exp(draw.uniform(np.log(FEWEST), np.log(MOST)))))
    ports = int(np.clip(room // len(ordered) - overlay, 1, 6))
    blocks: list[tuple[Integers, int, int, bool, bool]] = [(ordered, main, LOSSLESS_DSCP, False, False)] * ports
    if overlay:
        blocks += [(ordered, main if draw.random() < 0.7 else UDP, LOSSLESS_DSCP, False, True)] * max(1, ports // 2)

    def some(share: float) -> Integers:
        return ordered[draw.random(len(ordered)) < share]

    blocks.append((some(0.15), UDP if draw.random() < 0.5 else TCP, DEFAULT_DSCP, False, False))
    if rdma:  # what tells RDMA's failures from the fabric's
        blocks.append((some(0.3), UDP, LOSSLESS_DSCP, False, False))

    if wiring.computing < len(wiring.rnics):  # checkpoints go to the store, from each host's first RNIC
        stored = np.array([(rnics[0], wiring.computing) for rnics in wiring.hosts.values()], dtype=np.int64)
        blocks += [(stored, UDP, LOSSLESS_DSCP, False, False)] * 2

    first, first_overlay = int(draw.integers(40_000, 45_000)), int(draw.integers(51_000, 60_000))
    parts: list[tuple[Integers, ...]] = []
    for index, (ends, task, dscp, is_full, is_overlay) in enumerate(blocks):
        count = len(ends)
        base = first_overlay if is_overlay else first
        source_ports = base + index * 400 + np.arange(count) % 400
        target = {UDP: RESPONDER_PORT, RDMA: ROCE_PORT, TCP: RESPONDER_PORT}[task]
        constants = (target, task, dscp, is_full, is_overlay)
        parts.append((ends[:, 0], ends[:, 1], source_ports, *(np.full(count, value) for value in constants)))
    source, destination, source_port, destination_port, task_of, dscp_of, full_of, overlay_of = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    flows = Flows(
        source, destination, source_port, destination_port, task_of, dscp_of, full_of.astype(bool),
        overlay_of.astype(bool), np.ones(source.size), np.zeros(source.size),
    )  # fmt: skip
    flows = _timed(draw, flows, paper_rate=paper_rate)
    return _with_full_size(draw, flows) if full else flows


def _timed(draw: np.random.Generator, flows: Flows, *, paper_rate: bool) -> Flows:
    """A probe a second on each path, or of each source endpoint to one path in turn."""
    if not paper_rate:
        return replace(flows, phase=draw.random(flows.number))
    period, phase = np.ones(flows.number), np.zeros(flows.number)
    for rnic in np.unique(flows.source).tolist():
        own = draw.permutation(np.flatnonzero(flows.source == rnic))
        period[own] = own.size
        phase[own] = np.arange(own.size) + draw.random()
    return replace(flows, period=period, phase=phase)


def _with_full_size(draw: np.random.Generator, flows: Flows) -> Flows:
    """Full-size probes of the first flow of each pair, from the same source port: on the same route."""
    key = flows.source * 1_000_000 + flows.destination
    _, firsts = np.unique(np.where(flows.dscp == LOSSLESS_DSCP, key * 2 + flows.overlay, -1), return_index=True)
    firsts = firsts[flows.dscp[firsts] == LOSSLESS_DSCP]
    count = firsts.size

    def more(own: NDArray[Any], added: object) -> NDArray[Any]:
        return np.concatenate([own, np.broadcast_to(np.asarray(added), count)])

    return Flows(
        source=more(flows.source, flows.source[firsts]),
        destination=more(flows.destination, flows.destination[firsts]),
        source_port=more(flows.source_port, flows.source_port[firsts]),
        destination_port=more(flows.destination_port, RESPONDER_PORT),
        task=more(flows.task, UDP),
        dscp=more(flows.dscp, LOSSLESS_DSCP),
        full=more(flows.full, True),
        overlay=more(flows.overlay, flows.overlay[firsts]),
        period=np.concatenate([flows.period, np.full(count, MTU_SECONDS)]),
        phase=np.concatenate([flows.phase, draw.random(count) * MTU_SECONDS]),
    )
