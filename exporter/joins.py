"""Families that join others: which links a path crosses, which job probes it, which RNICs there are."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence

from exporter.contracts.catalogue import (
    JOB_PATH_INFO,
    LINK_INFO,
    PATH,
    PATH_LINK_INFO,
    PATH_MTU_LIMIT,
    PATH_MTU_LIMIT_INFO,
    RNIC_INFO,
    ROUTE,
)
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import port_id, split_port
from exporter.contracts.plan import Plan
from exporter.contracts.topology import Rnic, Topology
from exporter.exposition import Series
from exporter.store import Store

_PROBE = PATH.labels.index("probe")

Flow = tuple[str, str, str, str]
"""Source address and port, destination address and port, as text."""

_Routed = tuple[str, str, tuple[str, ...]]
"""Source address, destination address, hops."""


def flow_of_labels(labels: Sequence[str]) -> Flow:
    """The flow of a PATH row: its hidden labels follow the rendered ones."""
    start = len(PATH.labels)
    return (labels[start], labels[start + 1], labels[start + 2], labels[start + 3])


def routes(store: Store) -> dict[Flow, list[str]]:
    """Last complete route of each traced flow, as hop addresses without the destination."""
    return {
        (row.labels[0], row.labels[1], row.labels[2], row.labels[3]): json.loads(row.labels[4])
        for row in store.read(ROUTE)
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
            if row.labels[_PROBE] == "tcp":
                continue  # ECMP hashes the protocol too: the route of a UDP flow says nothing of it
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


class MtuLimitJoin:
    """Names what limits the paths below their MTU promise: the hop's port or RNIC, or its address if it is unknown."""

    def __init__(self, fabric: Fabric | None, host: str, rnics: Iterable[Rnic]) -> None:
        """``rnics`` are those of ``host``, from which the paths start."""
        self._fabric = fabric
        self._own = {address: port_id(host, rnic.name) for rnic in rnics for address in (rnic.ip, *rnic.ips)}
        self._series = Series(PATH_MTU_LIMIT_INFO, ())
        self._version: int | None = None

    def _name(self, hop: str) -> str:
        located = self._fabric.locate(hop) if self._fabric is not None else None
        return self._own.get(hop) or located or hop

    def series(self, store: Store) -> Series:
        """The same object again while nothing changes, so that renderers keep what they made of it."""
        version, torn = store.version(PATH_MTU_LIMIT), store.torn_reads
        if version != self._version:
            rows = [row.labels for row in store.read(PATH_MTU_LIMIT)]
            self._series = Series(
                PATH_MTU_LIMIT_INFO, [((path, kind, self._name(hop)), 1.0) for path, kind, hop in rows]
            )
            self._version = version if store.torn_reads == torn else None  # a row that could not be read: look again
        return self._series


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
