"""Two ports, each on a leaf of its own, and equal-cost spines between: as a site would describe them."""

from __future__ import annotations

from exporter.contracts.topology import Host, Link, Port, Rnic, Switch, Topology
from lab.guest.network import Fabric

SPINES = 2


def topology(fabric: Fabric) -> Topology:
    """What was cabled, as a site would describe it."""
    near, far = fabric.ports
    hosts = tuple(Host(name=f"h{port.index}", rnics=(Rnic(name=port.device, ip=port.address),)) for port in (near, far))
    gateways = ("10.9.1.254", "10.9.2.254")
    leaves = tuple(
        Switch(
            name=f"leaf{leaf}",
            tier="leaf",
            ports=(
                Port(name="down", addresses=(gateways[leaf],)),
                *(Port(name=f"s{spine}", addresses=(f"10.8.{spine}.{2 * leaf}",)) for spine in range(SPINES)),
            ),
        )
        for leaf in range(2)
    )
    spines = tuple(
        Switch(
            name=f"spine{spine}",
            tier="spine",
            ports=tuple(Port(name=f"l{leaf}", addresses=(f"10.8.{spine}.{2 * leaf + 1}",)) for leaf in range(2)),
        )
        for spine in range(SPINES)
    )
    links = [Link(a=f"h{port.index}:{port.device}", b=f"leaf{port.index}:down") for port in (near, far)]
    links += [Link(a=f"leaf{leaf}:s{spine}", b=f"spine{spine}:l{leaf}") for leaf in range(2) for spine in range(SPINES)]
    return Topology(version=1, hosts=hosts, switches=(*leaves, *spines), links=tuple(links))
