"""The overlay's logical forwarding, replayed by the virtual switches' tables (SkeletonHunter, section 5.3).

From the source host's entry for a destination the packet goes to the host that has the address it names, there by
that host's entry, and so on until an entry delivers it to a container. Where it does not arrive, the table to blame
is the first on its way that sends it elsewhere than where the container is: on the host that delivers to it, or,
where that cannot be told, where most hosts send.

A tunnel does not forward what came from a tunnel (split horizon), so that a host which does not hold the container is
a wrong next hop even when its own table knows better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from exporter.contracts.addresses import canonical, is_ipv6
from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import LOCAL, Entry, OverlayState
from skeleton_service.diagnosis.overlay_findings import OverlayFinding, RoutingFault
from skeleton_service.diagnosis.overlay_tables import Destination, Fact, meet
from skeleton_service.diagnosis.overlay_whereabouts import Home, Senders, Whereabouts


@dataclass(frozen=True, slots=True)
class _Wrong:
    """An entry, or the lack of one, that keeps packets from their container."""

    kind: RoutingFault
    host: str
    entry: Entry | None
    read: float


class Overlay:
    """An overlay state over a topology, indexed once in O(entries); a replay takes O(hosts on the way).

    ``first_seen`` says since when containers are known to be there (seconds since the epoch), as their probes tell.
    """

    def __init__(self, state: OverlayState, fabric: Fabric, first_seen: Mapping[str, float] | None = None) -> None:
        self.fabric = fabric
        self.where = Whereabouts(state, fabric, first_seen)

    def replay(
        self,
        source_host: str,
        destination: str,
        container: str | None = None,
        *,
        source_container: str | None = None,
    ) -> OverlayFinding | None:
        """What keeps packets from a host from reaching an overlay address; None when nothing is known to.

        ``container`` is who should receive them and ``source_container`` who sends, as the tables name them: they
        tell in which network the address is meant. Where several networks remain, each has to be broken.
        """
        try:
            address = canonical(destination) if is_ipv6(destination) else destination
        except ValueError:  # probe records may hold anything
            return None
        networks, sure = self.where.networks(address, (container, source_container))
        expected = container if sure else None
        findings = [self._replay(source_host, (network, address), expected) for network in networks]
        return findings[0] if all(findings) and findings else None

    def homes(self, address: str) -> frozenset[str]:
        """The hosts at which an overlay address is, in any network, as far as tables tell."""
        networks, _ = self.where.networks(address, ())
        return frozenset(home.host for network in networks if (home := self.where.home((network, address))) is not None)

    def _replay(self, source: str, destination: Destination, container: str | None) -> OverlayFinding | None:
        home = self.where.home(destination, container)
        visited: list[str] = []
        wrong: list[_Wrong] = []
        here: str | None = source
        while here is not None and here not in visited:
            visited.append(here)
            fact = self.where.fact(here, destination)
            if fact is None:  # the source's table is unknown: the destination's may be wrong all the same
                here = home.host if home and here == source else None
                continue
            fault = self._judge(here, fact, destination, home, container)
            if fault is not None:
                wrong.append(fault)
            here = self._next(fault.entry if fault else next(iter(fact.entries), None), home)
        looping = self._looping(visited[visited.index(here) :], destination) if here is not None else []
        if looping:
            wrong = [replace(each, kind="loop") if each.host in visited[-len(looping) :] else each for each in wrong]
            wrong = wrong or looping
        if not wrong:
            return None
        first = wrong[0]
        concerned = [each for each in wrong if each.kind == "loop"] if first.kind == "loop" else [first]
        way = [*visited, visited[-len(looping)]] if looping else visited[: visited.index(first.host) + 1]
        return OverlayFinding(
            kind=first.kind,
            component=Component(kind="vswitch", name=first.host),
            alternatives=(
                *(Component(kind="vswitch", name=each.host) for each in concerned[1:]),
                *self._alternatives(first, destination, home, container),
            ),
            flows=((source, destination[1]),),
            evidence=tuple(self._evidence(concerned, destination, home, container, way)),
        )

    def _looping(self, hosts: list[str], destination: Destination) -> list[_Wrong]:
        """The entries of a loop; none where the tables were not read together."""
        facts = [fact for host in hosts if (fact := self.where.fact(host, destination)) is not None]
        if len(facts) < len(hosts) or not meet(*(fact.span for fact in facts)):
            return []
        return [_Wrong("loop", host, fact.entries[0], fact.span.end) for host, fact in zip(hosts, facts, strict=True)]

    def _alternatives(
        self, wrong: _Wrong, destination: Destination, home: Home | None, container: str | None
    ) -> Iterator[Component]:
        """Who else it may be where packets end at a host that others take for the container's, and which lacks it."""
        if wrong.kind == "missing-entry" and home is not None and wrong.host == home.host:
            if container is not None:  # its entry is gone, or it is: the tables look alike
                yield Component(kind="container", name=container)
            senders = self.where.senders(destination).get(home.host, {})
            if len(senders) == 1:  # the one that says so may be wrong
                yield Component(kind="vswitch", name=next(iter(senders)))

    def _next(self, entry: Entry | None, home: Home | None) -> str | None:
        """The host that an entry sends to; None where the packet stays, is dropped or gets lost."""
        hosts = self.where.hosts_at(entry.next) if entry else ()
        return home.host if home and home.host in hosts else next(iter(hosts), None)

    def _judge(
        self, host: str, fact: Fact, destination: Destination, home: Home | None, container: str | None
    ) -> _Wrong | None:
        """The first wrong entry of a table; None where it has none, or none that is known to be."""
        comparable = home is not None and meet(fact.span, home.span)
        if not fact.entries:
            return _Wrong("missing-entry", host, None, fact.span.end) if comparable else None
        if fact.span.start > fact.span.end:  # has only just changed
            return None
        for entry in fact.entries:
            kind = self._wrong(host, entry, destination, home if comparable else None, container)
            if kind is not None:
                return _Wrong(kind, host, entry, fact.span.end)
        return None

    def _wrong(
        self, host: str, entry: Entry, destination: Destination, home: Home | None, container: str | None
    ) -> RoutingFault | None:
        if entry.next is None:
            return "drop"
        if entry.container is not None:
            elsewhere = home is not None and host != home.host
            return "wrong-container" if elsewhere or container not in (None, entry.container) else None
        there = self.where.hosts_at(entry.next)
        if not there:
            unplaced = home is not None and home.host not in self.where.located
            return None if unplaced or self._is_shared(host, entry, destination) else "unknown-vtep"
        if home is not None and home.host not in there:
            return "wrong-next-hop"
        return None

    def _is_shared(self, host: str, entry: Entry, destination: Destination) -> bool:
        """Whether at least half of the other senders send where this one does: then the topology lacks a VTEP."""
        sent = self.where.senders(destination)
        others = {sender for own in sent.values() for sender in own} - {host}
        alike = [
            sender for sender, (address, _) in sent.get("", {}).items() if sender != host and address == entry.next
        ]
        return bool(alike) and 2 * len(alike) >= len(others)

    def _evidence(
        self,
        wrong: list[_Wrong],
        destination: Destination,
        home: Home | None,
        container: str | None,
        way: list[str],
    ) -> Iterator[str]:
        vni, address = destination
        sent = self.where.senders(destination)
        for each in wrong:
            yield (
                f"{each.host}: vswitch table, vni {vni}, dst {address}: next {self._seen(each.entry)}, "
                f"expected {self._expected(each.host, home, container, sent)}; read at {each.read:.3f}"
            )
        if home is not None:
            delivers = f"it delivers to {LOCAL}{home.container}, " if home.container else ""
            those, senders = sent.get(home.host, {}), {sender for own in sent.values() for sender in own}
            reason = f"{delivers}{len(those)} of {len(senders)} senders send there"
            yield f"dst {address} is on {home.host}: {reason}; read at {home.span.end:.3f}"
        if len(way) > 1:
            yield "forwarding: " + " -> ".join(way)

    def _seen(self, entry: Entry | None) -> str:
        if entry is None:
            return "missing"
        if entry.next is None:
            return "null (drop)"
        if entry.container is not None:
            return entry.next
        return f"{entry.next} ({' or '.join(self.where.hosts_at(entry.next)) or 'no VTEP or RNIC of the topology'})"

    @staticmethod
    def _expected(host: str, home: Home | None, container: str | None, sent: Senders) -> str:
        if home is None:
            return f"{LOCAL}{container}, or the way to it" if container else "the way to its container"
        if host == home.host:
            return f"{LOCAL}{container or home.container or '<container>'}"
        known = sorted({address for sender, (address, _) in sent.get(home.host, {}).items() if sender != host})
        return f"{known[0]} ({home.host})" if known else f"an address of {home.host}"
