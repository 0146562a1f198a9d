"""UDP probes: requests over shared flow sockets, round trips from kernel timestamps.

Network round trip = (T5 - T2) - (T4 - T3), as in R-Pingmesh (SIGCOMM'24): T2 and T5 are the kernel's
transmit and receive times here, T4 - T3 is the responder's delay, which it reports. No clock of two
hosts is ever compared.

The kernel also tells the network's delay from our own. A reply that waited in the socket while we had no CPU is an
answer, timed as it arrived; a probe whose timeout passed meanwhile gets a grace before it is judged.
"""

from __future__ import annotations

import errno
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence, Set
from typing import Protocol

from exporter.probing.loop import FEW, LATE_NS, SLOT_NS, Loop
from exporter.probing.mtu.local import local_mtu
from exporter.probing.packet import REPLY, REQUEST, Codec, Packet, quoted_sequence
from exporter.probing.paths import Path, packet_bytes
from exporter.probing.sockets import (
    Datagram,
    IcmpError,
    TransmitTime,
    count_anew,
    error_queue,
    open_flow,
    receive,
    send_options,
)

SHORTEST_NS = 1000
"""A shorter round trip, as of loopback, is told as this: no responder knows better when its reply leaves."""
_PADDING = bytes(65536)
_DRAIN = 4096
_TIMES_AWAITED = 1024
_GRACE_SECONDS = 0.05
"""After a stall: where the whole machine stood still, the kernel needs a moment to hand over what had arrived."""
_TIME_SLACK_NS = 50_000_000
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})


class _Outstanding:
    """A probe that waits for its reply."""

    __slots__ = ("flow", "kernel_ns", "monotonic_ns", "path", "sending_ns", "starved", "unix_ns")

    def __init__(self, path: Path, flow: FlowSocket, unix_ns: int, monotonic_ns: int, starved: bool) -> None:
        self.path = path
        self.flow = flow
        self.unix_ns = unix_ns
        self.monotonic_ns = monotonic_ns
        self.kernel_ns = 0
        self.sending_ns = 0
        self.starved = starved


class Tracing(Protocol):
    """Where a flow socket hands what belongs to a trace."""

    def on_icmp(self, flow: FlowSocket, error: IcmpError) -> bool: ...

    def on_reply(self, packet: Packet, datagram: Datagram) -> bool: ...


class Registering(Protocol):
    """Where a flow socket hands what answers a greeting."""

    def on_reply(self, sequence: int, address: tuple[str, int]) -> bool: ...


class MtuSearching(Protocol):
    """Where the prober hands what tells the MTU of a path."""

    def on_answer(self, path: Path) -> None: ...

    def on_loss(self, path: Path, starved: bool) -> None: ...

    def on_too_large_here(self, path: Path, mtu: int) -> None: ...

    def on_too_big(self, flow: FlowSocket, error: IcmpError, path: Path | None) -> None: ...

    def on_reply(self, sequence: int, address: tuple[str, int]) -> bool: ...


def padded(packet: bytes, payload_bytes: int) -> list[bytes]:
    """The parts of a datagram: a packet filled up with zeros."""
    return [packet, _PADDING[: payload_bytes - len(packet)]] if payload_bytes > len(packet) else [packet]


class FlowSocket:
    """One (source address, source port), probing any number of destinations."""

    def __init__(self, prober: UdpProber, address: str, port: int) -> None:
        self.address = address
        self.port = port
        self.users = 0
        self._prober = prober
        self._socket = open_flow(address, port)
        self._transmitted = 0
        self._dropped = 0
        self._awaiting_time: dict[int, _Outstanding] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, parts: list[bytes], options: list[tuple[int, int, bytes]], destination: tuple[str, int]) -> None:
        """Send one datagram; raise OSError.

        The first error may be an ICMP one still pending on the socket, earned by another destination.
        """
        for is_last in (False, True):
            try:
                self._socket.sendmsg(parts, options, 0, destination)
                break
            except OSError:
                # Many kernels number what they did not send as well: each time would be taken for a later probe's.
                count_anew(self._socket)
                self._transmitted = 0
                self._awaiting_time.clear()
                if is_last:
                    raise
        self._transmitted += 1
        self._prober.expect_answer()

    def send_probe(self, probe: _Outstanding, parts: list[bytes], options: list[tuple[int, int, bytes]]) -> None:
        target = probe.path.target
        self.send(parts, options, (target.destination_address, target.destination_port))
        self._awaiting_time[(self._transmitted - 1) & 0xFFFFFFFF] = probe

    def on_input(self) -> None:
        self._receive(1)  # a flow is seldom answered twice between two looks, and to ask in vain costs as much

    def _receive(self, limit: int) -> None:
        for datagram in receive(self._socket, limit):
            if datagram.dropped != self._dropped:
                self._prober.on_dropped((datagram.dropped - self._dropped) & 0xFFFFFFFF)
                self._dropped = datagram.dropped
            self._prober.on_datagram(datagram)

    def drain(self) -> None:
        """Take in all that waits, bounded: a flood must not hold the loop."""
        self._read_errors(_DRAIN, whole=True)
        self._receive(_DRAIN)

    def on_output(self) -> None:
        """Never asked for: a datagram socket is written without waiting."""

    def on_error(self) -> None:
        self._read_errors(_TIMES_AWAITED)  # all that may wait: a reply needs the transmit time of its probe

    def _read_errors(self, limit: int, *, whole: bool = False) -> None:
        for item in error_queue(self._socket, limit):
            if isinstance(item, TransmitTime):
                probe = self._awaiting_time.pop(item.number, None)
                # A count that has slipped would pair a probe with another's time, which lies before it, or far off.
                if probe is not None and 0 <= item.sent_ns - probe.unix_ns < _TIME_SLACK_NS + probe.sending_ns:
                    probe.kernel_ns = item.sent_ns
                if not self._awaiting_time and not whole:
                    break  # an error that may follow is still there at the next look
            elif self._prober.tracing is None or not self._prober.tracing.on_icmp(self, item):
                self._prober.on_icmp(self, item)
        if len(self._awaiting_time) > _TIMES_AWAITED:  # times that never came (a driver without support)
            self._awaiting_time.clear()


class UdpProber:
    """Sends UDP and MTU probes and books what comes back.

    ``on_starved`` is called for each probe that was sent or judged late for want of CPU, with whether it could be
    judged at all; ``on_dropped`` with the number of packets that found a socket full.
    """

    def __init__(
        self,
        loop: Loop,
        codec: Codec,
        timeout_seconds: float,
        on_starved: Callable[[bool], None] = lambda _: None,
        on_dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.on_dropped = on_dropped
        self.tracing: Tracing | None = None
        self.registration: Registering | None = None
        self.path_mtu: MtuSearching | None = None
        self.codec = codec
        self._loop = loop
        self._on_starved = on_starved
        self._timeout_ns = int(timeout_seconds * 1e9)
        self._flows: dict[tuple[str, int], FlowSocket] = {}
        self._sequence = secrets.randbits(48)
        self._outstanding: dict[int, _Outstanding] = {}
        self._by_age: deque[tuple[int, int]] = deque()  # (monotonic ns, sequence)
        self._expires_ns = 0  # what is sent before this has a time-out already
        self._look_until_ns = 0  # and before this, a look for its answer

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def expect_answer(self) -> None:
        """Something was sent now that may be answered."""
        now = self._loop.clock()
        if now >= self._look_until_ns:
            self._look_until_ns = now + SLOT_NS
            self._loop.look_by(self._look_until_ns + SLOT_NS)

    def acquire(self, address: str, port: int) -> FlowSocket:
        """The socket of a flow, opened at its first user; raise OSError (address not ours, port taken)."""
        flow = self._flows.get((address, port))
        if flow is None:
            flow = self._flows[address, port] = FlowSocket(self, address, port)
            self._loop.watch_for_answers(flow)
        flow.users += 1
        return flow

    def release(self, flow: FlowSocket) -> None:
        flow.users -= 1
        if flow.users == 0:
            self._loop.forget(flow)
            flow.close()
            del self._flows[flow.address, flow.port]

    def send(self, path: Path, flow: FlowSocket) -> None:
        """Send one probe on ``path`` now."""
        target = path.target
        sequence = self.next_sequence()
        parts = padded(self.codec.request(REQUEST, sequence, path.token), target.payload_bytes)
        probe = _Outstanding(path, flow, time.time_ns(), self._loop.clock(), self._loop.late_ns > LATE_NS)
        try:
            flow.send_probe(probe, parts, send_options(target.traffic_class))
        except OSError as error:
            self._on_send_error(probe, error)
            return
        probe.sending_ns = self._loop.clock() - probe.monotonic_ns
        probe.starved |= probe.sending_ns > LATE_NS
        path.book_sent()
        self._outstanding[sequence] = probe
        self._by_age.append((probe.monotonic_ns, sequence))
        if probe.monotonic_ns >= self._expires_ns:
            self._expires_ns = probe.monotonic_ns + FEW * SLOT_NS
            self._loop.at(self._expires_ns + self._timeout_ns, self._expire, every=FEW)

    def _on_send_error(self, probe: _Outstanding, error: OSError) -> None:
        path = probe.path
        if error.errno == errno.EMSGSIZE:
            # Our own interface is smaller than what the path promises: the promise is broken here.
            mtu = local_mtu(path.target.source_address, path.target.destination_address)
            if mtu is not None and mtu < packet_bytes(path.target):  # else the socket repeats what a router said
                path.book_reported_mtu(mtu)
                if self.path_mtu is not None:
                    self.path_mtu.on_too_large_here(path, mtu)
        elif error.errno not in _NO_ROUTE:  # ENOBUFS, EPERM, EAGAIN, ...: the host's trouble
            path.book_unsent()
            return
        path.book_sent()
        self._book_loss(probe, probe.monotonic_ns, starved=False)

    def _book_loss(self, probe: _Outstanding, now_ns: int, *, starved: bool) -> None:
        probe.path.book_loss(probe.unix_ns, now_ns, starved)
        if self.path_mtu is not None:
            self.path_mtu.on_loss(probe.path, starved)

    def _expire(self) -> None:
        now = self._loop.clock()
        due: list[int] = []
        late: list[int] = []
        while self._by_age and self._by_age[0][0] + self._timeout_ns <= now:
            sent_ns, sequence = self._by_age.popleft()
            stalled = now - sent_ns - self._timeout_ns > 2 * FEW * SLOT_NS + LATE_NS  # its slot began within so many
            (late if stalled else due).append(sequence)
        self._judge(due)
        if late:
            self._drain(late)
            self._loop.after(_GRACE_SECONDS, lambda: self._judge(late, now))

    def _drain(self, sequences: Sequence[int]) -> None:
        """Read what waits for these probes: after a stall replies may lie in the socket that came in time."""
        for flow in {self._outstanding[sequence].flow for sequence in sequences if sequence in self._outstanding}:
            flow.drain()

    def _judge(self, sequences: Sequence[int], woke_ns: int | None = None) -> None:
        """Book as lost what was not answered; after a stall that ended at ``woke_ns`` (monotonic), with care.

        A stall as long as the timeout is no evidence of the network: had it been the machine's, packets that came in
        meanwhile had nobody to take them. A shorter one is: else a host that is always a little late would see nothing.
        """
        self._drain(sequences)
        now = self._loop.clock()
        for sequence in sequences:
            probe = self._outstanding.pop(sequence, None)
            if probe is None:
                continue
            judged = woke_ns is None or woke_ns - probe.monotonic_ns < 2 * self._timeout_ns
            starved = probe.starved or woke_ns is not None
            if starved:
                self._on_starved(judged)
            if judged:
                self._book_loss(probe, now, starved=starved)
            else:
                probe.path.leave_unjudged(probe.unix_ns)

    def on_datagram(self, datagram: Datagram) -> None:
        packet = self.codec.parse(datagram.data)
        if packet is None or packet.kind != REPLY:
            return
        probe = self._outstanding.get(packet.sequence)
        if probe is None:
            if self.tracing is not None and self.tracing.on_reply(packet, datagram):
                return
            for asked in (self.registration, self.path_mtu):
                if asked is not None and asked.on_reply(packet.sequence, datagram.address):
                    break
            return
        target = probe.path.target
        if (
            datagram.address != (target.destination_address, target.destination_port)
            or packet.token != probe.path.token
        ):
            return
        del self._outstanding[packet.sequence]
        probe.path.reconcile(packet.answered, packet.epoch, packet.stream)
        elapsed = self._loop.clock() - probe.monotonic_ns
        rtt = (datagram.received_ns or 0) - (probe.kernel_ns or probe.unix_ns)
        # Kernel times are wall-clock: a step between the two shows as a time that cannot be. Ours is late, and says so.
        measured = 0 < rtt <= elapsed
        starved = probe.starved or self._loop.late_ns > LATE_NS or not measured
        if starved:
            self._on_starved(True)
        trip = max((rtt if measured else elapsed) - packet.delay, SHORTEST_NS)
        probe.path.book_answer(trip, probe.unix_ns, starved)
        if self.path_mtu is not None:
            self.path_mtu.on_answer(probe.path)

    def on_icmp(self, flow: FlowSocket, error: IcmpError) -> None:
        sequence = quoted_sequence(error.quoted)
        probe = None if sequence is None else self._outstanding.get(sequence)
        if probe is not None and error.destination[0] != probe.path.target.destination_address:
            return
        if error.kind == "too_big":
            if probe is not None:
                probe.path.book_reported_mtu(error.mtu)  # booked as lost when its time is up
            if self.path_mtu is not None:
                self.path_mtu.on_too_big(flow, error, None if probe is None else probe.path)
        elif sequence is None or probe is None:
            return
        elif error.kind == "refused" and error.offender == probe.path.target.destination_address:
            del self._outstanding[sequence]
            probe.path.book_refusal(probe.unix_ns)

    def forget(self, gone: Set[Path]) -> None:
        """Drop the outstanding probes of paths that are no longer planned. O(outstanding): call once for them all."""
        self._outstanding = {s: probe for s, probe in self._outstanding.items() if probe.path not in gone}
