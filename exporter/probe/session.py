"""Runs the prober of exporter.probing in a thread of this process, and tallies what it books.

In a thread, so that a terminal that takes its time delays no probe.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from exporter.contracts.catalogue import FAILING_TRACE, PATH, PATH_MTU_LIMIT, PROBER, ROUTE, RTT_TABLE
from exporter.contracts.codec import ContractError
from exporter.probe.path import ProbedPath, Samples
from exporter.probe.request import Request
from exporter.probe.statistics import PathSummary
from exporter.probing.loop import Loop
from exporter.probing.mtu.search import Limit, MtuSearcher
from exporter.probing.packet import Codec
from exporter.probing.paths import Flow, Path
from exporter.probing.settings import prober_tables
from exporter.probing.tcp.handshake import Handshake
from exporter.probing.tracing.tracer import Tracer
from exporter.probing.tracing.udp import UdpCarrier, UdpTraces
from exporter.probing.tracing.walk import Walk
from exporter.probing.udp import UdpProber
from exporter.rdma.ports import VerbsError
from exporter.rdma.starvation import run_delay
from exporter.results import ResultRing
from exporter.store import Store

if TYPE_CHECKING:
    from exporter.probe.rdma import Rnic

_LOOK_SECONDS = 0.05  # how often the loop looks whether it is done
_CHECK_SECONDS = 1.0  # how often RDMA devices are looked at
_START_NS = 20_000_000
TRACE_PACKETS_PER_SECOND = 20.0
"""That may end at one switch: a person looks at a few flows for a short while, and exporters need their share too."""
_INTRODUCED_SECONDS = 0.1
"""After its introduction a path's first RDMA probe leaves: the responder has asked back by then."""
_SWITCH_SECONDS = 0.0001
"""How long the drawing thread may keep the probing one from running: Python's 5 ms would make slots late. RDMA round
trips are as unsure as that, where the device has no clock."""


class Session:
    """Probes what a request asks for until its count is reached or ``stop``.

    ``samples`` receives each probe as it ends, for whoever prints them: take them from its left.
    """

    def __init__(self, request: Request, *, keep_samples: bool = False) -> None:
        """Open the sockets. ``keep_samples`` where somebody takes them. Raise ContractError."""
        self.samples: Samples = deque(maxlen=None if keep_samples else 0)
        self._request = request
        self._stopping = False
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        self._delay: Callable[[], int] = lambda: 0
        self._loop = Loop(run_delay=self._run_delay)
        self._udp = UdpProber(self._loop, Codec(request.key), request.timeout)
        store = Store(prober_tables(len(request.targets)))
        histogram, results = store.writer(RTT_TABLE).add(()), ResultRing(1)  # nobody reads them: the tallies tell more
        rows = store.writer(PATH)
        self.paths = [
            ProbedPath(target, rows.add((target.path,)), histogram, results, self.samples) for target in request.targets
        ]
        self._by_flow = {path.flow: path for path in self.paths}
        self._untraced: set[Flow] = set()
        limits = store.writer(PATH_MTU_LIMIT)
        self._searcher = MtuSearcher(self._loop, self._udp, limits, request.timeout, self._on_search_end)
        self._unsearched: set[Path] = set(self.paths) if request.type == "mtu" else set()
        tracer = None
        if request.type == "trace":
            # All flows at once, and again each interval: a person is waiting. 0.9 is the tracer's smallest spread.
            tracer = Tracer(
                self._loop,
                store.writer(ROUTE),
                store.writer(FAILING_TRACE),
                store.writer(PROBER).add(()),
                period_seconds=max(request.interval, 1.0) / 0.9,
                max_hops=request.max_hops,
                packets_per_second_per_switch=TRACE_PACKETS_PER_SECOND,
                at_once=len(self.paths),
                spread=lambda: 0.0,
                on_trace=self._on_trace,
            )
            traces = UdpTraces(self._udp)
            self._untraced = set(self._by_flow)
        self._rnics: dict[str, Rnic] = {}
        if request.type == "rdma":
            self._open_rnics()
        for path in self.paths:
            if request.type in ("tcp", "rdma"):
                continue
            source, port = path.flow.source_address, path.flow.source_port
            try:
                path.socket = self._udp.acquire(source, port)
            except OSError as error:
                raise ContractError("--source-port", f"{port} of {source}: {error.strerror or error}") from error
            if tracer is not None:
                tracer.add(path, UdpCarrier(traces, path.flow, path.target.traffic_class, path.socket))
            if request.type == "mtu":
                self._searcher.add(path, path.socket)

    def _run_delay(self) -> int:
        """Of the thread that runs the loop, which alone can open what tells it."""
        return self._delay()

    def _open_rnics(self) -> None:
        try:
            from exporter.probe.rdma import Rnic  # noqa: PLC0415 - imports pyverbs, which may not be there

            for path in self.paths:
                address = path.target.source_address
                if address not in self._rnics:
                    device, port = self._request.devices[address], path.target.destination_port
                    self._rnics[address] = Rnic(
                        self._loop, self._udp.codec, device, address, port, self._request.timeout
                    )
                path.rnic = self._rnics[address]
                path.send_rdma = path.rnic.add(path)
                path.on_introduced = partial(self._send_soon, path)
        except VerbsError as error:
            for rnic in self._rnics.values():
                rnic.close()
            raise ContractError("--type rdma", str(error)) from error

    def _send_soon(self, path: ProbedPath) -> None:
        self._loop.after(_INTRODUCED_SECONDS, lambda: self._send(path))

    def start(self) -> None:
        sys.setswitchinterval(_SWITCH_SECONDS)
        threading.Thread(target=self._run, name="prober", daemon=True).start()

    def stop(self) -> None:
        """Send no more; what is under way may still be answered or lost."""
        self._stopping = True

    def wait(self, seconds: float) -> bool:
        """Whether all probes have ended, waiting for that so long at most; raise what ended the prober."""
        ended = self._ended.wait(seconds)
        if ended and self._failure is not None:
            raise self._failure
        return ended

    def summaries(self) -> list[PathSummary]:
        """The numbers of every path so far, in the order of the request."""
        return [path.summary(traced=self._request.type == "trace") for path in self.paths]

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # for the main thread, when it will
        with ExitStack() as ending:
            ending.callback(self._ended.set)
            for rnic in self._rnics.values():
                ending.callback(rnic.close)
            try:
                self._probe()
            except VerbsError as error:
                self._failure = ContractError("--type rdma", str(error))
            except BaseException as error:  # noqa: BLE001 - raised again by wait, where somebody sees it
                self._failure = error

    def _probe(self) -> None:
        if self._rnics:
            self._delay = run_delay()
            self._check()
        period_ns = int(self._request.interval * 1e9)
        first = self._loop.clock() + _START_NS
        for place, path in enumerate(self.paths):
            self._fire_at(path, first + place * period_ns // len(self.paths), period_ns)
        for unsearched in list(self._unsearched):
            self._searcher.search(unsearched)
        self._look()
        self._loop.run()
        for path in self.paths:
            if path.handshake is not None:
                path.handshake.abandon()
            if path.socket is not None:
                self._udp.release(path.socket)

    def _on_trace(self, flow: Flow, walk: Walk) -> None:
        hops = [*walk.hops, flow.destination_address] if walk.reached else walk.hops
        self._by_flow[flow].tally.add_trace(hops, walk.rtts_ns)
        self._untraced.discard(flow)

    def _on_search_end(self, path: Path, limit: Limit | None) -> None:
        self._by_flow[path.flow].end_search(limit)
        self._unsearched.discard(path)

    def _fire_at(self, path: ProbedPath, due_ns: int, period_ns: int) -> None:
        self._loop.at(due_ns, lambda: self._fire(path, due_ns, period_ns))

    def _finished(self, path: ProbedPath) -> bool:
        return self._stopping or (self._request.count is not None and path.started >= self._request.count)

    def _fire(self, path: ProbedPath, due_ns: int, period_ns: int) -> None:
        if self._stopping or (self._finished(path) and path.settled):
            return  # what is under way may turn out to have been no probe
        self._send(path)
        now = self._loop.clock()
        due_ns += period_ns
        if due_ns <= now:  # starved for over a period: never send in a clump
            due_ns += -(-(now - due_ns) // period_ns) * period_ns
        self._fire_at(path, due_ns, period_ns)

    def _send(self, path: ProbedPath) -> None:
        """Send a probe now, unless there were enough."""
        if self._finished(path):
            return
        if path.rnic is not None:
            path.begin()
            path.send_rdma()
        elif path.socket is not None:
            path.begin()
            self._udp.send(path, path.socket)
        elif path.handshake is None or not path.handshake.under_way:  # else its source port is taken: next time
            path.begin()
            path.handshake = Handshake(self._loop, path, self._request.timeout, codec=self._udp.codec)

    def _check(self) -> None:
        for rnic in self._rnics.values():
            rnic.check()
        self._loop.after(_CHECK_SECONDS, self._check)

    def _look(self) -> None:
        found = self._stopping or not (self._untraced or self._unsearched)
        if found and all(self._finished(path) and path.settled for path in self.paths):
            self._loop.stop()
        else:
            self._loop.after(_LOOK_SECONDS, self._look)
