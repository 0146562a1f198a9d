"""From throughput to the skeleton: which pairs of a job's RNICs really talk."""

from __future__ import annotations

import numpy as np
from msgspec import structs

from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric, Interface
from exporter.contracts.names import port_id
from exporter.contracts.skeleton import Edge, Endpoint, Group, Parallelism, Skeleton, Window
from exporter.contracts.topology import Topology
from skeleton_service.inference.confidence import CONFIDENT, confidence
from skeleton_service.inference.fidelity import holds
from skeleton_service.inference.participants import Participants, find_participants
from skeleton_service.inference.period import SAMPLED_SERIES, Period, find_period
from skeleton_service.inference.series import Integers, Throughput
from skeleton_service.inference.shape import Shape, find_shape

UNBALANCED, EXCHANGED = 1.5, 0.15
"""A job of whose bytes this share goes both ways at once talks to itself. Less does so too where stages take turns at
sending; but one that receives this much more than it sends, or the other way, talks to storage."""

REPEATED = 0.25
"""And where units take turns, they do so again and again: the period is at least this strong. Bursts between two units
now and then are balanced as well."""

BLOCK = 1024


def infer(throughput: Throughput, topology: Topology | Fabric, previous: Skeleton | None = None) -> Skeleton:
    """Infer the skeleton of one job (SkeletonHunter, section 5.1); pure and deterministic.

    Groups are cliques of role ``dp``, one per stage and lane; ``pp`` edges join replicas of adjacent
    stages, all pairs of two stages where replicas are not told apart (endpoints then have no ``replica``).
    Endpoints that were hardly observed are paired with their whole rail (role ``basic``); idle ones with
    nobody. Without structure, or below confidence 0.5, the skeleton is the basic list: each rail one group.
    ``previous`` is given back, with the new window, as long as it explains the traffic (`fidelity.holds`).
    Whoever infers many jobs gives the index of the topology, which takes half a second to make of 100,000 RNICs.
    Raises ContractError for an endpoint that the topology does not have. O(endpoints x samples) but for
    the matching of two stages, which compares every replica of one with every one of the other.
    """
    interfaces, participants = _find(throughput, topology)
    if previous is not None and holds(previous, throughput, participants):
        return structs.replace(previous, window=_window(throughput))
    sure, period, shape = 0.0, None, None
    if participants.units > 1:
        busy = participants.busy()
        some = busy[np.linspace(0, len(busy) - 1, min(len(busy), SAMPLED_SERIES)).round().astype(np.int64)]
        period = find_period(throughput.tx[some] + throughput.rx[some], throughput.step_seconds)
    if period is not None and _closed(throughput, participants, period):
        shape = find_shape(throughput, participants, period.seconds)
    if period is not None and shape is not None:
        sure = confidence(period, shape, throughput.skew)
    if period is None or shape is None or sure < CONFIDENT:
        return _basic(throughput, interfaces, participants, sure)
    return _structured(throughput, interfaces, participants, shape, period, sure)


def basic(throughput: Throughput, topology: Topology | Fabric) -> Skeleton:
    """The basic list of a job whose traffic is not to be looked at: every pair of a rail, confidence 0."""
    interfaces, participants = _find(throughput, topology)
    return _basic(throughput, interfaces, participants, 0.0)


def _find(throughput: Throughput, topology: Topology | Fabric) -> tuple[list[Interface], Participants]:
    """The interface of each endpoint, and the units that they make up."""
    _refuse_shared_names(throughput)
    interfaces = _bind(throughput, topology if isinstance(topology, Fabric) else Fabric(topology))
    rails = np.array([_rail_number(interface) for interface in interfaces], dtype=np.int64)
    return interfaces, find_participants(throughput, rails)


def _closed(throughput: Throughput, participants: Participants, period: Period) -> bool:
    """Whether a job's units talk to one another, and not to storage alone.

    Then they send and receive at once; or what they send is what they receive, all in all and again and again.
    """
    rows = participants.busy()
    sent, received, both, either = 0.0, 0.0, 0.0, 0.0
    for some in np.array_split(rows, max(len(rows) // BLOCK, 1)):
        tx, rx = np.nan_to_num(throughput.tx[some]), np.nan_to_num(throughput.rx[some])
        sent, received = sent + float(tx.sum(dtype=np.float64)), received + float(rx.sum(dtype=np.float64))
        both += float(np.minimum(tx, rx).sum(dtype=np.float64))
        either += float(np.maximum(tx, rx).sum(dtype=np.float64))
    if not min(sent, received) > 0:
        return False
    balanced = max(sent, received) < UNBALANCED * min(sent, received)
    return both > EXCHANGED * either or (balanced and period.strength >= REPEATED)


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


def _endpoints(
    throughput: Throughput,
    rails: Integers,
    interfaces: list[Interface],
    places: dict[int, tuple[int, int]] | None = None,
) -> tuple[Endpoint, ...]:
    found = []
    for row, (source, interface) in enumerate(zip(throughput.endpoints, interfaces, strict=True)):
        stage, replica = (places or {}).get(row, (None, -1))
        found.append(
            Endpoint(
                id=source.id,
                host=source.host,
                container=source.container,
                rnic=source.rnic,
                rail=int(rails[row]),
                ip=interface.rnic.ip,
                rank=source.rank,
                stage=stage,
                replica=replica if replica >= 0 else None,
            )
        )
    return tuple(found)


def _window(throughput: Throughput) -> Window:
    step = throughput.step_seconds
    if not len(throughput.times):
        return Window(start=0.0, end=0.0, step_seconds=step)
    return Window(start=float(throughput.times[0]) - step, end=float(throughput.times[-1]), step_seconds=step)


def _basic(throughput: Throughput, interfaces: list[Interface], participants: Participants, sure: float) -> Skeleton:
    names, rails = [source.id for source in throughput.endpoints], participants.rails
    groups = [
        Group(role="basic", rail=rail, members=tuple(names[row] for row in np.flatnonzero(rails == rail)))
        for rail in np.unique(rails).tolist()
    ]
    if not participants.by_rail:
        # Containers with other rails talk between their RNICs of the same place.
        places = participants.places(throughput)
        lanes = [np.flatnonzero(places == place).tolist() for place in range(int(places.max(initial=-1)) + 1)]
        groups += [Group(role="basic", members=tuple(names[row] for row in lane)) for lane in lanes]
    return Skeleton(
        version=1,
        job=throughput.job,
        window=_window(throughput),
        period_seconds=None,
        confidence=min(sure, CONFIDENT - 0.01),
        fallback="basic",
        parallelism=None,
        endpoints=_endpoints(throughput, rails, interfaces),
        groups=tuple(groups),
        edges=(),
    )


def _hidden(throughput: Throughput, participants: Participants) -> list[Edge]:
    """Pairs of the rows that nothing is known of, with their whole rail (or place, where that is a lane), once each."""
    endpoints, hidden = throughput.endpoints, set(participants.hidden)
    lanes = participants.rails if participants.by_rail else participants.places(throughput)
    return [
        Edge(a=endpoints[row].id, b=endpoints[other].id, role="basic")
        for row in participants.hidden
        for other in np.flatnonzero(lanes == lanes[row]).tolist()
        if (other > row or other not in hidden) and endpoints[other].host != endpoints[row].host
    ]


def _structured(
    throughput: Throughput,
    interfaces: list[Interface],
    participants: Participants,
    shape: Shape,
    period: Period,
    sure: float,
) -> Skeleton:
    names = [source.id for source in throughput.endpoints]
    rows, rails = participants.rows, participants.rails
    groups: list[Group] = []
    edges: list[Edge] = []
    for lane in range(participants.lanes):
        for stage in range(shape.count):
            own = rows[shape.stages == stage, lane]
            own = np.sort(own[own >= 0])
            if not own.size:
                continue
            on = np.unique(rails[own])
            rail = int(on[0]) if on.size == 1 else None
            groups.append(Group(role="dp", stage=stage, rail=rail, members=tuple(names[row] for row in own)))
        ends = np.sort(rows[shape.pairs, lane], axis=1)
        ends = ends[(ends >= 0).all(axis=1)]
        edges += [
            Edge(a=names[a], b=names[b], role="pp")
            for a, b in sorted(ends.tolist())
            if throughput.endpoints[a].host != throughput.endpoints[b].host
        ]
    edges += _hidden(throughput, participants)
    places = (
        {}
        if shape.unclear
        else {
            int(row): (int(shape.stages[unit]), int(shape.replicas[unit]))
            for unit in range(participants.units)
            for row in rows[unit]
            if row >= 0
        }
    )
    return Skeleton(
        version=1,
        job=throughput.job,
        window=_window(throughput),
        period_seconds=round(period.seconds, 3),
        confidence=sure,
        fallback=None,
        parallelism=None
        if shape.unclear
        else Parallelism(dp=shape.replicated, pp=shape.count, position_groups=len(groups)),
        endpoints=_endpoints(throughput, rails, interfaces, places),
        groups=tuple(groups),
        edges=tuple(edges),
    )
