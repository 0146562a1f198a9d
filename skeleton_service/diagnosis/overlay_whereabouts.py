"""Where an overlay's destinations are, by the tables of the virtual switches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import OverlayState
from skeleton_service.diagnosis.overlay_tables import SETTLING_SECONDS, Destination, Fact, Span, index_tables

Senders = dict[str, dict[str, tuple[str, Span]]]
"""{host: {sender: (address it uses, span)}}; under "" those who send to an address of no known host."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a destination's container is."""

    host: str
    container: str | None
    """None where no table delivers to it: then it is where most hosts send."""
    span: Span


class Whereabouts:
    """An overlay state over a topology, indexed once, in O(entries).

    ``first_seen`` says since when containers are known to be there (seconds since the epoch), as their probes tell.
    """

    def __init__(self, state: OverlayState, fabric: Fabric, first_seen: Mapping[str, float] | None = None) -> None:
        self.tables = index_tables(state)
        self._first_seen = first_seen or {}
        self._senders: dict[Destination, Senders] = {}
        self._homes: dict[tuple[Destination, str | None], Home | None] = {}
        self._at: dict[str, tuple[str, ...]] = {
            address: (interface.host.name,) for address, interface in fabric.by_address.items()
        }
        for each in fabric.topology.hosts:
            for address in each.vteps:  # hosts behind one hardware VTEP share it
                self._at[address] = tuple(dict.fromkeys((*self._at.get(address, ()), each.name)))
        self.located = frozenset(host for hosts in self._at.values() for host in hosts)
        """Hosts some of whose underlay addresses are known."""
        self._holders: dict[Destination, list[str]] = defaultdict(list)
        self._delivering: dict[Destination, list[str]] = defaultdict(list)
        self._networks: dict[str, set[int]] = defaultdict(set)  # of an address
        self._memberships: dict[str, set[int]] = defaultdict(set)  # of a container
        for (host, name), table in sorted(self.tables.items()):
            if name == "vswitch":
                for destination in table.destinations:
                    self._holders[destination].append(host)
                    self._networks[destination[1]].add(destination[0])
                for destination, container in table.deliveries():
                    self._delivering[destination].append(host)
                    self._memberships[container].add(destination[0])
        self._only_network = len({vni for own in self._networks.values() for vni in own}) == 1

    def hosts_at(self, address: str | None) -> tuple[str, ...]:
        """The hosts that have an underlay address: one, or those behind one hardware VTEP."""
        return self._at.get(address or "", ())

    def is_known(self, destination: Destination) -> bool:
        """Whether any virtual switch has an entry for it."""
        return destination in self._holders

    def networks(self, address: str, containers: Iterable[str | None]) -> tuple[list[int], bool]:
        """The VNIs by which packets between ``containers`` may go to an address, and whether that is sure.

        Tenants may use the same addresses: only what delivers to a container tells which networks are its own.
        """
        possible = self._networks.get(address, set())
        known = [self._memberships[name] for name in containers if name in self._memberships]
        return sorted(possible.intersection(*known)), bool(known) or self._only_network

    def home(self, destination: Destination, container: str | None = None) -> Home | None:
        """Where a destination is by the virtual switches' tables; None where they do not tell.

        A host that delivers to ``container`` has it. Without that name, or where several do, it is the one that most
        hosts send to; a host without a snapshot may be among them. Where none delivers to it, more than half of the
        senders must agree.
        """
        key = (destination, container)
        if key not in self._homes:
            self._homes[key] = self._find_home(destination, container)
        return self._homes[key]

    def fact(self, host: str, destination: Destination) -> Fact | None:
        """What a host's virtual switch is known to say of a destination."""
        table = self.tables.get((host, "vswitch"))
        return None if table is None else table.fact(destination)

    def _find_home(self, destination: Destination, container: str | None) -> Home | None:
        claims: dict[str, Home] = {}
        for host in self._delivering.get(destination, ()):
            fact = self.fact(host, destination)
            for entry in fact.entries if fact else ():
                name = entry.container
                if fact is not None and name is not None and container in (None, name):
                    claims[host] = Home(host, name, self._since_seen(name, fact.span))
        if container is not None and len(claims) == 1:
            return next(iter(claims.values()))
        sent = self.senders(destination)
        candidates = set(claims)
        if not claims:
            senders = {sender for own in sent.values() for sender in own}
            candidates = {there for there, own in sent.items() if there and 2 * len(own) > len(senders)}
        elif container is None:
            candidates |= {there for there in sent if there and self.fact(there, destination) is None}

        def rank(host: str) -> tuple[int, bool]:
            return len(sent.get(host, ())) + (host in claims), host in claims

        best = sorted(candidates, key=rank, reverse=True)
        if not best or (len(best) > 1 and rank(best[0]) == rank(best[1])):
            return None
        if best[0] in claims:
            return claims[best[0]]
        spans = [span for _, span in sent[best[0]].values()]
        return Home(best[0], None, Span(max(each.start for each in spans), min(each.end for each in spans)))

    def senders(self, destination: Destination) -> Senders:
        """Who sends where, by the virtual switches' entries."""
        if destination in self._senders:
            return self._senders[destination]
        sent: Senders = defaultdict(dict)
        for host in self._holders.get(destination, ()):
            fact = self.fact(host, destination)
            for entry in fact.entries if fact else ():
                if fact is not None and entry.next is not None and entry.container is None:
                    for there in self.hosts_at(entry.next) or ("",):
                        sent[there][host] = (entry.next, fact.span)
        self._senders[destination] = dict(sent)
        return self._senders[destination]

    def _since_seen(self, container: str, span: Span) -> Span:
        seen = self._first_seen.get(container)
        return span if seen is None else Span(max(span.start, seen + SETTLING_SECONDS), span.end)
