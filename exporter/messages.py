"""Messages between processes of the exporter: a 4-byte length and the bytes, over a socket pair."""

from __future__ import annotations

import socket
import struct

_LENGTH = struct.Struct("!I")


def send_message(sock: socket.socket, message: bytes) -> None:
    sock.sendall(_LENGTH.pack(len(message)) + message)


def receive_message(sock: socket.socket) -> bytes | None:
    """Return the next message, waiting for its end; None when the other process closed the pair."""
    header = _receive_exactly(sock, _LENGTH.size)
    if header is None:
        return None
    return _receive_exactly(sock, _LENGTH.unpack(header)[0])


def _receive_exactly(sock: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)
