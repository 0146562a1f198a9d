"""The topology file: hosts, switches and links, as the operator or LLDP knows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from exporter.contracts.addresses import canonical, is_ipv6
from exporter.contracts.codec import Contract, ContractError, Version, read
from exporter.contracts.names import link_id, port_id, split_port

State = Literal["active", "drained"]


class Rnic(Contract, frozen=True, kw_only=True):
    name: str
    rail: int | None = None
    ip: str
    ips: tuple[str, ...] = ()
    netdev: str | None = None
    pci: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.ip, *self.ips)

    def with_canonical_addresses(self) -> Rnic:
        """With IPv6 addresses in one spelling; raise ValueError for what has a colon and is none."""
        if not any(map(is_ipv6, self.addresses)):
            return self
        first, *others = (canonical(each) if is_ipv6(each) else each for each in self.addresses)
        return msgspec.structs.replace(self, ip=first, ips=tuple(others))


class Host(Contract, frozen=True, kw_only=True):
    name: str
    rack: str | None = None
    pod: str | None = None
    zone: str | None = None
    vteps: tuple[str, ...] = ()
    state: State = "active"
    rnics: tuple[Rnic, ...]

    @property
    def location(self) -> str:
        """Where to walk to, ``rack r12, pod p1, zone c``; empty where the topology does not say."""
        named = (("rack", self.rack), ("pod", self.pod), ("zone", self.zone))
        return ", ".join(f"{what} {where}" for what, where in named if where)


class Port(Contract, frozen=True, kw_only=True):
    name: str
    aliases: tuple[str, ...] = ()
    ifindex: int | None = None
    addresses: tuple[str, ...] = ()
    mtu: int | None = None
    speed_mbps: int | None = None
    linecard: str | None = None
    breakout_group: str | None = None
    lag: str | None = None


class Switch(Contract, frozen=True, kw_only=True):
    name: str
    tier: str
    management: str | None = None
    addresses: tuple[str, ...] = ()
    state: State = "active"
    ports: tuple[Port, ...] = ()


class Link(Contract, frozen=True, kw_only=True):
    """A cable. Parallel links between two devices are legal: their ends differ by port."""

    a: str
    b: str

    @property
    def id(self) -> str:
        return link_id(self.a, self.b)


class Topology(Contract, frozen=True, kw_only=True):
    version: Version
    hosts: tuple[Host, ...]
    switches: tuple[Switch, ...]
    links: tuple[Link, ...]


def read_topology(path: Path | str) -> Topology:
    """Read and check a topology file; raise ContractError naming the file and the entry.

    IPv6 addresses of RNICs and VTEPs are in one spelling from here on.
    """
    topology = read(path, Topology)
    hosts = tuple(_with_canonical_addresses(host, str(path)) for host in topology.hosts)
    topology = msgspec.structs.replace(topology, hosts=hosts)
    check_topology(topology, str(path))
    return topology


def _with_canonical_addresses(host: Host, source: str) -> Host:
    owner = "an RNIC"
    try:
        rnics = tuple(rnic.with_canonical_addresses() for rnic in host.rnics)
        owner = "a VTEP"
        vteps = tuple(canonical(each) if is_ipv6(each) else each for each in host.vteps)
    except ValueError as error:
        raise ContractError(source, f"address of {owner} of host {host.name!r}: {error}") from error
    if rnics == host.rnics and vteps == host.vteps:
        return host
    return msgspec.structs.replace(host, rnics=rnics, vteps=vteps)


def check_topology(topology: Topology, source: str) -> None:
    """Refuse what types cannot: names used twice, addresses used twice, links to unknown ends."""

    def unique(kind: str, names: Iterator[str]) -> set[str]:
        seen: set[str] = set()
        for name in names:
            if not name:
                raise ContractError(source, f"{kind} has an empty name")
            if name in seen:
                raise ContractError(source, f"{kind} {name!r} appears twice", "names must be unique")
            seen.add(name)
        return seen

    names = [*(host.name for host in topology.hosts), *(switch.name for switch in topology.switches)]
    for name in names:
        if ":" in name:
            raise ContractError(source, f"node {name!r} holds a colon", "ports are split at the first colon")
    nodes = unique("node", iter(names))
    rnics = unique("rnic", (port_id(host.name, rnic.name) for host in topology.hosts for rnic in host.rnics))
    unique("port", (port_id(switch.name, port.name) for switch in topology.switches for port in switch.ports))
    addresses = ((rnic.ip, *rnic.ips) for host in topology.hosts for rnic in host.rnics)
    unique("rnic address", (address for own in addresses for address in own))
    unique(
        "switch address",
        (
            address
            for switch in topology.switches
            for address in (*switch.addresses, *(a for port in switch.ports for a in port.addresses))
        ),
    )
    unique("link", (link.id for link in topology.links))
    listed = {switch.name: {port.name for port in switch.ports} for switch in topology.switches if switch.ports}
    hosts = {host.name for host in topology.hosts}
    used: set[str] = set()
    for number, link in enumerate(topology.links):
        for end in (link.a, link.b):
            try:
                node_name, _ = split_port(end)
            except ValueError as error:
                raise ContractError(source, f"field 'links[{number}]': {error}") from error
            if node_name not in nodes:
                raise ContractError(
                    source, f"field 'links[{number}]': {end!r} is on no known host or switch", "add the node"
                )
            if node_name in hosts and end not in rnics:
                raise ContractError(source, f"field 'links[{number}]': {end!r} is no RNIC of its host", "add the RNIC")
            if node_name in listed and split_port(end)[1] not in listed[node_name]:
                raise ContractError(
                    source, f"field 'links[{number}]': {end!r} is no port of its switch", "list the port"
                )
            if end in used:
                raise ContractError(source, f"field 'links[{number}]': {end!r} is an end of two links")
            used.add(end)
