"""The intent file: what the network is meant to be, which ``skeleton-service verify`` compares with what it is.

Every part is optional. What the file has no word on is not compared, but for the two ends of a link, which have to
agree whatever is meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from exporter.contracts.codec import Contract, ContractError, Version, read
from exporter.contracts.topology import Topology

Count = Annotated[int, msgspec.Meta(ge=1)]
Priority = Annotated[int, msgspec.Meta(ge=0, le=7)]
Queue = Annotated[int, msgspec.Meta(ge=0, le=255)]
Dscp = Annotated[int, msgspec.Meta(ge=0, le=63)]


class Meant(Contract, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unlike in other files an unknown key is an error: a misspelt one would leave unchecked what it is about."""


class Range(Meant, frozen=True, kw_only=True):
    """Bounds, both included; one may be left out."""

    at_least: Count | None = None
    at_most: Count | None = None


Amount = Count | tuple[Count, ...] | Range
"""A number, several that will all do (vendors count one MTU with and without headers), or bounds."""


class Mtu(Meant, frozen=True, kw_only=True):
    """Bytes, as the devices themselves tell them."""

    tiers: dict[str, Amount] = msgspec.field(default_factory=dict)
    """Of all ports of the switches of a tier."""
    rnics: Amount | None = None
    """Of the RNICs' network devices."""
    rdma: Amount | None = None
    """The RNICs' active RDMA MTU: 256 to 4096."""


class Mapping(Meant, frozen=True, kw_only=True):
    dscp: tuple[Dscp, ...]
    priority: Priority


class QueueEcn(Meant, frozen=True, kw_only=True):
    """Marking in one egress queue; thresholds are compared where a switch tells them. Without ``tiers``, of all."""

    queue: Queue
    enabled: bool = True
    low_bytes: Amount | None = None
    high_bytes: Amount | None = None
    tiers: tuple[str, ...] = ()


class RnicEcn(Meant, frozen=True, kw_only=True):
    """Congestion control of one priority: CNPs sent for marked packets, and obeyed. None is no word on it."""

    priority: Priority
    notification_point: bool | None = None
    reaction_point: bool | None = None


class Ecn(Meant, frozen=True, kw_only=True):
    queues: tuple[QueueEcn, ...] = ()
    rnics: tuple[RnicEcn, ...] = ()


class Timers(Meant, frozen=True, kw_only=True):
    """As agreed with the peer."""

    hold_seconds: Annotated[int, msgspec.Meta(ge=0)] | None = None
    keepalive_seconds: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Override(Meant, frozen=True, kw_only=True):
    """What is meant of some ports instead. A port must meet all selectors; of several overrides the last one holds."""

    tiers: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    """Names of switch ports, or of RNICs."""
    facing: Literal["host", "switch"] | None = None
    """What is at the other end of a switch port's link."""
    mtu: Amount | None = None
    speed_mbps: Amount | None = None


class Intent(Meant, frozen=True, kw_only=True):
    version: Version
    mtu: Mtu = Mtu()
    speed_mbps: dict[str, Amount] = msgspec.field(default_factory=dict)
    """{tier: of its switches' ports}."""
    overrides: tuple[Override, ...] = ()
    lossless_priorities: tuple[Priority, ...] | None = None
    """Those that PFC protects; all others are meant to be lossy. None is no word on it, empty is: none at all."""
    dscp_priorities: tuple[Mapping, ...] = ()
    cnp_queue: Queue | None = None
    """Queue, and so priority, that congestion notifications (CNPs) travel in."""
    trust: Literal["dscp", "pcp"] | None = None
    ecn: Ecn = Ecn()
    bgp: dict[str, Timers] = msgspec.field(default_factory=dict)
    """{tier: timers of its switches' sessions}."""

    @property
    def priority_of_dscp(self) -> dict[int, int]:
        return {dscp: mapping.priority for mapping in self.dscp_priorities for dscp in mapping.dscp}


def read_intent(path: Path | str) -> Intent:
    """Read and check an intent file; raise ContractError naming the file and the field."""
    return read(path, Intent, check_intent)


def check_intent(intent: Intent, source: str) -> None:
    """Refuse what types cannot: nothing at all, empty bounds, and two words on one thing."""
    if intent == Intent(version=1):
        raise ContractError(source, "means nothing", "give mtu, lossless_priorities, ...")
    for where, amount in _amounts(intent):
        _check_amount(amount, where, source)
    seen: set[int] = set()
    for number, mapping in enumerate(intent.dscp_priorities):
        for dscp in mapping.dscp:
            if dscp in seen:
                raise ContractError(source, f"field 'dscp_priorities[{number}]': DSCP {dscp} appears twice", "keep one")
            seen.add(dscp)
    mapped = intent.priority_of_dscp.values()
    if intent.cnp_queue is not None and mapped and intent.cnp_queue not in mapped:
        problem = f"field 'cnp_queue': no DSCP of dscp_priorities has priority {intent.cnp_queue}"
        raise ContractError(source, problem, "add the DSCP of CNPs, or correct one of them")
    queues: set[tuple[int, str]] = set()
    for number, ecn in enumerate(intent.ecn.queues):
        for tier in ecn.tiers or ("",):
            if (ecn.queue, tier) in queues:
                what = f"queue {ecn.queue}" + (f" of tier {tier!r}" if tier else "")
                raise ContractError(source, f"field 'ecn.queues[{number}]': {what} appears twice", "keep one")
            queues.add((ecn.queue, tier))
        if not ecn.enabled and (ecn.low_bytes is not None or ecn.high_bytes is not None):
            problem = f"field 'ecn.queues[{number}]': thresholds of a queue that is not to mark"
            raise ContractError(source, problem, "leave them out, or enabled: true")
    priorities: set[int] = set()
    for number, rnic in enumerate(intent.ecn.rnics):
        if rnic.priority in priorities:
            problem = f"field 'ecn.rnics[{number}]': priority {rnic.priority} appears twice"
            raise ContractError(source, problem, "keep one")
        priorities.add(rnic.priority)
    for number, override in enumerate(intent.overrides):
        where = f"field 'overrides[{number}]'"
        if not (override.tiers or override.switches or override.hosts or override.ports or override.facing):
            raise ContractError(source, f"{where}: selects every port", "name tiers, switches, hosts, ports or facing")
        if override.mtu is None and override.speed_mbps is None:
            raise ContractError(source, f"{where}: says nothing", "add mtu or speed_mbps")
        if override.hosts and (override.tiers or override.switches or override.facing):
            raise ContractError(source, f"{where}: no port is on a host and on a switch", "write two overrides")
        if override.hosts and override.speed_mbps is not None:
            raise ContractError(source, f"{where}: RNICs do not tell their speed", "leave speed_mbps out")


def _amounts(intent: Intent) -> Iterator[tuple[str, Amount]]:
    for tier, amount in intent.mtu.tiers.items():
        yield f"mtu.tiers.{tier}", amount
    for tier, amount in intent.speed_mbps.items():
        yield f"speed_mbps.{tier}", amount
    single: list[tuple[str, Amount | None]] = [("mtu.rnics", intent.mtu.rnics), ("mtu.rdma", intent.mtu.rdma)]
    for number, override in enumerate(intent.overrides):
        single.append((f"overrides[{number}].mtu", override.mtu))
        single.append((f"overrides[{number}].speed_mbps", override.speed_mbps))
    for number, ecn in enumerate(intent.ecn.queues):
        single.append((f"ecn.queues[{number}].low_bytes", ecn.low_bytes))
        single.append((f"ecn.queues[{number}].high_bytes", ecn.high_bytes))
    for where, some in single:
        if some is not None:
            yield where, some


def _check_amount(amount: Amount, where: str, source: str) -> None:
    if isinstance(amount, Range):
        if amount.at_least is None and amount.at_most is None:
            raise ContractError(source, f"field '{where}': bounds nothing", "give at_least, at_most or both")
        if amount.at_least is not None and amount.at_most is not None and amount.at_least > amount.at_most:
            raise ContractError(source, f"field '{where}': at_least is more than at_most", "exchange them")
    elif isinstance(amount, tuple) and not amount:
        raise ContractError(source, f"field '{where}': is an empty list", "give the values that will do")


def check_fits(intent: Intent, topology: Topology, source: str) -> None:
    """Refuse names that the topology does not have: what a misspelt one is about would go unchecked."""
    tiers = {switch.tier for switch in topology.switches}
    switches = {switch.name for switch in topology.switches}
    hosts = {host.name for host in topology.hosts}

    def known(where: str, kind: str, names: Iterable[str], all_names: set[str]) -> None:
        for name in names:
            if name not in all_names:
                nearest = difflib.get_close_matches(name, sorted(all_names), n=1)
                remedy = f"did you mean {nearest[0]!r}?" if nearest else "correct it, or leave it out"
                raise ContractError(source, f"field '{where}': no {kind} {name!r} in the topology", remedy)

    known("mtu.tiers", "switch of tier", intent.mtu.tiers, tiers)
    known("speed_mbps", "switch of tier", intent.speed_mbps, tiers)
    known("bgp", "switch of tier", intent.bgp, tiers)
    for number, ecn in enumerate(intent.ecn.queues):
        known(f"ecn.queues[{number}].tiers", "switch of tier", ecn.tiers, tiers)
    ports: dict[str, set[str]] = {switch.name: {port.name for port in switch.ports} for switch in topology.switches}
    ports |= {host.name: {rnic.name for rnic in host.rnics} for host in topology.hosts}
    for link in topology.links:
        for end in (link.a, link.b):
            node, _, port = end.partition(":")
            ports[node].add(port)
    every_port = set().union(*ports.values()) if ports else set()
    for number, override in enumerate(intent.overrides):
        known(f"overrides[{number}].tiers", "switch of tier", override.tiers, tiers)
        known(f"overrides[{number}].switches", "switch", override.switches, switches)
        known(f"overrides[{number}].hosts", "host", override.hosts, hosts)
        named = [*override.switches, *override.hosts]
        own = set().union(*(ports[node] for node in named)) if named else every_port
        for name in override.ports:
            node, _, port = name.partition(":")
            if name not in own and port in ports.get(node, ()):
                selector = "switches" if node in switches else "hosts"
                problem = f"field 'overrides[{number}].ports': no port {name!r} in the topology"
                raise ContractError(source, problem, f"write {selector}: [{node}], ports: [{port}]")
        known(f"overrides[{number}].ports", "port", override.ports, own)
