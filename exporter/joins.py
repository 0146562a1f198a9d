"""Families that join others: which links a path crosses, where a failing one ends, whose job it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from exporter.contracts.catalogue import (
    FAILING_TRACE,
    JOB_PATH_INFO,
    LINK_INFO,
    PATH,
    PATH_LINK_INFO,
    RNIC_INFO,
    ROUTE,
    TRACE_LAST_HOP_INFO,
)
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_port
from exporter.contracts.plan import Plan
from exporter.contracts.topology import Rnic, Topology
from exporter.exposition import Series
from exporter.store import Store

_PROBE = PATH.labels.index("probe")

Flow = tuple[str, str, str, str, str]
"""Source address and port, destination address and port, protocol, as text."""

_Routed = tuple[str, str, tuple[str, ...]]
"""Source address, destination address, hops."""


def flow_of_labels(labels: Sequence[str]) -> Flow:
    """The flow of a PATH row: its hidden labels follow the rendered ones."""
    start = len(PATH.labels)
    protocol = "tcp" if labels[_PROBE] == "tcp" else "udp"
    return (labels[start], labels[start + 1], labels[start + 2], labels[start + 3], protocol)


def routes(store: Store) -> dict[Flow, list[str]]:
    """Last complete route of each traced flow, as hop addresses without the destination."""
    found: dict[Flow, list[str]] = {}
    for row in store.read(ROUTE):
        source, source_port, destination, destination_port, protocol, hops = row.labels
        found[source, source_port, destination, destination_port, protocol] = json.loads(hops)
    return found


class FailingTrace(NamedTuple):
    """The last trace of a path that loses probes."""

    hops: list[str | None]
    last_hop: str
    """Address; empty where none answered."""
    outcome: str


def failing_traces(store: Store) -> dict[int, FailingTrace]:
    """{identity of a PATH row: its trace}."""
    return {
        int(row.labels[0]): FailingTrace(json.loads(row.labels[1]), row.labels[2], row.labels[3])
        for row in store.read(FAILING_TRACE)
    }


class LinkJoin:
    """Turns routes into links with the topology; remembers the answers of the last time, since routes rarely change."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._series = Series(PATH_LINK_INFO, ())
        self._versions: tuple[int, int] | None = None
        self._known: dict[_Routed, tuple[str, ...]] = {}

    def _resolve(self, source: str, destination: str, hops: tuple[str, ...]) -> tuple[str, ...]:
        ends = [self._fabric.by_address.get(address) for address in (source, destination)]
        if ends[0] is None or ends[1] is None:
            return ()
        return self._fabric.links_of_route(ends[0].id, hops, ends[1].id) or ()

    def series(self, store: Store) -> Series:
        """The same object again while no path or route comes or goes, so that renderers keep what they made of it."""
        versions, torn = (store.version(PATH), store.version(ROUTE)), store.torn_reads
        if versions != self._versions:
            self._series = Series(PATH_LINK_INFO, list(self._samples(store)))
            # A row that could not be read is looked for again the next time.
            self._versions = versions if store.torn_reads == torn else None
        return self._series

    def _samples(self, store: Store) -> Iterator[tuple[Sequence[str], float]]:
        known = routes(store)
        before, links = self._known, {}
        for row in store.read(PATH):
            flow = flow_of_labels(row.labels)
            hops = known.get(flow)
            if hops is None:
                continue
            routed = (flow[0], flow[2], tuple(hops))
            if routed not in links:
                links[routed] = before[routed] if routed in before else self._resolve(*routed)
            for link in links[routed]:
                yield (row.labels[0], link), 1.0
        self._known = links


class LastHops:
    """Names where the traces of failing paths ended: by the topology where it knows the address, else as it is."""

    def __init__(self, fabric: Fabric | None) -> None:
        self._fabric = fabric
        self._series = Series(TRACE_LAST_HOP_INFO, ())
        self._versions: tuple[int, int] | None = None

    def series(self, store: Store) -> Series:
        """The same object again while no path or trace comes or goes, so that renderers keep what they made of it."""
        versions, torn = (store.version(PATH), store.version(FAILING_TRACE)), store.torn_reads
        if versions != self._versions:
            found = failing_traces(store)
            paths = ((row, found[row.identity]) for row in store.read(PATH) if row.identity in found)
            samples = [((row.labels[0], self._name(trace.last_hop), trace.outcome), 1.0) for row, trace in paths]
            self._series = Series(TRACE_LAST_HOP_INFO, samples)
            self._versions = versions if store.torn_reads == torn else None
        return self._series

    def _name(self, address: str) -> str:
        if self._fabric is None or not address:
            return address or "none"
        interface = self._fabric.by_address.get(address)
        return interface.id if interface is not None else self._fabric.locate(address) or address


class JobPaths:
    """Binds the paths that are probed to the plan's job; a target that waits for its destination is no path yet."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._series = job_paths(None)
        self._version: int | None = None

    def follow(self, plan: Plan | None) -> None:
        self._plan, self._version = plan, None

    def series(self, store: Store) -> Series:
        """The same object again while no path comes or goes, so that renderers keep what they made of it."""
        version, torn = store.version(PATH), store.torn_reads
        if version != self._version:
            self._version = version
            self._series = job_paths(self._plan, {row.labels[0] for row in store.read(PATH)})
            if store.torn_reads != torn:  # a row that could not be read is looked for again the next time
                self._version = None
        return self._series


def job_paths(plan: Plan | None, probed: Collection[str] = ()) -> Series:
    """One sample for each target of the plan that is active, by the plan or since (``probed`` names its path)."""
    if plan is None:
        return Series(JOB_PATH_INFO, ())
    targets = (target for target in plan.targets if target.active or target.path in probed)
    return Series(JOB_PATH_INFO, [((plan.job, target.path, target.role), 1.0) for target in targets])


def link_info(topology: Topology, switches: Collection[str]) -> Series:
    """The ports of ``switches`` at the ends of each link, for joining votes with port counters."""
    samples = [
        ((link.id, *split_port(end)), 1.0)
        for link in topology.links
        for end in (link.a, link.b)
        if split_port(end)[0] in switches
    ]
    return Series(LINK_INFO, samples)


def rnic_info(host: str, rnics: Iterable[Rnic]) -> Series:
    samples = [((host, r.name, "" if r.rail is None else str(r.rail), r.netdev or ""), 1.0) for r in rnics]
    return Series(RNIC_INFO, samples)
