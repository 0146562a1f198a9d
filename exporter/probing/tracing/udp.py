"""UDP traces: requests from the flow's own socket. A trace ends when the responder itself replies."""

from __future__ import annotations

import time

from exporter.probing.packet import TRACE, Packet, quoted_sequence
from exporter.probing.paths import Flow
from exporter.probing.sockets import Datagram, IcmpError, send_options
from exporter.probing.tracing.walk import Walk
from exporter.probing.udp import SHORTEST_NS, FlowSocket, UdpProber


class UdpTraces:
    """The requests of traces under way, by what their answers are known by."""

    def __init__(self, prober: UdpProber) -> None:
        prober.tracing = self
        self.prober = prober
        self.by_destination: dict[tuple[FlowSocket, tuple[str, int]], UdpCarrier] = {}
        self.by_sequence: dict[int, UdpCarrier] = {}

    def on_icmp(self, flow: FlowSocket, error: IcmpError) -> bool:
        carrier = self.by_destination.get((flow, error.destination))
        return carrier is not None and carrier.on_icmp(error)

    def on_reply(self, packet: Packet, datagram: Datagram) -> bool:
        carrier = self.by_sequence.get(packet.sequence)
        return carrier is not None and carrier.on_reply(packet, datagram)


class UdpCarrier:
    """Sends the requests of a flow's traces."""

    def __init__(self, traces: UdpTraces, flow: Flow, traffic_class: int, socket: FlowSocket) -> None:
        self._traces = traces
        self._flow = flow
        self._traffic_class = traffic_class
        self._socket = socket
        self._walk: Walk | None = None
        self._sequence = 0
        self._unix_ns = 0
        self._monotonic_ns = 0

    def busy(self) -> float:
        return 0.0

    def ask(self, walk: Walk, hop_limit: int) -> None:
        self.end()
        prober = self._traces.prober
        self._walk = walk
        self._sequence = prober.next_sequence()
        self._traces.by_sequence[self._sequence] = self
        self._traces.by_destination[self._socket, self._flow.destination] = self
        packet = prober.codec.request(TRACE, self._sequence, 0)
        options = send_options(self._traffic_class, hop_limit)
        self._unix_ns, self._monotonic_ns = time.time_ns(), time.monotonic_ns()
        self._socket.send([packet], options, self._flow.destination)

    def end(self) -> None:
        self._walk = None
        self._traces.by_sequence.pop(self._sequence, None)
        self._traces.by_destination.pop((self._socket, self._flow.destination), None)

    def on_icmp(self, error: IcmpError) -> bool:
        """Whether the error was about our request."""
        quoted = quoted_sequence(error.quoted)
        if self._walk is None or quoted not in (self._sequence, None):
            return False  # a late answer to an earlier hop, or about an ordinary probe
        if error.kind == "time_exceeded":
            self._walk.on_hop(error.offender, self._round_trip(error.received_ns))
        elif quoted is None or error.kind == "too_big":
            return False
        elif error.offender == self._flow.destination_address:
            self._walk.on_destination(self._round_trip(error.received_ns))  # no responder listens, but the way is known
        else:
            self._walk.on_unreachable(error.offender)
        return True

    def on_reply(self, packet: Packet, datagram: Datagram) -> bool:
        if self._walk is None or datagram.address != self._flow.destination:
            return False
        rtt_ns = self._round_trip(datagram.received_ns)
        self._walk.on_destination(None if rtt_ns is None else max(rtt_ns - packet.delay, SHORTEST_NS))
        return True

    def _round_trip(self, received_ns: int | None) -> int | None:
        return round_trip(self._unix_ns, self._monotonic_ns, received_ns)


def round_trip(unix_ns: int, monotonic_ns: int, received_ns: int | None) -> int | None:
    """From just before a packet was sent, by both clocks, to when the kernel received its answer; None if unknown."""
    if received_ns is None:
        return None
    # The kernel's time is wall-clock: a step between the two shows as a time that cannot be.
    rtt_ns = received_ns - unix_ns
    return rtt_ns if 0 < rtt_ns <= time.monotonic_ns() - monotonic_ns else None
