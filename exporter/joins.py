"""Families that join others: which links a path crosses, where a failing one ends, whose job it is."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from exporter.contracts.catalogue import (
    FAILING_TRACE,
    JOB_PATH_INFO,
    LINKS_COVERED,
    LINKS_POSSIBLE,
    MOST_ROUTE_CHANGES,
    PATH,
    PATH_INFO,
    PATH_LINK_INFO,
    PATH_LINK_SHARE,
    PATH_MTU_LIMIT,
    PATH_MTU_LIMIT_INFO,
    PATH_ROUTE_INFO,
    RNIC_INFO,
    ROUTE,
    ROUTE_CHANGE,
    ROUTE_CHANGE_TIME,
    TRACE_LAST_HOP_INFO,
)
from exporter.contracts.fabric import Fabric
from exporter.contracts.metric import Table
from exporter.contracts.names import port_id
from exporter.contracts.topology import Rnic
from exporter.exposition import Series
from exporter.planfile import NO_JOBS, JobsOfPaths
from exporter.routetext import change_text
from exporter.store import Store

_PROBE, _SOURCE = PATH.labels.index("probe"), PATH.labels.index("src_host")

MOST_ROUTE_LINKS = 8
ROUTE_JOINT = " | "
"""Between the links of a route in the label of PATH_ROUTE_INFO; rules/templates/job splits them."""

Flow = tuple[str, str, str, str, str]
"""Source address and port, destination address and port, protocol, as text."""

_Routed = tuple[str, str, tuple[str, ...] | None]
"""Source address, destination address, hops; None for hops where the fabric sprays the flow."""


def flow_of_labels(labels: Sequence[str]) -> Flow:
    """The flow of a PATH row: its hidden labels follow the rendered ones."""
    start = len(PATH.labels)
    protocol = "tcp" if labels[_PROBE] == "tcp" else "udp"
    return (labels[start], labels[start + 1], labels[start + 2], labels[start + 3], protocol)


def routes(store: Store) -> dict[Flow, list[str] | None]:
    """Last complete route of each traced flow, as hop addresses without the destination; None where it is sprayed."""
    found: dict[Flow, list[str] | None] = {}
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


class Join(ABC):
    """Families made of the rows of ``tables``: the same objects again while no row comes or goes.

    So renderers keep what they made of them.
    """

    def __init__(self, *tables: Table) -> None:
        self._tables = tables
        self._series: list[Series] = []
        self._versions: tuple[int, ...] | None = None

    @abstractmethod
    def _make(self, *stores: Store) -> list[Series]: ...

    def series(self, *stores: Store) -> list[Series]:
        versions = tuple(store.version(table) for store in stores for table in self._tables)
        torn = [store.torn_reads for store in stores]
        if versions != self._versions:
            self._series = self._make(*stores)
            # A row that could not be read is looked for again the next time.
            self._versions = versions if [store.torn_reads for store in stores] == torn else None
        return self._series


class LinkJoin(Join):
    """Turns routes into links with the topology; remembers the answers of the last time, since routes rarely change."""

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(PATH, ROUTE)
        self._fabric = fabric
        self._known: dict[_Routed, Mapping[str, float]] = {}

    def _resolve(self, source: str, destination: str, hops: tuple[str, ...] | None) -> Mapping[str, float]:
        """{link: the share of the flow's packets that cross it}."""
        ends = [self._fabric.by_address.get(address) for address in (source, destination)]
        if ends[0] is None or ends[1] is None:
            return {}
        if hops is None:
            return self._fabric.link_shares(ends[0].id, ends[1].id)
        return dict.fromkeys(self._fabric.links_of_route(ends[0].id, hops, ends[1].id) or (), 1.0)

    def _make(self, *stores: Store) -> list[Series]:
        """Links of each path, and for each RNIC how many its paths could and do cross. O(paths x links a path)."""
        before, self._known = self._known, {}
        crossing: list[tuple[Sequence[str], float]] = []
        pairs: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        crossed: dict[tuple[str, str], set[str]] = defaultdict(set)
        known = {flow: hops for store in stores for flow, hops in routes(store).items()}
        for row in (row for store in stores for row in store.read(PATH)):
            flow, rnic = flow_of_labels(row.labels), (row.labels[_SOURCE], row.labels[_SOURCE + 1])
            pairs[rnic].add((flow[0], flow[2]))
            if flow not in known:
                continue
            hops = known[flow]
            routed = (flow[0], flow[2], None if hops is None else tuple(hops))
            if routed not in self._known:
                self._known[routed] = before[routed] if routed in before else self._resolve(*routed)
            links = self._known[routed]
            crossing += (((row.labels[0], link), share) for link, share in links.items())
            crossed[rnic].update(links)
        possible = {
            rnic: set[str]().union(*(self._resolve(*pair, None) for pair in own)) for rnic, own in pairs.items()
        }
        reached = {rnic: links for rnic, links in possible.items() if links}  # those that the topology knows
        return [
            Series(PATH_LINK_INFO, crossing),
            Series(LINKS_POSSIBLE, [(rnic, len(links)) for rnic, links in reached.items()]),
            Series(LINKS_COVERED, [(rnic, len(links & crossed[rnic])) for rnic, links in reached.items()]),
        ]


class RouteTexts:
    """The routes of paths in one label each, from the series of the links that they cross."""

    def __init__(self) -> None:
        self._links: Series | None = None
        self._series: list[Series] = []

    def series(self, links: Series) -> list[Series]:
        """Of PATH_LINK_INFO, a path's samples one after another: the same objects again for the same ``links``."""
        if links is not self._links:
            told: list[tuple[Sequence[str], float]] = []
            rest: list[tuple[Sequence[str], float]] = []
            for path, samples in groupby(links.samples, key=lambda sample: sample[0][0]):
                crossed = list(samples)
                names = [labels[1] for labels, _ in crossed]
                certain = all(share == 1.0 for _, share in crossed)
                if certain and len(names) <= MOST_ROUTE_LINKS and not any(ROUTE_JOINT in name for name in names):
                    told.append(((path, ROUTE_JOINT.join(names)), 1.0))
                else:
                    rest += crossed
            self._links, self._series = links, [Series(PATH_ROUTE_INFO, told), Series(PATH_LINK_SHARE, rest)]
        return self._series


class LastHops(Join):
    """Names where the traces of failing paths ended: by the topology where it knows the address, else as it is."""

    def __init__(self, fabric: Fabric | None) -> None:
        super().__init__(PATH, FAILING_TRACE)
        self._fabric = fabric

    def _make(self, *stores: Store) -> list[Series]:
        samples = []
        for store in stores:  # whose rows are numbered each for itself
            found = failing_traces(store)
            paths = ((row, found[row.identity]) for row in store.read(PATH) if row.identity in found)
            samples += [((row.labels[0], self._name(trace.last_hop), trace.outcome), 1.0) for row, trace in paths]
        return [Series(TRACE_LAST_HOP_INFO, samples)]

    def _name(self, address: str) -> str:
        if self._fabric is None or not address:
            return address or "none"
        interface = self._fabric.by_address.get(address)
        return interface.id if interface is not None else self._fabric.locate(address) or address


class RouteChangeTimes(Join):
    """Tells the last changes of routes, the newest ``MOST_ROUTE_CHANGES``, in names of the topology."""

    def __init__(self, fabric: Fabric | None) -> None:
        super().__init__(PATH, ROUTE_CHANGE)
        self._fabric = fabric

    def _make(self, *stores: Store) -> list[Series]:
        found = []
        for store in stores:  # whose rows are numbered each for itself
            paths = {row.identity: row.labels[0] for row in store.read(PATH)}
            for identity, time, before, after in (row.labels for row in store.read(ROUTE_CHANGE)):
                if int(identity) in paths:
                    found.append((float(time), paths[int(identity)], before.split(), after.split()))
        newest = sorted(found)[-MOST_ROUTE_CHANGES:]
        samples = [((path, *change_text(self._fabric, old, new)), time) for time, path, old, new in newest]
        return [Series(ROUTE_CHANGE_TIME, samples)]


class PathInfo(Join):
    """What of a path is the same for all its series: in an info series, so that none of them grows by it."""

    def __init__(self) -> None:
        super().__init__(PATH)

    def _make(self, *stores: Store) -> list[Series]:
        return [
            Series(
                PATH_INFO,
                [
                    ((row.labels[0], str(int(row.labels[-1]) >> 2), flow_of_labels(row.labels)[1]), 1.0)
                    for store in stores
                    for row in store.read(PATH)
                ],
            )
        ]


class MtuLimitJoin(Join):
    """Names what limits the paths below their MTU promise: the hop's port or RNIC, or its address if it is unknown."""

    def __init__(self, fabric: Fabric | None, host: str, rnics: Iterable[Rnic]) -> None:
        """``rnics`` are those of ``host``, from which the paths start."""
        super().__init__(PATH_MTU_LIMIT)
        self._fabric = fabric
        self._own = {address: port_id(host, rnic.name) for rnic in rnics for address in rnic.addresses}

    def _name(self, hop: str) -> str:
        located = self._fabric.locate(hop) if self._fabric is not None else None
        return self._own.get(hop) or located or hop

    def _make(self, *stores: Store) -> list[Series]:
        rows = [row.labels for store in stores for row in store.read(PATH_MTU_LIMIT)]
        return [Series(PATH_MTU_LIMIT_INFO, [((path, kind, self._name(hop)), 1.0) for path, kind, hop in rows])]


class JobPaths(Join):
    """Binds the paths that are probed to their jobs; a target that waits for its destination is no path yet."""

    def __init__(self) -> None:
        super().__init__(PATH)
        self._jobs = NO_JOBS

    def follow(self, jobs: JobsOfPaths) -> None:
        self._jobs, self._versions = jobs, None

    def _make(self, *stores: Store) -> list[Series]:
        paths = (tuple(row.labels[: len(PATH.labels)]) for store in stores for row in store.read(PATH))
        samples = [
            ((known.job, *path, known.role, known.dscp), 1.0) for path in paths for known in self._jobs.get(path[0], ())
        ]
        return [Series(JOB_PATH_INFO, samples)]


def rnic_info(host: str, rnics: Iterable[Rnic]) -> Series:
    samples = [((host, r.name, "" if r.rail is None else str(r.rail), r.netdev or ""), 1.0) for r in rnics]
    return Series(RNIC_INFO, samples)
