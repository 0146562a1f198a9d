"""TCP traces: connection attempts with a growing hop limit, from the probed flow's own source port.

No privilege is needed. A socket that connects under IP_RECVERR finds the ICMP error that its SYN met on its error queue
(tcp_v4_err in the kernel, since 5.8), with the router's address. The kernel hands it over only where it quotes the
socket's own ports and sequence number: late answers to an earlier hop, whose socket is closed, reach nobody. A trace
ends with the destination's SYN-ACK or reset.

The port belongs to the path's own handshakes (exporter.probing.tcp.handshake). A trace uses it between two of them and
lets go of it when a probe is due.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable

from exporter.probing.loop import Loop
from exporter.probing.paths import Flow
from exporter.probing.sockets import IcmpError, error_queue, open_traced_connection
from exporter.probing.tracing.udp import round_trip
from exporter.probing.tracing.walk import Walk

_ERRORS_READ = 8


class TcpCarrier:
    """Sends the SYNs of a flow's traces; ``taken`` says for how many seconds the port is another's."""

    def __init__(self, loop: Loop, flow: Flow, traffic_class: int, taken: Callable[[], float] = lambda: 0.0) -> None:
        self._loop = loop
        self._flow = flow
        self._traffic_class = traffic_class
        self._taken = taken
        self._socket: socket.socket | None = None
        self._walk: Walk | None = None
        self._unix_ns = 0
        self._monotonic_ns = 0

    def busy(self) -> float:
        return self._taken()

    def ask(self, walk: Walk, hop_limit: int) -> None:
        self.end()
        flow = self._flow
        connection = open_traced_connection(flow.source_address, flow.source_port, self._traffic_class, hop_limit)
        self._unix_ns, self._monotonic_ns = time.time_ns(), time.monotonic_ns()
        error = connection.connect_ex(flow.destination)
        if error not in (0, errno.EINPROGRESS):
            connection.close()
            raise OSError(error, "connect")
        self._socket = connection
        self._walk = walk
        self._loop.watch(self, output=True)

    def end(self) -> None:
        self._walk = None
        if self._socket is not None:
            self._loop.forget(self)
            self._socket.close()
            self._socket = None

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def on_error(self) -> None:
        if self._socket is None:
            return
        for item in error_queue(self._socket, _ERRORS_READ):
            if isinstance(item, IcmpError) and item.destination == self._flow.destination:
                self._on_icmp(item)
                return

    def _on_icmp(self, error: IcmpError) -> None:
        walk, rtt_ns = self._walk, round_trip(self._unix_ns, self._monotonic_ns, error.received_ns)
        if walk is None or error.kind == "too_big":
            return
        self.end()
        if error.kind == "time_exceeded":
            walk.on_hop(error.offender, rtt_ns)
        elif error.offender == self._flow.destination_address:
            walk.on_destination(rtt_ns)
        else:
            walk.on_unreachable(error.offender)

    def on_input(self) -> None:
        """Connected, or reset."""
        if self._socket is None or self._walk is None:
            return
        walk = self._walk
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        rtt_ns = _handshake_rtt_ns(self._socket) if error == 0 else None
        self.end()
        if error in (0, errno.ECONNREFUSED):
            walk.on_destination(rtt_ns)

    on_output = on_input


def _handshake_rtt_ns(connection: socket.socket) -> int | None:
    """The kernel's own measure (tcpi_rtt, tcp(7)); None where a SYN was repeated, which makes it ambiguous."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    rtt_us, retransmits = (struct.unpack_from("=I", info, offset)[0] for offset in (68, 100))
    return None if retransmits else int(rtt_us) * 1000
