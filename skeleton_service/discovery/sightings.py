"""Who is at the other end of a cable, by what LLDP says of it. Pure; what can be read in two ways is never guessed."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exporter.contracts.names import port_id, split_port
from exporter.contracts.neighbors import (
    PORT_ADDRESS,
    PORT_INTERFACE,
    PORT_LOCAL,
    PORT_MAC,
    Neighbor,
    NeighborSwitch,
    address,
    mac,
)
from exporter.contracts.topology import Host, Rnic, Topology


@dataclass(frozen=True, slots=True)
class Sighting:
    """A neighbour, as far as it is known. ``node`` and ``port`` are the topology's names, or None and ``problem`` says
    why; ``said`` is what the neighbour calls itself, for people."""

    node: str | None
    port: str | None
    said: str
    problem: str = ""

    @property
    def end(self) -> str | None:
        return port_id(self.node, self.port) if self.node is not None and self.port is not None else None


class Directory:
    """Finds nodes and ports by what neighbours send.

    ``told`` has the switches that tell, by the topology's names; ``names`` those of the ports that each tells.
    """

    def __init__(
        self,
        topology: Topology,
        told: Mapping[str, NeighborSwitch],
        names: Mapping[str, Mapping[str, str]],
        *,
        has_file: bool = True,
    ) -> None:
        self._unknown = (
            "which is in no file" if has_file else "which is not among those asked (poll it, or put it in your file)"
        )
        self._switches = {switch.name: switch for switch in topology.switches}
        self._hosts = {host.name: host for host in topology.hosts}
        self._by_name: dict[str, set[str]] = defaultdict(set)
        self._by_short_name: dict[str, set[str]] = defaultdict(set)
        self._by_mac: dict[str, set[str]] = defaultdict(set)
        self._by_address: dict[str, set[str]] = defaultdict(set)
        self._mac_of: dict[str, str] = {}
        for switch in topology.switches:
            own = told.get(switch.name)
            self._know(switch.name, [switch.name, own.sys_name if own else None])
            addresses = [switch.management, own.address if own else None, *switch.addresses]
            self._reach(switch.name, [*addresses, *(each for port in switch.ports for each in port.addresses)])
            if own is not None and own.chassis_id is not None and (found := mac(own.chassis_id)) is not None:
                self._by_mac[found].add(switch.name)
                self._mac_of[switch.name] = found
        for host in topology.hosts:
            self._know(host.name, [host.name])
            self._reach(host.name, [*(each for rnic in host.rnics for each in rnic.addresses), *host.vteps])
        self._bare = {switch.name for switch in topology.switches if not switch.ports and switch.name not in told}
        """Switches that are known without their ports."""
        self._ports: dict[str, dict[str, set[str]]] = {name: {} for name in self._switches}
        self._numbers: dict[str, dict[str, set[str]]] = {name: {} for name in self._switches}
        for switch in topology.switches:
            own = told.get(switch.name)
            ports = [(port.name, port.name, port.aliases, port.ifindex) for port in switch.ports]
            if own is not None:
                called = names[switch.name]
                ports += [(called[port.name], port.name, port.aliases, port.ifindex) for port in own.ports]
            self._list(switch.name, ports)
        for link in topology.links:
            for end in (link.a, link.b):
                node, name = split_port(end)
                if node in self._ports and not self._switches[node].ports:
                    self._ports[node].setdefault(name, set()).add(name)

    def _know(self, node: str, names: Iterable[str | None]) -> None:
        for name in names:
            if name:
                self._by_name[name].add(node)
                self._by_short_name[_short(name)].add(node)

    def _reach(self, node: str, addresses: Iterable[str | None]) -> None:
        for each in addresses:
            if each and (found := address(each)) is not None:
                self._by_address[found].add(node)

    def _list(self, switch: str, ports: Sequence[tuple[str, str, tuple[str, ...], int | None]]) -> None:
        """Take (the topology's name, another one, aliases, index) of each port of a switch."""
        own, numbers = self._ports[switch], self._numbers[switch]
        proper = {name for each in ports for name in each[:2]}
        for name, other, aliases, ifindex in ports:
            for each in (name, other):
                own.setdefault(each, set()).add(name)
            for alias in aliases:
                if alias not in proper:  # a name is one, whatever another port is also called
                    own.setdefault(alias, set()).add(name)
            if ifindex is not None:
                numbers.setdefault(str(ifindex), set()).add(name)

    def of_port(self, neighbors: Sequence[Neighbor]) -> list[Sighting]:
        """The different neighbours of one port. Of what speaks twice, an RNIC and its host, say, the clearer counts."""
        sightings = [(each, self.sighting(each)) for each in neighbors]
        known = {found for each, seen in sightings if seen.end for found in _macs(each)}
        named = {seen.node for _, seen in sightings if seen.end}
        distinct: dict[tuple[str | None, str | None, str], Sighting] = {}
        for each, seen in sightings:
            if seen.end is None and (known & _macs(each) or (seen.node is not None and seen.node in named)):
                continue
            distinct.setdefault((seen.node, seen.port, "" if seen.end else seen.said), seen)
        return list(distinct.values())

    def sighting(self, neighbor: Neighbor) -> Sighting:
        said = _said(neighbor)
        node, problem = self._node(neighbor)
        if node is None:
            return Sighting(None, None, said, problem)
        ports = self._port(node, neighbor)
        if len(ports) == 1:
            return Sighting(node, next(iter(ports)), said)
        kind = "port" if node in self._switches else "RNIC"
        if ports:
            return Sighting(node, None, said, f"which may be {_either(ports)} of {node}")
        return Sighting(node, None, said, f"which is no {kind} of {node} by name")

    def _node(self, neighbor: Neighbor) -> tuple[str | None, str]:
        """(the node, or None and why)."""
        name = neighbor.system_name or ""
        named = self._by_name.get(name) or self._by_short_name.get(_short(name), set())
        chassis = self._by_mac.get(neighbor.chassis_mac or "", set())
        if chassis and named and not chassis & named:
            return None, f"which has the chassis of {_either(chassis)} and the name of {_either(named)}"
        found = (chassis & named) or chassis or named
        if not chassis and neighbor.chassis_mac is not None:
            # It tells a MAC that is none of theirs: another device that bears the name.
            others = {each for each in found if each in self._mac_of}
            if found and found == others:
                return None, f"which bears the name of {_either(found)} and is another chassis"
            found = found - others
        if len(found) != 1:
            reached = {node for each in neighbor.addresses for node in self._by_address.get(each, ())}
            found = (found & reached) if found else reached
            if not found and named:
                return None, f"which may be {_either(named)}"
        if len(found) == 1:
            return next(iter(found)), ""
        return None, f"which may be {_either(found)}" if found else self._unknown

    def _port(self, node: str, neighbor: Neighbor) -> set[str]:
        """Ports of a switch, or RNICs of a host, that it may be; one where it is clear."""
        is_name = neighbor.port_id_subtype not in (PORT_MAC, PORT_ADDRESS)
        if node in self._hosts:
            return _rnics(self._hosts[node], neighbor, is_name)
        own = self._ports[node]
        candidates: list[set[str]] = []
        if is_name:
            candidates.append(own.get(neighbor.port_id, set()))
            if neighbor.port_id_subtype == PORT_LOCAL:  # some send the number of the interface
                candidates.append(self._numbers[node].get(neighbor.port_id, set()))
        candidates.append(own.get(neighbor.port_description or "", set()))
        for found in candidates:
            if found:
                return found
        if node in self._bare and neighbor.port_id_subtype == PORT_INTERFACE and neighbor.port_id.isprintable():
            return {neighbor.port_id} if neighbor.port_id else set()
        return set()


def _rnics(host: Host, neighbor: Neighbor, is_name: bool) -> set[str]:
    by_description = _called(host, neighbor.port_description)
    if is_name:
        by_id = _called(host, neighbor.port_id)
    elif neighbor.port_id_subtype == PORT_ADDRESS:
        own = address(neighbor.port_id)
        by_id = {rnic.name for rnic in host.rnics if own is not None and own in map(address, rnic.addresses)}
    else:
        by_id = {rnic.name for rnic in host.rnics if neighbor.port_mac is not None and neighbor.port_mac in _made(rnic)}
    return by_id | by_description  # two that differ are two that it may be


def _called(host: Host, name: str | None) -> set[str]:
    return {rnic.name for rnic in host.rnics if name and name in (rnic.netdev, rnic.name)}


def _made(rnic: Rnic) -> set[str]:
    """MAC addresses that the RNIC's IPv6 addresses are made from (EUI-64): a topology has no others."""
    found = set()
    for each in rnic.addresses:
        text = address(each)
        packed = ipaddress.ip_address(text).packed if text is not None else b""
        if len(packed) == 16 and packed[11:13] == b"\xff\xfe":
            found.add(":".join(f"{octet:02x}" for octet in (packed[8] ^ 2, *packed[9:11], *packed[13:])))
    return found


def _macs(neighbor: Neighbor) -> set[str]:
    return {each for each in (neighbor.chassis_mac, neighbor.port_mac) if each is not None}


def _short(name: str) -> str:
    return name.partition(".")[0]


def _either(names: Iterable[str]) -> str:
    return " or ".join(sorted(names))


def _said(neighbor: Neighbor) -> str:
    """What it calls itself and its port."""
    chassis = neighbor.chassis_mac or neighbor.chassis_id
    port = neighbor.port_mac or neighbor.port_id
    if port == neighbor.port_mac and neighbor.port_description:
        port = f"{port} {neighbor.port_description}"
    return f"{neighbor.system_name or f'chassis {chassis}'} port {port}"
