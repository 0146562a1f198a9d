"""TCP probes: the handshake's round trip as the kernel measured it (tcp_info, tcp(7)), then an echo on its connection.

A segment that the kernel has to send again is no lost probe: it is counted apart, and gives no round trip, since
nobody knows which of the two was answered (Karn's algorithm, RFC 6298, section 3).
"""

from __future__ import annotations

import errno
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from exporter.probing.loop import LATE_NS, SLOT_NS, Loop
from exporter.probing.packet import ECHO, PACKET_BYTES, REPLY, Codec
from exporter.probing.paths import Path
from exporter.probing.sockets import TransmitTime, error_queue, receive_bytes, time_stream
from exporter.probing.udp import SHORTEST_NS

SYN_RETRANSMIT_SECONDS = 1.0
"""After so long without an answer the kernel sends the SYN again (RFC 6298, 2.1): nothing makes it wait less."""
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing with a reset leaves no TIME_WAIT behind, and the same source port is needed again."""
_TCP_INFO_LAST_ACK, _TCP_INFO_RTT, _TCP_INFO_RETRANSMITS, _TCP_INFO_BYTES = 56, 68, 100, 104
_JIFFY_NS = 10_000_000
_ERRORS_READ = 8


class _TcpInfo(NamedTuple):
    rtt_ns: int
    """Smoothed; of a connection that has carried nothing yet, the handshake's. 0 is none."""
    retransmits: int
    """Segments sent again since the socket was made, SYNs among them."""
    answered_ns_ago: int
    """Since the last acknowledgement, to a jiffy."""


def _tcp_info(connection: socket.socket) -> _TcpInfo:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    rtt_us, retransmits, ago_ms = (
        struct.unpack_from("=I", info, offset)[0]
        for offset in (_TCP_INFO_RTT, _TCP_INFO_RETRANSMITS, _TCP_INFO_LAST_ACK)
    )
    return _TcpInfo(rtt_us * 1000, retransmits, ago_ms * 1_000_000)


class Handshake:
    """One connection attempt. It ends in exactly one booking, answer, refusal or loss, unless it is abandoned.

    Or in none, where the process stood still for so long that nobody can tell; ``on_starved`` is as of ``UdpProber``.
    The first SYN and the one that the kernel sends a second later have ``timeout_seconds`` each: an answer to either
    is an answer. With a ``codec``, and a target of a packet's payload at least, an echo follows on the connection.
    """

    def __init__(
        self,
        loop: Loop,
        path: Path,
        timeout_seconds: float,
        on_starved: Callable[[bool], None] = lambda _: None,
        codec: Codec | None = None,
    ) -> None:
        self._loop = loop
        self._path = path
        self._patience_seconds = timeout_seconds
        self._timeout_ns = int((timeout_seconds + SYN_RETRANSMIT_SECONDS) * 1e9)
        self._on_starved = on_starved
        self._codec = codec
        self._echo: Echo | None = None
        self._starved = loop.late_ns > LATE_NS
        target = path.target
        self._unix_ns = time.time_ns()
        self._started_ns = loop.clock()
        self._done = False
        try:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        except OSError:  # out of descriptors: the host's trouble
            self._done = True
            path.book_unsent()
            return
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, target.traffic_class)
            self._socket.bind((target.source_address, target.source_ports[0]))
            error = self._socket.connect_ex((target.destination_address, target.destination_port))
        except OSError:
            self._done = True
            self._socket.close()
            path.book_unsent()
            return
        if error not in (0, errno.EINPROGRESS):
            self._done = True
            self._socket.close()
            if error in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
                path.book_sent()
                path.book_loss(self._unix_ns, self._started_ns)
            else:
                path.book_unsent()
            return
        path.book_sent()
        loop.watch(self, output=True)
        self._timer = loop.at(self._started_ns + self._timeout_ns, self._on_timeout)

    @property
    def under_way(self) -> bool:
        return not self._done or (self._echo is not None and self._echo.under_way)

    def fileno(self) -> int:
        return self._socket.fileno()

    def abandon(self) -> None:
        """Book nothing more: the path is no longer planned, and its row may be another's by now."""
        if self._finish():
            self._socket.close()
        elif self._echo is not None:
            self._echo.abandon()

    def _finish(self) -> bool:
        if self._done:
            return False
        self._done = True
        self._loop.cancel(self._timer)
        self._loop.forget(self)
        return True

    def on_output(self) -> None:
        if not self._finish():
            return
        elapsed = self._loop.clock() - self._started_ns
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        info = self._take_info()
        if error in (0, errno.ECONNRESET):  # what is reset was there: a SYN is refused instead
            answered_ns = elapsed - info.answered_ns_ago
            if answered_ns > self._timeout_ns + _JIFFY_NS:
                self._book_loss()  # while nobody looked, but too late
            else:
                self._book_answer(info, elapsed)
                if error == 0 and self._codec is not None and self._path.target.payload_bytes >= PACKET_BYTES:
                    patience, connection = self._patience_seconds, self._socket
                    self._echo = Echo(self._loop, self._path, connection, self._codec, patience, info.retransmits)
                    return
                if error and elapsed < self._timeout_ns:  # else its far end was tired of waiting for us
                    self._path.book_reset()
                    self._path.book_echo(None, 0)
        elif error == errno.ECONNREFUSED:
            self._path.book_refusal(self._unix_ns)
        else:
            self._book_loss()
        self._socket.close()

    def _take_info(self) -> _TcpInfo:
        info = _tcp_info(self._socket)
        if info.retransmits:
            self._path.book_syn_retransmits(info.retransmits)
        return info

    def _book_answer(self, info: _TcpInfo, elapsed_ns: int) -> None:
        if info.retransmits:
            self._path.book_answer(None, self._unix_ns, self._is_starved(0))
        else:
            rtt_ns = info.rtt_ns or elapsed_ns
            self._path.book_answer(rtt_ns, self._unix_ns, self._is_starved(elapsed_ns - rtt_ns))

    def _is_starved(self, waited_ns: int) -> bool:
        """Whether it was sent late, or handled ``waited_ns`` too late; counts it if so."""
        starved = self._starved or waited_ns > LATE_NS
        if starved:
            self._on_starved(True)
        return starved

    def _book_loss(self) -> None:
        now = self._loop.clock()
        late_ns = now - self._started_ns - self._timeout_ns - SLOT_NS
        self._path.book_loss(self._unix_ns, now, self._is_starved(late_ns))

    on_input = on_output
    on_error = on_output

    def _on_timeout(self) -> None:
        answer = select.poll()
        answer.register(self._socket, select.POLLOUT)
        if answer.poll(0):  # it came while the process stood still
            self.on_output()
        elif self._finish():
            self._take_info()
            # As of UDP: to have stood still for as long as the timeout is no evidence of the network.
            late_ns = self._loop.clock() - self._started_ns - self._timeout_ns
            if late_ns < self._patience_seconds * 1e9:
                self._book_loss()
            else:
                self._on_starved(False)
                self._path.leave_unjudged(self._unix_ns)
            self._socket.close()


class Echo:
    """One keyed request and its reply on ``connection``, which it closes.

    It is no probe of its own: the handshake was answered, and what says nothing here may be no responder, or an older
    one. Its round trip is timed as that of UDP probes. ``retransmits`` is how many segments were sent again before.
    """

    def __init__(
        self,
        loop: Loop,
        path: Path,
        connection: socket.socket,
        codec: Codec,
        timeout_seconds: float,
        retransmits: int,
    ) -> None:
        self._loop = loop
        self._path = path
        self._socket = connection
        self._codec = codec
        self._retransmits = retransmits
        self._sequence = secrets.randbits(64)
        self._received = b""
        self._kernel_ns = 0
        self._unix_ns, self._monotonic_ns = time.time_ns(), loop.clock()
        self.under_way = True
        self._timer = loop.after(timeout_seconds, self._on_timeout)
        loop.watch(self)
        try:
            time_stream(connection)
            connection.send(codec.request(ECHO, self._sequence, path.token))  # whole: its buffer is empty
        except OSError as error:
            self._on_broken(error)

    def fileno(self) -> int:
        return self._socket.fileno()

    def abandon(self) -> None:
        """Book nothing more."""
        if self.under_way:
            self.under_way = False
            self._loop.cancel(self._timer)
            self._loop.forget(self)
            self._socket.close()

    def on_error(self) -> None:
        for item in error_queue(self._socket, _ERRORS_READ):
            if isinstance(item, TransmitTime):
                self._kernel_ns = self._kernel_ns or item.sent_ns

    def on_input(self) -> None:
        self.on_error()  # the reply needs the transmit time of its request
        try:
            data, received_ns = receive_bytes(self._socket, PACKET_BYTES + 1 - len(self._received))
        except BlockingIOError:
            return
        except OSError as error:
            self._on_broken(error)
            return
        self._received += data
        if not data or len(self._received) > PACKET_BYTES:  # closed without a reply; too long for one
            self._end(None)
        elif len(self._received) == PACKET_BYTES:
            self._on_reply(received_ns)

    def on_output(self) -> None:
        """Never asked for: the request fits into the socket's buffer."""

    def _on_reply(self, received_ns: int | None) -> None:
        packet = self._codec.parse(self._received)
        if packet is None or (packet.kind, packet.sequence, packet.token) != (REPLY, self._sequence, self._path.token):
            self._end(None)
            return
        elapsed = self._loop.clock() - self._monotonic_ns
        if received_ns:
            rtt = received_ns - (self._kernel_ns or self._unix_ns)
            # Kernel times are wall-clock: a step between the two shows as a time that cannot be.
            if 0 < rtt <= elapsed:
                elapsed = rtt
        self._path.notice_epoch(packet.epoch)
        self._end(max(elapsed - packet.delay, SHORTEST_NS))

    def _on_broken(self, error: OSError) -> None:
        if error.errno in (errno.ECONNRESET, errno.EPIPE):
            self._path.book_reset()
        self._end(None)

    def _on_timeout(self) -> None:
        self.on_input()  # what came while the process stood still
        if self.under_way:
            self._end(None)

    def _end(self, rtt_ns: int | None) -> None:
        segments = _tcp_info(self._socket).retransmits - self._retransmits
        self._path.book_echo(None if segments else rtt_ns, segments)
        self.abandon()
