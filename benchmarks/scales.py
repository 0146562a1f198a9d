"""Series of whole fleets of 64, 512 and 4,096 RNICs: from the formulas, and counted on the page of every host."""

from __future__ import annotations

import socket
from typing import NamedTuple

from benchmarks.series import bounds, count_series, terms_of
from benchmarks.simulated_fleet import (
    JOB_CONTAINERS,
    MOST_LINKS,
    RNICS,
    address,
    host_name,
    rnic_name,
    route,
    targets_between,
    topology,
)
from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import Topology
from exporter.exposition import Renderer
from exporter.joins import JobPaths, LinkJoin, PathInfo, RouteTexts, rnic_info
from exporter.planfile import JobPath
from exporter.probing.process import Prober
from exporter.probing.settings import ProberSettings, prober_tables
from exporter.results import ResultRing
from exporter.store import Store


class Scale(NamedTuple):
    rnics: int
    paths: int
    formula: int
    counted: int


def count_scale(hosts: int) -> Scale:
    """Each host probes its next five; every path has been answered and traced."""
    fabric_of = topology(hosts)
    fabric = Fabric(fabric_of)
    paths = formula = counted = 0
    for host in range(hosts):
        series, bound, own = _count_host(host, fabric_of, fabric)
        counted, formula, paths = counted + series, formula + bound, paths + own
    return Scale(hosts * RNICS, paths, formula, counted)


def _count_host(host: int, fabric_of: Topology, fabric: Fabric) -> tuple[int, int, int]:
    """(series on its page, the formulas' sum for the tables and joins on it, paths) of one host."""
    hosts = len(fabric_of.hosts)
    peers = [(host + step) % hosts for step in range(1, JOB_CONTAINERS)]
    targets = [
        target
        for peer in peers
        for target in targets_between(host, peer, f"worker-{host}", f"worker-{peer}", "dp" if peer % 2 else "pp")
    ]
    store = Store(prober_tables(len(targets)))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        settings = ProberSettings(
            host=host_name(host),
            addresses={address(host, rail): rnic_name(rail) for rail in range(RNICS)},
            key=bytes(32),
            timeout_seconds=1.0,
            max_paths=len(targets),
            responder=False,
            trace_period_seconds=60.0,
            trace_max_hops=8,
        )
        prober = Prober(settings, store, ResultRing(1024), theirs)
        prober.obey(targets)
        _answer_and_trace_all(prober)
        (jobs := JobPaths()).follow({target.path: (JobPath.of("job", target),) for target in targets})
        joined = [rnic_info(host_name(host), fabric_of.hosts[host].rnics), *jobs.series(store)]
        links, *coverage = LinkJoin(fabric).series(store)
        joined += [*PathInfo().series(store), links, *RouteTexts().series(links), *coverage]
        page = Renderer().render([store], joined).decode()
        prober.obey([])
    terms = terms_of(targets, RNICS, MOST_LINKS, 1)
    counted = count_series(page)
    # What the control process adds of its own is the same on every host and not on this page.
    return counted.total(), sum(bound for name, bound in bounds(terms).items() if name in counted), len(targets)


def _answer_and_trace_all(prober: Prober) -> None:
    for probing in prober._probing.values():
        path = probing.path
        path.book_sent()
        path.book_answer(15_000, 10**9)
        path.book_reported_mtu(9000)
        prober._path_mtu.on_answer(path)
    for flow in prober._tracer._flows.values():
        prober._tracer._replace(flow, list(route(flow.key[0], flow.key[1], flow.key[2])))
