"""What the switches of a topology would tell of their neighbours."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_port
from exporter.contracts.neighbors import Neighbor, NeighborPort, NeighborSwitch
from exporter.contracts.topology import Topology


def chassis(name: str) -> str:
    """A made-up MAC address of a device."""
    return ":".join(f"{octet:02x}" for octet in b"\x9c\x05" + hashlib.sha256(name.encode()).digest()[:4])


def neighbor_at(topology: Topology, end: str, **other: Any) -> Neighbor:
    """As a switch sends itself, or lldpd on a host: there a port is a MAC address, and described by its device."""
    node, port = split_port(end)
    rnics = {rnic.name: rnic for host in topology.hosts for rnic in host.rnics if host.name == node}
    if rnics:
        return msgspec.structs.replace(
            Neighbor(
                chassis_id=chassis(node),
                chassis_id_subtype=4,
                port_id=chassis(end),
                port_id_subtype=3,
                port_description=rnics[port].netdev or port,
                system_name=f"{node}.example.net",
            ),
            **other,
        )
    return msgspec.structs.replace(
        Neighbor(
            chassis_id=chassis(node),
            chassis_id_subtype=4,
            port_id=port,
            port_id_subtype=5,
            system_name=node,
        ),
        **other,
    )


def told(topology: Topology) -> tuple[NeighborSwitch, ...]:
    fabric = Fabric(topology)

    def neighbors(end: str) -> tuple[Neighbor, ...]:
        far = fabric.far_end(end)
        return () if far is None else (neighbor_at(topology, far),)

    return tuple(
        NeighborSwitch(
            name=switch.name,
            address=switch.management,
            chassis_id=chassis(switch.name),
            sys_name=switch.name,
            ports=tuple(
                NeighborPort(
                    name=port.name,
                    aliases=port.aliases,
                    ifindex=1000 + number,
                    mtu=port.mtu,
                    speed_mbps=port.speed_mbps,
                    neighbors=neighbors(f"{switch.name}:{port.name}"),
                )
                for number, port in enumerate(switch.ports)
            ),
        )
        for switch in topology.switches
    )


def with_port(
    switches: tuple[NeighborSwitch, ...], end: str, *neighbors: Neighbor, **other: Any
) -> tuple[NeighborSwitch, ...]:
    """With other neighbours of a port, or anything else of it; the port is made where there is none."""
    node, name = split_port(end)
    result = []
    for switch in switches:
        if switch.name == node:
            ports = {port.name: port for port in switch.ports}
            ports[name] = msgspec.structs.replace(
                ports.get(name, NeighborPort(name=name)), neighbors=neighbors, **other
            )
            switch = msgspec.structs.replace(switch, ports=tuple(ports.values()))  # noqa: PLW2901
        result.append(switch)
    return tuple(result)
