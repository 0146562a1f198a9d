"""From a skeleton to the probe list that its exporters obey."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import ceil, log

from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric, Interface
from exporter.contracts.names import path_id, port_id, split_link, split_port
from exporter.contracts.plan import UDP_HEADERS, Coverage, Phase, Plan, ProbeType, Target, check_plan
from exporter.contracts.skeleton import Endpoint, Role, Skeleton
from exporter.contracts.topology import Topology
from skeleton_service.identifiability import separate


@dataclass(frozen=True, slots=True)
class Settings:
    """What a site may choose. Periods in seconds; ``mtu`` is the largest IP packet the fabric promises."""

    path_probability: float = 0.99
    largest_port_count: int = 64
    first_source_port: int = 61000  # above the ephemeral range (32768-60999), below the responder
    traffic_class: int = (26 << 2) | 2  # DSCP 26, ECT(0): an ECN queue drops packets that are not ECN-capable
    udp_period: float = 1.0
    mtu_period: float = 2.0
    tcp_period: float = 5.0
    udp_payload: int = 64
    tcp_payload: int = 64
    mtu: int = 9000
    redundancy: int = 2


@dataclass(frozen=True, slots=True)
class Pair:
    source: Endpoint
    destination: Endpoint
    role: Role


def plan(
    skeleton: Skeleton,
    topology: Topology,
    *,
    phase: Phase,
    generation: int,
    expires: float,
    settings: Settings | None = None,
    inactive: frozenset[str] = frozenset(),
) -> Plan:
    """Make the probe list of one job; pure and deterministic.

    ``preload`` probes every same-rail pair of the skeleton's endpoints and needs no structure (SkeletonHunter,
    section 5.1); ``skeleton`` probes the skeleton's pairs. Both add the fewest pairs that tell the links
    on those paths apart (role ``basic``). Every pair is probed in both directions. ``expires`` is in seconds
    since the epoch. Targets from or to an endpoint in ``inactive`` (not yet started) are inactive.
    Raises ContractError when the skeleton lists no endpoints or the topology lacks one of them.
    """
    settings = settings or Settings()
    fabric = Fabric(topology)
    if not skeleton.endpoints:
        raise ContractError("skeleton", "lists no endpoints", "infer it again with this release")
    interfaces = {endpoint.id: _bind(endpoint, fabric) for endpoint in skeleton.endpoints}
    by_id = {endpoint.id: endpoint for endpoint in skeleton.endpoints}
    wanted = _same_rail(skeleton.endpoints, interfaces) if phase == "preload" else skeleton.pairs()
    pairs = list(_one_per_rnic_pair((Pair(by_id[a], by_id[b], role) for a, b, role in wanted), interfaces))
    reachable = [pair for pair in pairs if fabric.path_count(*_ends(pair, interfaces))]
    endpoint_at = {interfaces[endpoint.id].id: endpoint for endpoint in reversed(skeleton.endpoints)}
    extra, ambiguous = separate(
        fabric,
        [_ends(pair, interfaces) for pair in reachable],
        sorted(endpoint_at, key=str.encode),
        settings.redundancy,
    )
    probed = reachable + [Pair(endpoint_at[a], endpoint_at[b], "basic") for a, b in extra]
    reached = [1.0]
    targets: list[Target] = []
    for pair in _in_probing_order(probed):
        count = fabric.path_count(*_ends(pair, interfaces))
        ports = min(port_count(count, settings.path_probability), settings.largest_port_count)
        reached.append(path_probability(count, ports))
        targets += _targets(
            pair, interfaces, ports, fabric, settings, not {pair.source.id, pair.destination.id} & inactive
        )
    made = Plan(
        version=1,
        job=skeleton.job,
        job_uid=skeleton.job_uid,
        phase=phase,
        generation=generation,
        expires=expires,
        targets=tuple(targets),
        coverage=Coverage(
            path_probability=round(min(reached), 6),
            pairs_total=len(pairs),
            pairs_probed=len(reachable),
            links_ambiguous=ambiguous,
        ),
    )
    check_plan(made, "plan")
    return made


def _one_per_rnic_pair(pairs: Iterable[Pair], interfaces: dict[str, Interface]) -> Iterator[Pair]:
    """Containers that share an RNIC share its paths: each pair of RNICs is probed once, for its first role."""
    seen: set[frozenset[str]] = set()
    for pair in pairs:
        ends = frozenset(_ends(pair, interfaces))
        if len(ends) == 2 and ends not in seen:
            seen.add(ends)
            yield pair


@lru_cache(maxsize=1024)
def port_count(paths: int, probability: float) -> int:
    """How many random source ports cover all of ``paths`` equal-cost paths with ``probability`` (R-Pingmesh).

    ceil(ln(1 - P^(1/m)) / ln((m - 1)/m)): each path is missed by one port with probability (m - 1)/m.
    """
    if paths <= 1:
        return 1
    return ceil(log(1 - probability ** (1 / paths)) / log((paths - 1) / paths))


def path_probability(paths: int, ports: int) -> float:
    """With what probability ``ports`` random source ports cover all of ``paths`` equal-cost paths."""
    return 1.0 if paths <= 1 else (1 - ((paths - 1) / paths) ** ports) ** paths


def _bind(endpoint: Endpoint, fabric: Fabric) -> Interface:
    interface = fabric.interfaces.get(port_id(endpoint.host, endpoint.rnic))
    if interface is None:
        problem = f"RNIC {endpoint.rnic!r} of host {endpoint.host!r} is missing, needed by endpoint {endpoint.id!r}"
        raise ContractError("topology", problem, "add the host with this RNIC")
    return interface


def _ends(pair: Pair, interfaces: dict[str, Interface]) -> tuple[str, str]:
    return interfaces[pair.source.id].id, interfaces[pair.destination.id].id


def _same_rail(endpoints: tuple[Endpoint, ...], interfaces: dict[str, Interface]) -> Iterator[tuple[str, str, Role]]:
    rails: dict[int, list[Endpoint]] = defaultdict(list)
    for endpoint in endpoints:
        interface = interfaces[endpoint.id]
        rail = interface.rnic.rail if endpoint.rail is None else endpoint.rail
        rails[interface.host.rnics.index(interface.rnic) if rail is None else rail].append(endpoint)
    for rail in sorted(rails):
        for a, b in combinations(rails[rail], 2):
            if a.host != b.host:
                yield a.id, b.id, "basic"


def _in_probing_order(pairs: list[Pair]) -> Iterator[Pair]:
    """Both directions of each pair, by source, each source beginning at another destination.

    Exporters go through their list in order: begun alike, all would hit one destination at once.
    """
    toward: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        toward[pair.source.id].append(pair)
        toward[pair.destination.id].append(Pair(pair.destination, pair.source, pair.role))
    for index, source in enumerate(sorted(toward, key=str.encode)):
        own = sorted(toward[source], key=lambda pair: pair.destination.id.encode())
        shift = index % len(own)
        yield from own[shift:] + own[:shift]


def _targets(
    pair: Pair, interfaces: dict[str, Interface], ports: int, fabric: Fabric, settings: Settings, active: bool
) -> Iterator[Target]:
    """One target per path: UDP and MTU probes share source ports, hence the route that ECMP gives them."""
    source, destination = interfaces[pair.source.id], interfaces[pair.destination.id]
    jumbo = _mtu(source.id, destination.id, fabric, settings.mtu) - UDP_HEADERS
    udp: tuple[ProbeType, int, float] = ("udp", settings.udp_payload, settings.udp_period)
    mtu: tuple[ProbeType, int, float] = ("mtu", jumbo, settings.mtu_period)
    tcp: tuple[ProbeType, int, float] = ("tcp", settings.tcp_payload, settings.tcp_period)
    for index in range(ports):
        port = settings.first_source_port + index
        for probe, payload, period in (udp, mtu, tcp) if index == 0 else (udp, mtu):
            yield Target(
                path=path_id(
                    source.host.name,
                    source.rnic.name,
                    destination.host.name,
                    destination.rnic.name,
                    probe,
                    settings.traffic_class,
                    port,
                ),
                source=pair.source.id,
                destination=pair.destination.id,
                probe=probe,
                source_address=source.rnic.ip,
                destination_address=destination.rnic.ip,
                source_ports=(port,),
                traffic_class=settings.traffic_class,
                payload_bytes=payload,
                period_seconds=period,
                active=active,
                role=pair.role,
                source_host=source.host.name,
                source_rnic=source.rnic.name,
                destination_host=destination.host.name,
                destination_rnic=destination.rnic.name,
            )


def _mtu(source: str, destination: str, fabric: Fabric, promised: int) -> int:
    """The largest packet that the ports on the way are meant to pass, never more than is promised."""
    ports = {end for link in fabric.possible_links(source, destination) for end in split_link(link)}
    return min([promised, *(size for end in ports if (size := _port_mtu(end, fabric)) is not None)])


def _port_mtu(end: str, fabric: Fabric) -> int | None:
    node, name = split_port(end)
    switch = fabric.switches.get(node)
    return None if switch is None else next((port.mtu for port in switch.ports if port.name == name), None)
