"""From a skeleton to the probe list that its exporters obey."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import path_id, port_id
from exporter.contracts.plan import (
    MAX_RDMA_SOURCE_PORTS,
    RESPONDER_PORT,
    ROCE_PORT,
    ROCE_SOURCE_PORTS,
    UDP_HEADERS,
    Coverage,
    Phase,
    Plan,
    ProbeType,
    Target,
    check_plan,
)
from exporter.contracts.skeleton import Endpoint, Skeleton
from exporter.contracts.topology import Topology
from skeleton_service.planning.endpoints import interface_of
from skeleton_service.planning.identifiability import separate
from skeleton_service.planning.routes import Routes
from skeleton_service.planning.selection import Member, Pair, Selection
from skeleton_service.planning.sourceports import SourcePorts, path_probability, port_count

RESERVED = 0.1
"""Share of an exporter's paths left for the pairs that tell links apart, and for exploring."""

LARGEST_FILE = 1_000_000
"""Paths in one file: 0.7 GB, where a reader takes 1 GiB at most."""

ECT_0 = 2
"""ECN-capable transport (RFC 3168, section 5): the two low bits of a traffic class, below its DSCP."""

RDMA_PAYLOAD = 64
"""Bytes that a message of an RDMA probe carries; no other number of them is sent."""

SmallProbe = Literal["udp", "rdma"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a site may choose. Periods in seconds; ``mtu`` is the largest IP packet the fabric promises.

    ``probes`` are the small probes of each source port: UDP, or RDMA as the job sends it, or both, so that loss of one
    alone shows. RDMA is probed from ports of its own, below those of UDP, and from 32 of a pair's at most.

    ``traffic_class`` is the lossless one, which the job uses. ``default_traffic_class`` is probed beside it, None for
    not at all: one small probe a pair and ``default_udp_period``, for comparison. A loss of both is a path's, a loss of
    one its queue's. That is one target of 2 n + 2, n being the pair's source ports, and half a probe a second. It is
    probed by UDP unless RDMA alone is.

    ``rotation`` is the share of a pair's source ports that are drawn anew each generation of a skeleton's plan, so that
    equal-cost paths which the others miss have their turn. The series of the other paths go on.

    ``max_paths`` is what a host may be asked for, its exporter's ``probing.max_paths``: with these periods 4,096 paths
    are 3,000 probes a second, each path a second to five apart. ``exploration`` is the share of pairs probed beside
    the skeleton, so that one that is wrong shows.
    """

    probes: frozenset[SmallProbe] = frozenset({"udp"})
    path_probability: float = 0.99
    largest_port_count: int = 64
    first_source_port: int = 61000  # above the ephemeral range (32768-60999), below the responder
    rotation: float = 0.25
    traffic_class: int = (26 << 2) | ECT_0
    default_traffic_class: int | None = (0 << 2) | ECT_0
    udp_period: float = 1.0
    rdma_period: float = 1.0
    default_udp_period: float = 2.0
    mtu_period: float = 2.0
    tcp_period: float = 5.0
    udp_payload: int = 64
    tcp_payload: int = 64
    mtu: int = 9000
    redundancy: int = 2
    max_paths: int = 4096
    exploration: float = 0.05

    def __post_init__(self) -> None:
        """Raise ContractError for traffic classes that would measure something else than the fabric."""
        for field, value in self._classes.items():
            problem = f"field '{field}': {value} "
            if not 0 <= value <= 255:
                raise ContractError("planning", f"{problem}is no traffic class", "(DSCP << 2) | 2, at most 254")
            if value & 3 != ECT_0:
                problem += "is not ECN-capable, ECT(0): a queue with ECN drops such packets where it marks the job's"
                raise ContractError("planning", problem, f"write {value & ~3 | ECT_0} for DSCP {value >> 2}")
        if len(set(self._classes.values())) < len(self._classes):
            problem = f"field 'default_traffic_class': {self.default_traffic_class} is the lossless one too"
            raise ContractError("planning", problem, "choose another DSCP, or None")

    @property
    def _classes(self) -> dict[str, int]:
        default = self.default_traffic_class
        both = {"traffic_class": self.traffic_class}
        return both if default is None else {**both, "default_traffic_class": default}

    def rdma_ports(self, ports: int) -> int:
        """From how many source ports a pair with so many is probed by RDMA."""
        return min(ports, MAX_RDMA_SOURCE_PORTS) if "rdma" in self.probes else 0

    def target_count(self, ports: int) -> int:
        """Targets of a pair, one way: small and full-size ones of each source port, TCP and the default class once."""
        return ports * (1 + ("udp" in self.probes)) + self.rdma_ports(ports) + len(self._classes)


_Probe = tuple[ProbeType, int, int, float]
"""Type, traffic class, payload bytes, period in seconds."""


class Draft:
    """A plan whose targets are not written out yet: the pairs, and in which order each source probes them."""

    def __init__(
        self, head: Plan, pairs: Iterable[Pair], routes: Routes, settings: Settings, inactive: frozenset[str] | None
    ) -> None:
        """``head`` is the plan without targets; ``inactive`` the endpoints that have not started, None for all."""
        self.head = head
        self._routes = routes
        self._settings = settings
        self._inactive = inactive
        self._ports = SourcePorts(
            settings.first_source_port, settings.largest_port_count, settings.rotation, head.generation
        )
        self._rdma_ports = (
            SourcePorts(
                ROCE_SOURCE_PORTS.start,
                min(settings.largest_port_count, MAX_RDMA_SOURCE_PORTS),
                settings.rotation,
                head.generation,
                end=settings.first_source_port,
            )
            if "rdma" in settings.probes
            else None
        )
        self._toward: dict[str, list[Pair]] = defaultdict(list)
        for pair in pairs:
            self._toward[pair.one.endpoint.id].append(pair)
            self._toward[pair.other.endpoint.id].append(Pair(pair.other, pair.one, pair.role, pair.ports))

    @property
    def paths(self) -> int:
        return sum(self._settings.target_count(pair.ports) for pairs in self._toward.values() for pair in pairs)

    def whole(self) -> Plan:
        """The plan in one file; raise ContractError when no reader would take it."""
        if self.paths > LARGEST_FILE:
            raise ContractError("plan", f"{self.paths} paths are too many for one file", "add --split-by-host")
        return self._of(self._toward)

    def by_host(self) -> Iterator[tuple[str, Plan]]:
        """Each host with the part of the plan that its exporter obeys, one at a time: memory holds no other."""
        sources: dict[str, list[str]] = defaultdict(list)
        for source, pairs in self._toward.items():
            sources[pairs[0].one.endpoint.host].append(source)
        for host in sorted(sources):
            yield host, self._of(sources[host])

    def _of(self, sources: Iterable[str]) -> Plan:
        targets = [
            target
            for source in sorted(sources)
            for pair in in_probing_order(self._toward[source])
            for target in self._targets(pair)
        ]
        made = msgspec.structs.replace(self.head, targets=tuple(targets))
        check_plan(made, "plan")
        return made

    def _targets(self, pair: Pair) -> Iterator[Target]:
        """One target per path."""
        source, destination = pair.one.interface, pair.other.interface
        ends = {pair.one.endpoint.id, pair.other.endpoint.id}
        active = self._inactive is not None and not ends & self._inactive
        names = (source.host.name, source.rnic.name, destination.host.name, destination.rnic.name)
        for port, (probe, traffic_class, payload, period) in self._probes(pair):
            yield Target(
                path=path_id(*names, probe, traffic_class, port),
                source=pair.one.endpoint.id,
                destination=pair.other.endpoint.id,
                probe=probe,
                source_address=source.rnic.ip,
                destination_address=destination.rnic.ip,
                destination_port=ROCE_PORT if probe == "rdma" else RESPONDER_PORT,
                source_ports=(port,),
                traffic_class=traffic_class,
                payload_bytes=payload,
                period_seconds=period,
                active=active,
                role=pair.role,
                source_host=names[0],
                source_rnic=names[1],
                destination_host=names[2],
                destination_rnic=names[3],
            )

    def _probes(self, pair: Pair) -> Iterator[tuple[int, _Probe]]:
        """Source port and probe of each path. UDP and MTU probes share ports, hence the route that ECMP gives them.

        So does the default class the first port: switches hash no DSCP, and a loss of one class alone is no link's.
        RDMA has another destination port, so that no source port would give it the route of UDP.
        """
        settings, ends = self._settings, (pair.one.id, pair.other.id)
        lossless, default = settings.traffic_class, settings.default_traffic_class
        jumbo = self._routes.mtu(*ends, settings.mtu) - UDP_HEADERS
        ports = self._ports.of(*ends, pair.ports)
        for port in ports:
            if "udp" in settings.probes:
                yield port, ("udp", lossless, settings.udp_payload, settings.udp_period)
            yield port, ("mtu", lossless, jumbo, settings.mtu_period)
            if port == ports[0]:
                yield port, ("tcp", lossless, settings.tcp_payload, settings.tcp_period)
                if default is not None and "udp" in settings.probes:
                    yield port, ("udp", default, settings.udp_payload, settings.default_udp_period)
        if self._rdma_ports is None:
            return
        ports = self._rdma_ports.of(*ends, settings.rdma_ports(pair.ports))
        for port in ports:
            yield port, ("rdma", lossless, RDMA_PAYLOAD, settings.rdma_period)
        if default is not None and "udp" not in settings.probes:
            yield ports[0], ("rdma", default, RDMA_PAYLOAD, settings.default_udp_period)


def draft(
    skeleton: Skeleton,
    topology: Topology | Fabric,
    *,
    phase: Phase,
    generation: int,
    expires: float,
    settings: Settings | None = None,
    inactive: frozenset[str] = frozenset(),
) -> Draft:
    """Choose the pairs of one job's probe list; pure and deterministic.

    ``preload`` probes every same-rail pair of the skeleton's endpoints and needs no structure (SkeletonHunter,
    section 5.1), in the lossless class alone; all its targets wait for their destination to register. ``skeleton``
    probes the skeleton's pairs, and off it a few same-rail pairs (role ``basic``); these and some source ports are
    others each ``generation``. Of its targets, those from or to an endpoint in ``inactive`` (not yet started) wait.
    Both phases add the fewest pairs that tell the links on those paths apart (role ``basic``). Every pair is probed in
    both directions. ``expires`` is in seconds since the epoch. For many jobs of one topology, make its Fabric once.

    A group of more pairs than ``max_paths`` has room for is probed by a connected, redundant part of them
    (skeleton_service.planning.mesh); the coverage says how many. Time and memory are linear in the pairs probed.
    Raises ContractError when the skeleton lists no endpoints or the topology lacks one of them.
    """
    settings = settings or Settings()
    if phase == "preload":  # as many peers as there is room for; nothing else is worth as much before the job runs
        settings = replace(settings, default_traffic_class=None, rotation=0.0)
    fabric = topology if isinstance(topology, Fabric) else Fabric(topology)
    routes = Routes(fabric)
    if not skeleton.endpoints:
        raise ContractError("skeleton", "lists no endpoints", "infer it again with this release")
    members = {endpoint.id: _bind(endpoint, fabric) for endpoint in skeleton.endpoints}
    member_at = {member.id: member for member in sorted(members.values(), key=lambda m: m.endpoint.id, reverse=True)}
    room = settings.max_paths // max(Counter(member.endpoint.host for member in member_at.values()).values())
    selection = Selection(
        routes,
        lambda paths: min(port_count(paths, settings.path_probability), settings.largest_port_count),
        settings.target_count,
    )
    rails = _rails(members.values())
    if phase == "preload":
        for rail in rails:
            selection.add_mesh(rail, "basic", int(room * (1 - RESERVED)))
    else:
        _add_skeleton(selection, skeleton, members, int(room * (1 - RESERVED)))
    asked = list(selection.pairs)
    used = (lambda ports: ports) if "udp" in settings.probes else settings.rdma_ports
    reached = [path_probability(routes.count(pair.one.id, pair.other.id), used(pair.ports)) for pair in asked]
    extra, ambiguous = separate(
        fabric, [(pair.one.id, pair.other.id) for pair in asked], sorted(member_at), settings.redundancy
    )
    for one, other in extra:
        selection.add(member_at[one], member_at[other], room)
    if phase == "skeleton":
        selection.explore(rails, settings.exploration, generation, room)
    coverage = Coverage(
        path_probability=round(min(reached, default=1.0), 6),
        pairs_total=selection.wanted,
        pairs_probed=len(asked),
        links_ambiguous=ambiguous,
    )
    head = Plan(
        version=1,
        job=skeleton.job,
        job_uid=skeleton.job_uid,
        phase=phase,
        generation=generation,
        expires=expires,
        targets=(),
        coverage=coverage,
    )
    return Draft(head, selection.pairs, routes, settings, None if phase == "preload" else inactive)


def _add_skeleton(selection: Selection, skeleton: Skeleton, members: dict[str, Member], limit: int) -> None:
    """Edges and groups; each kind that an endpoint takes part in has an equal share of the limit, or what is left."""
    edges = [(members[a], members[b], role) for a, b, role in msgspec.structs.replace(skeleton, groups=()).pairs()]
    groups_of = Counter(member for group in skeleton.groups for member in set(group.members))
    kinds = bool(edges) + max(groups_of.values(), default=0)
    if edges:
        selection.add_edges(edges, limit // kinds)
    added = Counter(dict.fromkeys(groups_of, int(bool(edges))))
    for group in sorted(skeleton.groups, key=lambda group: (group.role, sorted(group.members))):
        added.update(set(group.members))
        share = max((added[member] for member in group.members), default=0)
        selection.add_mesh((members[member] for member in group.members), group.role, limit * share // kinds)


def in_probing_order(pairs: Sequence[Pair]) -> list[Pair]:
    """A source's pairs from the destination that follows it on, and around.

    So all sources of a ring are at different destinations, if they go through their lists together.
    """
    return sorted(pairs, key=lambda pair: (pair.other.id < pair.one.id, pair.other.id))


def _bind(endpoint: Endpoint, fabric: Fabric) -> Member:
    return Member(endpoint, interface_of(endpoint, fabric), port_id(endpoint.host, endpoint.rnic))


def _rails(members: Iterable[Member]) -> list[list[Member]]:
    """The RNICs of each rail: as the skeleton has it, else the topology, else by their place in the host."""
    rails: dict[int, list[Member]] = defaultdict(list)
    for member in members:
        rnic = member.interface.rnic
        rail = rnic.rail if member.endpoint.rail is None else member.endpoint.rail
        rails[member.interface.host.rnics.index(rnic) if rail is None else rail].append(member)
    return [rails[rail] for rail in sorted(rails)]
