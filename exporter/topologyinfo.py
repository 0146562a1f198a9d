"""What the topology says of the switches that an exporter follows: their cables, ports, addresses, and the hosts there.

Rules join these with what switches and probes measure. Each exporter tells of its own switches only, so that shards
do not repeat each other; a host whose RNICs hang off switches of several shards has the same series in each of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from exporter.contracts.addresses import canonical, is_ipv6
from exporter.contracts.catalogue import (
    HOST_DRAINED,
    HOST_INFO,
    LINK_INFO,
    RNIC_ATTACHMENT_INFO,
    SWITCH_ADDRESS_INFO,
    SWITCH_DRAINED,
    SWITCH_PORT_INFO,
)
from exporter.contracts.names import port_id, split_port
from exporter.contracts.topology import Host, Rnic, Switch, Topology
from exporter.exposition import Series

_Cable = tuple[str, str, str]
"""(switch, port, link) that an RNIC is plugged into."""


def topology_info(topology: Topology, switches: Collection[str]) -> list[Series]:
    """Every family that the topology alone makes, for ``switches``; those that it does not know have none."""
    own = [switch for switch in topology.switches if switch.name in switches]
    cables = _cables(topology)
    hosts = {
        host: _leaf(host, cables)
        for host in topology.hosts
        if any(cable[0] in switches for _, cable in _plugged(host, cables))
    }
    attached = (
        ((host.name, rnic.name, *cable), 1.0)
        for host in hosts
        for rnic, cable in _plugged(host, cables)
        if cable[0] in switches
    )
    return [
        link_info(topology, switches),
        Series(RNIC_ATTACHMENT_INFO, list(attached)),
        Series(HOST_INFO, [((host.name, leaf, host.location), 1.0) for host, leaf in hosts.items()]),
        Series(HOST_DRAINED, [((host.name,), float(host.state == "drained")) for host in hosts]),
        Series(SWITCH_DRAINED, [((switch.name,), float(switch.state == "drained")) for switch in own]),
        Series(
            SWITCH_PORT_INFO,
            [
                ((switch.name, port.name, port.linecard or "", port.breakout_group or "", port.lag or ""), 1.0)
                for switch in own
                for port in switch.ports
            ],
        ),
        Series(SWITCH_ADDRESS_INFO, [((switch.name, *place), 1.0) for switch in own for place in _addresses(switch)]),
    ]


def link_info(topology: Topology, switches: Collection[str]) -> Series:
    """The ports of ``switches`` at the ends of each link, for joining votes with port counters."""
    samples = [
        ((link.id, *split_port(end)), 1.0)
        for link in topology.links
        for end in (link.a, link.b)
        if split_port(end)[0] in switches
    ]
    return Series(LINK_INFO, samples)


def _cables(topology: Topology) -> dict[str, _Cable]:
    """{host:rnic: its cable}, of RNICs that are plugged into a switch."""
    known = {switch.name for switch in topology.switches}
    ends = ((link, *pair) for link in topology.links for pair in ((link.a, link.b), (link.b, link.a)))
    return {own: (*split_port(far), link.id) for link, own, far in ends if split_port(far)[0] in known}


def _plugged(host: Host, cables: dict[str, _Cable]) -> Iterator[tuple[Rnic, _Cable]]:
    for rnic in host.rnics:
        cable = cables.get(port_id(host.name, rnic.name))
        if cable is not None:
            yield rnic, cable


def _leaf(host: Host, cables: dict[str, _Cable]) -> str:
    """The switch of the RNIC with the lowest rail; an RNIC's rail is its place in the list where none is named."""
    rails = {rnic.name: place if rnic.rail is None else rnic.rail for place, rnic in enumerate(host.rnics)}
    return min(_plugged(host, cables), key=lambda each: rails[each[0].name])[1][0]


def _addresses(switch: Switch) -> Iterator[tuple[str, str]]:
    """(port, address), in the spelling that switches' BGP sessions have; no port for those of the switch itself."""
    places = [("", address) for address in switch.addresses]
    places += [(port.name, address) for port in switch.ports for address in port.addresses]
    for place, address in places:
        try:
            yield place, canonical(address) if is_ipv6(address) else address
        except ValueError:  # a topology may say what it likes
            yield place, address
