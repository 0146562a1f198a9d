"""The topology, indexed: from an address to a port, from a port to its link, from a pair to its paths."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

from exporter.contracts.names import link_id, port_id, split_port
from exporter.contracts.topology import Host, Rnic, Topology


@dataclass(frozen=True, slots=True)
class Interface:
    """An RNIC with the host it sits in."""

    host: Host
    rnic: Rnic

    @property
    def id(self) -> str:
        return port_id(self.host.name, self.rnic.name)


class Fabric:
    """Answers questions about one topology. Immutable once made; safe to share between threads.

    Paths are shortest paths, as ECMP routing in a leaf-spine fabric takes them.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.interfaces = {
            port_id(host.name, rnic.name): Interface(host, rnic) for host in topology.hosts for rnic in host.rnics
        }
        self.by_address = {
            address: interface
            for interface in self.interfaces.values()
            for address in (interface.rnic.ip, *interface.rnic.ips)
        }
        self.switches = {switch.name: switch for switch in topology.switches}
        self._peer: dict[str, str] = {}
        self._neighbours: dict[str, list[tuple[str, str]]] = {}  # node -> [(own end, far end)]
        for link in sorted(topology.links, key=lambda link: link.id):
            for own, far in ((link.a, link.b), (link.b, link.a)):
                self._peer[own] = far
                self._neighbours.setdefault(self._vertex(own), []).append((own, far))
        self._distances = lru_cache(maxsize=4096)(self._distances_from)

    def _vertex(self, end: str) -> str:
        """An RNIC is a vertex of its own (a host does not forward); a switch is one with all its ports."""
        return end if end in self.interfaces else split_port(end)[0]

    def link_of(self, end: str) -> str | None:
        """Name the link that ``end`` (``switch:port`` or ``host:rnic``) belongs to, if any."""
        far = self._peer.get(end)
        return None if far is None else link_id(end, far)

    @cached_property
    def _port_by_address(self) -> dict[str, str]:
        return {
            address: port_id(switch.name, port.name)
            for switch in self.topology.switches
            for port in switch.ports
            for address in port.addresses
        }

    @cached_property
    def _switch_by_address(self) -> dict[str, str]:
        return {address: switch.name for switch in self.topology.switches for address in switch.addresses}

    def locate(self, hop: str) -> str | None:
        """Resolve a traceroute hop (address, ``switch:port`` or switch name) to a port or switch name."""
        if hop in self._port_by_address:
            return self._port_by_address[hop]
        if hop in self._switch_by_address:
            return self._switch_by_address[hop]
        if hop in self.switches or hop.partition(":")[0] in self.switches:
            return hop
        return None

    def links_of_route(self, source: str, route: Sequence[str | None], destination: str) -> tuple[str, ...] | None:
        """Links crossed by a traced route between two RNICs, source side first.

        ``route`` holds the switches in order, each as the port where the packet came in, a switch
        name or an address. None is returned for anything but a complete, consistent route: a silent
        hop, an unknown address, a gap, a switch met twice, or a switch name where parallel links leave
        the choice open.
        A truncated or contradictory trace must not vote.
        """
        links: list[str] = []
        here, met = source, {source}
        for hop in (*route, destination):
            place = hop if hop == destination else self.locate(hop) if hop is not None else None
            if place is None:
                return None
            link = self._link_between(here, place)
            if link is None:
                return None
            links.append(link)
            here = place if place == destination else place.partition(":")[0]
            if here in met:
                return None
            met.add(here)
        return tuple(links)

    def _link_between(self, node: str, place: str) -> str | None:
        """The link from ``node`` (a vertex) into ``place`` (a port, or a switch by name)."""
        if place in self._peer:
            far = self._peer[place]
            return link_id(place, far) if self._vertex(far) == node else None
        candidates = [link_id(own, far) for own, far in self._neighbours.get(node, ()) if self._vertex(far) == place]
        return candidates[0] if len(candidates) == 1 else None

    def _distances_from(self, vertex: str) -> dict[str, int]:
        distances = {vertex: 0}
        queue = deque([vertex])
        while queue:
            here = queue.popleft()
            if here != vertex and here in self.interfaces:
                continue
            for _, far in self._neighbours.get(here, ()):
                there = self._vertex(far)
                if there not in distances:
                    distances[there] = distances[here] + 1
                    queue.append(there)
        return distances

    def path_count(self, source: str, destination: str) -> int:
        """Number of equal-cost shortest paths between two RNICs; 0 when there is none."""
        distances = self._distances(destination)
        if source not in distances:
            return 0

        @cache
        def count(vertex: str) -> int:
            if vertex == destination:
                return 1
            step = distances[vertex] - 1
            return sum(
                count(self._vertex(far))
                for _, far in self._neighbours.get(vertex, ())
                if distances.get(self._vertex(far)) == step
            )

        return count(source)

    def possible_links(self, source: str, destination: str) -> frozenset[str]:
        """All links that some equal-cost shortest path between two RNICs crosses."""
        return frozenset(self.link_shares(source, destination))

    def link_shares(self, source: str, destination: str) -> dict[str, float]:
        """Probability that a flow between two RNICs crosses each link, when ECMP splits evenly at every hop."""
        distances = self._distances(destination)
        shares: dict[str, float] = {}
        if source not in distances:
            return shares
        here = {source: 1.0}
        for step in range(distances[source] - 1, -1, -1):
            reached: dict[str, float] = {}
            for vertex, probability in here.items():
                onward = [
                    (own, far, there)
                    for own, far in self._neighbours.get(vertex, ())
                    if distances.get(there := self._vertex(far)) == step
                    and (there == destination or there not in self.interfaces)
                ]
                for own, far, there in onward:
                    shares[link_id(own, far)] = probability / len(onward)
                    reached[there] = reached.get(there, 0.0) + probability / len(onward)
            here = reached
        return shares
