"""The control process: supervises the others, reads the host's counters, serves what they measured."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from types import FrameType

import msgspec

from exporter import __version__, parquet
from exporter.child import Child
from exporter.config import Config, Rdma
from exporter.contracts.addresses import is_ipv6
from exporter.contracts.catalogue import (
    CHILDREN,
    CONTROL,
    OTLP,
    PLAN_ELSEWHERE,
    PLAN_EXPIRES,
    PLAN_GENERATION,
    PLAN_OVER_LIMIT,
    PLAN_REFUSED,
    PLAN_REJECTED,
    RNIC,
)
from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay_counters import OVERLAY_DUMPS_TABLE
from exporter.contracts.request import ThroughputRequest, read_request
from exporter.contracts.secrets import read_key
from exporter.contracts.supervision import Supervisor
from exporter.contracts.topology import Topology, read_topology
from exporter.contracts.watchedfile import WatchedFile
from exporter.dnsconfig import dns_settings
from exporter.exposition import CONTENT_TYPE, Renderer, Series
from exporter.gnmi.settings import Gnmi, GnmiSettings, gnmi_tables, target_settings
from exporter.host.monitor import RnicMonitor
from exporter.host.settings import Counters, counter_settings, counter_tables
from exporter.host.throughput import Capture, throughput_csv
from exporter.jobcounts import JobEnds, JobLinks
from exporter.joins import JobPaths, LastHops, LinkJoin, MtuLimitJoin, PathInfo, RouteChangeTimes, RouteTexts, rnic_info
from exporter.oneshot import OneShotError
from exporter.otlp.encode import Encoder, Push
from exporter.otlp.push import Pusher
from exporter.otlp.settings import Otlp
from exporter.overlay.dumps import Dumps
from exporter.overlay.settings import Overlay, OverlaySettings, overlay_tables
from exporter.planfile import NO_JOBS, Destinations, PlanFiles, Work, own_part, split, workloads_of
from exporter.probing.ceilings import Ceilings
from exporter.probing.settings import RESULT_CAPACITY, ProberSettings, prober_tables
from exporter.rdma.settings import RdmaSettings, TraceSettings, rdma_tables
from exporter.rdma.ways import orders
from exporter.records import RecordWriter, to_csv, to_jsonl
from exporter.results import ResultRing
from exporter.selfmetrics import ProcessMetrics, resource_attributes, target_info
from exporter.server import Query, Response, Server, format_of, number_of
from exporter.service.settings import Service, ServiceSettings, Told, service_tables
from exporter.snapshot import Snapshots
from exporter.stopping import Stopping
from exporter.store import Store
from exporter.switches.section import poller_settings, port_aliases
from exporter.switches.settings import switch_tables
from exporter.topologyinfo import topology_info
from exporter.traps.settings import Traps, require_port, trap_settings, trap_tables
from exporter.underlay.capture import require_capability
from exporter.underlay.paths import NO_CHANGES, NO_LINKS, OverlayPaths, underlay_settings
from exporter.underlay.settings import Underlay, underlay_tables

_GENERATION = CONTROL.metrics.index(PLAN_GENERATION)
_EXPIRES = CONTROL.metrics.index(PLAN_EXPIRES)
_REFUSED = CONTROL.metrics.index(PLAN_REFUSED)
_OVER_LIMIT = CONTROL.metrics.index(PLAN_OVER_LIMIT)
_ELSEWHERE = CONTROL.metrics.index(PLAN_ELSEWHERE)
_REJECTED = CONTROL.metrics.index(PLAN_REJECTED)
_RECORD_TYPES = {"csv": "text/csv", "jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}
_THROUGHPUT_PARAMETERS = frozenset({"since", "until", "job", "step"})
_LONGEST_TICK = 1.0  # seconds between looks at the other processes and the plan file
_PAGE = """<!doctype html><title>fabric-exporter</title><h1>fabric-exporter {version} on {host}</h1>
<p><a href="/metrics">metrics</a> <a href="/v1/throughput">throughput</a>
<a href="/v1/probe-records">probe records</a> <a href="/v1/overlay-state">overlay state</a>
<a href="/healthz">health</a></p>
"""


class Exporter:
    """One exporter. ``run`` returns when ``stop`` is called or a signal says so."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stopping = Stopping()
        self._began = int(time.time() * 1000)
        self._snapshots = Snapshots()
        self._renderer = Renderer(self._snapshots)
        self._rendering = threading.Lock()  # for what scrapes and pushes share; nobody waits for the network with it
        self._own = Store(
            [(RNIC, max(len(config.rnics), 1)), (CONTROL, 1), (CHILDREN, 8), (OTLP, 1), (OVERLAY_DUMPS_TABLE, 1)]
        )
        self._stores = [self._own]
        self._children: list[Child] = []
        self._monitor = RnicMonitor(config.host, config.rnics, config.throughput, config.sysfs, self._own)
        self._capture = Capture(self._monitor.names, self._monitor.read, self._order_step)
        self._request_file: WatchedFile[ThroughputRequest] | None = None
        if config.throughput.request is not None:
            self._request_file = WatchedFile(config.throughput.request, read_request, "throughput request")
        self._reader: Child | None = None
        self._counters = self._own.writer(CONTROL).add(())
        self._plans = PlanFiles(config.plan) if config.plan else None
        self._work, self._workloads = Work(), config.workloads
        topology = read_topology(config.topology) if config.topology else None
        self._fabric = Fabric(topology) if topology is not None else None
        self._links = LinkJoin(self._fabric) if self._fabric is not None else None
        self._last_hops = LastHops(self._fabric)
        self._route_changes = RouteChangeTimes(self._fabric)
        self._mtu_limits = MtuLimitJoin(self._fabric, config.host, config.rnics)
        self._fixed = [rnic_info(config.host, config.rnics)]
        self._job_paths, self._path_info, self._route_texts = JobPaths(), PathInfo(), RouteTexts()
        self._job_ends, self._job_links = JobEnds(), JobLinks()
        self._prober: Child | None = None
        self._own_paths: frozenset[str] = frozenset()
        self._allowed: Destinations | None = None
        if config.probing is not None and topology is not None and (config.service or config.probing.destinations):
            self._allowed = Destinations(topology, config.probing.destinations)
        self._overlay_paths: OverlayPaths | None = None
        self._rdma: Child | None = None
        if config.probing is not None:
            self._start_prober(config, topology)
        if config.rdma is not None:
            self._start_rdma(config, config.rdma)
        if config.underlay is not None and self._fabric is not None:
            self._start_underlay(config, config.underlay, self._fabric)
        if config.counters is not None:
            self._start_counters(config, config.counters)
        self._dumps: Dumps | None = None
        if config.overlay is not None:
            self._start_overlay(config, config.overlay, topology)
        if config.switches is not None:
            self._start_poller(config, topology)
        self._service: Child | None = None
        self._told: Told | None = None
        if config.service is not None:
            self._start_service(config.host, config.service)
        if config.traps is not None:
            self._start_traps(config, config.traps, topology)
        if config.gnmi is not None:
            self._start_gnmi(config.gnmi, topology)
        followed = {target.name for target in config.switches.own_targets} if config.switches is not None else set()
        followed |= {target.name for target in config.gnmi.targets} if config.gnmi is not None else set()
        if followed and topology is not None:
            self._fixed += topology_info(topology, followed)
        restarts = self._own.writer(CHILDREN)
        self._restarts = [(child, restarts.add((child.module.split(".")[1],))) for child in self._children]
        self._process_metrics = ProcessMetrics()
        self._resource = resource_attributes(config.host)
        self._target_info = target_info(self._resource)
        self._pusher = self._make_pusher(config.otlp) if config.otlp is not None else None
        self._server: Server | None = None

    def _start_prober(self, config: Config, topology: Topology | None) -> None:
        probing = config.probing
        if probing is None:
            return
        dns = dns_settings(config.dns) if config.dns is not None else None
        self._probed = Store(prober_tables(probing.max_paths, dns))
        self._results = ResultRing(RESULT_CAPACITY)
        hosts = topology.hosts if topology is not None else ()
        underlay = {(host.name, rnic.name): rnic.ip for host in hosts for rnic in host.rnics}
        self._records = RecordWriter(self._probed, self._results, underlay)
        settings = ProberSettings(
            host=config.host,
            addresses={
                address: rnic.name for rnic in config.rnics for address in rnic.addresses if not is_ipv6(address)
            },
            key=read_key(probing.key_file),
            timeout_seconds=probing.timeout_seconds,
            max_paths=probing.max_paths,
            responder=probing.responder,
            responder_port=probing.responder_port,
            responder_packets_per_second=probing.responder_packets_per_second,
            ceilings=msgspec.structs.replace(
                probing.ceilings,
                trace_packets_per_second_per_switch=_share_of_traces(probing.ceilings, config),
            ),
            trace_period_seconds=probing.trace_period_seconds,
            trace_max_hops=probing.trace_max_hops,
            switches=dict(self._fabric.switch_addresses) if self._fabric is not None else {},
            spraying=probing.spraying,
            dns=dns,
        )
        descriptors = (self._probed.descriptor, self._results.descriptor)
        self._prober = Child("exporter.probing.process", descriptors, msgspec.msgpack.encode(settings))
        self._stores.append(self._probed)
        self._children.append(self._prober)

    def _start_rdma(self, config: Config, rdma: Rdma) -> None:
        probing = config.probing
        if probing is None:
            return
        tables = rdma_tables(probing.max_paths, len(config.rnics), reliable=rdma.reliable is not None)
        self._rdma_probed = Store(tables)
        results = ResultRing(RESULT_CAPACITY)
        self._rdma_records = RecordWriter(self._rdma_probed, results)
        settings = RdmaSettings(
            host=config.host,
            rnics={rnic.name: rnic.ip for rnic in config.rnics},
            key=read_key(probing.key_file),
            timeout_seconds=probing.timeout_seconds,
            max_paths=probing.max_paths,
            responder_packets_per_second=probing.responder_packets_per_second,
            port=rdma.port,
            tracing=TraceSettings(
                period_seconds=probing.trace_period_seconds,
                max_hops=probing.trace_max_hops,
                packets_per_second_per_switch=_share_of_traces(probing.ceilings, config),
                switches=dict(self._fabric.switch_addresses),
                spraying=probing.spraying,
            )
            if self._fabric is not None
            else None,
            reliable=rdma.reliable,
        )
        descriptors = (self._rdma_probed.descriptor, results.descriptor)
        self._rdma = Child("exporter.rdma.process", descriptors, msgspec.msgpack.encode(settings))
        self._stores.append(self._rdma_probed)
        self._children.append(self._rdma)

    def _start_underlay(self, config: Config, underlay: Underlay, fabric: Fabric) -> None:
        require_capability()
        devices = underlay.devices or [rnic.netdev for rnic in config.rnics if rnic.netdev is not None]
        keys = [read_key(plan.key_file) for plan in underlay.plans if plan.key_file is not None]
        settings = underlay_settings(underlay, devices, keys, fabric)
        self._overlay_paths = OverlayPaths(underlay, config.host, fabric)
        self._outer_routes = Store(underlay_tables(underlay.max_flows))
        self._tracer = Child(
            "exporter.underlay.process", (self._outer_routes.descriptor,), msgspec.msgpack.encode(settings)
        )
        self._stores.append(self._outer_routes)
        self._children.append(self._tracer)

    def _start_counters(self, config: Config, counters: Counters) -> None:
        settings = counter_settings(counters, config.host, config.rnics, config.throughput.step_seconds, config.sysfs)
        store = Store(counter_tables(len(settings.rnics)))
        self._monitor.follow(store)
        self._stores.append(store)
        self._reader = Child("exporter.host.process", (store.descriptor,), msgspec.msgpack.encode(settings))
        self._children.append(self._reader)

    def _order_step(self, step: float | None) -> None:
        if self._reader is not None:
            self._reader.tell(msgspec.msgpack.encode(step))

    def _start_overlay(self, config: Config, overlay: Overlay, topology: Topology | None) -> None:
        hosts = topology.hosts if topology is not None else ()
        vteps = {address for host in hosts for address in host.vteps}
        vteps |= {address for host in hosts for rnic in host.rnics for address in rnic.addresses}
        settings = OverlaySettings(
            host=config.host,
            period_seconds=overlay.period_seconds,
            ports=overlay.ports,
            openvswitch=overlay.openvswitch,
            vteps=frozenset(vteps) if topology is not None else None,
        )
        store = Store(overlay_tables())
        self._stores.append(store)
        self._children.append(Child("exporter.overlay.process", (store.descriptor,), msgspec.msgpack.encode(settings)))
        self._dumps = Dumps(settings, overlay.dump_seconds)
        self._dumped = self._own.writer(OVERLAY_DUMPS_TABLE).add(())

    def _start_poller(self, config: Config, topology: Topology | None) -> None:
        switches = config.switches
        if switches is None:
            return
        settings = poller_settings(switches, port_aliases(topology) if topology is not None else {})
        store = Store(switch_tables(len(settings.switches)))
        self._stores.append(store)
        self._children.append(Child("exporter.switches.process", (store.descriptor,), msgspec.msgpack.encode(settings)))

    def _start_service(self, host: str, service: Service) -> None:
        store = Store(service_tables())
        settings = ServiceSettings(service, host, __version__)
        self._service = Child("exporter.service.process", (store.descriptor,), msgspec.msgpack.encode(settings))
        self._stores.append(store)
        self._children.append(self._service)

    def _tell_service(self, service: Child) -> None:
        """What the service knows of this exporter is what it is now; its boot epoch is when it began, in ms."""
        prober, probing = self._prober, self._config.probing
        answers = prober is not None and prober.settled and probing is not None and probing.responder
        told = Told(self._began, {rnic.name: answers for rnic in self._config.rnics})
        if told != self._told:
            self._told = told
            service.tell(msgspec.msgpack.encode(told))

    def _start_traps(self, config: Config, traps: Traps, topology: Topology | None) -> None:
        require_port(traps)
        targets = config.switches.targets if config.switches is not None else ()
        settings = trap_settings(traps, {target.name: [target.address] for target in targets}, topology)
        store = Store(trap_tables(settings.switches))
        self._stores.append(store)
        self._children.append(Child("exporter.traps.process", (store.descriptor,), msgspec.msgpack.encode(settings)))

    def _start_gnmi(self, gnmi: Gnmi, topology: Topology | None) -> None:
        ports = {
            switch.name: {name: port.name for port in switch.ports for name in (*port.aliases, port.name)}
            for switch in (topology.switches if topology else ())
        }
        settings = GnmiSettings(
            targets=tuple(target_settings(target, ports.get(target.name, {})) for target in gnmi.targets)
        )
        store = Store(gnmi_tables(len(settings.targets)))
        self._stores.append(store)
        self._children.append(Child("exporter.gnmi.process", (store.descriptor,), msgspec.msgpack.encode(settings)))

    def _make_pusher(self, settings: Otlp) -> Pusher:
        # requests and protobuf take 20 MB, which only an exporter that pushes needs.
        from exporter.otlp.transport import make_transport  # noqa: PLC0415

        encoder = Encoder(self._resource, settings.max_points, self._snapshots)

        def encode(last: bool) -> Push:
            with self._rendering:
                stores, joined = ([], []) if last else (self._stores, self._joined())
                return encoder.encode(stores, joined, time.time_ns())

        counters = self._own.writer(OTLP).add(())
        return Pusher(
            make_transport(settings), encode, encoder.delivered, counters, settings.period_seconds, self._config.host
        )

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        listen = self._config.listen
        routes = {
            "/": self._landing,
            "/metrics": self._metrics,
            "/v1/throughput": self._throughput,
            "/v1/probe-records": self._probe_records,
            "/v1/overlay-state": self._overlay_state,
            "/healthz": self._health,
            "/readyz": self._ready,
        }
        try:
            self._server = Server(listen.address, listen.port, routes)
        except OSError as error:
            problem = f"cannot be listened on: {error.strerror or error}"
            raise ContractError(f"{listen.address}:{listen.port}", problem, "set another listen.port") from error
        print(f"fabric-exporter {__version__} on {listen.address}:{self._server.port}", file=sys.stderr, flush=True)
        if self._pusher is not None:
            self._pusher.start()
        supervisor = Supervisor()
        supervisor.ready(f"serves {listen.address}:{self._server.port}")
        step = self._config.throughput.step_seconds
        tick = min(step, _LONGEST_TICK)
        sampled = 0
        try:
            # On whole multiples of the step in Unix time: every host samples at the same instants, so that
            # throughput of different hosts can be compared burst by burst.
            while not self._stopping.wait(tick - time.time() % tick):
                now = time.time()
                if int(now / step) != sampled:
                    sampled = int(now / step)
                    self._monitor.sample(now)
                self._tick()
                supervisor.alive()
        finally:
            supervisor.stopping()
            self._server.close()
            if self._pusher is not None:
                self._pusher.stop()
            self._capture.stop()
            for child in self._children:
                child.stop()

    def _tick(self) -> None:
        now = time.monotonic()
        for child in self._children:
            child.tick(now)
        for child, row in self._restarts:
            row.set(0, child.restarts)
        if self._prober is not None:
            self._records.remember()
            self._follow_plans(self._prober)
        if self._rdma is not None:
            self._rdma_records.remember()
        if self._service is not None:
            self._tell_service(self._service)
        self._follow_request(time.time())
        if self._overlay_paths is not None and self._overlay_paths.follow(time.time(), self._own_paths):
            self._tracer.tell(msgspec.msgpack.encode(self._overlay_paths.flows))
        if watched := [each for each in (self._plans, self._overlay_paths) if each is not None]:
            self._counters.begin()
            self._counters.set(_REJECTED, sum(each.rejected for each in watched))
            self._counters.set(_REFUSED, float(any(each.refused for each in watched)))
            self._counters.end()

    def _follow_request(self, now: float) -> None:
        """Sample finely when and where a throughput request says so."""
        if self._request_file is None:
            return
        if self._request_file.changed():
            request = self._request_file.value
            jobs = sorted({workload.job for workload in self._workloads})
            if request is not None and request.job is not None and request.job not in jobs:
                told = f"no workload of job {request.job!r} here, only of {', '.join(jobs) or 'none'}"
                request = None
            elif request is not None:
                told = f"is over since {now - request.end:.0f} s" if request.end <= now else "taken"
                told = f"begins in {request.start - now:.0f} s" if request.start > now else told
            print(f"throughput request: {told}", file=sys.stderr, flush=True)
            self._capture.obey(request)
        self._capture.tick(now)

    def _follow_plans(self, prober: Child) -> None:
        """Hand on other plans, or the end of one."""
        if self._plans is None or self._config.probing is None or not self._plans.follow(time.time()):
            return
        addresses = {address for rnic in self._config.rnics for address in rnic.addresses}
        before = self._work.elsewhere
        self._work = own_part(self._plans.valid, addresses, self._config.probing.max_paths, self._allowed)
        if self._work.elsewhere != before:
            problem = f"{self._work.elsewhere} targets are neither the topology's nor of probing.destinations"
            print(f"plan: {problem}: they are not probed", file=sys.stderr, flush=True)
        named = {(each.job, each.container) for each in self._config.workloads}
        rnics = {address: rnic.name for rnic in self._config.rnics for address in rnic.addresses}
        planned = workloads_of(self._plans.valid, rnics)
        more = (each for each in planned if (each.job, each.container) not in named)
        self._workloads = (*self._config.workloads, *more)
        self._own_paths = frozenset(target.path for target in self._work.targets)
        self._job_paths.follow(self._work.jobs)
        self._job_ends.follow(self._work.jobs)
        rest = self._work.targets
        if self._rdma is not None:
            rest, own = split(rest, {rnic.ip for rnic in self._config.rnics})
            self._rdma.tell(msgspec.msgpack.encode(orders(own, self._fabric)))
        prober.tell(msgspec.msgpack.encode(rest))
        self._counters.begin()
        self._counters.set(_GENERATION, self._plans.generation)
        self._counters.set(_EXPIRES, self._plans.expires)
        self._counters.set(_OVER_LIMIT, self._work.over_limit)
        self._counters.set(_ELSEWHERE, self._work.elsewhere)
        self._counters.end()

    def _landing(self, _: Query) -> Response:
        page = _PAGE.format(version=__version__, host=self._config.host)
        return Response(200, "text/html; charset=utf-8", page.encode())

    def _metrics(self, _: Query) -> Response:
        with self._rendering:
            body = self._renderer.render(self._stores, self._joined())
        return Response(200, CONTENT_TYPE, self._target_info + body)

    def _joined(self) -> list[Series]:
        """Every family that is no column of a table; called with the lock on rendering."""
        joined, links, changes = list(self._fixed), NO_LINKS, NO_CHANGES
        if self._prober is not None:
            probed = [self._probed, self._rdma_probed] if self._rdma is not None else [self._probed]
            joined += self._job_paths.series(*probed)
            joined += self._job_ends.series(*probed)
            joined += self._path_info.series(*probed)
            joined += self._last_hops.series(*probed)
            (changes,) = self._route_changes.series(*probed)
            joined += self._mtu_limits.series(self._probed)
            if self._links is not None:
                links, *coverage = self._links.series(*probed)
                joined += coverage
        overlay = NO_JOBS
        if self._overlay_paths is not None:
            overlay = self._overlay_paths.jobs
            links = self._overlay_paths.series(self._outer_routes, links)
            changes = self._overlay_paths.changes(self._outer_routes, changes)
        joined += [links, *self._route_texts.series(links), changes]
        joined += self._job_links.series(links, self._work.jobs, overlay)
        return joined + self._process_metrics.series()

    def _throughput(self, query: Query) -> Response:
        if unknown := set(query) - _THROUGHPUT_PARAMETERS:
            there = ", ".join(sorted(_THROUGHPUT_PARAMETERS))
            raise ValueError(f"there is no parameter {min(unknown)!r}, only {there}")
        usual = self._config.throughput.step_seconds
        step, rings = number_of(query, "step", usual), self._monitor.rings
        if step <= 0:
            raise ValueError(f"parameter 'step' is {step:g}, not a time")
        if step < usual:
            if self._capture.rings is None:
                problem = f"nothing was sampled more finely than {usual:g} s: put a throughput request\n"
                return Response(404, "text/plain", problem.encode())
            rings = self._capture.rings
        job = query.get("job")
        workloads = [each for each in self._workloads if job in (None, each.job)]
        since, until = number_of(query, "since", 0.0), number_of(query, "until", math.inf)
        return Response(
            200, "text/csv; charset=utf-8", throughput_csv(rings, self._config.host, workloads, since, until)
        )

    def _probe_records(self, query: Query) -> Response:
        if self._prober is None and self._overlay_paths is None:
            return Response(404, "text/plain", b"this exporter does not probe\n")
        form, since = format_of(query, _RECORD_TYPES), number_of(query, "since", 0.0)
        traced = (
            list(self._overlay_paths.records(self._outer_routes, time.time_ns()))
            if self._overlay_paths is not None
            else []
        )
        if self._rdma is not None:
            traced += self._rdma_records.records(since, self._work)
        if form == "jsonl":
            lines = to_jsonl(traced) if self._prober is None else self._records.jsonl(since, self._work, traced)
            return Response(200, _RECORD_TYPES[form], lines)
        text = to_csv(traced) if self._prober is None else self._records.csv(since, self._work, traced)
        if form == "csv":
            return Response(200, f"{_RECORD_TYPES[form]}; charset=utf-8", text)
        if not parquet.is_possible():
            return Response(
                406, "text/plain", b"no Parquet without pyarrow: install it here, or ask for csv or jsonl\n"
            )
        try:
            return Response(200, _RECORD_TYPES[form], parquet.from_csv(text), compresses=False)
        except OneShotError as error:
            return Response(503, "text/plain", f"{error}\n".encode())

    def _overlay_state(self, _: Query) -> Response:
        if self._dumps is None:
            return Response(404, "text/plain", b"this exporter reads no overlay tables: add a section 'overlay'\n")
        try:
            return Response(200, "application/json", self._dumps.answer())
        except OneShotError as error:
            return Response(503, "text/plain", f"{error}\n".encode())
        finally:
            self._dumped.set(0, self._dumps.made)

    def _health(self, _: Query) -> Response:
        return Response(200, "text/plain", b"ok\n")

    def _ready(self, _: Query) -> Response:
        down = [child.module for child in self._children if not child.running]
        if down:
            return Response(503, "text/plain", f"not running: {', '.join(down)}\n".encode())
        return Response(200, "text/plain", b"ready\n")


def _share_of_traces(ceilings: Ceilings, config: Config) -> float:
    """Packets a second that one process may have end at one switch: the prober shares them with the RDMA process."""
    return ceilings.trace_packets_per_second_per_switch / (1 if config.rdma is None else 2)


def run(config: Config) -> None:
    """Run until SIGTERM or SIGINT."""
    exporter = Exporter(config)

    def on_signal(_: int, __: FrameType | None) -> None:
        exporter.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    exporter.run()
