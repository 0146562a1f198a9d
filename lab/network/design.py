"""What a lab consists of, as values: drawn from a seed, pure, no kernel in sight.

Leaf ``r`` of a pod serves rail ``r``; every leaf has one link to every spine. Every link is a routed
/31. Names, numbers, ports and addresses are drawn afresh from the seed, so that nothing that works
on one lab can have learnt its names by heart; only ``mlx5_<r>`` is always the RNIC of rail ``r``.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Literal, TypeVar

import msgspec

from exporter.contracts import topology as contract
from exporter.contracts.names import LINK_JOINT, link_id, port_id
from lab.errors import LabError

T = TypeVar("T")

HOST_LINKS = IPv4Network("10.16.0.0/14")
FABRIC_LINKS = IPv4Network("10.20.0.0/14")
LOOPBACKS = IPv4Network("10.24.0.0/16")
MANAGEMENT = IPv4Network("198.18.0.0/16")  # RFC 2544: never a real network's
MANAGEMENT_GATEWAY = MANAGEMENT[1]  # the sandbox itself
MTU = 9000
SPEED_MBPS = 10_000  # what veth claims
LARGEST_NODES = 1000  # a Linux bridge, the management network, has 1024 ports
FIRST_ASN = 4_200_000_000  # RFC 6996, private
OVERLAY = IPv4Network("10.128.0.0/12")
OVERLAY_OVERHEAD = 50  # outer Ethernet, IPv4, UDP and VXLAN headers (RFC 7348)
LARGEST_TENANTS = 8
LANES = 4  # ports that one cage is broken out into
NETDEV_STYLES = ("eth{}", "ens{}f0np0", "enp{}s0", "rdma{}", "roce{}")


@dataclass(frozen=True)
class End:
    """One end of a link: an RNIC (``port`` is its name, ``netdev`` its interface) or a switch port (both the same).

    Switch ports belong to a breakout group, the cage whose lanes they are, and on a spine to a line card.
    """

    node: str
    port: str
    netdev: str
    address: str
    breakout_group: str | None = None
    linecard: str | None = None

    @property
    def id(self) -> str:
        return port_id(self.node, self.port)


@dataclass(frozen=True)
class Cable:
    """A link with its two ends; ``a`` is the host or the leaf, ``b`` the switch above it."""

    a: End
    b: End

    @property
    def id(self) -> str:
        return link_id(self.a.id, self.b.id)

    @property
    def ends(self) -> tuple[End, End]:
        return self.a, self.b


@dataclass(frozen=True)
class Rnic:
    name: str
    rail: int
    netdev: str
    address: str
    gateway: str  # the leaf's end of its /31


@dataclass(frozen=True)
class Host:
    name: str
    pod: str
    rack: str
    management: str
    rnics: tuple[Rnic, ...]

    @property
    def namespace(self) -> str:
        return self.name


@dataclass(frozen=True)
class Switch:
    name: str
    tier: str  # leaf or spine; of a transit, border or carrier
    pod: str | None
    rail: int | None
    asn: int
    loopback: str
    management: str
    ports: tuple[End, ...]

    @property
    def namespace(self) -> str:
        return self.name


@dataclass(frozen=True)
class Interface:
    """A container's interface on the overlay: its share of one RNIC of the host."""

    netdev: str
    rnic: str
    rail: int
    mac: str
    address: str


@dataclass(frozen=True)
class Container:
    """A network namespace on a host, with one overlay interface for each RNIC of the host."""

    name: str
    host: str
    tenant: str
    interfaces: tuple[Interface, ...]

    @property
    def namespace(self) -> str:
        return self.name


@dataclass(frozen=True)
class Tenant:
    """One VXLAN network. Tenants use the same addresses: only the VNI keeps them apart."""

    name: str
    vni: int
    vlan: int  # what the leaves map the VNI to
    subnet: str
    containers: tuple[Container, ...]


@dataclass(frozen=True)
class Carrier:
    """A provider's network between two sites, as one router: what it does to every packet that crosses it.

    ``microseconds`` each way, up to ``jitter`` µs more; ``loss`` in percent, the lowest and the highest.
    """

    switch: str
    microseconds: float
    jitter: float
    loss: tuple[float, float]


@dataclass(frozen=True)
class Transit:
    """The way to a second site: names of switches and hosts. Routing prefers the first carrier."""

    border: str
    far_border: str
    carriers: tuple[Carrier, Carrier]
    services: str  # host beside the fabric: the resolver's
    store: str  # host of the second site: the checkpoint store


@dataclass(frozen=True)
class Design:
    """One lab. Written to and read from JSON whole (``dump``, ``load``).

    ``hosts`` are those that train; ``service_hosts`` serve them from outside the fabric's leaves.
    """

    seed: int
    mtu: int
    hosts: tuple[Host, ...]
    switches: tuple[Switch, ...]
    links: tuple[Cable, ...]
    tenants: tuple[Tenant, ...] = ()
    service_hosts: tuple[Host, ...] = ()
    transit: Transit | None = None
    icmp: Literal["inbound", "loopback", "off"] = "inbound"
    """Whose address the switches' ICMP errors carry (lab.network.icmp); off: they send none."""
    icmp_rate: int = 100
    """Packets per second that a switch's control plane handles, of ICMP errors and of echo requests each; 0: any."""

    @property
    def nodes(self) -> tuple[Host | Switch, ...]:
        return (*self.hosts, *self.service_hosts, *self.switches)

    @property
    def managed(self) -> tuple[Switch, ...]:
        """The switches that answer SNMP: a carrier's do not."""
        return tuple(switch for switch in self.switches if switch.tier != "carrier")

    @property
    def containers(self) -> tuple[Container, ...]:
        return tuple(container for tenant in self.tenants for container in tenant.containers)

    @property
    def leaves(self) -> tuple[Switch, ...]:
        return tuple(switch for switch in self.switches if switch.tier == "leaf")

    @property
    def spines(self) -> tuple[Switch, ...]:
        return tuple(switch for switch in self.switches if switch.tier == "spine")

    def peers(self, switch: str) -> Iterator[tuple[End, End]]:
        """The links of ``switch`` to other switches, as (own end, far end)."""
        names = {each.name for each in self.switches}
        for link in self.links:
            for own, far in (link.ends, link.ends[::-1]):
                if own.node == switch and far.node in names:
                    yield own, far

    def node(self, name: str) -> Host | Switch:
        """Return the host or switch ``name``; raise LabError with the nearest right names."""
        return _lookup("host or switch", name, {node.name: node for node in self.nodes})

    def host(self, name: str) -> Host:
        return _lookup("host", name, {host.name: host for host in self.hosts})

    def service_host(self, name: str) -> Host:
        return _lookup("service host", name, {host.name: host for host in self.service_hosts})

    def switch(self, name: str) -> Switch:
        return _lookup("switch", name, {switch.name: switch for switch in self.switches})

    def container(self, name: str) -> Container:
        return _lookup("container", name, {container.name: container for container in self.containers})

    def namespace(self, name: str) -> str:
        """The network namespace of a host, switch or container."""
        places: dict[str, Host | Switch | Container] = {each.name: each for each in (*self.nodes, *self.containers)}
        return _lookup("host, switch or container", name, places).namespace

    def rnic_end(self, name: str) -> End:
        """Return the RNIC ``host:rnic``; raise LabError with the nearest right names."""
        hosts = {host.name for host in self.hosts}
        return _lookup("RNIC", name, {end.id: end for link in self.links for end in link.ends if end.node in hosts})

    def end_of(self, link: Cable, name: str) -> End:
        """Return the end of ``link`` called ``name``."""
        return _lookup(f"end of {link.id}", name, {end.id: end for end in link.ends})

    def link_at(self, end: End) -> Cable:
        """The link that ``end`` is an end of."""
        return next(link for link in self.links if end.id in (link.a.id, link.b.id))

    def far_end(self, end: End) -> End:
        """The other end of ``end``'s link."""
        a, b = self.link_at(end).ends
        return b if a.id == end.id else a

    def end(self, name: str) -> End:
        """Return the port ``switch:port`` or ``host:rnic``; raise LabError with the nearest right names."""
        return _lookup("port", name, {end.id: end for link in self.links for end in link.ends})

    def link(self, name: str) -> Cable:
        """Return the link ``end -- end``, its ends in either order; raise LabError with the nearest right names."""
        first, joint, second = (part.strip() for part in name.partition(LINK_JOINT.strip()))
        wanted = link_id(first, second) if joint else name
        return _lookup("link", wanted, {link.id: link for link in self.links})

    @cached_property
    def _topology(self) -> contract.Topology:
        return contract.Topology(
            version=1,
            hosts=tuple(
                contract.Host(
                    name=host.name,
                    rack=host.rack,
                    pod=host.pod,
                    rnics=tuple(
                        contract.Rnic(name=rnic.name, rail=rnic.rail, ip=rnic.address, netdev=rnic.netdev)
                        for rnic in host.rnics
                    ),
                )
                for host in self.hosts
            )
            + tuple(
                contract.Host(
                    name=host.name,
                    rack=host.rack,
                    rnics=tuple(contract.Rnic(name=r.name, ip=r.address, netdev=r.netdev) for r in host.rnics),
                )
                for host in self.service_hosts
            ),
            switches=tuple(
                contract.Switch(
                    name=switch.name,
                    tier=switch.tier,
                    management=None if switch.tier == "carrier" else switch.management,
                    addresses=(switch.loopback,),
                    ports=tuple(
                        contract.Port(
                            name=end.port,
                            addresses=(end.address,),
                            mtu=self.mtu,
                            speed_mbps=SPEED_MBPS,
                            breakout_group=end.breakout_group,
                            linecard=end.linecard,
                        )
                        for end in switch.ports
                    ),
                )
                for switch in self.switches
            ),
            links=tuple(contract.Link(a=link.a.id, b=link.b.id) for link in self.links),
        )

    def topology(self) -> contract.Topology:
        """The lab as the topology contract describes it."""
        return self._topology


def _lookup(kind: str, name: str, things: dict[str, T]) -> T:
    if name in things:
        return things[name]
    if not things:
        raise LabError(f"there is no {kind} {name!r} in this lab", "it has none at all")
    near = difflib.get_close_matches(name, things, n=3, cutoff=0.3) or sorted(things)[:3]
    raise LabError(f"there is no {kind} {name!r} in this lab", "perhaps " + " or ".join(repr(each) for each in near))


def dump(design: Design) -> bytes:
    return msgspec.json.format(msgspec.json.encode(design), indent=2) + b"\n"


def load(data: bytes) -> Design:
    """Read what ``dump`` wrote; raise LabError when it is something else."""
    try:
        return msgspec.json.decode(data, type=Design)
    except msgspec.DecodeError as error:
        raise LabError(f"the lab's design cannot be read: {error}", "run `python -m lab down`, then `up`") from error


def draw(seed: int, pods: int = 2, rails: int = 2, spines: int = 2, hosts_per_pod: int = 4, tenants: int = 2) -> Design:
    """Draw a lab; the same seed and sizes give the same lab. Raise LabError for sizes that cannot be built."""
    leaves = pods * rails
    hosts = pods * hosts_per_pod
    if min(pods, rails, spines, hosts_per_pod) < 1:
        raise LabError("pods, rails, spines and hosts per pod must be at least 1")
    if hosts + leaves + spines > LARGEST_NODES:
        raise LabError(f"{hosts + leaves + spines} nodes are too many", f"at most {LARGEST_NODES}")
    if not 0 <= tenants <= LARGEST_TENANTS:
        raise LabError(f"{tenants} tenants cannot be", f"0 to {LARGEST_TENANTS}")
    rng = random.Random(seed)
    design = _Draw(rng, seed, pods, rails, spines, hosts_per_pod).design()
    return replace(design, tenants=_draw_tenants(rng, design, tenants))


class _Draw:
    """The bags that names, ports and addresses are drawn from while one design is made."""

    def __init__(self, rng: random.Random, seed: int, pods: int, rails: int, spines: int, hosts_per_pod: int) -> None:
        self.rng = rng
        self.seed, self.pods, self.rails, self.spines, self.hosts_per_pod = seed, pods, rails, spines, hosts_per_pod
        leaves, hosts = pods * rails, pods * hosts_per_pod
        self.pod_names = self._names("pod-{}", pods)
        self.host_names = self._names("host-{:04}", hosts)
        self.leaf_names = self._names("leaf-{}", leaves)
        self.spine_names = self._names("spine-{}", spines)
        self.rack_names = self._names("rack-{}", pods * ((hosts_per_pod + 1) // 2))
        self.host_subnets = self._subnets(HOST_LINKS, hosts * rails)
        self.fabric_subnets = self._subnets(FABRIC_LINKS, leaves * spines)
        self.loopbacks = self._addresses(LOOPBACKS, leaves + spines)
        self.management = self._addresses(MANAGEMENT, hosts + leaves + spines)
        self.downlinks = {name: self._ports(name, hosts_per_pod, 0) for name in self.leaf_names}
        self.downlinks |= {name: self._ports(name, leaves, 0, linecards=2) for name in self.spine_names}
        self.uplinks = {name: self._ports(name, spines, 1) for name in self.leaf_names}

    def _names(self, pattern: str, count: int) -> list[str]:
        return [pattern.format(number) for number in self.rng.sample(range(1, max(100, 10 * count)), count)]

    def _subnets(self, network: IPv4Network, count: int) -> Iterator[tuple[str, str]]:
        first = int(network.network_address)
        pairs = self.rng.sample(range(1, min(network.num_addresses // 2, max(1024, 4 * count))), count)
        return iter([(str(IPv4Address(first + 2 * pair)), str(IPv4Address(first + 2 * pair + 1))) for pair in pairs])

    def _addresses(self, network: IPv4Network, count: int) -> Iterator[str]:
        return iter([str(network[number]) for number in self.rng.sample(range(10, max(250, 4 * count)), count)])

    def _ports(self, switch: str, count: int, half: int, linecards: int = 0) -> Iterator[End]:
        """Ports without addresses: cages drawn from one half of the front panel, their lanes in random order.

        A cage has ``LANES`` ports; those in use are numbered as SONiC numbers them, by lane.
        """
        needed = -(-count // LANES)
        size = max(16, needed)
        cages = sorted(half * size + cage for cage in self.rng.sample(range(size), needed))
        ends = []
        for place, cage in enumerate(cages):
            linecard = f"lc{1 + place * linecards // needed}" if linecards else None
            for lane in range(min(LANES, count - place * LANES)):
                port = f"Ethernet{LANES * cage + lane}"
                ends.append(End(switch, port, port, "", str(cage), linecard))
        self.rng.shuffle(ends)
        return iter(ends)

    def design(self) -> Design:
        hosts: list[Host] = []
        links: list[Cable] = []
        for index, name in enumerate(self.host_names):
            pod = index // self.hosts_per_pod
            rack = self.rack_names[pod * ((self.hosts_per_pod + 1) // 2) + index % self.hosts_per_pod // 2]
            style = self.rng.choice(NETDEV_STYLES)
            numbers = self.rng.sample(range(1, max(64, 2 * self.rails)), self.rails)
            rnics = []
            for rail in range(self.rails):
                gateway, address = next(self.host_subnets)
                rnic = Rnic(f"mlx5_{rail}", rail, style.format(numbers[rail]), address, gateway)
                leaf = self.leaf_names[pod * self.rails + rail]
                port = replace(next(self.downlinks[leaf]), address=gateway)
                links.append(Cable(End(name, rnic.name, rnic.netdev, address), port))
                rnics.append(rnic)
            hosts.append(Host(name, self.pod_names[pod], rack, next(self.management), tuple(rnics)))
        for leaf in self.leaf_names:
            for spine in self.spine_names:
                below, above = next(self.fabric_subnets)
                lower = replace(next(self.uplinks[leaf]), address=below)
                links.append(Cable(lower, replace(next(self.downlinks[spine]), address=above)))
        switches = [
            self._switch(leaf, "leaf", index // self.rails, index % self.rails, FIRST_ASN + 1 + index, links)
            for index, leaf in enumerate(self.leaf_names)
        ]
        # The spines share one number: a route that went up once is never taken up again.
        switches += [self._switch(spine, "spine", None, None, FIRST_ASN, links) for spine in self.spine_names]
        self.rng.shuffle(hosts)
        self.rng.shuffle(switches)
        return Design(self.seed, MTU, tuple(hosts), tuple(switches), tuple(links))

    def _switch(
        self, name: str, tier: str, pod: int | None, rail: int | None, asn: int, links: Iterable[Cable]
    ) -> Switch:
        ports = tuple(end for link in links for end in link.ends if end.node == name)
        pod_name = None if pod is None else self.pod_names[pod]
        return Switch(name, tier, pod_name, rail, asn, next(self.loopbacks), next(self.management), ports)


def _draw_tenants(rng: random.Random, design: Design, count: int) -> tuple[Tenant, ...]:
    """``count`` tenants with one container each on every host, all with the same addresses in different places."""
    rails = len(design.hosts[0].rnics)
    number = len(design.hosts) * rails
    pool = [str(OVERLAY[offset]) for offset in rng.sample(range(2, max(4096, 4 * number)), number)]
    macs = iter(rng.sample(range(1 << 32), count * number))
    vlans = rng.sample(range(100, 4000), count)
    tenants = []
    for vni, label in zip(rng.sample(range(4096, 1 << 24), count), rng.sample(range(16**4), count), strict=True):
        name = f"tenant-{label:04x}"
        addresses = iter(rng.sample(pool, number))
        containers = tuple(
            Container(
                name=f"{name}-{host.name}",
                host=host.name,
                tenant=name,
                interfaces=tuple(
                    Interface(f"net{rnic.rail}", rnic.name, rnic.rail, _mac(next(macs)), next(addresses))
                    for rnic in host.rnics
                ),
            )
            for host in design.hosts
        )
        tenants.append(Tenant(name, vni, vlans.pop(), str(OVERLAY), containers))
    return tuple(tenants)


def _mac(number: int) -> str:
    """A locally administered unicast address (IEEE 802, bit 1 of the first octet)."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0xFA, *number.to_bytes(4, "big")))
