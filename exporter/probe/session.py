"""Runs the prober of exporter.probing in a thread of this process, and tallies what it books.

In a thread, so that a terminal that takes its time delays no probe.
"""

from __future__ import annotations

import secrets
import signal
import sys
import threading
import time
from collections import deque
from typing import NamedTuple

from exporter.contracts.catalogue import FAILING_TRACE, PATH, PATH_MTU_LIMIT, PROBER, ROUTE, RTT_TABLE
from exporter.contracts.codec import ContractError
from exporter.contracts.plan import Target
from exporter.contracts.sizes import roce_path_mtu
from exporter.probe.request import Request
from exporter.probe.statistics import Outcome, PathMtu, PathSummary, Sample, Tally
from exporter.probing.loop import Loop
from exporter.probing.mtu.search import Limit, MtuSearcher
from exporter.probing.packet import Codec
from exporter.probing.paths import (
    LOST_RETURN,
    TCP_RESETS,
    TCP_RETRANSMITS,
    TCP_SYN_RETRANSMITS,
    Flow,
    Path,
    packet_bytes,
)
from exporter.probing.settings import prober_tables
from exporter.probing.tcp.handshake import Handshake
from exporter.probing.tracing.tracer import Tracer
from exporter.probing.tracing.udp import UdpCarrier, UdpTraces
from exporter.probing.tracing.walk import Walk
from exporter.probing.udp import FlowSocket, UdpProber
from exporter.results import ResultRing
from exporter.store import RowWriter, Store

_LOOK_SECONDS = 0.05  # how often the loop looks whether it is done
_START_NS = 20_000_000
TRACE_PACKETS_PER_SECOND = 20.0
"""That may end at one switch: a person looks at a few flows for a short while, and exporters need their share too."""
_SWITCH_SECONDS = 0.0005
"""How long the drawing thread may keep the probing one from running: Python's 5 ms would make slots late."""


class _Sent(NamedTuple):
    """A probe under way, known by the moment before it was sent."""

    number: int
    before_ns: int


class ProbedPath(Path):
    """A path of the prober that also tells what is booked on it."""

    __slots__ = (
        "_number", "_samples", "_under_way",
        "echoes", "handshake", "mtu", "mtu_reported", "path_mtu", "socket", "tally", "unjudged", "unsent",
    )  # fmt: skip

    def __init__(
        self, target: Target, row: RowWriter, histogram: RowWriter, results: ResultRing, samples: Samples
    ) -> None:
        super().__init__(target, secrets.randbits(64), row, histogram, results)
        self.tally, self.echoes = Tally(), Tally()
        self.unsent = self.unjudged = 0
        self.mtu: int | None = None
        self.path_mtu: PathMtu | None = None
        self.mtu_reported: int | None = None
        self.socket: FlowSocket | None = None
        self.handshake: Handshake | None = None
        self._samples = samples
        self._number = 0
        self._under_way: list[_Sent] = []

    @property
    def started(self) -> int:
        """Probes sent, or tried to."""
        return self._number

    @property
    def sent(self) -> int:
        return self._number - self.unsent

    @property
    def settled(self) -> bool:
        return not self._under_way and (self.handshake is None or not self.handshake.under_way)

    def begin(self) -> None:
        """Call right before a probe is sent: the bookings that follow name it by the time of its sending."""
        self._under_way.append(_Sent(self._number, time.time_ns()))
        self._number += 1

    def book_unsent(self) -> None:
        super().book_unsent()
        self._under_way.pop()
        self.unsent += 1

    def book_answer(self, rtt_ns: int | None, time_ns: int, starved: bool = False) -> None:
        super().book_answer(rtt_ns, time_ns, starved)
        self._end("answered", time_ns, None if rtt_ns is None else rtt_ns / 1e9, starved=starved)

    def book_echo(self, rtt_ns: int | None, segments: int) -> None:
        super().book_echo(rtt_ns, segments)
        rtt = None if rtt_ns is None else rtt_ns / 1e9
        outcome: Outcome = "lost" if rtt is None else "answered"
        echo = Sample(number=self._number - 1, time=time.time(), outcome=outcome, rtt_seconds=rtt, starved=False)
        self.echoes.add(echo)

    def book_loss(self, time_ns: int, now_ns: int, starved: bool = False) -> None:
        super().book_loss(time_ns, now_ns, starved)
        self._end("lost", time_ns, None, starved=starved)

    def book_refusal(self, time_ns: int) -> None:
        super().book_refusal(time_ns)
        # A closed TCP port answers the handshake as an open one does. The kernel keeps no time of it: ours is later
        # by the microseconds that it takes to wake up.
        closed = self.target.probe == "tcp"
        self._end("refused", time_ns, max(time.time_ns() - time_ns, 0) / 1e9 if closed else None)

    def book_reported_mtu(self, mtu: int) -> None:
        super().book_reported_mtu(mtu)
        self.mtu_reported = mtu

    def book_mtu(self, mtu: int | None) -> None:
        super().book_mtu(mtu)
        self.mtu = mtu

    def end_search(self, limit: Limit | None) -> None:
        """The search of the MTU has ended: the MTU booked last is what it found."""
        self.path_mtu = PathMtu(
            bytes=self.mtu,
            tried_bytes=packet_bytes(self.target),
            kind=limit.kind if limit else None,
            hop=(limit.hop or None) if limit else None,
            roce_path_mtu=roce_path_mtu(self.mtu or 0),
        )

    def leave_unjudged(self, time_ns: int) -> None:
        super().leave_unjudged(time_ns)
        self._take(time_ns)
        self.unjudged += 1

    def _take(self, time_ns: int) -> int:
        """The number of the probe that was sent at ``time_ns``, which is under way no more."""
        earlier = [sent for sent in self._under_way if sent.before_ns <= time_ns]
        sent = (earlier or self._under_way)[-1]
        self._under_way.remove(sent)
        return sent.number

    def _end(self, outcome: Outcome, time_ns: int, rtt: float | None, *, starved: bool = False) -> None:
        number = self._take(time_ns)
        sample = Sample(number=number, time=time_ns / 1e9, outcome=outcome, rtt_seconds=rtt, starved=starved)
        self.tally.add(sample)
        self._samples.append((self, sample))

    def summary(self, *, traced: bool) -> PathSummary:
        """The numbers so far; may be asked for in another thread."""
        target, counts = self.target, self.tally.counts()
        lost, refused = counts.get("lost", 0), counts.get("refused", 0)
        ended = sum(counts.values())
        tcp = target.probe == "tcp"
        return PathSummary(
            destination=target.destination,
            destination_address=target.destination_address,
            destination_port=target.destination_port,
            source_address=target.source_address,
            source_port=target.source_ports[0],
            sent=self.sent,
            answered=counts.get("answered", 0) + (refused if tcp else 0),
            lost=lost,
            lost_return=None if tcp else int(self.row.get(LOST_RETURN)),
            refused=refused,
            unsent=self.unsent,
            unjudged=self.unjudged,
            starved=self.tally.starved,
            lost_ratio=lost / ended if ended else None,
            mtu_reported_bytes=self.mtu_reported,
            rtt_seconds=self.tally.round_trips(),
            echoes=self.echoes.counts().get("answered", 0) if tcp and target.payload_bytes else None,
            echo_rtt_seconds=self.echoes.round_trips(),
            syn_retransmits=int(self.row.get(TCP_SYN_RETRANSMITS)) if tcp else None,
            retransmits=int(self.row.get(TCP_RETRANSMITS)) if tcp else None,
            resets=int(self.row.get(TCP_RESETS)) if tcp else None,
            hops=self.tally.hops(target.destination_address) if traced else None,
            path_mtu=self.path_mtu,
        )


Samples = deque[tuple[ProbedPath, Sample]]


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
        self._loop = Loop()
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
        for path in self.paths:
            if request.type == "tcp":
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

    def start(self) -> None:
        sys.setswitchinterval(_SWITCH_SECONDS)
        threading.Thread(target=self._run, name="prober", daemon=True).start()

    def stop(self) -> None:
        """Send no more; what is under way may still be answered or lost."""
        self._stopping = True

    def wait(self, seconds: float) -> bool:
        """Whether all probes have ended, waiting for that so long at most; raise what ended the prober."""
        ended = self._ended.wait(seconds)
        if self._failure is not None:
            raise self._failure
        return ended

    def summaries(self) -> list[PathSummary]:
        """The numbers of every path so far, in the order of the request."""
        return [path.summary(traced=self._request.type == "trace") for path in self.paths]

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # for the main thread, when it will
        try:
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
        except BaseException as error:  # noqa: BLE001 - raised again by wait, where somebody sees it
            self._failure = error
        finally:
            self._ended.set()

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
        if self._finished(path):
            return
        if path.socket is not None:
            path.begin()
            self._udp.send(path, path.socket)
        elif path.handshake is None or not path.handshake.under_way:  # else its source port is taken: next time
            path.begin()
            path.handshake = Handshake(self._loop, path, self._request.timeout, codec=self._udp.codec)
        now = self._loop.clock()
        due_ns += period_ns
        if due_ns <= now:  # starved for over a period: never send in a clump
            due_ns += -(-(now - due_ns) // period_ns) * period_ns
        self._fire_at(path, due_ns, period_ns)

    def _look(self) -> None:
        found = self._stopping or not (self._untraced or self._unsearched)
        if found and all(self._finished(path) and path.settled for path in self.paths):
            self._loop.stop()
        else:
            self._loop.after(_LOOK_SECONDS, self._look)
