"""Traces the outer tuples of overlay flows, up to the last switch before the far end of the tunnel.

The far end says nothing: its UDP port is open, and what it gets without a VXLAN network it drops. So a trace ends where
the topology says that the last switch is, and a whole one sends the far end nothing at all.
"""

from __future__ import annotations

import errno
import json
import random
import sys
from collections.abc import Callable, Mapping

from exporter.contracts.catalogue import (
    UNDERLAY,
    UNDERLAY_PORTS_IN_USE,
    UNDERLAY_TRACES,
    UNDERLAY_TRACES_INCOMPLETE,
)
from exporter.probing.limits import Pace
from exporter.probing.loop import LATEST_NS, Loop
from exporter.probing.sockets import IcmpError, error_queue, open_flow, receive, send_options
from exporter.probing.tracing.changes import RouteChanges, SeenRoute
from exporter.probing.tracing.walk import Walk
from exporter.store import RowWriter, TableWriter
from exporter.underlay.encapsulation import Outer, may_quote, trace_payload
from exporter.underlay.learning import LearntFlow
from exporter.underlay.settings import FlowKey, UnderlaySettings

_FIRST_SECONDS, _SPREAD_SECONDS = 0.2, 1.0
_RETRY_SECONDS = 1.0
_MOST_WALKS = 16
_MOST_TOLD = 64
_BATCH = 64
_TRACES = UNDERLAY.metrics.index(UNDERLAY_TRACES)
_INCOMPLETE = UNDERLAY.metrics.index(UNDERLAY_TRACES_INCOMPLETE)
_PORTS_IN_USE = UNDERLAY.metrics.index(UNDERLAY_PORTS_IN_USE)


Found = tuple[str, str, str]
"""Addresses of the tunnel's ends, and the hops between them in JSON."""


class Route:
    """The route that a flow is known by: a changed one takes its place when it has been the route for ``hold_ns``.

    The losses of a flow are known to the prober in its container only. But a route that has held for longer than rules
    look back has no losses of the one before it to answer for.
    """

    def __init__(self, hold_ns: int) -> None:
        self.taken: Found | None = None
        self._hold_ns = hold_ns
        self._other: Found | None = None
        self._since_ns = 0

    def offer(self, found: Found, now_ns: int) -> bool:
        """Whether a complete trace makes the route another; ``now_ns`` is monotonic."""
        if found == self.taken:
            self._other = None
        elif self.taken is None or (found == self._other and now_ns - self._since_ns >= self._hold_ns):
            self.taken, self._other = found, None
            return True
        elif found != self._other:
            self._other, self._since_ns = found, now_ns
        return False

    def forget(self) -> None:
        self.taken = self._other = None


class _Trace:
    """One trace under way, with a socket of its own that lives no longer."""

    def __init__(
        self,
        loop: Loop,
        outer: Outer,
        port: int,
        traffic_class: int,
        on_end: Callable[[Walk], None],
        turns: Pace,
        *,
        last: frozenset[str],
        max_hops: int,
    ) -> None:
        """``last``: addresses of the last switches. Raise OSError: an address not ours, a port that another has."""
        self.outer = outer
        self._turns = turns
        self._turn_ns: int | None = None
        self.walk = Walk(loop, self._ask, on_end, max_hops=max_hops, last=last)
        self._loop = loop
        self._to = (outer.destination, port)
        self._traffic_class = traffic_class
        self._number = random.getrandbits(31)  # apart from those of the trace before
        self._socket = open_flow(outer.source, outer.port)
        self._loop.watch(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self.walk.stop()
        self._loop.forget(self)
        self._socket.close()

    def _ask(self, hop_limit: int) -> float:
        now = self._loop.clock()
        if self._turn_ns is None:
            # Which switch drops it is known of the first only; so all that may be second have a rate together.
            self._turn_ns = now + int(self._turns.take(f"{self.outer.source}/{hop_limit}") * 1e9)
        if now < self._turn_ns:
            return (self._turn_ns - now) / 1e9
        self._turn_ns = None
        self._number += 1
        packet, options = trace_payload(self._number), send_options(self._traffic_class, hop_limit)
        try:
            self._socket.sendmsg([packet], options, 0, self._to)
        except OSError:  # perhaps an ICMP error that was still pending
            self._socket.sendmsg([packet], options, 0, self._to)
        return 0.0

    def on_input(self) -> None:
        """Nobody answers a trace but by ICMP; what else arrives is thrown away."""
        self.on_error()
        if self._socket.fileno() >= 0:
            for _ in receive(self._socket, _BATCH):
                pass

    def on_error(self) -> None:
        for item in error_queue(self._socket, _BATCH):
            if (
                isinstance(item, IcmpError)
                and item.kind == "time_exceeded"
                and item.destination == self._to
                and may_quote(item.quoted, self._number)
            ):
                self.walk.on_hop(item.offender)
                if self.walk.ended:
                    return

    def on_output(self) -> None:
        """Never asked for."""


class _Traced:
    """A flow, its route, and the trace under way."""

    def __init__(self, key: FlowKey, learnt: LearntFlow, hold_ns: int) -> None:
        self.key = key
        self.learnt = learnt
        self.route = Route(hold_ns)
        self.seen = SeenRoute()
        self.seen_outer: Outer | None = None
        """Of which tuple that is."""
        self.row: RowWriter | None = None
        self.trace: _Trace | None = None
        self.removed = False


class UnderlayTracer:
    """Traces each learnt flow every period, ``_MOST_WALKS`` at a time."""

    def __init__(
        self,
        loop: Loop,
        settings: UnderlaySettings,
        routes: TableWriter,
        changes: RouteChanges,
        counters: RowWriter,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._loop = loop
        self._spread = spread
        self._settings = settings
        self._routes = routes
        self._changes = changes
        self._counters = counters
        self._turns = Pace(settings.trace_packets_per_second_per_switch, clock=loop.clock)
        self._flows: dict[FlowKey, _Traced] = {}
        self._ports: set[tuple[str, int]] = set()
        self._told: set[str] = set()

    def follow(self, flows: Mapping[FlowKey, LearntFlow]) -> None:
        """Trace these flows and no others; routes of those that stay are kept."""
        for key in self._flows.keys() - flows.keys():
            gone = self._flows.pop(key)
            gone.removed = True
            if gone.trace is not None:
                self._close(gone)
            self._withdraw(gone)
            self._changes.forget(key)
        for key, learnt in flows.items():
            if key not in self._flows:
                traced = self._flows[key] = _Traced(key, learnt, int(self._settings.hold_seconds * 1e9))
                self._begin_within(traced, _FIRST_SECONDS, _SPREAD_SECONDS)

    def _begin_within(self, traced: _Traced, least: float, spread: float) -> None:
        self._loop.after(least + spread * self._spread(), lambda: self._begin(traced))

    def _begin(self, traced: _Traced) -> None:
        if traced.removed:
            return
        outer = traced.learnt.outer
        if outer is None:
            self._withdraw(traced)
            self._begin_within(traced, _RETRY_SECONDS, 0.0)
            return
        if (
            self._loop.late_ns > LATEST_NS  # with all the others that a stall kept waiting
            or traced.trace is not None  # longer under way than the period, for want of turns
            or len(self._ports) >= _MOST_WALKS
            or outer[:2] in self._ports  # the flow to another tunnel's end that has the same port
        ):
            self._begin_within(traced, _RETRY_SECONDS, _RETRY_SECONDS)
            return
        self._begin_within(traced, 0.9 * self._settings.trace_period_seconds, 0.2 * self._settings.trace_period_seconds)
        settings = self._settings
        switches = settings.last_switches.get(outer.destination)
        if switches is None:
            self._tell(f"underlay: {outer.destination} is no tunnel's end of the topology: flows to it are not traced")
            return
        last = frozenset(address for switch in switches for address in settings.switch_addresses.get(switch, ()))
        try:
            trace = _Trace(
                self._loop,
                outer,
                settings.port,
                traced.learnt.traffic_class,
                lambda walk: self._on_end(traced, walk),
                self._turns,
                last=last,
                max_hops=settings.trace_max_hops,
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                self._count(_PORTS_IN_USE)
            else:
                self._tell(f"underlay: cannot trace from {outer.source}: {error.strerror}")
            return
        traced.trace = trace
        self._ports.add(outer[:2])
        trace.walk.start()

    def _on_end(self, traced: _Traced, walk: Walk) -> None:
        trace = traced.trace
        if trace is None:
            return
        self._close(traced)
        self._count(_TRACES)
        if not walk.complete:
            self._count(_INCOMPLETE)
            return
        outer = trace.outer
        found = (outer.source, outer.destination, json.dumps(walk.hops))
        if outer != traced.learnt.outer:
            return
        plan, inner = traced.key
        labels = (str(plan), *map(str, inner))
        if outer != traced.seen_outer:  # another flow to the switches: that of the old one has not changed
            traced.seen.forget()
            traced.seen_outer = outer
        hops = [hop for hop in walk.hops if hop is not None]
        before = traced.seen.take(hops, self._loop.clock())
        if before is not None:
            self._changes.book(traced.key, labels, before, hops)
        if traced.route.offer(found, self._loop.clock()):
            if traced.row is not None:
                self._routes.remove(traced.row)
            traced.row = self._routes.add((*labels, *found))

    def _close(self, traced: _Traced) -> None:
        if traced.trace is not None:
            self._ports.discard(traced.trace.outer[:2])
            traced.trace.close()
            traced.trace = None

    def _withdraw(self, traced: _Traced) -> None:
        if traced.row is not None:
            self._routes.remove(traced.row)
            traced.row = None
        traced.route.forget()

    def _count(self, column: int) -> None:
        self._counters.begin()
        self._counters.add(column)
        self._counters.end()

    def _tell(self, text: str) -> None:
        """Once for each text, and bounded: addresses come from packets."""
        if text not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(text)
            print(text, file=sys.stderr, flush=True)
