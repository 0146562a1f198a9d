"""An hour of containers in seconds: whatever comes and goes, the exporter holds what its plan of now needs."""

from __future__ import annotations

import gc
import json
import random
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path as File

import msgspec
import pytest

from exporter.contracts.catalogue import CATALOGUE, FAILING_TRACE, PATH, PROBER, ROUTE, RTT, RTT_TABLE, SERIES_TERMS
from exporter.contracts.codec import encode, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import path_id
from exporter.contracts.plan import Plan, Target
from exporter.exposition import Renderer
from exporter.joins import JobPaths, LinkJoin, PathInfo, RouteTexts, rnic_info
from exporter.planfile import PlanFile, Work, own_part
from exporter.probing.loop import Loop
from exporter.probing.packet import REPLY, TRACE, Codec
from exporter.probing.paths import LOSSES, Path
from exporter.probing.process import Prober
from exporter.probing.settings import ProberSettings, prober_tables
from exporter.probing.sockets import Datagram
from exporter.probing.tracing.tracer import Tracer
from exporter.probing.tracing.udp import UdpCarrier, UdpTraces
from exporter.probing.udp import UdpProber
from exporter.records import RecordWriter
from exporter.results import ResultRing
from exporter.store import Store
from tests.unit.fabrics import leaf_spine
from tests.unit.peers import full_listener
from tests.unit.test_plan_contract import TARGET

KEY = b"k" * 32
HOST = "host-p0-0"
RNICS = 4
PORTS = (61000, 61001)


def dice(seed: int) -> random.Random:
    """The same throws every time."""
    return random.Random(seed)  # noqa: S311


def own_address(rail: int) -> str:
    return f"127.77.0.{rail + 1}"


def fabric() -> Fabric:
    """Four pods; the RNICs of HOST, in the first, have addresses that can be bound here."""
    made = leaf_spine(pods=4, rails=RNICS, spines=2, hosts_per_pod=8)
    first = made.hosts[0]
    rnics = tuple(msgspec.structs.replace(rnic, ip=own_address(rail)) for rail, rnic in enumerate(first.rnics))
    return Fabric(msgspec.structs.replace(made, hosts=(msgspec.structs.replace(first, rnics=rnics), *made.hosts[1:])))


FABRIC = fabric()
OTHERS = [host for host in FABRIC.topology.hosts if not host.name.startswith("host-p0-")]


def hops_to(address: str) -> list[str]:
    """What a trace from HOST meets on the way to another pod: four links."""
    there = FABRIC.by_address[address]
    rail = there.rnic.name.removeprefix("mlx5_")
    return [f"leaf-p0-r{rail}", "spine-0", f"leaf-{there.host.name.split('-')[1]}-r{rail}"]


def job_targets(number: int, peers: int, roles: tuple[str, ...], draw: random.Random) -> Iterator[Target]:
    """Paths of a container of job ``number`` to containers on ``peers`` other hosts, rail by rail."""
    for peer in draw.sample(OTHERS, peers):
        role = draw.choice(roles)
        for rail, rnic in enumerate(peer.rnics):
            for port in PORTS:
                for probe in ("udp", "mtu", "tcp") if port == PORTS[0] else ("udp", "mtu"):
                    yield msgspec.structs.replace(
                        TARGET,
                        path=path_id(HOST, f"mlx5_{rail}", peer.name, rnic.name, probe, 106, port),
                        source=f"job-{number}-worker-0/mlx5_{rail}",
                        destination=f"job-{number}-{peer.name}/{rnic.name}",
                        probe=probe,
                        role=role,
                        source_address=own_address(rail),
                        destination_address=rnic.ip,
                        source_ports=(port,),
                        period_seconds=3600.0,
                        source_host=HOST,
                        source_rnic=f"mlx5_{rail}",
                        destination_host=peer.name,
                        destination_rnic=rnic.name,
                    )


class Host:
    """What ``exporter.control`` puts together, with a prober in this process whose loop nobody runs."""

    def __init__(self, directory: File, max_paths: int = 200) -> None:
        self.max_paths = max_paths
        self.file = PlanFile(str(directory / "plan.json"))
        self.store, self.ring = Store(prober_tables(max_paths)), ResultRing(4096)
        self.addresses = {own_address(rail): f"mlx5_{rail}" for rail in range(RNICS)}
        self._pipe, theirs = socket.socketpair()
        settings = ProberSettings(
            host=HOST, addresses=self.addresses, key=KEY, timeout_seconds=0.5, max_paths=max_paths, responder=False,
            trace_period_seconds=60, trace_max_hops=4,
        )  # fmt: skip
        self.prober = Prober(settings, self.store, self.ring, theirs)
        self.records, self.renderer, self.links = RecordWriter(self.store, self.ring), Renderer(), LinkJoin(FABRIC)
        self.jobs = JobPaths()
        self.work = Work()
        gc.collect()
        self._descriptors = descriptors()

    def follow(self, number: int, targets: tuple[Target, ...]) -> None:
        plan = Plan(
            version=1, job=f"job-{number}", job_uid=None, phase="preload", generation=number, expires=9e9,
            targets=targets,
        )  # fmt: skip
        write(File(self.file.path), encode(plan))
        assert self.file.changed()
        assert self.file.plan is not None
        self.work = own_part([self.file.plan], set(self.addresses), self.max_paths)
        self.prober.obey(self.work.targets)
        self.records.remember()

    def book(self) -> None:
        """Every path hears an answer and every flow of a UDP path has a route, as after a while of probing."""
        for probing in self.prober._probing.values():
            path = probing.path
            path.book_sent()
            path.book_answer(15_000, 10**9)
            path.book_reported_mtu(9000)
            self.prober._path_mtu.on_answer(path)
            if path.target.probe == "tcp":
                path.book_echo(20_000, 0)
        tracer = self.prober._tracer
        for flow in tracer._flows.values():
            if flow.route is None:
                tracer._replace(flow, hops_to(flow.key[2]))

    def series(self) -> Counter[str]:
        """Series on the page by family."""
        self.jobs.follow(self.work.jobs)
        joined = [rnic_info(HOST, FABRIC.topology.hosts[0].rnics), *self.jobs.series(self.store)]
        links, *coverage = self.links.series(self.store)
        joined += [*PathInfo().series(self.store), links, *RouteTexts().series(links), *coverage]
        count: Counter[str] = Counter()
        for line in self.renderer.render([self.store], joined).decode().splitlines():
            if not line.startswith("#"):
                name = line.partition("{")[0].partition(" ")[0]
                for suffix in ("_bucket", "_sum", "_count"):
                    if name == RTT.name + suffix:
                        name = RTT.name
                count[name] += 1
        return count

    def terms(self) -> dict[str, int]:
        targets = self.work.targets
        return dict.fromkeys(SERIES_TERMS, 0) | {
            "paths": len(targets),
            "mtu paths": sum(target.probe == "mtu" for target in targets),
            "traced paths": len(targets),
            "tcp paths": sum(target.probe == "tcp" for target in targets),
            "links a path": 4,
            "rnics": RNICS,
            "roles": len({target.role for target in targets}),
            "probe types": len({target.probe for target in targets}),
        }

    def held(self) -> dict[str, int]:
        """Sizes of everything that is kept from one event to the next."""
        prober, loop = self.prober, self.prober._loop
        return {
            "probing": len(prober._probing),
            "histograms": len(prober._histogram_rows),
            "timers": sum(map(len, loop._slots.values())),
            "watched": len(loop._watched),
            "flow sockets": len(prober._udp._flows),
            "outstanding": len(prober._udp._outstanding),
            "traced flows": len(prober._tracer._flows),
            "traces": len(prober._udp_traces.by_destination) + len(prober._udp_traces.by_sequence),
            "rows": sum(len(list(self.store.read(table))) for table in (PATH, RTT_TABLE, ROUTE, FAILING_TRACE)),
            "label texts": sum(len(texts) for _, texts in self.renderer._labels.values()),
            "links": len(self.links._known),
            # What earlier tests left to the collector may be closed meanwhile.
            "descriptors": max(descriptors() - self._descriptors, 0),
        }

    def close(self) -> None:
        for probing in self.prober._probing.values():
            if probing.flow is not None:
                self.prober._udp.release(probing.flow)
        self._pipe.close()


def descriptors() -> int:
    return len(list(File("/proc/self/fd").iterdir()))


@pytest.fixture
def host(tmp_path: File) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


def test_thousands_of_containers_leave_no_more_than_the_plan_of_now_needs(host: Host) -> None:
    draw = dice(7)
    roles = ("dp", "pp", "ep", "basic", "storage", "external")
    created = 0
    for number in range(1, 501):
        peers = draw.randint(1, 8)
        created += 1 + peers
        host.follow(number, tuple(job_targets(number, peers, roles, draw)))
        if number % 10 == 0:
            host.book()
        if number % 50 == 0:
            terms, counted = host.terms(), host.series()
            for metric in CATALOGUE:
                assert counted[metric.name] <= metric.series_bound(terms), (metric.name, terms)
            assert counted["fabric_path_probes_sent_total"] == terms["paths"] == min(peers * RNICS * 5, 200)
            assert len(host.records._labels) <= terms["paths"] + host.ring.capacity + 1024
    assert created > 2500
    host.follow(501, ())
    host.series()
    assert {name: size for name, size in host.held().items() if size} == {"watched": 1, "label texts": 1}


def test_the_formulas_are_sharp_once_every_path_was_heard_and_traced(host: Host) -> None:
    """A bound that nothing reaches says nothing."""
    host.follow(1, tuple(job_targets(1, 3, ("dp",), dice(7))))
    host.book()
    terms, counted = host.terms(), host.series()
    joined = {
        "fabric_job_path_info",
        "fabric_path_info",
        "fabric_path_link_info",
        "fabric_path_route_info",
        "fabric_rnic_info",
    }
    joined |= {"fabric_rnic_links_possible", "fabric_rnic_links_covered"}
    sharp = {*(metric.name for metric in PATH.metrics), RTT.name, *joined}
    for metric in CATALOGUE:
        if metric.name in sharp - {"fabric_path_probes_lost_return_total"}:
            assert counted[metric.name] == metric.series_bound(terms), metric.name
    # handshakes are counted by no responder
    assert counted["fabric_path_probes_lost_return_total"] == sum(target.probe != "tcp" for target in host.work.targets)


def test_histograms_of_a_role_that_no_path_has_any_more_vanish_and_others_go_on(host: Host) -> None:
    """They stayed for good: 512 of them, and the next path with another role ended the prober."""
    both = list(job_targets(1, 2, ("dp",), dice(7)))
    host.follow(1, (*both[:10], *(msgspec.structs.replace(target, role="pp") for target in both[10:])))
    host.book()
    before = {row.labels: row.values for row in host.store.read(RTT_TABLE)}
    assert {labels[2] for labels in before} == {"dp", "pp"}
    host.follow(2, tuple(both))
    after = {row.labels: row.values for row in host.store.read(RTT_TABLE)}
    assert {labels[2] for labels in after} == {"dp"}
    assert all(after[labels] == before[labels] for labels in after.keys() & before.keys())


def test_more_source_rnics_than_a_histogram_table_once_held_end_no_prober(host: Host) -> None:
    """A change of role on a host of 29 RNICs and more raised StoreFullError past the pipe."""
    addresses = {f"127.78.0.{n + 1}": f"r{n}" for n in range(100)}
    host.prober._settings = msgspec.structs.replace(host.prober._settings, addresses=addresses)
    host.addresses = addresses
    for number, role in enumerate(("dp", "pp", "ep", "basic", "storage", "external"), 1):
        targets = (
            msgspec.structs.replace(TARGET, path=f"{address} {probe}", probe=probe, source_address=address, role=role)
            for address in addresses
            for probe in ("udp", "tcp")
        )
        host.follow(number, tuple(targets))
    assert len(list(host.store.read(RTT_TABLE))) == 200


def test_a_path_removed_before_its_turn_leaves_no_timer(host: Host) -> None:
    """Its state was kept until then: an hour at a period of an hour, for each generation of the plan."""
    for number in range(1, 20):
        host.follow(number, tuple(job_targets(number, 8, ("dp",), dice(number))))
    paths, flows = host.held()["probing"], host.held()["traced flows"]
    assert host.held()["timers"] <= paths + flows


def test_outstanding_probes_are_looked_through_once_a_plan_not_once_a_path(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4,096 paths that left a plan together held the probing loop for seconds."""
    calls = []
    forget = UdpProber.forget
    monkeypatch.setattr(UdpProber, "forget", lambda self, gone: calls.append(len(gone)) or forget(self, gone))
    host.follow(1, tuple(job_targets(1, 8, ("dp",), dice(1))))
    host.follow(2, ())
    assert [size for size in calls if size] == [160]


def test_traces_that_outlast_their_period_leave_no_route_of_a_flow_that_is_gone() -> None:
    """Two traces of one flow ran at once; the older outlived the flow and made it a row that nothing removed."""
    store, loop = Store(prober_tables(4)), Loop()
    prober = UdpProber(loop, Codec(KEY), 0.5)
    counters = store.writer(PROBER).add(())
    traces = UdpTraces(prober)
    tracer = Tracer(loop, store.writer(ROUTE), store.writer(FAILING_TRACE), counters, period_seconds=1, max_hops=32)
    target = msgspec.structs.replace(TARGET, source_address="127.0.0.2", destination_address="127.0.0.3")
    flow = prober.acquire("127.0.0.2", target.source_ports[0])
    rows = store.writer(PATH).add(("p",)), store.writer(RTT_TABLE).add(("h",))
    path = Path(target, 1, *rows, ResultRing(16))
    try:
        tracer.add(path, UdpCarrier(traces, path.flow, 106, flow))
        traced = tracer._flows[path.flow]
        tracer._on_period(traced)
        first = prober._sequence
        tracer._on_period(traced)
        tracer.remove(path)
        reply = Codec(KEY).reply(Codec(KEY).parse(Codec(KEY).request(TRACE, first, 0)), 0, 1, 0, 0)  # type: ignore[arg-type]
        assert Codec(KEY).parse(reply).kind == REPLY  # type: ignore[union-attr]
        prober.on_datagram(Datagram(reply, path.flow.destination, None, 0, 0))
        assert not list(store.read(ROUTE))
        assert not traces.by_sequence
        assert not traces.by_destination
    finally:
        prober.release(flow)


def test_a_handshake_slower_than_its_period_books_nothing_once_its_path_is_gone(host: Host) -> None:
    """Only the latest attempt was abandoned: the one under way booked its loss on the row of a later path."""
    with full_listener("127.0.0.3") as (port, _):
        slow = msgspec.structs.replace(
            TARGET, path="slow", probe="tcp", source_address=own_address(0), destination_address="127.0.0.3",
            destination_port=port, source_ports=(61000,), period_seconds=0.05,
        )  # fmt: skip
        loop = host.prober._loop
        host.follow(1, (slow,))
        loop.after(0.2, loop.stop)
        loop.run()  # several turns, the first of which is still under way
        host.follow(2, (msgspec.structs.replace(slow, path="later", source_ports=(61001,), period_seconds=3600),))
        loop._running = True
        loop.after(0.6, loop.stop)
        loop.run()
        (later,) = host.store.read(PATH)
        assert later.labels[0] == "later"
        assert later.values[LOSSES] == 0


def test_links_are_remembered_for_the_routes_of_now_only() -> None:
    store = Store([(PATH, 8), (ROUTE, 8)])
    paths, routes, join = store.writer(PATH), store.writer(ROUTE), LinkJoin(FABRIC)
    for number in range(100):
        flow = ("10.0.0.1", "61000", f"10.0.1.{number}", "65300")
        rows = (
            paths.add(("p", "h", "r", "h", "r", "udp", *flow, "106")),
            routes.add((*flow, "udp", json.dumps(["leaf-p0-r0"]))),
        )
        list(join.series(store)[0].samples)
        assert len(join._known) == 1
        paths.remove(rows[0])
        routes.remove(rows[1])
