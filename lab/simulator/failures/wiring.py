"""The fabric of a case: drawn, named, and indexed by its directed links.

Link ``l`` carries packets both ways: direction ``2 l`` leaves its end ``a`` (the one nearer to hosts), direction
``2 l + 1`` leaves its end ``b``. An RNIC's cable has the RNIC as ``a``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from exporter.contracts.diagnosis import ComponentKind
from exporter.contracts.names import link_id, port_id
from exporter.contracts.topology import Host, Link, Port, Rnic, Switch, Topology

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

CARRIER, BORDER, REMOTE = "carrier", "border-0", "edge-b"  # a tier, and names of switches
MTU_BYTES = 9216
SPEED_MBPS = 400_000


@dataclass(frozen=True)
class Wiring:
    """``ends`` (links): the ports ``node:port`` at both ends; ``rnics``: ``host:rnic`` in the order of the hosts.

    ``cables`` (RNICs,) are the links of the RNICs. All other links join switches. The first ``computing`` RNICs are
    those of the job's hosts; a store behind two carriers may follow.
    """

    topology: Topology
    ends: tuple[tuple[str, str], ...]
    rnics: tuple[str, ...]
    cables: Integers
    computing: int

    @cached_property
    def links(self) -> tuple[str, ...]:
        return tuple(link_id(a, b) for a, b in self.ends)

    @cached_property
    def nodes(self) -> tuple[tuple[str, str], ...]:
        """Per link the devices at its ends ``a`` and ``b``."""
        return tuple((a.partition(":")[0], b.partition(":")[0]) for a, b in self.ends)

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """Per RNIC the switch its cable ends at."""
        return tuple(self.nodes[cable][1] for cable in self.cables.tolist())

    @cached_property
    def upward(self) -> dict[str, list[int]]:
        """{switch: its links to the tier above}."""
        own = set(self.cables.tolist())
        links: dict[str, list[int]] = defaultdict(list)
        for number, (below, _) in enumerate(self.nodes):
            if number not in own:
                links[below].append(number)
        return dict(links)

    @cached_property
    def hosts(self) -> dict[str, list[int]]:
        """{host: its RNICs}, by index."""
        found: dict[str, list[int]] = defaultdict(list)
        for number, rnic in enumerate(self.rnics[: self.computing]):
            found[rnic.partition(":")[0]].append(number)
        return dict(found)

    @cached_property
    def ports(self) -> dict[str, Port]:
        """{``switch:port``: port}."""
        return {port_id(switch.name, port.name): port for switch in self.topology.switches for port in switch.ports}

    @cached_property
    def parts(self) -> dict[tuple[ComponentKind, str], list[int]]:
        """{(``linecard`` or ``breakout_group``, ``switch:part``): the links at its ports}."""
        found: dict[tuple[ComponentKind, str], list[int]] = defaultdict(list)
        for link, pair in enumerate(self.ends):
            for end in pair:
                switch, port = end.partition(":")[0], self.ports.get(end)
                if port is not None and port.linecard is not None:
                    found["linecard", f"{switch}:{port.linecard}"].append(link)
                if port is not None and port.breakout_group is not None:
                    found["breakout_group", f"{switch}:{port.breakout_group}"].append(link)
        return dict(found)

    def tier(self, tier: str) -> list[str]:
        return [each.name for each in self.topology.switches if each.tier == tier]

    def directions_at(self, node: str) -> Integers:
        """Both directions of every link at a device."""
        links = [number for number, pair in enumerate(self.nodes) if node in pair]
        return both_ways(links)

    def receiver(self, direction: int) -> str:
        """The port at which packets of a direction arrive."""
        return self.ends[direction // 2][1 - direction % 2]

    def sender(self, direction: int) -> str:
        """The port from which packets of a direction leave."""
        return self.ends[direction // 2][direction % 2]

    def link_at(self, port: str) -> int:
        return next(number for number, pair in enumerate(self.ends) if port in pair)


def both_ways(links: list[int]) -> Integers:
    return np.array([direction for link in links for direction in (2 * link, 2 * link + 1)], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Sizes:
    """(least, most) of what is drawn for a fabric."""

    pods: tuple[int, int] = (2, 4)
    rails: tuple[int, int] = (2, 4)
    spines: tuple[int, int] = (2, 4)
    hosts: tuple[int, int] = (2, 6)  # of a pod
    parallel: tuple[int, int] | None = None  # links between a leaf and a spine; None: two in one fabric of five
    most_rnics: int = 40
    transit: bool = False
    """Whether a store at a second site can be reached through either of two carriers."""


def draw_wiring(draw: np.random.Generator, sizes: Sizes) -> Wiring:
    """A rail-optimised leaf-spine fabric: per pod one leaf for each rail, every leaf joined to every spine."""
    while True:
        pods, rails, spines, per_pod = (
            int(draw.integers(low, high + 1)) for low, high in (sizes.pods, sizes.rails, sizes.spines, sizes.hosts)
        )
        if pods * rails * per_pod <= sizes.most_rnics:
            break
    low, high = sizes.parallel or ((2, 2) if draw.random() < 0.2 else (1, 1))
    parallel = int(draw.integers(low, high + 1))
    host_name = str(draw.choice(["host-{:04d}", "gpu{:05d}", "node-{:04d}"]))
    leaf_name = str(draw.choice(["leaf-p{p}-r{r}", "tor-{p}{r}", "p{p}-leaf{r}"]))
    rnic_name = str(draw.choice(["mlx5_{}", "mlx5_bond_{}", "roce{}"]))
    port_name = str(draw.choice(["Ethernet{}", "swp{}", "et-0/0/{}"]))
    ports_of_card, ports_of_group = int(draw.choice([2, 4, 8])), int(draw.choice([2, 4]))
    numbers = np.sort(draw.choice(9_999, size=pods * per_pod, replace=False)).tolist()

    hosts, rnics, ends = [], [], []
    ports: dict[str, list[Port]] = defaultdict(list)
    links = 0

    def port(switch: str, tier: str) -> tuple[str, str]:
        """A new port of a switch and the address of its far end's neighbour."""
        nonlocal links
        number = len(ports[switch])
        address = f"10.{128 if tier != 'cable' else 0}.{links * 2 >> 8 & 255}.{links * 2 & 255}"
        links += 1
        ports[switch].append(
            Port(
                name=port_name.format(number),
                addresses=(address,),
                mtu=MTU_BYTES,
                speed_mbps=SPEED_MBPS,
                linecard=f"lc{number // ports_of_card}" if tier == "spine" else None,
                breakout_group=f"bg{number // ports_of_group}" if tier == "cable" else None,
            )
        )
        return port_id(switch, port_name.format(number)), address

    for index, number in enumerate(numbers):
        pod = index // per_pod
        name = host_name.format(number)
        cards = []
        for rail in range(rails):
            end, address = port(leaf_name.format(p=pod, r=rail), "cable")
            octets = address.split(".")
            card = Rnic(name=rnic_name.format(rail), rail=rail, ip=".".join([*octets[:3], str(int(octets[3]) + 1)]))
            cards.append(card)
            rnics.append(port_id(name, card.name))
            ends.append((rnics[-1], end))
        hosts.append(Host(name=name, rack=f"r{index // 2}", pod=f"p{pod}", rnics=tuple(cards)))
    leaves = [leaf_name.format(p=pod, r=rail) for pod in range(pods) for rail in range(rails)]
    for leaf in leaves:
        for spine in range(spines):
            for _ in range(parallel):
                below, _ = port(leaf, "leaf")
                above, _ = port(f"spine-{spine}", "spine")
                ends.append((below, above))
    tiers = dict.fromkeys(leaves, "leaf") | {f"spine-{spine}": "spine" for spine in range(spines)}
    cables, computing = list(range(len(rnics))), len(rnics)
    if sizes.transit:
        carriers = [str(name) for name in draw.permutation(["carrier-a", "carrier-b"])]
        tiers |= {BORDER: "border", REMOTE: "border"} | dict.fromkeys(carriers, CARRIER)
        joints = [(f"spine-{spine}", BORDER) for spine in range(spines)]
        joints += [(site, each) for site in (BORDER, REMOTE) for each in carriers]
        ends += [(port(low, "leaf")[0], port(high, "border")[0]) for low, high in joints]
        end, address = port(REMOTE, "cable")
        octets = address.split(".")
        card = Rnic(name="eth0", ip=".".join([*octets[:3], str(int(octets[3]) + 1)]))
        hosts.append(Host(name="store-0", zone="b", rnics=(card,)))
        cables.append(len(ends))
        rnics.append("store-0:eth0")
        ends.append((rnics[-1], end))
    switches = tuple(
        Switch(
            name=name,
            tier=tier,
            management=f"192.0.2.{number + 1}",
            addresses=(f"10.255.0.{number + 1}",),
            ports=tuple(ports[name]),
        )
        for number, (name, tier) in enumerate(tiers.items())
    )
    topology = Topology(version=1, hosts=tuple(hosts), switches=switches, links=tuple(Link(a=a, b=b) for a, b in ends))
    return Wiring(topology, tuple(ends), tuple(rnics), np.array(cables), computing)
