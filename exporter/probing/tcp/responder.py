"""Answers TCP probes: a handshake, and one keyed echo a connection, no faster than each source may ask."""

from __future__ import annotations

import errno
import socket
import time

from exporter.contracts.catalogue import PROBER, PROBER_ANSWERED, PROBER_LIMITED, PROBER_REJECTED
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import ECHO, PACKET_BYTES, Codec
from exporter.probing.sockets import open_listener, receive_bytes, traffic_class_of
from exporter.probing.tcp.handshake import RESET_ON_CLOSE
from exporter.store import RowWriter

HOLD_SECONDS = 1.0
MAX_CONNECTIONS = 64
_ACCEPTED_AT_ONCE = 64
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ANSWERED = PROBER.metrics.index(PROBER_ANSWERED)
_REJECTED = PROBER.metrics.index(PROBER_REJECTED)
_LIMITED = PROBER.metrics.index(PROBER_LIMITED)


class _Connection:
    """One accepted connection, which may ask once."""

    def __init__(self, responder: TcpResponder, connection: socket.socket, source: str, accepted: float) -> None:
        self.accepted = accepted
        self.source = source
        self.socket = connection
        self._responder = responder
        self._received = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def on_input(self) -> None:
        try:
            data, received_ns = receive_bytes(self.socket, PACKET_BYTES + 1 - len(self._received))
        except BlockingIOError:
            return
        except OSError:  # the prober's reset: it has what it wants
            self._responder.drop(self)
            return
        self._received += data
        if not data or len(self._received) > PACKET_BYTES:  # gone, or no request of ours
            self._responder.reject(self, counted=bool(data))
        elif len(self._received) == PACKET_BYTES:
            self._responder.answer(self, self._received, received_ns)

    def on_error(self) -> None:
        self.on_input()

    def on_output(self) -> None:
        """Never asked for: the reply fits into the socket's buffer."""


class TcpResponder:
    """Accepts, answers one request a connection, and waits for the prober's reset.

    A connection is closed from here when what comes is no request, after a second or two, or when there are too many:
    then the oldest, since those of probers last a round trip or two. Nobody can hold more than ``MAX_CONNECTIONS``
    open. ``limit`` and ``counters`` are shared with the UDP responders of the host.
    """

    def __init__(
        self,
        loop: Loop,
        codec: Codec,
        address: str,
        port: int,
        boot_epoch: int,
        limit: SourceLimit,
        counters: RowWriter,
    ) -> None:
        self._loop = loop
        self._codec = codec
        self._epoch = boot_epoch
        self._limit = limit
        self._counters = counters
        self._open: dict[_Connection, None] = {}  # oldest first
        self._closing = False
        self._socket = open_listener(address, port)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        for connection in list(self._open):
            self.drop(connection)

    def on_input(self) -> None:
        now = time.monotonic()
        if not self._closing:  # one timer, however often the last connection goes and another comes
            self._closing = True
            self._loop.after(HOLD_SECONDS, self._close_old)
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, (source, _) = self._socket.accept()
            except OSError as error:  # none waiting, or the peer has gone already
                if error.errno in _NO_ROOM:  # it waits on, and would wake us for nothing as fast as we can sleep
                    self._loop.forget(self)
                    self._loop.after(HOLD_SECONDS, lambda: self._loop.watch(self))
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            connection = _Connection(self, accepted, source, now)
            self._open[connection] = None
            self._loop.watch(connection)
            if len(self._open) > MAX_CONNECTIONS:
                self.drop(next(iter(self._open)))
            connection.on_input()  # its request may be there already

    def answer(self, connection: _Connection, data: bytes, received_ns: int | None) -> None:
        request = self._codec.parse(data)
        if request is None or request.kind != ECHO:
            self.reject(connection)
            return
        if not self._limit.allows(connection.source):
            self._book(_LIMITED)  # no reply; the connection has its second as any other
            return
        delay = time.time_ns() - received_ns if received_ns else 0
        # A clock step between the two must not turn into a negative or absurd delay.
        delay = delay if 0 <= delay < 1_000_000_000 else 0
        try:
            traffic_class = traffic_class_of(connection.socket)
            connection.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, traffic_class)
            connection.socket.send(self._codec.reply(request, 0, self._epoch, 0, delay))
        except OSError:
            self.drop(connection)
            return
        self._book(_ANSWERED)

    def reject(self, connection: _Connection, *, counted: bool = True) -> None:
        if counted:
            self._book(_REJECTED)
        self.drop(connection)

    def drop(self, connection: _Connection) -> None:
        del self._open[connection]
        self._loop.forget(connection)
        connection.socket.close()

    def _close_old(self) -> None:
        oldest = time.monotonic() - HOLD_SECONDS
        for connection in list(self._open):
            if connection.accepted > oldest:
                break
            self.drop(connection)
        self._closing = bool(self._open)
        if self._closing:
            self._loop.after(HOLD_SECONDS, self._close_old)

    def _book(self, column: int) -> None:
        self._counters.begin()
        self._counters.add(column)
        self._counters.end()

    def on_error(self) -> None:
        """A listening socket reports nothing of its own."""

    on_output = on_error
