"""Traceroute that keeps the probed flow's 5-tuple, so that ECMP sends it where the probes go.

Requests leave from the flow's own socket with a growing hop limit, one at a time: a router may quote
as little as 8 bytes of payload, too few to tell two outstanding hops apart, and one at a time is
gentle with the control plane that answers. A trace ends when the responder itself replies.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from exporter.contracts.catalogue import PROBER, PROBER_SPRAYED, PROBER_TRACES, PROBER_TRACES_INCOMPLETE
from exporter.probing.loop import LATEST_NS, Loop, Timer
from exporter.probing.packet import TRACE, quoted_sequence
from exporter.probing.paths import Flow, Path
from exporter.probing.sockets import IcmpError, send_options
from exporter.probing.spraying import RecentRoutes
from exporter.probing.udp import FlowSocket, UdpProber
from exporter.store import RowWriter, TableWriter

_HOP_TIMEOUT = 0.3
_ATTEMPTS = 2
_SILENT_HOPS_GIVEN_UP = 3
_FIRST_SECONDS, _SPREAD_SECONDS = 0.2, 3.0
FREEZE_SECONDS = 15.0
"""A flow that lost a probe this recently keeps the route it had: a rerouted trace must not vote."""
FREEZE_LIMIT_SECONDS = 600.0
"""After failing for this long, the new route is what the traffic lives with."""

_TRACES = PROBER.metrics.index(PROBER_TRACES)
_INCOMPLETE = PROBER.metrics.index(PROBER_TRACES_INCOMPLETE)
_SPRAYED = PROBER.metrics.index(PROBER_SPRAYED)


class TracedFlow:
    """One flow, the paths that share it, and its last complete route."""

    def __init__(self, socket: FlowSocket, key: Flow) -> None:
        self.socket = socket
        self.key = key
        self.paths: list[Path] = []
        self.route: list[str] | None = None
        """None where none is known, or the fabric sprays the flow."""
        self.recent = RecentRoutes()
        self.route_row: RowWriter | None = None
        self.frozen_since_ns = 0
        self.removed = False
        self.timer: Timer | None = None
        self.trace: _Trace | None = None


class _Trace:
    """A trace under way: ``hops`` holds what answered so far, None for silence."""

    __slots__ = ("attempt", "flow", "hops", "sequence", "started_ns")

    def __init__(self, flow: TracedFlow, started_ns: int) -> None:
        self.flow = flow
        self.hops: list[str | None] = []
        self.sequence = 0
        self.attempt = 0
        self.started_ns = started_ns


class Tracer:
    def __init__(
        self,
        loop: Loop,
        prober: UdpProber,
        routes: TableWriter,
        counters: RowWriter,
        *,
        period_seconds: float,
        max_hops: int,
        spraying: bool = False,
        spread: Callable[[], float] = random.random,
        on_trace: Callable[[Flow, list[str | None]], None] = lambda _, __: None,
    ) -> None:
        """``on_trace`` is called with every trace that ended: its hops, and the destination if it was reached.

        Where the fabric is said to be ``spraying``, no flow has a route and none is traced.
        """
        self._loop = loop
        self._routes = routes
        self._counters = counters
        self._period = period_seconds
        self._max_hops = max_hops
        self._spraying = spraying
        self._spread = spread
        self._on_trace = on_trace
        self._prober = prober
        prober.tracing = self
        self._flows: dict[Flow, TracedFlow] = {}
        self._by_destination: dict[tuple[FlowSocket, tuple[str, int]], _Trace] = {}
        self._by_sequence: dict[int, _Trace] = {}
        self._sprayed: set[Flow] = set()
        counters.set(_SPRAYED, 0)

    def add(self, path: Path, socket: FlowSocket) -> None:
        """Trace the flow of ``path``, soon for the first time, then every period."""
        flow = self._flows.get(path.flow)
        if flow is None:
            flow = self._flows[path.flow] = TracedFlow(socket, path.flow)
            if self._spraying:
                flow.recent.sprayed = True
                self._set_route(flow, None)
            else:
                self._begin_soon(flow)
        flow.paths.append(path)

    def remove(self, path: Path) -> None:
        flow = self._flows[path.flow]
        flow.paths.remove(path)
        if not flow.paths:
            flow.removed = True
            del self._flows[path.flow]
            if flow.timer is not None:
                self._loop.cancel(flow.timer)
            if flow.trace is not None:
                self._end(flow.trace)
            if flow.route_row is not None:
                self._routes.remove(flow.route_row)
            self._count_sprayed(flow)

    def _begin_soon(self, flow: TracedFlow) -> None:
        wait = _FIRST_SECONDS + _SPREAD_SECONDS * self._spread()
        flow.timer = self._loop.after(wait, lambda: self._begin(flow))

    def _begin(self, flow: TracedFlow) -> None:
        if flow.removed:
            return
        if self._loop.late_ns > LATEST_NS:  # with all the others that a stall kept waiting
            self._begin_soon(flow)
            return
        flow.timer = self._loop.after(self._period * (0.9 + 0.2 * self._spread()), lambda: self._begin(flow))
        if flow.trace is not None:  # longer under way than the period: two at once would take each other's answers
            return
        trace = flow.trace = _Trace(flow, self._loop.clock())
        self._by_destination[flow.socket, flow.key[2:]] = trace
        self._send(trace)

    def _send(self, trace: _Trace) -> None:
        flow = trace.flow
        trace.attempt += 1
        self._by_sequence.pop(trace.sequence, None)
        trace.sequence = sequence = self._prober.next_sequence()
        self._by_sequence[sequence] = trace
        target = flow.paths[0].target
        packet = self._prober.codec.request(TRACE, sequence, 0)
        try:
            flow.socket.send([packet], send_options(target.traffic_class, len(trace.hops) + 1), flow.key[2:])
        except OSError:
            self._give_up(trace)
            return
        self._loop.after(_HOP_TIMEOUT, lambda: self._on_timeout(trace, sequence))

    def _on_timeout(self, trace: _Trace, sequence: int) -> None:
        if trace.flow.removed or self._by_sequence.get(sequence) is not trace:
            return
        if self._loop.late_ns > LATEST_NS:
            self._loop.after(_HOP_TIMEOUT * self._spread(), lambda: self._on_timeout(trace, sequence))
            return
        if trace.attempt < _ATTEMPTS:
            self._send(trace)
        else:
            self._advance(trace, None)

    def _advance(self, trace: _Trace, hop: str | None) -> None:
        trace.hops.append(hop)
        trace.attempt = 0
        gave_up = trace.hops[-_SILENT_HOPS_GIVEN_UP:] == [None] * _SILENT_HOPS_GIVEN_UP
        if gave_up or len(trace.hops) >= self._max_hops:
            self._give_up(trace)
        else:
            self._send(trace)

    def _give_up(self, trace: _Trace) -> None:
        self._on_trace(trace.flow.key, trace.hops)
        self._finish(trace, complete=False)

    def on_time_exceeded(self, flow: FlowSocket, error: IcmpError) -> None:
        trace = self._by_destination.get((flow, error.destination))
        if trace is None:
            return
        quoted = quoted_sequence(error.quoted)
        if quoted is not None and quoted != trace.sequence:
            return  # a late answer to an earlier hop, or an ordinary probe caught in a loop
        self._advance(trace, error.offender)

    def on_reply(self, sequence: int, address: tuple[str, int]) -> bool:
        trace = self._by_sequence.get(sequence)
        if trace is None or address != trace.flow.key[2:]:
            return False
        self._on_trace(trace.flow.key, [*trace.hops, address[0]])
        self._finish(trace, complete=None not in trace.hops)
        return True

    def _end(self, trace: _Trace) -> None:
        flow = trace.flow
        flow.trace = None
        self._by_sequence.pop(trace.sequence, None)
        self._by_destination.pop((flow.socket, flow.key[2:]), None)

    def _finish(self, trace: _Trace, *, complete: bool) -> None:
        flow = trace.flow
        self._end(trace)
        self._counters.begin()
        self._counters.add(_TRACES)
        if not complete:
            self._counters.add(_INCOMPLETE)
        self._counters.end()
        if not complete:
            return
        hops = [hop for hop in trace.hops if hop is not None]
        flow.recent.add(hops, self._loop.clock(), max(path.last_loss_ns for path in flow.paths))
        if self._may_replace(flow):
            self._set_route(flow, None if flow.recent.sprayed else hops)

    def _set_route(self, flow: TracedFlow, hops: list[str] | None) -> None:
        """Publish the flow's route, None where the fabric sprays it."""
        if flow.route_row is not None:
            if hops == flow.route:
                return
            self._routes.remove(flow.route_row)
            for path in flow.paths:
                path.book_route_change()
        flow.route = hops
        source, source_port, destination, destination_port = flow.key
        labels = (source, str(source_port), destination, str(destination_port), json.dumps(hops))
        flow.route_row = self._routes.add(labels)
        self._count_sprayed(flow)

    def _count_sprayed(self, flow: TracedFlow) -> None:
        sprayed = not flow.removed and flow.route is None and flow.route_row is not None
        (self._sprayed.add if sprayed else self._sprayed.discard)(flow.key)
        self._counters.set(_SPRAYED, len(self._sprayed))

    def _may_replace(self, flow: TracedFlow) -> bool:
        """Whether a complete trace may stand for the flow: it lost nothing around it, or has no route yet."""
        now = self._loop.clock()
        lost = max(path.last_loss_ns for path in flow.paths)
        if not lost or now - lost > FREEZE_SECONDS * 1e9:
            flow.frozen_since_ns = 0
            return True
        flow.frozen_since_ns = flow.frozen_since_ns or now
        return flow.route_row is None or now - flow.frozen_since_ns > FREEZE_LIMIT_SECONDS * 1e9
