"""Traces every probed flow and keeps its last complete route, so that a failing path's links are known.

A trace (exporter.probing.tracing.walk) is sent by a carrier, which keeps the flow's 5-tuple: the modules udp and tcp
beside this one. Flows are traced every period, and soon after they lost a probe. A trace of a failing flow replaces no
route; it tells where it ended.
"""

from __future__ import annotations

import json
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, Protocol

from exporter.contracts.catalogue import (
    PROBER,
    PROBER_SPRAYED,
    PROBER_TRACES,
    PROBER_TRACES_DELAYED,
    PROBER_TRACES_INCOMPLETE,
)
from exporter.probing.ceilings import PACKETS_PER_SECOND_PER_SWITCH
from exporter.probing.limits import Pace
from exporter.probing.loop import LATEST_NS, Loop, Timer
from exporter.probing.paths import Flow, Path
from exporter.probing.tracing.changes import RouteChanges, SeenRoute
from exporter.probing.tracing.spraying import RecentRoutes
from exporter.probing.tracing.walk import Walk
from exporter.store import RowWriter, TableWriter

_FIRST_SECONDS, _SPREAD_SECONDS = 0.2, 3.0
_AT_ONCE = 4
"""Traces under way from one source address; the others wait in turn."""
_LONGEST_BUSY_NS = 60_000_000_000
"""A trace that could not send for so long, though it was its turn, is given up."""
FREEZE_SECONDS = 15.0
"""A flow that lost a probe this recently keeps the route it had: a rerouted trace must not vote."""
FREEZE_LIMIT_SECONDS = 600.0
"""After failing for this long, the new route is what the traffic lives with."""

_LOSS_FIRST_SECONDS, _LOSS_SPREAD_SECONDS = 0.05, 1.0
_LOSS_AGAIN_SECONDS = 30.0
"""A flow that goes on losing is traced again after so long."""
_LOSS_TRACES = 4
"""Flows traced for their losses towards one destination in ``_LOSS_AGAIN_SECONDS``: a dead host has many."""


class TraceColumns(NamedTuple):
    """Where a tracer counts, in the row that it is given."""

    traces: int
    incomplete: int
    delayed: int
    sprayed: int


_OF_PROBER = TraceColumns(
    *map(PROBER.metrics.index, (PROBER_TRACES, PROBER_TRACES_INCOMPLETE, PROBER_TRACES_DELAYED, PROBER_SPRAYED))
)


class LastSwitch(NamedTuple):
    """Where the traces of a flow end that must not reach its destination."""

    hops: int
    """So many switches are on the way, this one included: no packet is sent beyond."""
    addresses: frozenset[str]
    """From which it may answer."""


class Carrier(Protocol):
    """Sends the packets of a path's traces and tells the walk what comes back."""

    def busy(self) -> float:
        """Seconds until it may send; 0 when it may."""

    def ask(self, walk: Walk, hop_limit: int) -> None:
        """Send one packet; what came of the one before is nobody's any more. Raise OSError."""

    def end(self) -> None:
        """The walk is over."""


class TracedFlow:
    """One flow, the paths that share it, and its last complete route."""

    def __init__(self, key: Flow, last: LastSwitch | None) -> None:
        self.key = key
        self.last = last
        """None where the destination itself answers."""
        self.carriers: dict[Path, Carrier] = {}
        self.route: list[str] | None = None
        """None where none is known, or the fabric sprays the flow."""
        self.recent = RecentRoutes()
        self.seen = SeenRoute()
        self.route_row: RowWriter | None = None
        self.frozen_since_ns = 0
        self.walk: Walk | None = None
        self.carrier: Carrier | None = None
        """That of the walk."""
        self.paced = 0
        """Hop limit of the packet that has a turn at its switch; 0 = none."""
        self.turn_ns = 0
        """When that turn is, or at first when the walk began; monotonic."""
        self.met: Sequence[str | None] = ()
        """Hops of the last trace that reached the destination, or else of the last one: who is going to answer."""
        self.met_end = False
        """Whether one has."""
        self.timer: Timer | None = None
        self.loss_timer: Timer | None = None
        self.loss_ns = 0
        """When it was last to be traced for its losses; monotonic, 0 = never."""
        self.failing: dict[Path, RowWriter] = {}
        self.failing_timer: Timer | None = None

    @property
    def last_loss_ns(self) -> int:
        return max(path.last_loss_ns for path in self.carriers)


@dataclass(slots=True)
class _Lane:
    """The traces of one source address: those that wait, first come first, and how many are under way."""

    waiting: OrderedDict[Flow, TracedFlow] = field(default_factory=OrderedDict)
    under_way: int = 0


class Tracer:
    def __init__(
        self,
        loop: Loop,
        routes: TableWriter,
        failing: TableWriter,
        counters: RowWriter,
        *,
        period_seconds: float,
        max_hops: int,
        packets_per_second_per_switch: float = PACKETS_PER_SECOND_PER_SWITCH,
        at_once: int = _AT_ONCE,
        switches: Mapping[str, str] | None = None,
        spraying: bool = False,
        spread: Callable[[], float] = random.random,
        on_trace: Callable[[Flow, Walk], None] = lambda _, __: None,
        changes: RouteChanges | None = None,
        columns: TraceColumns = _OF_PROBER,
    ) -> None:
        """``switches`` is {address: switch}, for switches that answer from several; ``on_trace`` gets every trace.

        ``changes`` is told at once of routes that become others, by what traces show.
        Where the fabric is said to be ``spraying``, no flow has a route and none is traced.
        """
        self._loop = loop
        self._routes = routes
        self._failing = failing
        self._counters = counters
        self._columns = columns
        self._period = period_seconds
        self._max_hops = max_hops
        self._at_once = at_once
        self._switches = switches or {}
        self._spraying = spraying
        self._spread = spread
        self._on_trace = on_trace
        self._changes = changes
        self._flows: dict[Flow, TracedFlow] = {}
        self._lanes: dict[str, _Lane] = {}
        self._turns = Pace(packets_per_second_per_switch, clock=loop.clock)
        self._loss_turns = Pace(_LOSS_TRACES / _LOSS_AGAIN_SECONDS, burst=_LOSS_TRACES, clock=loop.clock)
        self._sprayed: set[Flow] = set()
        counters.set(columns.sprayed, 0)

    def add(self, path: Path, carrier: Carrier, last: LastSwitch | None = None) -> None:
        """Trace the flow of ``path``, soon for the first time, then every period; no farther than ``last``."""
        flow = self._flows.get(path.flow)
        if flow is None:
            flow = self._flows[path.flow] = TracedFlow(path.flow, last)
            if self._spraying:
                flow.recent.sprayed = True
                self._replace(flow, None)
            else:
                self._come_soon(flow)
        flow.carriers[path] = carrier
        if not self._spraying:
            path.on_loss = lambda: self._on_loss(flow)
        if flow.route is not None:
            path.book_route(route_hash(flow.route), changed=False)

    def remove(self, path: Path) -> None:
        flow = self._flows[path.flow]
        del flow.carriers[path]
        path.on_loss = None
        if path in flow.failing:
            self._failing.remove(flow.failing.pop(path))
        if self._changes is not None:
            self._changes.forget(path)
        if flow.carriers:
            return
        del self._flows[path.flow]
        self._lane(flow).waiting.pop(flow.key, None)
        for timer in (flow.timer, flow.loss_timer, flow.failing_timer):
            if timer is not None:
                self._loop.cancel(timer)
        if flow.walk is not None:
            flow.walk.stop()
            self._forget_walk(flow)
        if flow.route_row is not None:
            self._routes.remove(flow.route_row)
        self._count_sprayed(flow.key, sprayed=False)

    def give_way(self, path: Path) -> None:
        """A probe of ``path`` needs the port of its flow now; what a trace has asked from it is asked again."""
        flow = self._flows.get(path.flow)
        if flow is not None and flow.walk is not None and flow.carrier is not None:
            flow.carrier.end()
            flow.walk.give_way()

    def _lane(self, flow: TracedFlow) -> _Lane:
        return self._lanes.setdefault(flow.key.source_address, _Lane())

    def _come_soon(self, flow: TracedFlow) -> None:
        wait = _FIRST_SECONDS + _SPREAD_SECONDS * self._spread()
        flow.timer = self._loop.after(wait, lambda: self._on_period(flow))

    def _on_period(self, flow: TracedFlow) -> None:
        if not flow.carriers:
            return
        if self._loop.late_ns > LATEST_NS:  # with all the others that a stall kept waiting
            self._come_soon(flow)
            return
        flow.timer = self._loop.after(self._period * (0.9 + 0.2 * self._spread()), lambda: self._on_period(flow))
        if flow.walk is None:  # one longer under way than the period goes on
            lane = self._lane(flow)
            lane.waiting.setdefault(flow.key, flow)
            self._begin_next(lane)

    def _on_loss(self, flow: TracedFlow) -> None:
        """A probe of the flow was lost: trace it soon, some flows of a destination for all of them."""
        now = self._loop.clock()
        if flow.loss_ns and now - flow.loss_ns < _LOSS_AGAIN_SECONDS * 1e9:
            return
        if self._loss_turns.wait(flow.key.destination_address):
            return
        self._loss_turns.take(flow.key.destination_address)
        flow.loss_ns = now
        wait = _LOSS_FIRST_SECONDS + _LOSS_SPREAD_SECONDS * self._spread()
        flow.loss_timer = self._loop.after(wait, lambda: self._go_first(flow))

    def _go_first(self, flow: TracedFlow) -> None:
        if flow.carriers and flow.walk is None:
            lane = self._lane(flow)
            lane.waiting[flow.key] = flow
            lane.waiting.move_to_end(flow.key, last=False)
            self._begin_next(lane)

    def _begin_next(self, lane: _Lane) -> None:
        while lane.waiting and lane.under_way < self._at_once:
            _, flow = lane.waiting.popitem(last=False)
            self._begin(flow)

    def _begin(self, flow: TracedFlow) -> None:
        self._lane(flow).under_way += 1
        flow.carrier = next(iter(flow.carriers.values()))
        flow.paced, flow.turn_ns = 0, self._loop.clock()
        flow.walk = Walk(
            self._loop,
            lambda hop_limit: self._ask(flow, hop_limit),
            lambda walk: self._on_end(flow, walk),
            max_hops=self._max_hops if flow.last is None else min(flow.last.hops, self._max_hops),
            last=frozenset() if flow.last is None else flow.last.addresses,
        )
        flow.walk.start()

    def _ask(self, flow: TracedFlow, hop_limit: int) -> float:
        if flow.walk is None or flow.carrier is None:
            raise OSError("the trace is over")
        now = self._loop.clock()
        busy = max(carrier.busy() for carrier in flow.carriers.values())
        if busy:
            if now - flow.turn_ns > _LONGEST_BUSY_NS:
                raise TimeoutError("the port of the flow is always in use")
            return busy
        if flow.paced != hop_limit or self._loop.late_ns > LATEST_NS:  # after a stall all turns have come at once
            self._take_turn(flow, hop_limit, now)
        if now < flow.turn_ns:
            return (flow.turn_ns - now) / 1e9
        flow.paced = 0
        flow.carrier.ask(flow.walk, hop_limit)
        return 0.0

    def _take_turn(self, flow: TracedFlow, hop_limit: int, now_ns: int) -> None:
        switch = self._expiring_at(flow, hop_limit)
        wait = self._turns.take(switch) if switch is not None else 0.0
        flow.paced, flow.turn_ns = hop_limit, now_ns + int(wait * 1e9)
        if wait:
            self._counters.begin()
            self._counters.add(self._columns.delayed)
            self._counters.end()

    def _expiring_at(self, flow: TracedFlow, hop_limit: int) -> str | None:
        """The switch where a packet with this hop limit should end, by the last trace; None for the destination.

        Hops that nobody has met are counted by their position on the way from the source address.
        """
        if hop_limit <= len(flow.met):
            address = flow.met[hop_limit - 1]
            if address is not None:
                return self._switches.get(address, address)
        elif flow.met_end:
            return None
        return f"{flow.key.source_address}, hop {hop_limit}"

    def _forget_walk(self, flow: TracedFlow) -> None:
        """The walk of the flow has ended."""
        flow.walk = None
        if flow.carrier is not None:
            flow.carrier.end()
            flow.carrier = None
        lane = self._lane(flow)
        lane.under_way -= 1
        # Not at once: where nothing can be sent, all that wait would end within each other.
        self._loop.after(0, lambda: self._begin_next(lane))

    def _on_end(self, flow: TracedFlow, walk: Walk) -> None:
        self._forget_walk(flow)
        for place, address in enumerate(walk.hops):  # who answered out of turn has answered all the same
            if address is not None and self._expiring_at(flow, place + 1) != self._switches.get(address, address):
                self._turns.take(self._switches.get(address, address))
        if walk.reached or not flow.met_end:
            flow.met, flow.met_end = walk.hops, walk.reached
        self._on_trace(flow.key, walk)
        self._counters.begin()
        self._counters.add(self._columns.traces)
        if not walk.complete:
            self._counters.add(self._columns.incomplete)
        self._counters.end()
        if walk.complete:
            hops = [hop for hop in walk.hops if hop is not None]
            flow.recent.add(hops, self._loop.clock(), flow.last_loss_ns)
            if self._changes is not None:
                self._tell_change(self._changes, flow, hops)
            if self._may_replace(flow):
                self._replace(flow, None if flow.recent.sprayed else hops)
        self._tell_where_it_ended(flow, walk)

    def _tell_change(self, changes: RouteChanges, flow: TracedFlow, hops: Sequence[str]) -> None:
        if flow.recent.sprayed:
            flow.seen.forget()
            for path in flow.carriers:
                changes.forget(path)
            return
        before = flow.seen.take(hops, self._loop.clock())
        if before is not None:
            for path in flow.carriers:
                changes.book(path, (str(path.row.identity),), before, hops)

    def _replace(self, flow: TracedFlow, hops: list[str] | None) -> None:
        """Publish the flow's route, None where the fabric sprays it."""
        changed = flow.route_row is not None
        if flow.route_row is not None:
            if hops == flow.route:
                return
            self._routes.remove(flow.route_row)
        flow.route = hops
        source, source_port, destination, destination_port, protocol = flow.key
        labels = (source, str(source_port), destination, str(destination_port), protocol, json.dumps(hops))
        flow.route_row = self._routes.add(labels)
        for path in flow.carriers:
            path.book_route(math.nan if hops is None else route_hash(hops), changed=changed)
        self._count_sprayed(flow.key, sprayed=hops is None)

    def _count_sprayed(self, flow: Flow, *, sprayed: bool) -> None:
        (self._sprayed.add if sprayed else self._sprayed.discard)(flow)
        self._counters.set(self._columns.sprayed, len(self._sprayed))

    def _may_replace(self, flow: TracedFlow) -> bool:
        """Whether a complete trace may stand for the flow: it lost nothing around it, or has no route yet."""
        now = self._loop.clock()
        if not self._is_failing(flow.last_loss_ns):
            flow.frozen_since_ns = 0
            return True
        flow.frozen_since_ns = flow.frozen_since_ns or now
        return flow.route_row is None or now - flow.frozen_since_ns > FREEZE_LIMIT_SECONDS * 1e9

    def _is_failing(self, last_loss_ns: int) -> bool:
        return last_loss_ns != 0 and self._loop.clock() - last_loss_ns <= FREEZE_SECONDS * 1e9

    def _tell_where_it_ended(self, flow: TracedFlow, walk: Walk) -> None:
        """Of each path that loses probes: for the person who is woken. It is no vote."""
        answered = [hop for hop in walk.hops if hop is not None]
        last_hop, outcome = (answered[-1] if answered else ""), "silent"
        if walk.reached:
            last_hop, outcome = flow.key.destination_address if flow.last is None else last_hop, "reached"
        elif walk.unreachable_from is not None:
            last_hop, outcome = walk.unreachable_from, "unreachable"
        for path in flow.carriers:
            if path in flow.failing:
                self._failing.remove(flow.failing.pop(path))
            if self._is_failing(path.last_loss_ns):
                labels = (str(path.row.identity), json.dumps(walk.hops), last_hop, outcome)
                flow.failing[path] = self._failing.add(labels)
        if flow.failing and flow.failing_timer is None:
            flow.failing_timer = self._loop.after(FREEZE_SECONDS, lambda: self._forget_mended(flow))

    def _forget_mended(self, flow: TracedFlow) -> None:
        flow.failing_timer = None
        for path in [path for path in flow.failing if not self._is_failing(path.last_loss_ns)]:
            self._failing.remove(flow.failing.pop(path))
        if flow.failing:
            flow.failing_timer = self._loop.after(FREEZE_SECONDS / 3, lambda: self._forget_mended(flow))


def route_hash(hops: Sequence[str]) -> int:
    """52 bits of a digest over the hops, which a float64 holds exactly."""
    return int.from_bytes(blake2b("\n".join(hops).encode(), digest_size=7).digest()) >> 4
