"""TCP probes: the handshake's round trip as the kernel measured it (tcp_info, tcp(7))."""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable

from exporter.probing.loop import LATE_NS, SLOT_NS, Loop
from exporter.probing.paths import Path

_TCP_INFO_RTT, _TCP_INFO_RETRANSMITS, _TCP_INFO_BYTES = 68, 100, 104
_HOLD_SECONDS = 1.0
_MAX_CONNECTIONS = 64
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Handshake:
    """One connection attempt. It ends in exactly one booking, answer, refusal or loss, unless it is abandoned.

    Or in none, where the process stood still for so long that nobody can tell; ``on_starved`` is as of ``UdpProber``.
    """

    def __init__(
        self, loop: Loop, path: Path, timeout_seconds: float, on_starved: Callable[[bool], None] = lambda _: None
    ) -> None:
        self._loop = loop
        self._path = path
        self._timeout_ns = int(timeout_seconds * 1e9)
        self._on_starved = on_starved
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
            # Closing with a reset leaves no TIME_WAIT behind: the same source port is needed again.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
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
        self._timer = loop.after(timeout_seconds, self._on_timeout)

    @property
    def under_way(self) -> bool:
        return not self._done

    def fileno(self) -> int:
        return self._socket.fileno()

    def abandon(self) -> None:
        """Book nothing more: the path is no longer planned, and its row may be another's by now."""
        if self._finish():
            self._socket.close()

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
        if error == 0:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            rtt_ns = struct.unpack_from("=I", info, _TCP_INFO_RTT)[0] * 1000
            retransmits = struct.unpack_from("=I", info, _TCP_INFO_RETRANSMITS)[0]
            if retransmits and elapsed > self._timeout_ns + SLOT_NS:
                self._book_loss()  # connected while nobody looked, but not at its first SYN: that was lost
            else:
                rtt_ns = rtt_ns if rtt_ns and not retransmits else elapsed
                self._path.book_answer(rtt_ns, self._unix_ns, self._is_starved(elapsed - rtt_ns))
        elif error == errno.ECONNREFUSED:
            self._path.book_refusal(self._unix_ns)
        else:
            self._book_loss()
        self._socket.close()

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
            # As of UDP: to have stood still for as long as the timeout is no evidence of the network.
            if self._loop.clock() - self._started_ns < 2 * self._timeout_ns:
                self._book_loss()
            else:
                self._on_starved(False)
                self._path.leave_unjudged(self._unix_ns)
            self._socket.close()


class TcpResponder:
    """Accepts and waits for the prober's reset: a handshake is all that it wants.

    A connection is closed from here after a second or two, or when there are too many: nobody can hold
    more than ``_MAX_CONNECTIONS`` open.
    """

    def __init__(self, loop: Loop, address: str, port: int) -> None:
        self._loop = loop
        self._open: deque[tuple[float, socket.socket]] = deque()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((address, port))
            self._socket.listen(1024)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        while self._open:
            self._open.popleft()[1].close()

    def on_input(self) -> None:
        now = time.monotonic()
        if not self._open:
            self._loop.after(_HOLD_SECONDS, self._close_old)
        for _ in range(64):
            try:
                connection, _ = self._socket.accept()
            except OSError:  # none waiting, or the peer has gone already
                return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._open.append((now, connection))
            if len(self._open) > _MAX_CONNECTIONS:
                self._open.popleft()[1].close()

    def _close_old(self) -> None:
        oldest = time.monotonic() - _HOLD_SECONDS
        while self._open and self._open[0][0] <= oldest:
            self._open.popleft()[1].close()
        if self._open:
            self._loop.after(_HOLD_SECONDS, self._close_old)

    def on_error(self) -> None:
        """A listening socket reports nothing of its own."""

    on_output = on_error
