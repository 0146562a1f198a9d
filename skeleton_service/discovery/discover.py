"""A topology from what switches see by LLDP, merged into the operator's, which knows what LLDP cannot. Pure.

The operator's file keeps racks, rails, addresses, line cards, breakout groups and LAGs, the MTUs and speeds that are
promised, and links that nobody contradicts; its order, too. Whatever differs is one line.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from exporter.contracts.names import link_id, port_id, split_port
from exporter.contracts.neighbors import NeighborPort, NeighborSwitch, mac
from exporter.contracts.topology import Link, Port, Switch, Topology, check_topology
from skeleton_service.discovery.sightings import Directory, Sighting

TIERS = ("leaf", "spine", "super-spine")
"""Of switches that no file knows: by their distance from what is no switch."""
_MOST_NAMED = 8
_NO_FILE = Topology(version=1, hosts=(), switches=(), links=())


@dataclass(frozen=True, slots=True)
class Line:
    """What is said, and the nodes that it is about."""

    text: str
    nodes: frozenset[str]

    def __str__(self) -> str:
        """Fit for a terminal: neighbours may call themselves anything."""
        return "".join(letter if letter.isprintable() else "?" for letter in self.text)


@dataclass(frozen=True, slots=True)
class Discovery:
    topology: Topology
    differing: tuple[Line, ...]
    """What differs from the operator's file, and what was seen but could not be used."""
    untold: tuple[Line, ...]
    """Who tells nothing, so that nothing can be said of their cables."""
    telling: frozenset[str]
    """Switches that tell a neighbour."""
    concerns_file: bool
    """Whether any neighbour is told by, or is, a node of the operator's file."""

    @property
    def differences(self) -> tuple[str, ...]:
        return tuple(map(str, self.differing))

    @property
    def blind(self) -> tuple[str, ...]:
        return tuple(map(str, self.untold))

    def of_switches(self, names: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(differences, blind) of these switches alone. One that tells no neighbour is a difference."""
        mine = frozenset(names)
        silent = [name for name in dict.fromkeys(names) if name not in self.telling]
        differing = [str(line) for line in self.differing if line.nodes & mine]
        differing += [f"{name}: tells no neighbour: was it asked, and is LLDP on?" for name in silent]
        return tuple(differing), tuple(str(line) for line in self.untold if line.nodes & (mine - set(silent)))


def discover(told: Sequence[NeighborSwitch], operator: Topology | None = None) -> Discovery:
    """The topology that switches tell, on top of the operator's.

    Raises ContractError where the two make no topology: a switch that bears a host's name, say. O(ports).
    """
    return _Merge(told, operator).discovery()


class _Merge:
    def __init__(self, told: Sequence[NeighborSwitch], operator: Topology | None) -> None:
        self._operator = operator or _NO_FILE
        self._has_file = operator is not None
        self._lines: list[Line] = []
        self._silent: list[Line] = []
        self._file_nodes = {each.name for each in self._operator.switches} | {
            each.name for each in self._operator.hosts
        }
        self._concerns_file = False
        self._told: dict[str, NeighborSwitch] = {}
        """{the topology's name of a switch: what it tells}."""
        self._names: dict[str, dict[str, str]] = {}
        """{switch: {port as it tells it: the topology's name}}."""
        self._file = {end: far for link in self._operator.links for end, far in ((link.a, link.b), (link.b, link.a))}
        self._blind: set[str] = set()
        self._dubious: set[str] = set()
        """Ends about which a line was already said."""
        self._vague: dict[str, Sighting] = {}
        self._seen: dict[str, str] = {}
        self._switch_names: set[str] = set()
        self._foreign: set[str] = set()
        """Switches with a neighbour that is no switch."""
        self._unite(told)

    def discovery(self) -> Discovery:
        switches = self._switches()
        topology = msgspec.structs.replace(self._operator, switches=switches)
        self._switch_names = {switch.name for switch in switches}
        self._look(Directory(topology, self._told, self._names, has_file=self._has_file))
        accepted = self._accept()
        links = self._links(accepted)
        topology = msgspec.structs.replace(topology, switches=self._tiered(switches, links), links=links)
        topology = _with_linked_ports(topology, self._told, self._names)
        check_topology(topology, "what was discovered")
        telling = frozenset(name for name, told in self._told.items() if any(port.neighbors for port in told.ports))
        return Discovery(topology, tuple(self._lines), tuple(self._silent), telling, self._concerns_file)

    def _say(self, line: str, *ends: str) -> None:
        """A line about these nodes, or the nodes of these ends."""
        self._lines.append(Line(line, frozenset(end.partition(":")[0] for end in ends)))

    # ---- switches and ports

    def _unite(self, told: Sequence[NeighborSwitch]) -> None:
        """Several exporters may tell of one switch; two switches may bear one name."""
        by_name: dict[str, list[NeighborSwitch]] = defaultdict(list)
        for switch in told:
            by_name[switch.name].append(switch)
        known = {switch.name for switch in self._operator.switches}
        for name, same in by_name.items():
            chassis = sorted({mac(each.chassis_id) or each.chassis_id for each in same if each.chassis_id})
            if len(chassis) > 1:
                self._say(f"{name}: two switches bear this name, chassis {' and '.join(chassis)}: none is used", name)
                continue
            ports: dict[str, NeighborPort] = {}
            for each in same:
                for port in each.ports:
                    ports.setdefault(port.name, port)
            united = msgspec.structs.replace(same[0], ports=tuple(ports.values()))
            own = name if name in known else self._by_address(united) or name
            if own in self._told:
                self._say(f"{name}: told as {own} as well, by its address: not used", own, name)
                continue
            if own != name:
                self._say(f"{own}: called {name} by what tells of it: the file's name is kept", own)
            self._told[own] = united

    def _by_address(self, told: NeighborSwitch) -> str | None:
        """The file's switch that is asked at the same address, where there is one."""
        same = [each.name for each in self._operator.switches if told.address and each.management == told.address]
        return same[0] if len(same) == 1 else None

    def _switches(self) -> tuple[Switch, ...]:
        known = {switch.name for switch in self._operator.switches}
        asked = [switch.name for switch in self._operator.switches if switch.state != "drained"]
        if silent := [name for name in asked if name not in self._told]:
            named = ", ".join(silent[:_MOST_NAMED]) + (", ..." if len(silent) > _MOST_NAMED else "")
            self._silent.append(
                Line(f"{len(silent)} of {len(asked)} switches tell nothing: {named}", frozenset(silent))
            )
        merged = []
        for switch in self._operator.switches:
            own = self._told.get(switch.name)
            merged.append(switch if own is None else self._merged(switch, own))
        for name, own in self._told.items():
            if name not in known:
                self._names[name] = {port.name: port.name for port in own.ports}
                ports = tuple(_port(port) for port in own.ports)
                merged.append(Switch(name=name, tier="", management=own.address, ports=ports))
        return tuple(merged)

    def _merged(self, switch: Switch, told: NeighborSwitch) -> Switch:
        names = self._names[switch.name] = _matched(switch, told)
        by_name = {names[port.name]: port for port in told.ports}
        ports = []
        for port in switch.ports:
            own = by_name.get(port.name)
            if own is None:
                end = port_id(switch.name, port.name)
                self._say(f"{end}: in the file, and the switch has no such port", end)
                ports.append(port)
            else:
                self._compare(switch.name, port, own)
                ports.append(_filled(port, own))
        return msgspec.structs.replace(switch, ports=tuple(ports))

    def _compare(self, switch: str, port: Port, told: NeighborPort) -> None:
        end = port_id(switch, port.name)
        if told.name != port.name:
            self._say(f"{end}: now called {told.name}: the file's name is kept, the other is an alias", end)
        for what, filed, now in (
            ("MTU", port.mtu, told.mtu),
            ("speed in Mb/s", port.speed_mbps, told.speed_mbps),
            ("LAG", port.lag, told.lag),
        ):
            if filed is not None and now is not None and filed != now:
                self._say(f"{end}: {what} {filed} in the file, {now} told: the file's is kept", end)

    # ---- neighbours

    def _look(self, directory: Directory) -> None:
        for name, told in self._told.items():
            if told.ports and not any(port.neighbors for port in told.ports):
                self._blind.add(name)
                self._silent.append(Line(f"{name}: tells no neighbour at all: is LLDP on?", frozenset({name})))
            for port in told.ports:
                if port.neighbors:
                    end = port_id(name, self._names[name][port.name])
                    self._look_at(end, directory.of_port(port.neighbors))

    def _look_at(self, end: str, sightings: Sequence[Sighting]) -> None:
        node = split_port(end)[0]
        if not self._file_nodes.isdisjoint([node, *(sighting.node for sighting in sightings)]):
            self._concerns_file = True
        if any(sighting.node not in self._switch_names for sighting in sightings):
            self._foreign.add(node)
        if len(sightings) > 1:
            said = ", ".join(sighting.said for sighting in sightings)
            nodes = [sighting.node for sighting in sightings if sighting.node is not None]
            filed = self._file.get(end)
            if filed is not None and filed in [sighting.end for sighting in sightings]:
                self._doubt(end, f"sees several neighbours: {said}: the file's is taken", *nodes)
                self._seen[end] = filed
            else:
                self._doubt(end, f"sees several neighbours, a hub or an old entry: {said}: none is taken", *nodes)
            return
        (sighting,) = sightings
        if sighting.node == node:
            self._doubt(end, f"sees its own switch as {sighting.said}: not used")
        elif sighting.end is not None:
            self._seen[end] = sighting.end
        elif sighting.node is not None:
            self._vague[end] = sighting
        else:
            self._doubt(end, f"sees {sighting.said}, {sighting.problem}")

    def _doubt(self, end: str, line: str, *others: str) -> None:
        self._dubious.add(end)
        filed = [self._file[end]] if end in self._file else []
        kept = f"; the file says {filed[0]}" if filed else ""
        self._say(f"{end}: {line}{kept}", end, *filed, *others)

    def _settle(self) -> None:
        """Where a neighbour tells its node and not its port, that port may see us; or the file has one of the node."""
        seen_by: dict[str, list[str]] = defaultdict(list)
        for end, far in self._seen.items():
            seen_by[far].append(end)
        for end, sighting in self._vague.items():
            back = [other for other in seen_by[end] if split_port(other)[0] == sighting.node]
            filed = self._file.get(end)
            if len(back) == 1:
                self._seen[end] = back[0]
            elif not back and filed is not None and split_port(filed)[0] == sighting.node:
                self._seen[end] = filed
            else:
                self._doubt(end, f"sees {sighting.said}, {sighting.problem}", sighting.node or "")

    def _accept(self) -> dict[str, str]:
        """{end: other end} of the links that the ends do not contradict."""
        self._settle()
        accepted: dict[str, str] = {}
        claims: dict[str, list[str]] = defaultdict(list)
        for end, far in self._seen.items():
            back = self._seen.get(far)
            if back == end:
                accepted[end] = far
            elif back is not None:
                self._doubt(end, f"sees {far}, which sees {back}: not used", far)
            else:
                claims[far].append(end)
        for far, ends in claims.items():
            if len(ends) > 1:
                for end in ends:
                    others = ", ".join(each for each in ends if each != end)
                    self._doubt(end, f"sees {far}, as does {others}: not used", far)
                continue
            (end,) = ends
            accepted[end], accepted[far] = far, end
            node = split_port(far)[0]
            if node in self._told and node not in self._blind and far not in self._dubious:
                self._say(f"{link_id(end, far)}: one way, only {end} sees it", end, far)
        return accepted

    # ---- links

    def _links(self, accepted: dict[str, str]) -> tuple[Link, ...]:
        links: list[Link] = []
        taken: set[str] = set()

        def take(end: str, far: str) -> None:
            if end not in taken:
                taken.update((end, far))
                links.append(Link(a=end, b=far))

        changed: set[str] = set()
        unseen: list[Link] = []
        for link in self._operator.links:
            if accepted.get(link.a) == link.b:
                taken.update((link.a, link.b))
                links.append(link)
            elif link.a in accepted or link.b in accepted:
                for end, far in ((link.a, link.b), (link.b, link.a)):
                    if end in accepted:
                        changed.update((end, accepted[end]))
                        self._say(f"{end}: the file says {far}, seen is {accepted[end]}", end, far, accepted[end])
                        take(end, accepted[end])
            else:
                links.append(link)
                unseen.append(link)
        for end, far in accepted.items():
            if end not in taken:
                take(end, far)
                if self._has_file and not {end, far} & changed:
                    self._say(f"{link_id(end, far)}: seen, and not in the file", end, far)
        self._say_unseen(unseen, accepted)
        return tuple(links)

    def _say_unseen(self, unseen: Sequence[Link], accepted: dict[str, str]) -> None:
        """Links of the file that a switch should see and does not; hosts that send nothing are one line a switch."""
        to_hosts: dict[str, list[Link]] = defaultdict(list)
        hosts = {host.name for host in self._operator.hosts}
        for link in unseen:
            nodes = [split_port(end)[0] for end in (link.a, link.b)]
            asked = [node for node in nodes if node in self._told and node not in self._blind]
            if not asked or {link.a, link.b} & self._dubious:
                continue
            if hosts & set(nodes):
                to_hosts[asked[0]].append(link)
            else:
                self._say(f"{link.id}: in the file, not seen", link.a, link.b)
        for switch, links in to_hosts.items():
            sees_hosts = any(
                split_port(end)[0] == switch and split_port(far)[0] in hosts for end, far in accepted.items()
            )
            if len(links) > 1 and not sees_hosts:
                line = f"{switch}: sees none of its {len(links)} hosts: do they send LLDP?"
                self._silent.append(Line(line, frozenset({switch})))
            else:
                for link in links:
                    self._say(f"{link.id}: in the file, not seen", link.a, link.b)

    def _tiered(self, switches: Sequence[Switch], links: Iterable[Link]) -> tuple[Switch, ...]:
        """Switches that no file knows get a tier: next to what is no switch is a leaf, and so on."""
        nodes = {switch.name for switch in switches}
        beside: dict[str, set[str]] = defaultdict(set)
        leaves = {name for name in self._foreign if name in nodes}
        for link in links:
            a, b = (split_port(end)[0] for end in (link.a, link.b))
            if a in nodes and b in nodes:
                beside[a].add(b)
                beside[b].add(a)
            else:
                leaves |= {a, b} & nodes
        distance = dict.fromkeys(leaves, 0)
        queue = deque(sorted(leaves))
        while queue:
            here = queue.popleft()
            for there in sorted(beside[here]):
                if there not in distance:
                    distance[there] = distance[here] + 1
                    queue.append(there)
        result = []
        for switch in switches:
            if switch.tier:
                result.append(switch)
                continue
            place = distance.get(switch.name)
            tier = "unknown" if place is None else TIERS[min(place, len(TIERS) - 1)]
            if self._has_file:
                self._say(f"{switch.name}: not in the file, taken in as {tier}", switch.name)
            result.append(msgspec.structs.replace(switch, tier=tier))
        return tuple(result)


def _matched(switch: Switch, told: NeighborSwitch) -> dict[str, str]:
    """{port as it is told: the file's name}, by name, or by an alias that one port alone has."""
    listed = {port.name for port in switch.ports}
    names = {port.name: port.name for port in told.ports if port.name in listed or not listed}
    free = [port for port in switch.ports if port.name not in names]
    for port in told.ports:
        if port.name not in names:
            mine = {port.name, *port.aliases}
            same = [each.name for each in free if mine & {each.name, *each.aliases}]
            taken = set(names.values())
            names[port.name] = same[0] if len(same) == 1 and same[0] not in taken else port.name
    return names


def _port(told: NeighborPort) -> Port:
    return Port(
        name=told.name,
        aliases=told.aliases,
        ifindex=told.ifindex,
        mtu=told.mtu,
        speed_mbps=told.speed_mbps,
        lag=told.lag,
    )


def _filled(port: Port, told: NeighborPort) -> Port:
    """The file's port with what it leaves open; the index alone is always the switch's, which gives it anew."""
    names = dict.fromkeys([*port.aliases, told.name, *told.aliases])
    names.pop(port.name, None)
    return msgspec.structs.replace(
        port,
        aliases=tuple(names),
        ifindex=port.ifindex if told.ifindex is None else told.ifindex,
        mtu=told.mtu if port.mtu is None else port.mtu,
        speed_mbps=told.speed_mbps if port.speed_mbps is None else port.speed_mbps,
        lag=told.lag if port.lag is None else port.lag,
    )


def _with_linked_ports(
    topology: Topology, told: dict[str, NeighborSwitch], names: dict[str, dict[str, str]]
) -> Topology:
    """A switch that lists ports has to list those of its links."""
    linked: dict[str, list[str]] = defaultdict(list)
    for link in topology.links:
        for end in (link.a, link.b):
            node, port = split_port(end)
            linked[node].append(port)
    switches = []
    for switch in topology.switches:
        listed = {port.name for port in switch.ports}
        missing = [port for port in linked[switch.name] if port not in listed] if listed else []
        own = {names[switch.name][port.name]: port for port in told[switch.name].ports} if switch.name in told else {}
        new = tuple(_port(own[name]) if name in own else Port(name=name) for name in missing)
        switches.append(msgspec.structs.replace(switch, ports=(*switch.ports, *new)) if new else switch)
    return msgspec.structs.replace(topology, switches=tuple(switches))
