"""The prober process: obeys the plans that the control process sends down a pipe.

Started as ``python -m exporter.probing.process STORE RESULTS CONTROL`` with three descriptors. It
imports nothing heavy and does nothing but probe, answer and trace. It ends when the pipe closes.
"""

from __future__ import annotations

import secrets
import socket
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from exporter.contracts.addresses import is_ipv6
from exporter.contracts.catalogue import (
    FAILING_TRACE,
    PATH_MTU_LIMIT,
    PROBER,
    PROBER_DROPPED,
    PROBER_LATE,
    PROBER_OVER_CEILING,
    PROBER_PATHS,
    PROBER_SLOT_DELAY,
    PROBER_STARVED,
    PROBER_UNJUDGED,
    PROBER_UNSUPPORTED,
    PROBER_WAITING,
    ROUTE,
    ROUTE_CHANGE,
    RTT_TABLE,
)
from exporter.contracts.catalogue import PATH as PATH_TABLE
from exporter.contracts.plan import Target
from exporter.inheritance import inherit
from exporter.probing.ceilings import Thinning, shares
from exporter.probing.dns.prober import DnsProber
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import LATE_NS, LATEST_NS, Loop, Timer
from exporter.probing.mtu.search import MtuSearcher
from exporter.probing.packet import Codec
from exporter.probing.paths import Path
from exporter.probing.phase import next_due, phases, slots_apart
from exporter.probing.pipe import ControlPipe
from exporter.probing.registration import Registration
from exporter.probing.responder import Streams, UdpResponder
from exporter.probing.settings import RESULT_CAPACITY, ProberSettings, prober_tables
from exporter.probing.tcp.handshake import Handshake
from exporter.probing.tcp.responder import TcpResponder
from exporter.probing.tracing.changes import RouteChanges
from exporter.probing.tracing.tcp import TcpCarrier
from exporter.probing.tracing.tracer import Carrier, Tracer
from exporter.probing.tracing.udp import UdpCarrier, UdpTraces
from exporter.probing.tracing.walk import HOP_TIMEOUT_SECONDS
from exporter.probing.udp import FlowSocket, UdpProber
from exporter.results import ResultRing
from exporter.store import RowWriter, Store, StoreFullError

_NEXT_SLOT_SECONDS = 0.001
_DELAY_WINDOW_NS = 10_000_000_000
_LATE = PROBER.metrics.index(PROBER_LATE)
_SLOT_DELAY = PROBER.metrics.index(PROBER_SLOT_DELAY)
_STARVED = PROBER.metrics.index(PROBER_STARVED)
_DROPPED = PROBER.metrics.index(PROBER_DROPPED)
_UNJUDGED = PROBER.metrics.index(PROBER_UNJUDGED)
_OVER_CEILING = PROBER.metrics.index(PROBER_OVER_CEILING)
_PATHS = PROBER.metrics.index(PROBER_PATHS)
_UNSUPPORTED = PROBER.metrics.index(PROBER_UNSUPPORTED)
_WAITING = PROBER.metrics.index(PROBER_WAITING)


@dataclass(slots=True)
class _Probing:
    """A path being probed and what keeps it going."""

    path: Path
    flow: FlowSocket | None
    due_ns: int
    thinning: Thinning
    timer: Timer | None = None
    handshake: Handshake | None = None
    removed: bool = False


def _same_packets(old: Target, new: Target) -> bool:
    """Whether two targets of one path differ in nothing that is on the wire."""
    renamed = {"source": new.source, "destination": new.destination, "role": new.role, "active": new.active}
    return msgspec.structs.replace(old, **renamed) == new


class Prober:
    def __init__(self, settings: ProberSettings, store: Store, results: ResultRing, control: socket.socket) -> None:
        self._settings = settings
        self._results = results
        # What a prober that died had probed is not made to wait again: it had registered, and may be dead by now.
        self._registered = {row.labels[0] for row in store.read(PATH_TABLE)}
        store.clear()
        self._paths = store.writer(PATH_TABLE)
        self._histograms = store.writer(RTT_TABLE)
        self._histogram_rows: dict[tuple[str, ...], RowWriter] = {}
        self._counters = store.writer(PROBER).add(())
        self._worst_delay_ns = 0
        self._window_ends_ns = 0
        self._loop = Loop(self._on_slot)
        codec = Codec(settings.key)
        self._udp = UdpProber(self._loop, codec, settings.timeout_seconds, self._on_starved, self._on_dropped)
        self._tracer = Tracer(
            self._loop,
            store.writer(ROUTE),
            store.writer(FAILING_TRACE),
            self._counters,
            period_seconds=settings.trace_period_seconds,
            max_hops=settings.trace_max_hops,
            packets_per_second_per_switch=settings.ceilings.trace_packets_per_second_per_switch,
            switches=settings.switches,
            spraying=settings.spraying,
            changes=RouteChanges(self._loop, store.writer(ROUTE_CHANGE)),
        )
        self._udp_traces = UdpTraces(self._udp)
        limits = store.writer(PATH_MTU_LIMIT)
        self._path_mtu = MtuSearcher(self._loop, self._udp, limits, settings.timeout_seconds)
        self._registration = Registration(self._loop, self._udp, self._start_all)
        self._probing: dict[str, _Probing] = {}
        self._phases: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        self._rate = 0.0  # probes a second that the plan asks for
        self._unsupported = 0
        if settings.dns is not None:
            DnsProber(self._loop, settings.dns, settings.host, store, results).start()
        if settings.responder:
            epoch, streams = time.time_ns(), Streams(clock=self._loop.clock)
            limit = SourceLimit(settings.responder_packets_per_second, clock=self._loop.clock)
            for address in settings.addresses:
                port, heard = settings.responder_port, self._registration.on_hello
                try:
                    responder = UdpResponder(codec, address, port, epoch, streams, limit, self._counters, heard)
                    listener = TcpResponder(self._loop, codec, address, port, epoch, limit, self._counters)
                except OSError as error:
                    sys.exit(
                        f"responder of {address} port {port}: {error.strerror} (is it of an RNIC of this host, as "
                        "the topology says? does another exporter have it?)"
                    )
                (self._loop.watch_for_requests if responder.may_wait else self._loop.watch)(responder)
                self._loop.watch(listener)
        self._loop.watch(ControlPipe(self._loop, control, self._on_message))

    def run(self) -> None:
        self._loop.run()

    def _on_message(self, message: bytes) -> None:
        self.obey(msgspec.msgpack.decode(message, type=tuple[Target, ...]))

    def _on_slot(self, delay_ns: int) -> None:
        if delay_ns > LATE_NS:
            self._counters.add(_LATE)
        now = self._loop.clock()
        if now >= self._window_ends_ns:
            self._counters.set(_SLOT_DELAY, self._worst_delay_ns / 1e9)
            self._worst_delay_ns, self._window_ends_ns = 0, now + _DELAY_WINDOW_NS
        self._worst_delay_ns = max(self._worst_delay_ns, delay_ns)

    def _on_starved(self, judged: bool) -> None:
        self._counters.begin()
        self._counters.add(_STARVED)
        if not judged:
            self._counters.add(_UNJUDGED)
        self._counters.end()

    def _on_dropped(self, packets: int) -> None:
        self._counters.begin()
        self._counters.add(_DROPPED, packets)
        self._counters.end()

    def obey(self, targets: Sequence[Target]) -> None:
        """Probe what the plans say: paths that stay keep their state, paths that left vanish.

        An inactive target waits until its destination has registered. One that has is not made to wait again by
        another plan that lists it: were its destination dead by then, nobody would be told.
        """
        wanted = {target.path: target for target in targets}
        self._registered |= self._probing.keys()
        gone: list[_Probing] = []
        for name, probing in list(self._probing.items()):
            new = wanted.get(name)
            if new is None or not _same_packets(probing.path.target, new):
                gone.append(self._probing.pop(name))
            elif new != probing.path.target:  # another job or container now: the path is the same
                probing.path.follow(new, self._histogram(new))
        self._udp.forget({probing.path for probing in gone})
        for probing in gone:
            self._stop(probing)
        self._phases = phases(targets)
        supported: list[Target] = []
        refused: dict[str, list[str]] = {}
        for target in targets:
            if reason := self._refusal(target):
                refused.setdefault(reason, []).append(target.path)
            else:
                supported.append(target)
        self._unsupported = len(targets) - len(supported)
        for reason, names in refused.items():
            others = f" and {len(names) - 1} more" if names[1:] else ""
            print(f"cannot probe {names[0]}{others}: {reason}", file=sys.stderr, flush=True)
        self._shares = shares(supported, self._settings.ceilings)
        self._rate = sum(1 / target.period_seconds for target in supported)
        for name, probing in self._probing.items():
            probing.thinning.share = self._shares[name]
        ready: list[Target] = []
        waiting: list[Target] = []
        for target in supported:
            if target.path not in self._probing:
                up = target.active or target.path in self._registered
                (ready if up else waiting).append(target)
        self._registered.clear()
        self._registration.expect(waiting)
        self._start_all(ready)
        self._release_histograms()

    def _start_all(self, targets: Iterable[Target]) -> None:
        for target in targets:
            started = self._start(target)
            if started is None:
                self._unsupported += 1
            else:
                self._probing[target.path] = started
        self._counters.begin()
        self._counters.set(_PATHS, len(self._probing))
        self._counters.set(_UNSUPPORTED, self._unsupported)
        self._counters.set(_WAITING, self._registration.waiting)
        self._counters.end()

    def _refusal(self, target: Target) -> str:
        """Why this target cannot be probed; empty when it can."""
        if target.probe == "rdma":
            return (
                "RDMA probes need the section 'rdma', a source that is the 'ip' of an RNIC, and a destination of the "
                "same IP version that is not link-local"
            )
        if target.probe not in ("udp", "mtu", "tcp"):
            return f"this release has no probes of type {target.probe}"
        if is_ipv6(target.source_address) or is_ipv6(target.destination_address):
            return "UDP, TCP and MTU probes speak IPv4 only; from and to IPv6 addresses there are RDMA probes"
        if target.source_address not in self._settings.addresses:
            return f"{target.source_address} is no address of an RNIC here"
        return ""

    def _start(self, target: Target) -> _Probing | None:
        flow = None
        try:
            if target.probe != "tcp":
                flow = self._udp.acquire(target.source_address, target.source_ports[0])
            histogram = self._histogram(target)
            row = self._paths.add(self._labels(target))
        except (OSError, StoreFullError, ValueError) as error:
            if flow is not None:
                self._udp.release(flow)
            print(f"cannot probe {target.path}: {error}", file=sys.stderr, flush=True)
            return None
        path = Path(target, secrets.randbits(64), row, histogram, self._results)
        if flow is not None and target.probe == "mtu":
            self._path_mtu.add(path, flow)
        period_ns = int(target.period_seconds * 1e9)
        due = next_due(self._phases[target.path], period_ns, self._loop.clock(), time.time_ns())
        thinning = Thinning(self._shares[target.path], zlib.crc32(target.path.encode()) / 2**32)
        probing = _Probing(path, flow, due, thinning)
        self._fire_later(probing, period_ns)
        self._tracer.add(path, self._carrier(probing))
        return probing

    def _carrier(self, probing: _Probing) -> Carrier:
        flow, traffic_class = probing.path.flow, probing.path.target.traffic_class
        if probing.flow is not None:
            return UdpCarrier(self._udp_traces, flow, traffic_class, probing.flow)
        return TcpCarrier(self._loop, flow, traffic_class, lambda: self._port_taken(probing))

    def _port_taken(self, probing: _Probing) -> float:
        """Seconds until a trace may use the port of a TCP path.

        Its handshake may be under way, or due before an answer to the trace can be waited for.
        """
        if probing.handshake is not None and probing.handshake.under_way:
            return _NEXT_SLOT_SECONDS
        left = (probing.due_ns - self._loop.clock()) / 1e9
        needed = min(HOP_TIMEOUT_SECONDS, probing.path.target.period_seconds / 4)
        return max(left, _NEXT_SLOT_SECONDS) if left < needed else 0.0

    def _stop(self, probing: _Probing) -> None:
        probing.removed = True
        path = probing.path
        if probing.timer is not None:
            self._loop.cancel(probing.timer)
        self._tracer.remove(path)
        if probing.flow is not None:
            self._path_mtu.remove(path)
            self._udp.release(probing.flow)
        if probing.handshake is not None:
            probing.handshake.abandon()
        self._paths.remove(path.row)

    def _fire(self, probing: _Probing, period_ns: int) -> None:
        if probing.removed:
            return
        path = probing.path
        if self._is_below_ceilings(probing):
            self._send(probing)
        probing.due_ns += period_ns
        now = self._loop.clock()
        while probing.due_ns <= now:  # starved for over a period: the next one is sent when it is due
            if self._is_below_ceilings(probing):
                path.book_unsent()
            probing.due_ns += period_ns
        self._fire_later(probing, period_ns)

    def _fire_later(self, probing: _Probing, period_ns: int) -> None:
        every = slots_apart(period_ns / 1e9, self._rate)
        probing.timer = self._loop.at(probing.due_ns, lambda: self._fire(probing, period_ns), every=every)

    def _send(self, probing: _Probing) -> None:
        path = probing.path
        if self._loop.late_ns > LATEST_NS:
            path.book_unsent()
        elif probing.flow is not None:
            self._udp.send(path, probing.flow)
        elif probing.handshake is not None and probing.handshake.under_way:
            pass  # the flow is being asked: the kernel sends its SYN again, which takes the place of this one
        else:
            self._tracer.give_way(path)
            timeout = self._settings.timeout_seconds
            probing.handshake = Handshake(self._loop, path, timeout, self._on_starved, self._udp.codec)

    def _is_below_ceilings(self, probing: _Probing) -> bool:
        """Whether the probe that is due may be sent; counts it if not."""
        sends = probing.thinning.sends()
        if not sends:
            self._counters.begin()
            self._counters.add(_OVER_CEILING)
            self._counters.end()
        return sends

    def _labels(self, target: Target) -> tuple[str, ...]:
        return (
            target.path,
            target.source_host or self._settings.host,
            target.source_rnic or self._settings.addresses[target.source_address],
            target.destination_host or "",
            target.destination_rnic or "",
            target.probe,
            target.source_address,
            str(target.source_ports[0]),
            target.destination_address,
            str(target.destination_port),
            str(target.traffic_class),
        )

    def _histogram(self, target: Target) -> RowWriter:
        labels = self._histogram_labels(target)
        row = self._histogram_rows.get(labels)
        if row is None:
            row = self._histogram_rows[labels] = self._histograms.add(labels)
        return row

    def _histogram_labels(self, target: Target) -> tuple[str, ...]:
        return (self._settings.host, self._settings.addresses[target.source_address], target.role, target.probe)

    def _release_histograms(self) -> None:
        """Histograms that no path books to any more vanish; one that the next job goes on with stays."""
        used = {self._histogram_labels(probing.path.target) for probing in self._probing.values()}
        for labels in self._histogram_rows.keys() - used:
            self._histograms.remove(self._histogram_rows.pop(labels))


def main() -> None:
    given = inherit(ProberSettings, many_files=True)  # a socket per source port and RNIC
    memory, results = given.memory
    store = Store(prober_tables(given.settings.max_paths, given.settings.dns), memory)
    Prober(given.settings, store, ResultRing(RESULT_CAPACITY, results), given.control).run()


if __name__ == "__main__":
    main()
