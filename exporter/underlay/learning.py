"""Which outer source port an overlay's flows have: learnt by looking, because it cannot be computed.

Linux makes the port a hash of the inner flow, under a key that is drawn as the kernel boots; but for a connected socket
it takes a number drawn for the socket. So each TCP handshake has another port, and no route to be found, while
a prober's UDP sockets, which are unconnected, have one that stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from exporter.probing.packet import REQUEST, Codec
from exporter.underlay.encapsulation import Encapsulated, Inner, Outer, parse
from exporter.underlay.settings import FlowKey, OverlayFlow

_TURNS = 4
"""So often in a row a flow has another port than the packet before: it has none that stays."""
IDLE_SECONDS = 600.0
"""A flow that was not seen for so long is not traced any more: its prober is gone."""


class LearntFlow:
    """One flow that is looked for, and what was seen of it. Times are monotonic nanoseconds."""

    def __init__(self, plan: int) -> None:
        self.plan = plan
        self.outer: Outer | None = None
        """The tuple that its last two packets in a row had in common, if they still have one."""
        self.traffic_class = 0
        """Of the outer header, in the last packet."""
        self.seen_ns = 0
        self._last: Outer | None = None
        self._turns = 0

    def see(self, outer: Outer, traffic_class: int, now_ns: int) -> None:
        self.traffic_class, self.seen_ns = traffic_class, now_ns
        if outer == self._last:
            self.outer, self._turns = outer, 0
        else:
            self._turns += 1
        if self._turns >= _TURNS:
            self.outer = None
        self._last = outer

    def forget(self) -> None:
        self.outer = self._last = None


class Learner:
    """Sorts packets into the flows that plans name; what no plan names leaves nothing behind."""

    def __init__(self, port: int, tenants: Sequence[tuple[int | None, bytes]], clock: Callable[[], int]) -> None:
        """``tenants``: VXLAN network (None for any) and key of each plan's probers, in the order of the plans."""
        self.flows: dict[FlowKey, LearntFlow] = {}
        self.awaited: set[LearntFlow] = set()
        """Those of a look that were not seen yet under the tuple that is known."""
        self._port = port
        self._tenants = [(vni, Codec(key)) for vni, key in tenants]
        self._clock = clock
        self._by_inner: dict[Inner, list[LearntFlow]] = {}

    def follow(self, flows: Iterable[OverlayFlow]) -> None:
        """Look for these flows and no others; what is known of those that stay is kept."""
        self.flows = {flow.key: self.flows.get(flow.key) or LearntFlow(flow.plan) for flow in flows}
        by_inner: dict[Inner, list[LearntFlow]] = defaultdict(list)
        for (_, inner), learnt in self.flows.items():
            by_inner[inner].append(learnt)
        self._by_inner = dict(by_inner)

    def on_packet(self, packet: bytes) -> bool:
        """Whether the packet is a request of a flow that is looked for, under its key."""
        seen = parse(packet, self._port)
        if seen is None:
            return False
        # Tenants may use the same addresses: the VNI tells them apart, or else their keys.
        own = [learnt for learnt in self._by_inner.get(seen.inner, ()) if self._is_of(seen, learnt.plan)]
        for learnt in own:
            learnt.see(seen.outer, seen.traffic_class, self._clock())
            if learnt.outer == seen.outer:
                self.awaited.discard(learnt)
        return bool(own)

    def _is_of(self, seen: Encapsulated, plan: int) -> bool:
        vni, codec = self._tenants[plan]
        request = codec.parse(seen.payload) if vni in (None, seen.vni) else None
        return request is not None and request.kind == REQUEST

    def begin_look(self) -> None:
        """Await every flow; forget what was not seen for ``IDLE_SECONDS``."""
        oldest = self._clock() - int(IDLE_SECONDS * 1e9)
        for learnt in self.flows.values():
            if learnt.outer is not None and learnt.seen_ns < oldest:
                learnt.forget()
        self.awaited = set(self.flows.values())
