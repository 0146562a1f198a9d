"""The way to a second site, as values: borders, two carriers, a host beside the fabric and one beyond.

``add`` gives a design that has none a transit, drawn from the same seed; what the fabric itself is does
not change by it. The border has one link to every spine, the carriers one to either border::

    leaf -- spine -- border -- carrier (clean) ----- far border -- store
                      |   `-- carrier (lossy) --------'
                   services

Everything is eBGP. Both borders prefer the first carrier by local preference (RFC 4271, 5.1.5) and
announce to a carrier only what is their own site's: neither site is a transit for the carriers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network

from lab.errors import LabError
from lab.network.design import (
    FABRIC_LINKS,
    FIRST_ASN,
    HOST_LINKS,
    LOOPBACKS,
    MANAGEMENT,
    Cable,
    Carrier,
    Design,
    End,
    Host,
    Rnic,
    Switch,
    Transit,
)

SITE_LINKS = IPv4Network("10.28.0.0/16")  # the second site's, and those to the carriers
NEAR_ASN, FAR_ASN = FIRST_ASN + 100_000, FIRST_ASN + 200_000
CARRIER_ASNS = (64_496, 64_511)  # RFC 5398: for documentation
PREFERRED, SECOND, FORCED = 200, 100, 300  # local preferences
CLEAN_MILLISECONDS = (2.0, 4.0)  # one way
LOSSY_MILLISECONDS = (9.0, 15.0)
JITTER_MICROSECONDS = (50.0, 200.0)
LOSS_PERCENT = (5.0, 8.0)


class _Unused:
    """Numbers and addresses that the fabric has left."""

    def __init__(self, rng: random.Random, design: Design) -> None:
        self._rng = rng
        self._taken = {end.address for link in design.links for end in link.ends}
        self._taken |= {switch.loopback for switch in design.switches} | {node.management for node in design.nodes}
        self._ports = {(end.node, end.port) for link in design.links for end in link.ends}

    def address(self, network: IPv4Network) -> str:
        return self._one(network, 1)[0]

    def pair(self, network: IPv4Network) -> tuple[str, str]:
        """Both addresses of a /31."""
        low, high = self._one(network, 2)
        return low, high

    def _one(self, network: IPv4Network, step: int) -> list[str]:
        while True:
            first = step * self._rng.randrange(10, min(network.num_addresses, 4096) // step)
            found = [str(network[first + number]) for number in range(step)]
            if self._taken.isdisjoint(found):
                self._taken.update(found)
                return found

    def port(self, switch: str, address: str) -> End:
        while True:
            name = f"Ethernet{4 * self._rng.randrange(64)}"
            if (switch, name) not in self._ports:
                self._ports.add((switch, name))
                return End(switch, name, name, address, str(int(name[8:]) // 4))


def add(design: Design) -> Design:
    """Return ``design`` with a transit drawn from its seed. Raise LabError when it has one."""
    if design.transit is not None:
        raise LabError("this lab has a transit already")
    rng = random.Random(f"transit {design.seed}")
    unused = _Unused(rng, design)
    border, far_border = (f"border-{number}" for number in rng.sample(range(1, 100), 2))
    carriers = [f"carrier-{number}" for number in rng.sample(range(1, 100), 2)]
    services, store = f"services-{rng.randrange(1, 100)}", f"store-{rng.randrange(1, 100)}"
    links = []
    for spine in design.spines:
        below, above = unused.pair(FABRIC_LINKS)
        links.append(Cable(unused.port(spine.name, below), unused.port(border, above)))
    for carrier in carriers:
        for edge in (border, far_border):
            below, above = unused.pair(SITE_LINKS)
            links.append(Cable(unused.port(edge, below), unused.port(carrier, above)))
    hosts = []
    for name, gateway_switch, network in ((services, border, HOST_LINKS), (store, far_border, SITE_LINKS)):
        gateway, address = unused.pair(network)
        netdev = f"ens{rng.randrange(1, 64)}f0"
        links.append(Cable(End(name, netdev, netdev, address), unused.port(gateway_switch, gateway)))
        rack = f"rack-{rng.randrange(1000, 10_000)}"
        hosts.append(Host(name, "", rack, unused.address(MANAGEMENT), (Rnic(netdev, 0, netdev, address, gateway),)))
    numbers = {border: NEAR_ASN, far_border: FAR_ASN, **dict(zip(carriers, CARRIER_ASNS, strict=True))}
    switches = [
        Switch(
            name,
            "carrier" if name in carriers else "border",
            None,
            None,
            asn,
            unused.address(LOOPBACKS),
            unused.address(MANAGEMENT),
            tuple(end for link in links for end in link.ends if end.node == name),
        )
        for name, asn in numbers.items()
    ]
    spines = {
        switch.name: replace(
            switch, ports=switch.ports + tuple(e for link in links for e in link.ends if e.node == switch.name)
        )
        for switch in design.spines
    }
    clean, lossy = (
        Carrier(name, round(1e3 * rng.uniform(*milliseconds)), round(rng.uniform(*JITTER_MICROSECONDS)), loss)
        for name, milliseconds, loss in zip(
            carriers, (CLEAN_MILLISECONDS, LOSSY_MILLISECONDS), ((0.0, 0.0), LOSS_PERCENT), strict=True
        )
    )
    return replace(
        design,
        switches=(*(spines.get(switch.name, switch) for switch in design.switches), *switches),
        links=(*design.links, *links),
        service_hosts=tuple(hosts),
        transit=Transit(border, far_border, (clean, lossy), services, store),
    )


# ---- routing policy


def import_map(carrier: str) -> str:
    """Name of the route-map for what a border learns from a carrier."""
    return f"from-{carrier}"


def local_preference(transit: Transit, carrier: str) -> int:
    return PREFERRED if carrier == transit.carriers[0].switch else SECOND


def sessions_with_carriers(design: Design, border: str) -> dict[str, str]:
    """{carrier: its address} for the sessions of one border."""
    carriers = {carrier.switch for carrier in design.transit.carriers} if design.transit else set()
    return {far.node: far.address for _, far in design.peers(border) if far.node in carriers}


def policies(design: Design, switch: Switch) -> Iterator[str]:
    """Lines of bgpd.conf before ``router bgp``: nothing but at a border."""
    if design.transit is None or switch.tier != "border":
        return
    yield "bgp as-path access-list own-site seq 5 permit ^$"
    yield f"bgp as-path access-list own-site seq 10 permit ^{FIRST_ASN}_"  # learnt from the spines
    yield from ("route-map to-carrier permit 10", " match as-path own-site", "exit")
    for carrier in sessions_with_carriers(design, switch.name):
        yield f"route-map {import_map(carrier)} permit 10"
        yield f" set local-preference {local_preference(design.transit, carrier)}"
        yield "exit"


def neighbor_policies(design: Design, switch: Switch) -> Iterator[str]:
    """Lines of bgpd.conf in the address family: nothing but at a border."""
    if switch.tier != "border":
        return
    for carrier, address in sessions_with_carriers(design, switch.name).items():
        yield f"neighbor {address} route-map {import_map(carrier)} in"
        yield f"neighbor {address} route-map to-carrier out"
