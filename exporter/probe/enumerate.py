"""``--ecmp``: traces one flow after the other, each from another source port, until no hop may hide another way."""

from __future__ import annotations

import errno
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.plan import Target
from exporter.probe.multipath import CONFIDENCE, Multipath
from exporter.probe.request import Request
from exporter.probe.session import TRACE_PACKETS_PER_SECOND
from exporter.probe.statistics import HopRoundTrips
from exporter.probe.units import percent
from exporter.probing.limits import Pace
from exporter.probing.loop import Loop
from exporter.probing.packet import Codec
from exporter.probing.paths import flow_of
from exporter.probing.tracing.udp import UdpCarrier, UdpTraces
from exporter.probing.tracing.walk import Walk
from exporter.probing.udp import FlowSocket, UdpProber

_AT_ONCE = 8
_PORTS = range(49152, 65536)
"""The dynamic ports (RFC 6335), where none were given."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A route that flows took; null for a hop that was silent."""

    hops: tuple[str | None, ...]
    source_ports: list[int]


class WayHop(msgspec.Struct, frozen=True, kw_only=True):
    """One address at one distance: how many flows met it, where they went on, and whether there may be more ways."""

    hop: int
    address: str
    flows: int
    share_ratio: float
    next_hops: dict[str, int]
    conclusive: bool
    rtt_seconds: HopRoundTrips | None


class Enumeration(msgspec.Struct, frozen=True, kw_only=True):
    """The ways to one destination."""

    version: int = 1
    type: str = "ecmp"
    destination: str
    destination_address: str
    destination_port: int
    source_address: str
    flows: int
    reached: int
    """Flows that the destination itself answered."""
    confidence_ratio: float
    conclusive: bool
    hops: list[WayHop]
    routes: list[Way]


class Enumerator:
    """Traces the flows of one target. ``run`` returns when the ways are known, or the ports or flows are used up."""

    def __init__(
        self, request: Request, target: Target, ports: Sequence[int], most_flows: int, show: Callable[[Multipath], None]
    ) -> None:
        """``ports`` are the source ports to take, any if empty; ``show`` is called after each trace."""
        self._request = request
        self._target = target
        self._ports = iter(ports or random.sample(_PORTS, len(_PORTS)))
        self._most_flows = most_flows
        self._show = show
        self._loop = Loop()
        self._prober = UdpProber(self._loop, Codec(request.key), request.timeout)
        self._traces = UdpTraces(self._prober)
        self._pace = Pace(TRACE_PACKETS_PER_SECOND, clock=self._loop.clock)
        self._under_way = 0
        self._begun = 0
        self._reached = 0
        self._rtts: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.ways = Multipath(target.source_address)

    def run(self) -> None:
        """Raise ContractError when no flow can be traced."""
        self._begin_more()
        self._loop.run()

    def _begin_more(self) -> None:
        while self._under_way < _AT_ONCE and self._begun < self._most_flows and not self.ways.conclusive:
            socket = self._next_socket()
            if socket is None:
                break
            self._begin(socket)
        if not self._under_way:
            self._loop.stop()

    def _next_socket(self) -> FlowSocket | None:
        """That of the next port which is free; None when there is none left."""
        for port in self._ports:
            try:
                return self._prober.acquire(self._target.source_address, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    where = f"{self._target.source_address}: {error.strerror or error}"
                    raise ContractError("--source", where) from error
        return None

    def _begin(self, socket: FlowSocket) -> None:
        target = self._target
        flow = flow_of(msgspec.structs.replace(target, source_ports=(socket.port,)))
        carrier = UdpCarrier(self._traces, flow, target.traffic_class, socket)

        def ask(hop_limit: int) -> float:
            wait = self._pace.wait(str(hop_limit))
            if not wait:
                self._pace.take(str(hop_limit))
                carrier.ask(walk, hop_limit)
            return wait

        def end(walk: Walk) -> None:
            carrier.end()
            self._loop.after(0, lambda: self._on_end(socket, walk))  # the socket is being read

        walk = Walk(self._loop, ask, end, max_hops=self._request.max_hops)
        self._begun += 1
        self._under_way += 1
        self._loop.after(0, walk.start)

    def _on_end(self, socket: FlowSocket, walk: Walk) -> None:
        self._prober.release(socket)
        self._under_way -= 1
        hops = list(walk.hops)
        if walk.reached:
            self._reached += 1
            hops.append(self._target.destination_address)
        while hops and hops[-1] is None:
            hops.pop()
        for number, (hop, rtt_ns) in enumerate(zip(hops, walk.rtts_ns, strict=False), 1):
            if hop is not None and rtt_ns is not None:
                self._rtts[number, hop].append(rtt_ns / 1e9)
        self.ways.add(socket.port, hops)
        self._show(self.ways)
        self._begin_more()

    def result(self) -> Enumeration:
        target, ways = self._target, self.ways
        met: dict[tuple[int, str], int] = defaultdict(int)
        for hops, ports in ways.routes.items():
            for number, hop in enumerate(hops, 1):
                if hop is not None:
                    met[number, hop] += len(ports)
        return Enumeration(
            destination=target.destination,
            destination_address=target.destination_address,
            destination_port=target.destination_port,
            source_address=target.source_address,
            flows=ways.flows,
            reached=self._reached,
            confidence_ratio=CONFIDENCE,
            conclusive=ways.conclusive and bool(met),
            hops=[
                WayHop(
                    hop=number,
                    address=address,
                    flows=flows,
                    share_ratio=round(flows / ways.flows, 4),
                    next_hops=dict(ways.next_hops[number, address].most_common()),
                    conclusive=(number, address) not in ways.undecided,
                    rtt_seconds=HopRoundTrips.of(self._rtts[number, address]),
                )
                for (number, address), flows in sorted(met.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
            ],
            routes=[Way(hops=hops, source_ports=sorted(ports)) for hops, ports in ways.routes.items()],
        )


def lines(found: Enumeration) -> list[str]:
    """The result as a table."""
    sure = f"{percent(found.confidence_ratio)} confidence at each hop"
    if not found.conclusive:
        sure = "not conclusive: there may be more (trace more flows: --max-flows, --source-port)"
    if not found.hops:
        sure = "no hop answered"
    ways = f"{len(found.routes)} {'way' if len(found.routes) == 1 else 'ways'}"
    text = [
        f"{found.destination} port {found.destination_port}: {ways} by {found.flows} flows, {sure}",
        "hop  address          flows    share  next hops  round trip min/median/max",
    ]
    for hop in found.hops:
        onward = "-" if hop.address == found.destination_address else str(len(hop.next_hops) or "silent")
        onward += "" if hop.conclusive else " or more"
        text.append(
            f"{hop.hop:>3}  {hop.address:<15}  {hop.flows:>5}  {percent(hop.share_ratio):>7}  {onward:<9}  "
            + ("-" if (trips := hop.rtt_seconds) is None else trips.text())
        )
    if not found.reached:
        text.append("the destination answered no trace: is fabric-exporter running there, under the key of --key-file?")
    elif found.reached < found.flows:
        text.append(f"{found.flows - found.reached} of {found.flows} flows were not answered by the destination")
    return text
