"""What RNICs hold against what the virtual switches want of them (SkeletonHunter, section 5.3, RNIC validation).

A flow is a virtual switch's entry for a destination. One that its RNIC lacks goes through software and is slow; one
that the RNIC sends elsewhere does not arrive. Who is to blame shows in what such flows have in common: a container
that most hosts reach so, an RNIC all of whose flows are so, or, else, the virtual switch of one host.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise

from exporter.contracts.diagnosis import Component
from exporter.contracts.names import port_id
from exporter.contracts.overlay import Entry
from exporter.contracts.topology import Host
from skeleton_service.diagnosis.offload_blame import Flow, Suspect, blame
from skeleton_service.diagnosis.overlay import Overlay
from skeleton_service.diagnosis.overlay_findings import OffloadFault, OverlayFinding, shortened
from skeleton_service.diagnosis.overlay_tables import Destination, Fact, Table, meet

_CHANGES = 2
"""A flow that came or went this often, while the virtual switch sent it to one place, is offloaded repeatedly."""
_WITNESSES = 2
"""Peers validated beside a host that many failing pairs share: packets to it go by their tables."""


def inconsistencies(overlay: Overlay, hosts: Collection[str] | None = None) -> list[OverlayFinding]:
    """Where the RNICs' tables of ``hosts`` (all, where None) are not what their virtual switches say, worst first.

    Hosts of which not both tables were read are left out, as are destinations for which a table has just changed.
    O(entries).
    """
    own = {host.name: host for host in overlay.fabric.topology.hosts}
    read = sorted(host for host, name in overlay.where.tables if name == "rnic" and (hosts is None or host in hosts))
    flows = [flow for host in read for flow in _flows(overlay, host, own.get(host))]
    total = Counter(suspect for flow in flows for suspect in flow.suspects)
    faulty: dict[OffloadFault, list[Flow]] = defaultdict(list)
    for flow in flows:
        if flow.fault is not None:
            faulty[flow.fault].append(flow)
    findings = [
        _finding(kind, suspect, blamed, overlay)
        for kind, those in sorted(faulty.items())
        for suspect, blamed in blame(kind, those, total).items()
    ]
    return sorted(findings, key=lambda finding: -len(finding.flows))


def hosts_to_validate(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The hosts whose RNIC tables are worth the cost of reading them, the one of most pairs first.

    ``pairs`` are (source host, destination host) of failing overlay pairs that both layers leave unexplained: their
    replay finds nothing, and neither does their underlay. They are one end of every pair (as few as a greedy choice
    gives), and up to two peers of each: flows *to* a container are in the tables of those that send.
    """
    peers: dict[str, Counter[str]] = defaultdict(Counter)
    for source, destination in pairs:
        if source != destination:
            peers[source][destination] += 1
            peers[destination][source] += 1
    chosen: dict[str, None] = {}
    left = {host: Counter(own) for host, own in peers.items()}
    while left:
        host = min(left, key=lambda each: (-left[each].total(), each))
        chosen[host] = None
        ranked = sorted(left[host], key=lambda peer: (-peers[peer].total(), peer))
        chosen |= dict.fromkeys(ranked[:_WITNESSES])
        for peer in ranked:
            del left[peer][host]
        del left[host]
        left = {each: own for each, own in left.items() if own}
    return tuple(chosen)


def _flows(overlay: Overlay, host: str, described: Host | None) -> Iterator[Flow]:
    """The flows of a host that both tables tell of, each with what is wrong with it."""
    wanted, held = overlay.where.tables.get((host, "vswitch")), overlay.where.tables[host, "rnic"]
    if wanted is None:
        return
    pairs = {each: (wanted.fact(each), held.fact(each)) for each in {*wanted.destinations, *held.destinations}}
    offloads = any(entry.offloaded for fact, _ in pairs.values() if fact for entry in fact.entries)
    for destination, (own, other) in sorted(pairs.items()):
        entries, again = _repeated(destination, wanted, held)
        if not again:
            if own is None or other is None or not meet(own.span, other.span):
                continue
            # What other virtual switches know and this one does not is missing here (a replay tells), not stale there.
            entries = own.entries or (() if overlay.where.is_known(destination) else other.entries)
        home = overlay.where.home(destination)
        container = home.container if home else None
        for entry in entries:
            if entry.next is None or (entry.container is not None and not entry.offloaded):
                continue  # nothing says that the RNIC should hold it
            fault: OffloadFault | None = "repeatedly-offloaded"
            seen = again
            if not again and own is not None and other is not None:
                fault, seen = _compare(entry, own, other, offloads, overlay)
            evidence = f"{host}: vni {entry.vni}, dst {entry.dst}: {seen}" if fault else ""
            yield Flow(host, destination, _rnic(entry, described, overlay), container, fault, evidence)


def _repeated(destination: Destination, wanted: Table, held: Table) -> tuple[Sequence[Entry], str]:
    """The entries of a destination that are offloaded again and again, and what was seen; nothing where none is.

    The virtual switch sends it to the same place in all its readings, so that no churn explains the changes.
    """
    if max(len(wanted.times), len(held.times)) <= _CHANGES:
        return (), ""
    said = wanted.history(destination)
    offloaded = [any(entry.offloaded for entry in entries) for entries in said]
    if not any(offloaded) or len({frozenset(entry.next for entry in entries) for entries in said}) > 1:
        return (), ""
    present = [bool(entries) for entries in held.history(destination)]
    for table, states, times in (("vswitch", offloaded, wanted.times), ("RNIC", present, held.times)):
        changes = sum(before != after for before, after in pairwise(states))
        if changes >= _CHANGES:
            seen = f"offloaded or not changed {changes} times in {len(times)} readings of the {table} table"
            last = sorted(said[-1], key=lambda entry: (entry.next or "", entry.in_port or ""))
            return last, f"{seen}, from {times[0]:.3f} to {times[-1]:.3f}"
    return (), ""


def _compare(
    entry: Entry, wanted: Fact, held: Fact, offloads: bool, overlay: Overlay
) -> tuple[OffloadFault | None, str]:
    """What is wrong with one entry, and what was seen; ``offloads``: whether its host offloads anything."""
    times = f"read at {wanted.span.end:.3f} and {held.span.end:.3f}"
    if not wanted.entries:
        return "stale-entry", f"vswitch table: missing; RNIC table: next {entry.next}; {times}"
    said = f"vswitch table: next {entry.next}, offloaded {str(entry.offloaded).lower()}"
    alike = [each for each in held.entries if None in (each.in_port, entry.in_port) or each.in_port == entry.in_port]
    if alike:
        if any(_same_place(entry.next, each.next, overlay) for each in alike):
            return None, ""
        nexts = " or ".join(sorted({str(each.next) for each in alike}))
        return "other-next", f"{said}; RNIC table: next {nexts}; {times}"
    if entry.offloaded:
        return "not-held", f"{said}; RNIC table: missing; {times}"
    if entry.offloaded is False and offloads:
        return "not-offloaded", f"{said}, others of the host are; RNIC table: missing; {times}"
    return None, ""


def _same_place(one: str | None, other: str | None, overlay: Overlay) -> bool:
    """Whether two next hops are one: the same address, or an RNIC's and a VTEP of its host."""
    if one == other:
        return True
    by_rnic = [address in overlay.fabric.by_address for address in (one, other)]
    return by_rnic[0] != by_rnic[1] and bool({*overlay.where.hosts_at(one)} & {*overlay.where.hosts_at(other)})


def _rnic(entry: Entry, host: Host | None, overlay: Overlay) -> str | None:
    """The RNIC that a flow leaves by: its host's only one, that of its port, or that of its next hop's rail."""
    if host is None:
        return None
    rnics = host.rnics
    if len(rnics) == 1:
        return port_id(host.name, rnics[0].name)
    if entry.in_port is not None:
        names = {name: rnic.name for rnic in rnics for name in (rnic.netdev, rnic.name) if name}
        of = [name for name in names if entry.in_port == name or entry.in_port.startswith((f"{name}_", f"{name}/"))]
        if of:
            return port_id(host.name, names[max(of, key=len)])
    there = overlay.fabric.by_address.get(entry.next or "")
    if there is None:
        return None
    rail = _rails(there.host)[there.rnic.name]
    same = [name for name, own in _rails(host).items() if own == rail]
    return port_id(host.name, same[0]) if len(same) == 1 else None


def _rails(host: Host) -> dict[str, int]:
    return {rnic.name: place if rnic.rail is None else rnic.rail for place, rnic in enumerate(host.rnics)}


def _finding(kind: OffloadFault, suspect: Suspect, flows: list[Flow], overlay: Overlay) -> OverlayFinding:
    named: Iterable[Suspect]
    match suspect:
        case ("container", _):
            homes = [overlay.where.home(flow.destination) for flow in flows]
            named = [("vswitch", home.host) for home in homes if home is not None]
        case ("rnic", _):
            named = [("vswitch", flow.host) for flow in flows]
        case _:
            named = [("rnic", flow.rnic) for flow in flows if flow.rnic is not None]
    return OverlayFinding(
        kind=kind,
        component=Component(kind=suspect[0], name=suspect[1]),
        alternatives=tuple(Component(kind=each, name=name) for each, name in sorted(set(named))),
        flows=tuple(sorted({(flow.host, flow.destination[1]) for flow in flows})),
        evidence=shortened(flow.evidence for flow in flows),
    )
