"""The topology, indexed: from an address to a port, from a port to its link, from a pair to its paths."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

from exporter.contracts.names import link_id, port_id, split_port
from exporter.contracts.topology import Host, Port, Rnic, Topology

_Hop = tuple[str, str, str]
"""(own end, far end, the node there)."""
_Onward = list[tuple[_Hop, ...] | None]


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
        ends = {end: end for link in topology.links for end in (link.a, link.b)}
        self.interfaces = {
            ends.get(name, name): Interface(host, rnic)
            for host in topology.hosts
            for rnic in host.rnics
            for name in (port_id(host.name, rnic.name),)
        }
        self.by_address = {
            address: interface for interface in self.interfaces.values() for address in interface.rnic.addresses
        }
        self.hosts = {host.name: host for host in topology.hosts}
        self.switches = {switch.name: switch for switch in topology.switches}
        self._number = {name: number for number, name in enumerate(self.switches)}
        self._node = {name: name for name in self.switches}
        self._peer: dict[str, str] = {}
        self._neighbours: dict[str, list[tuple[str, str]]] = {}  # switch -> [(own end, far end)]
        self._into: dict[str, list[tuple[str, _Hop]]] = {}  # switch -> [(switch, the way from it to the first)]
        for link in sorted(topology.links, key=lambda link: link.id):
            for own, far in ((link.a, link.b), (link.b, link.a)):
                self._peer[own] = far
                here, there = self._vertex(own), self._vertex(far)
                if here in self._number:
                    self._neighbours.setdefault(here, []).append((own, far))
                    if there in self._number:
                        self._into.setdefault(there, []).append((here, (own, far, there)))
        self._alike: dict[tuple[_Hop, ...], tuple[_Hop, ...]] = {}
        self._onward = lru_cache(maxsize=4096)(self._onward_to)
        self._shares = lru_cache(maxsize=1024)(self._shares_between)
        self._way = lru_cache(maxsize=65536)(self._way_between)

    def _vertex(self, end: str) -> str:
        """An RNIC is a vertex of its own (a host does not forward); a switch is one with all its ports."""
        if end in self.interfaces:
            return end
        name = split_port(end)[0]
        return self._node.get(name, name)  # one string for all of its ports

    def link_of(self, end: str) -> str | None:
        """Name the link that ``end`` (``switch:port`` or ``host:rnic``) belongs to, if any."""
        far = self._peer.get(end)
        return None if far is None else link_id(end, far)

    def far_end(self, end: str) -> str | None:
        """The other end of the link that ``end`` belongs to, if any."""
        return self._peer.get(end)

    def ports_of(self, switch: str) -> list[str]:
        """The cabled ports of a switch, as ``switch:port``."""
        return [own for own, _ in self._neighbours.get(switch, ())]

    def port(self, end: str) -> Port | None:
        """What the topology says of a switch port, if anything."""
        return self._ports.get(end)

    def leaf_of(self, interface: str) -> str:
        """The switch an RNIC hangs off; the RNIC itself when its cable is not in the topology."""
        far = self._peer.get(interface)
        return interface if far is None else self._vertex(far)

    @cached_property
    def _ports(self) -> dict[str, Port]:
        return {port_id(switch.name, port.name): port for switch in self.topology.switches for port in switch.ports}

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

    @cached_property
    def switch_addresses(self) -> dict[str, str]:
        """{address: switch} of every address that a switch may answer a trace from."""
        ports = {address: port.partition(":")[0] for address, port in self._port_by_address.items()}
        return ports | self._switch_by_address

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
        ends = self.egresses_of_route(source, route, destination)
        return None if ends is None else tuple(link_id(end, self._peer[end]) for end in ends)

    def egresses_of_route(self, source: str, route: Sequence[str | None], destination: str) -> tuple[str, ...] | None:
        """As ``links_of_route``, each link by the end where the packet leaves for it."""
        ends: list[str] = []
        here, met = source, {source}
        for hop in (*route, destination):
            place = hop if hop == destination else self.locate(hop) if hop is not None else None
            if place is None:
                return None
            end = self._way(here, place)
            if end is None:
                return None
            ends.append(end)
            here = place if place == destination else place.partition(":")[0]
            if here in met:
                return None
            met.add(here)
        return tuple(ends)

    def _way_between(self, node: str, place: str) -> str | None:
        """The end of ``node`` (a vertex) whose link leads into ``place`` (a port, or a switch by name)."""
        if place in self._peer:
            far = self._peer[place]
            return far if self._vertex(far) == node else None
        around = [(node, self._peer[node])] if node in self._peer else self._neighbours.get(node, ())
        candidates = [own for own, far in around if self._vertex(far) == place]
        return candidates[0] if len(candidates) == 1 else None

    def _onward_to(self, root: str) -> _Onward:
        """Of each switch, by its number, its hops on the shortest paths to ``root``; None of one without a path.

        RNICs forward nothing. O(links of switches). Few switches have other hops to one root than to the next: equal
        ones are kept once.
        """
        distances = {root: 0}
        hops: dict[str, list[_Hop]] = {}
        queue = deque([root])
        while queue:
            here = queue.popleft()
            for there, hop in self._into.get(here, ()):
                if there not in distances:
                    distances[there] = distances[here] + 1
                    hops[there] = []
                    queue.append(there)
                if distances[there] == distances[here] + 1:
                    hops[there].append(hop)
        onward: _Onward = [None] * len(self._number)
        for switch, found in hops.items():
            kept = tuple(found)
            onward[self._number[switch]] = self._alike.setdefault(kept, kept)
        if root in self._number:
            onward[self._number[root]] = ()
        return onward

    def _ways(self, destination: str) -> tuple[str, _Onward]:
        """Where all paths to an RNIC end but for its cable, and the ways there: they serve all RNICs of a leaf."""
        leaf = self.leaf_of(destination)
        root = leaf if leaf in self.switches else destination
        return root, self._onward(root)

    def _hops(self, vertex: str, root: str, onward: _Onward) -> tuple[_Hop, ...]:
        """Hops on the shortest paths to the root from an RNIC or switch."""
        number = self._number.get(vertex)
        if number is not None:
            return onward[number] or ()
        far = self._peer.get(vertex)
        if far is None or vertex == root:
            return ()
        there = self._vertex(far)
        number = self._number.get(there)
        leads = there == root if number is None else onward[number] is not None
        return ((vertex, far, there),) if leads else ()

    def path_count(self, source: str, destination: str) -> int:
        """Number of equal-cost shortest paths between two RNICs; 0 when there is none."""
        root, onward = self._ways(destination)

        @cache
        def count(vertex: str) -> int:
            return 1 if vertex == root else sum(count(there) for _, _, there in self._hops(vertex, root, onward))

        return 1 if source == destination else count(source)

    def switch_count(self, source: str, destination: str) -> int:
        """Number of switches on each shortest path between two RNICs; 0 when there is none, or no switch on it."""
        root, onward = self._ways(destination)
        here, count = source, 0
        while here != root:
            hops = self._hops(here, root, onward)
            if not hops:
                return 0
            here, count = hops[0][2], count + 1
        return count if root in self.switches else 0

    def possible_links(self, source: str, destination: str) -> frozenset[str]:
        """All links that some equal-cost shortest path between two RNICs crosses."""
        return frozenset(self.link_shares(source, destination))

    def link_shares(self, source: str, destination: str) -> dict[str, float]:
        """Probability that a packet between two RNICs crosses each link, when ECMP splits evenly at every hop.

        O(links between them), worked out once for all RNICs of two leaves.
        """
        return {link_id(own, self._peer[own]): share for own, share in self.egress_shares(source, destination).items()}

    def egress_shares(self, source: str, destination: str) -> dict[str, float]:
        """As ``link_shares``, by the end where a packet leaves for the link: that tells its directions apart."""
        if source == destination:
            return {}
        root, _ = self._ways(destination)
        between = self._shares(self.leaf_of(source), root)
        if between is None:
            return {}
        ends = (source, self._peer.get(destination))
        return {end: 1.0 for end in ends if end is not None and end in self._peer} | between

    def _shares_between(self, start: str, root: str) -> dict[str, float] | None:
        """{egress end: probability to leave by it} from one switch to another; None when there is no way."""
        onward = self._onward(root)
        shares: dict[str, float] = {}
        here = {start: 1.0}
        while here and root not in here:
            reached: dict[str, float] = {}
            for vertex, probability in here.items():
                hops = self._hops(vertex, root, onward)
                for own, _, there in hops:
                    shares[own] = probability / len(hops)
                    reached[there] = reached.get(there, 0.0) + probability / len(hops)
            here = reached
        return shares if here else None
