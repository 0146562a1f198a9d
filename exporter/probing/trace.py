"""Traceroute that keeps the probed flow's 5-tuple, so that ECMP sends it where the probes go.

Requests leave from the flow's own socket with a growing hop limit (exporter.probing.walk). A trace ends when the
responder itself replies.
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
from exporter.probing.walk import Walk
from exporter.store import RowWriter, TableWriter

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
        self.walk: Walk | None = None
        self.sequence = 0
        """Of the request that the walk waits for."""


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
        self._by_destination: dict[tuple[FlowSocket, tuple[str, int]], TracedFlow] = {}
        self._by_sequence: dict[int, TracedFlow] = {}
        self._sprayed: set[Flow] = set()
        counters.set(_SPRAYED, 0)

    def add(self, path: Path, socket: FlowSocket) -> None:
        """Trace the flow of ``path``, soon for the first time, then every period."""
        flow = self._flows.get(path.flow)
        if flow is None:
            flow = self._flows[path.flow] = TracedFlow(socket, path.flow)
            if self._spraying:
                flow.recent.sprayed = True
                self._replace(flow, None)
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
            if flow.walk is not None:
                flow.walk.stop()
                self._forget(flow)
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
        if flow.walk is not None:  # longer under way than the period: two at once would take each other's answers
            return
        self._by_destination[flow.socket, flow.key[2:]] = flow
        flow.walk = Walk(
            self._loop,
            lambda hop_limit: self._ask(flow, hop_limit),
            lambda walk: self._on_end(flow, walk),
            max_hops=self._max_hops,
        )
        flow.walk.start()

    def _ask(self, flow: TracedFlow, hop_limit: int) -> float:
        self._by_sequence.pop(flow.sequence, None)
        flow.sequence = self._prober.next_sequence()
        self._by_sequence[flow.sequence] = flow
        packet = self._prober.codec.request(TRACE, flow.sequence, 0)
        options = send_options(flow.paths[0].target.traffic_class, hop_limit)
        flow.socket.send([packet], options, flow.key[2:])
        return 0.0

    def on_time_exceeded(self, flow: FlowSocket, error: IcmpError) -> None:
        traced = self._by_destination.get((flow, error.destination))
        if traced is None or traced.walk is None:
            return
        quoted = quoted_sequence(error.quoted)
        if quoted is not None and quoted != traced.sequence:
            return  # a late answer to an earlier hop, or an ordinary probe caught in a loop
        traced.walk.on_hop(error.offender)

    def on_reply(self, sequence: int, address: tuple[str, int]) -> bool:
        flow = self._by_sequence.get(sequence)
        if flow is None or flow.walk is None or address != flow.key[2:]:
            return False
        flow.walk.on_destination()
        return True

    def _forget(self, flow: TracedFlow) -> None:
        """The walk of the flow has ended."""
        flow.walk = None
        self._by_sequence.pop(flow.sequence, None)
        self._by_destination.pop((flow.socket, flow.key[2:]), None)

    def _on_end(self, flow: TracedFlow, walk: Walk) -> None:
        self._forget(flow)
        self._on_trace(flow.key, [*walk.hops, flow.key[2]] if walk.reached else walk.hops)
        self._counters.begin()
        self._counters.add(_TRACES)
        if not walk.complete:
            self._counters.add(_INCOMPLETE)
        self._counters.end()
        if not walk.complete:
            return
        hops = [hop for hop in walk.hops if hop is not None]
        flow.recent.add(hops, self._loop.clock(), max(path.last_loss_ns for path in flow.paths))
        if self._may_replace(flow):
            self._replace(flow, None if flow.recent.sprayed else hops)

    def _replace(self, flow: TracedFlow, hops: list[str] | None) -> None:
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
