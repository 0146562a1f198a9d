"""Sockets with kernel timestamps and ICMP errors, no privilege needed.

Kernel documents: Documentation/networking/timestamping.rst (SO_TIMESTAMPING), ip(7) (IP_RECVERR,
IP_MTU_DISCOVER). Python's socket module lacks most of these constants.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

_SO_BINDTODEVICE, _SO_RCVBUFFORCE, _SO_RXQ_OVFL = 25, 33, 40
_SO_TIMESTAMPING = 37
_SCM_TIMESTAMPING = _SO_TIMESTAMPING
_TX_SOFTWARE, _RX_SOFTWARE, _SOFTWARE = 1 << 1, 1 << 3, 1 << 4
_OPT_ID, _OPT_TSONLY = 1 << 7, 1 << 11
_TIMES = _TX_SOFTWARE | _RX_SOFTWARE | _SOFTWARE | _OPT_TSONLY
_IP_TOS, _IP_TTL, _IP_MTU_DISCOVER, _IP_RECVERR, _IP_RECVTOS = 1, 2, 10, 11, 13
_IP_PKTOPTIONS = 9
_PMTUDISC_PROBE = 3
_IPV6_MTU_DISCOVER, _IPV6_RECVERR = 23, 25
_ORIGIN_ICMP, _ORIGIN_ICMP6, _ORIGIN_TIMESTAMPING = 2, 3, 4
_ICMP_UNREACHABLE, _ICMP_TIME_EXCEEDED = 3, 11
_CODE_PORT_UNREACHABLE, _CODE_FRAGMENTATION_NEEDED = 3, 4
_ICMP6_UNREACHABLE, _ICMP6_PORT_UNREACHABLE = 1, 4  # type and code, RFC 4443

_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_TIMESPEC = struct.Struct("=qq")
_INT = struct.Struct("=i")
_CONTROL_HEADER = 16  # struct cmsghdr (cmsg(3)) on 64 bits
_ANCILLARY_BYTES = 512
_MAX_DATAGRAM = 9216
_BUFFER_BYTES = 4 << 20
"""Asked for; without CAP_NET_ADMIN the kernel grants up to net.core.rmem_max. A default buffer holds a dozen full-size
probes."""

AncillaryData = list[tuple[int, int, bytes]]


def open_flow(address: str, port: int, *, timed: bool = True) -> socket.socket:
    """A non-blocking socket bound to one source address and port, shared by all its destinations.

    ``timed`` has the kernel tell when each datagram came and went. Don't-fragment is set on every packet without
    consulting the path-MTU cache (IP_PMTUDISC_PROBE), so that each probe tells what the path does now. An address with
    a colon is an IPv6 one.
    """
    six = ":" in address
    flow = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        flow.setblocking(False)
        _enlarge(flow)
        if six:
            flow.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            flow.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            flow.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
            flow.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        if timed:
            flow.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _TIMES | _OPT_ID)
        flow.bind((address, port))
    except OSError:
        flow.close()
        raise
    return flow


def bind_to_device(sock: socket.socket, netdev: str) -> None:
    """Send by this interface, whatever the main routing table says (SO_BINDTODEVICE, socket(7)); raise OSError."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, netdev.encode() + b"\0")


def count_anew(flow: socket.socket) -> None:
    """The next datagram of a socket of ``open_flow`` is number 0 of its transmit times."""
    for flags in (_TIMES, _TIMES | _OPT_ID):
        flow.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, flags)


def open_responder(address: str, port: int) -> socket.socket:
    responder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        responder.setblocking(False)
        _enlarge(responder)
        responder.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _SOFTWARE | _OPT_TSONLY)
        responder.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        responder.bind((address, port))
    except OSError:
        responder.close()
        raise
    return responder


def _enlarge(sock: socket.socket) -> None:
    """Give it a large receive buffer, and let it say how many packets found it full (SO_RXQ_OVFL, socket(7))."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)


def open_traced_connection(address: str, port: int, traffic_class: int, hop_limit: int) -> socket.socket:
    """A non-blocking TCP socket whose SYN ends at ``hop_limit``, and whose error queue says where; raise OSError."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Closing with a reset leaves no TIME_WAIT behind: the same source port is needed again.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _SOFTWARE)
        connection.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        connection.setsockopt(socket.IPPROTO_IP, _IP_TOS, traffic_class)
        connection.setsockopt(socket.IPPROTO_IP, _IP_TTL, hop_limit)
        connection.bind((address, port))
    except OSError:
        connection.close()
        raise
    return connection


def is_roomy(sock: socket.socket) -> bool:
    """Whether the kernel granted at least half the receive buffer asked for (twice of what it grants is told)."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= _BUFFER_BYTES


@lru_cache(maxsize=1024)
def send_options(traffic_class: int, hop_limit: int | None = None, *, timed: bool = False) -> AncillaryData:
    """Per-packet traffic class, and hop limit for a trace: one socket serves every class.

    ``timed`` has the error queue of a socket of ``open_responder`` tell when this packet left.
    """
    options = [(socket.IPPROTO_IP, _IP_TOS, _INT.pack(traffic_class))]
    if hop_limit is not None:
        options.append((socket.IPPROTO_IP, _IP_TTL, _INT.pack(hop_limit)))
    if timed:
        options.append((socket.SOL_SOCKET, _SO_TIMESTAMPING, _INT.pack(_TX_SOFTWARE)))
    return options


@lru_cache(maxsize=256)
def send_options_ipv6(traffic_class: int) -> AncillaryData:
    """As ``send_options``, for a socket of an IPv6 address (RFC 3542, section 6.5)."""
    return [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INT.pack(traffic_class))]


class Datagram(NamedTuple):
    data: bytes
    address: tuple[str, int]
    received_ns: int | None
    """Kernel receive time, CLOCK_REALTIME."""
    traffic_class: int
    dropped: int
    """Packets that had found the socket's buffer full when this one came, since it was opened, modulo 2^32."""


def receive(sock: socket.socket, limit: int) -> Iterator[Datagram]:
    """Yield up to ``limit`` waiting datagrams: a flood must not keep the loop from its slots."""
    for _ in range(limit):
        try:
            data, ancillary, _, address = sock.recvmsg(_MAX_DATAGRAM, _ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            # A pending ICMP error surfaces on the next call; its details are on the error queue. Any router can
            # send any of them (icmp_err_convert in the kernel), so none may stop the prober.
            if error.errno in (errno.EBADF, errno.ENOTSOCK):
                raise
            continue
        received, traffic_class, dropped = None, 0, 0
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == _SCM_TIMESTAMPING:
                received = _nanoseconds(value)
            elif level == socket.IPPROTO_IP and kind == _IP_TOS:
                traffic_class = value[0]
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_TCLASS:
                (traffic_class,) = _INT.unpack(value)
            elif level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL:
                dropped = int.from_bytes(value, sys.byteorder)
        yield Datagram(data, address[:2], received, traffic_class, dropped)


def _nanoseconds(timestamps: bytes) -> int | None:
    seconds, nanoseconds = _TIMESPEC.unpack_from(timestamps)
    return int(seconds * 1_000_000_000 + nanoseconds) or None


def time_stream(connection: socket.socket) -> None:
    """Have the kernel time what is sent and received on a connection, as ``open_flow`` does for datagrams."""
    connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _TIMES)


def open_listener(address: str, port: int) -> socket.socket:
    """A non-blocking listening socket whose connections tell kernel receive times and ``traffic_class_of``."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _SOFTWARE)
        listener.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener


def receive_bytes(connection: socket.socket, limit: int) -> tuple[bytes, int | None]:
    """What waits in a stream, at most ``limit`` bytes, and the kernel receive time of the last; raise OSError."""
    data, ancillary, _, _ = connection.recvmsg(limit, _ANCILLARY_BYTES)
    times = [v for level, kind, v in ancillary if (level, kind) == (socket.SOL_SOCKET, _SCM_TIMESTAMPING)]
    return data, _nanoseconds(times[0]) if times else None


def traffic_class_of(connection: socket.socket) -> int:
    """Traffic class that a connection of ``open_listener`` came in with (IP_PKTOPTIONS: one control message)."""
    message = connection.getsockopt(socket.IPPROTO_IP, _IP_PKTOPTIONS, _ANCILLARY_BYTES)
    return message[_CONTROL_HEADER] if len(message) > _CONTROL_HEADER else 0


_REPORTS = ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR))
_SOCKADDR_IN6 = 28


class TransmitTime(NamedTuple):
    """Kernel transmit time of the ``number``-th datagram sent on this socket (from 0, modulo 2^32)."""

    number: int
    sent_ns: int


class IcmpError(NamedTuple):
    kind: Literal["time_exceeded", "too_big", "refused", "unreachable"]
    offender: str
    destination: tuple[str, int]
    mtu: int
    quoted: bytes
    received_ns: int | None = None
    """Kernel receive time, CLOCK_REALTIME."""


def error_queue(sock: socket.socket, limit: int) -> Iterator[TransmitTime | IcmpError]:
    for _ in range(limit):
        try:
            data, ancillary, _, address = sock.recvmsg(256, _ANCILLARY_BYTES, socket.MSG_ERRQUEUE)
        except BlockingIOError:
            return
        report = timestamp = None
        for level, kind, value in ancillary:
            if (level, kind) in _REPORTS:
                report = value
            elif level == socket.SOL_SOCKET and kind == _SCM_TIMESTAMPING:
                timestamp = _nanoseconds(value)
        if report is None or len(report) < _EXTENDED_ERROR.size:
            continue
        _, origin, icmp_type, code, _, info, number = _EXTENDED_ERROR.unpack_from(report)
        if origin == _ORIGIN_TIMESTAMPING and timestamp is not None:
            yield TransmitTime(number, timestamp)
        elif origin == _ORIGIN_ICMP:
            offender = socket.inet_ntoa(report[20:24]) if len(report) >= 24 else ""
            yield IcmpError(_icmp_kind(icmp_type, code), offender, address, info, data, timestamp)
        elif origin == _ORIGIN_ICMP6 and len(report) >= _EXTENDED_ERROR.size + _SOCKADDR_IN6:
            refused = (icmp_type, code) == (_ICMP6_UNREACHABLE, _ICMP6_PORT_UNREACHABLE)
            offender = socket.inet_ntop(socket.AF_INET6, report[24:40])
            yield IcmpError("refused" if refused else "unreachable", offender, address[:2], info, data)


def _icmp_kind(icmp_type: int, code: int) -> Literal["time_exceeded", "too_big", "refused", "unreachable"]:
    if icmp_type == _ICMP_TIME_EXCEEDED:
        return "time_exceeded"
    if icmp_type == _ICMP_UNREACHABLE and code == _CODE_FRAGMENTATION_NEEDED:
        return "too_big"
    if icmp_type == _ICMP_UNREACHABLE and code == _CODE_PORT_UNREACHABLE:
        return "refused"
    return "unreachable"
