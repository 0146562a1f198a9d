"""From throughput to the skeleton: which pairs of a job's RNICs really talk."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np

from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric, Interface
from exporter.contracts.names import port_id
from exporter.contracts.skeleton import Edge, Endpoint, Group, Parallelism, Skeleton, Window
from exporter.contracts.topology import Topology
from skeleton_service.inference.groups import Partition, RailSeries, features, find_groups
from skeleton_service.inference.period import Period, find_period
from skeleton_service.inference.series import Floats, Throughput
from skeleton_service.inference.stages import Stages, order_stages

OBSERVED = 0.5
"""An endpoint seen in less than this share of the window cannot be placed."""

IDLE = 0.02
"""An endpoint with less than this share of its rail's median traffic takes no part in the job."""

CONFIDENT = 0.5
FULL_SEPARATION = 0.5
FULL_STRENGTH = 0.25
LARGEST_SKEW = 0.25

Rails = dict[int, list[int]]


def infer(throughput: Throughput, topology: Topology) -> Skeleton:
    """Infer the skeleton of one job (SkeletonHunter, section 5.1); pure and deterministic.

    Groups are cliques of role ``dp``, one per stage and rail. Which replica a stage's member talks to
    is not resolved: ``pp`` edges are all pairs of two adjacent groups on a rail, a superset. Endpoints
    that were hardly observed are paired with their whole rail (role ``basic``); idle ones with nobody.
    Without structure, or below confidence 0.5, the skeleton is the basic list: each rail one group.
    Raises ContractError for an endpoint that the topology does not have. Work is per rail:
    O(rails x hosts^2 x samples).
    """
    _refuse_shared_names(throughput)
    interfaces = _bind(throughput, Fabric(topology))
    rails: Rails = defaultdict(list)
    for row, interface in enumerate(interfaces):
        rails[_rail_number(interface)].append(row)
    active, hidden = _sort_out(throughput, rails)
    hosts = sorted({interfaces[row].host.name for rows in active.values() for row in rows}, key=str.encode)
    number = {name: index for index, name in enumerate(hosts)}
    placed = {rail: [number[interfaces[row].host.name] for row in rows] for rail, rows in active.items()}
    period, partition = None, None
    if all(len(set(places)) == len(places) for places in placed.values()) and len(hosts) > 1:
        period = find_period(_log_totals(throughput, active), throughput.step_seconds)
        partition = find_groups(
            (
                RailSeries(np.array(placed[rail]), features(throughput.tx[rows], throughput.rx[rows]))
                for rail, rows in active.items()
            ),
            len(hosts),
        )
    confidence = _confidence(period, partition, throughput.skew)
    if period is None or partition is None or confidence < CONFIDENT:
        return _basic(throughput, interfaces, rails, confidence)
    stages = _order(throughput, active, placed, partition, period)
    return _structured(throughput, interfaces, rails, active, hidden, placed, partition, stages, period, confidence)


def _bind(throughput: Throughput, fabric: Fabric) -> list[Interface]:
    interfaces = []
    for source in throughput.endpoints:
        interface = fabric.interfaces.get(port_id(source.host, source.rnic))
        if interface is None:
            known = any(host.name == source.host for host in fabric.topology.hosts)
            missing = f"RNIC {source.rnic!r} of host {source.host!r}" if known else f"host {source.host!r}"
            raise ContractError("topology", f"{missing} is missing, needed by endpoint {source.id!r}", "add it")
        interfaces.append(interface)
    return interfaces


def _rail_number(interface: Interface) -> int:
    """The rail as the topology has it, else the RNIC's place in its host."""
    rnic = interface.rnic
    return interface.host.rnics.index(rnic) if rnic.rail is None else rnic.rail


def _sort_out(throughput: Throughput, rails: Rails) -> tuple[Rails, list[int]]:
    """Split each rail's rows into those that take part and those hardly observed; idle ones are in neither."""
    active: Rails = {}
    hidden: list[int] = []
    known = np.isfinite(throughput.tx) & np.isfinite(throughput.rx)
    seen = known.sum(axis=1)
    total = np.where(known, throughput.tx + throughput.rx, 0).sum(axis=1, dtype=np.float64) / np.maximum(seen, 1)
    enough = seen >= OBSERVED * max(len(throughput.times), 1)
    for rail in sorted(rails):
        rows = [row for row in rails[rail] if enough[row]]
        hidden += [row for row in rails[rail] if not enough[row]]
        busy = float(np.median(total[rows])) if rows else 0.0
        busy = max(busy, float(np.max(total[rows], initial=0)) * IDLE) if rows else 0.0
        kept = [row for row in rows if total[row] > IDLE * busy]
        if kept:
            active[rail] = kept
    return active, hidden


def _log_totals(throughput: Throughput, active: Rails) -> Floats:
    rows = [row for members in active.values() for row in members]
    tx, rx = throughput.tx[rows], throughput.rx[rows]
    return features(tx + rx, np.zeros_like(tx))[:, : tx.shape[1]]


def _order(
    throughput: Throughput, active: Rails, placed: dict[int, list[int]], partition: Partition, period: Period
) -> Stages:
    tx, rx = np.zeros((2, partition.count, len(throughput.times)))
    counts = np.zeros((partition.count, 1))
    for rail, rows in active.items():
        labels = partition.labels[placed[rail]]
        np.add.at(tx, labels, np.nan_to_num(throughput.tx[rows]))
        np.add.at(rx, labels, np.nan_to_num(throughput.rx[rows]))
        np.add.at(counts, labels, 1)
    block = round(period.seconds / throughput.step_seconds)
    return order_stages((tx / counts).astype(np.float32), (rx / counts).astype(np.float32), block)


def _refuse_shared_names(throughput: Throughput) -> None:
    """An endpoint is named by container and RNIC alone, so two hosts must not run containers of one name."""
    host_of: dict[str, str] = {}
    for source in throughput.endpoints:
        other = host_of.setdefault(source.container, source.host)
        if other != source.host:
            raise ContractError(
                "throughput",
                f"column 'container': {source.container!r} is on two hosts, {other} and {source.host}",
                "name containers uniquely, such as namespace/pod",
            )


def _confidence(period: Period | None, partition: Partition | None, skew: float) -> float:
    """Geometric mean of period strength and group separation, each relative to what a clear job shows.

    Sampling instants that differ between hosts look like burst times that differ, so skew takes off.
    """
    if period is None or partition is None:
        return 0.0
    strength = min(period.strength / FULL_STRENGTH, 1.0)
    separation = min(partition.separation / FULL_SEPARATION, 1.0)
    return round(float(np.sqrt(strength * separation * partition.agreement)) * max(1 - skew / LARGEST_SKEW, 0.0), 4)


def _endpoints(
    throughput: Throughput, interfaces: list[Interface], stage_of: dict[int, int] | None = None
) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(
            id=source.id,
            host=source.host,
            container=source.container,
            rnic=source.rnic,
            rail=_rail_number(interface),
            ip=interface.rnic.ip,
            rank=source.rank,
            stage=(stage_of or {}).get(row),
        )
        for row, (source, interface) in enumerate(zip(throughput.endpoints, interfaces, strict=True))
    )


def _window(throughput: Throughput) -> Window:
    step = throughput.step_seconds
    return Window(start=float(throughput.times[0]) - step, end=float(throughput.times[-1]), step_seconds=step)


def _basic(throughput: Throughput, interfaces: list[Interface], rails: Rails, confidence: float) -> Skeleton:
    names = [source.id for source in throughput.endpoints]
    return Skeleton(
        version=1,
        job=throughput.job,
        window=_window(throughput),
        period_seconds=None,
        confidence=min(confidence, CONFIDENT - 0.01),
        fallback="basic",
        parallelism=None,
        endpoints=_endpoints(throughput, interfaces),
        groups=tuple(
            Group(role="basic", rail=rail, members=tuple(names[row] for row in rails[rail])) for rail in sorted(rails)
        ),
        edges=(),
    )


def _structured(
    throughput: Throughput,
    interfaces: list[Interface],
    rails: Rails,
    active: Rails,
    hidden: list[int],
    placed: dict[int, list[int]],
    partition: Partition,
    stages: Stages,
    period: Period,
    confidence: float,
) -> Skeleton:
    names = [source.id for source in throughput.endpoints]
    order = list(stages.order)
    # The direction is unknown; the group of the first host comes in the front half, so that it is always the same.
    if order.index(int(partition.labels[0])) > (len(order) - 1) / 2:
        order.reverse()
    stage = {label: index for index, label in enumerate(order)}
    stage_of: dict[int, int] = {}
    groups: list[Group] = []
    edges: list[Edge] = []
    for rail, rows in active.items():
        members: dict[int, list[str]] = {index: [] for index in range(len(order))}
        for row, host in zip(rows, placed[rail], strict=True):
            stage_of[row] = stage[int(partition.labels[host])]
            members[stage_of[row]].append(names[row])
        groups += [Group(role="dp", stage=n, rail=rail, members=tuple(ids)) for n, ids in members.items() if ids]
        for one, other in sorted(tuple(sorted((stage[a], stage[b]))) for a, b in stages.adjacent):
            edges += [Edge(a=a, b=b, role="pp") for a, b in product(members[one], members[other])]
    for row in hidden:
        others = [other for other in rails[_rail_number(interfaces[row])] if other != row]
        edges += [Edge(a=names[row], b=names[other], role="basic") for other in others]
    return Skeleton(
        version=1,
        job=throughput.job,
        window=_window(throughput),
        period_seconds=round(period.seconds, 3),
        confidence=confidence,
        fallback=None,
        parallelism=Parallelism(
            dp=len(partition.labels) // partition.count, pp=partition.count, position_groups=len(groups)
        ),
        endpoints=_endpoints(throughput, interfaces, stage_of),
        groups=tuple(groups),
        edges=tuple(edges),
    )
