"""The little of rtnetlink that a reader of counters needs each few seconds (rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

HEADER, ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
REQUEST, DUMP = 0x1, 0x300
ERROR, _DONE = 2, 3
_NESTED = 0x3FFF
_TIMEOUT = 1.0
_MOST_BYTES = 1 << 16


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Its attributes by number; what is cut off is left out."""
    at = 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size or at + length > len(data):
            return
        yield kind & _NESTED, data[at + ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def attribute(kind: int, data: bytes) -> bytes:
    packed = ATTRIBUTE.pack(ATTRIBUTE.size + len(data), kind) + data
    return packed + bytes(-len(packed) % 4)


def asked(kind: int, body: bytes) -> bytes:
    """The kernel's one answer to a request, header and all. Raise OSError where there is none."""
    with _socket() as sock:
        sock.sendto(_message(kind, REQUEST, body), (0, 0))
        return sock.recv(_MOST_BYTES)


def dumped(kind: int, body: bytes) -> Iterator[bytes]:
    """The messages of a dump, without their headers. Raise OSError."""
    with _socket() as sock:
        sock.sendto(_message(kind, REQUEST | DUMP, body), (0, 0))
        while True:
            data, at = sock.recv(_MOST_BYTES), 0
            while at + HEADER.size <= len(data):
                length, answer = HEADER.unpack_from(data, at)[:2]
                if answer == _DONE:
                    return
                if answer == ERROR:
                    number = -struct.unpack_from("=i", data, at + HEADER.size)[0]
                    raise OSError(number, os.strerror(number))
                if length < HEADER.size or at + length > len(data):
                    raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
                yield data[at + HEADER.size : at + length]
                at += (length + 3) & ~3


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + body


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    sock.settimeout(_TIMEOUT)
    return sock
