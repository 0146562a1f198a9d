"""A resolver on loopback that answers as it is told, over UDP and over TCP."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.unit.peers import tcp_server

NAME = "store.example"
A_RECORD = b"\xc0\x0c" + bytes.fromhex("0001 0001 00000005 0004 0a010203")
ALIAS = b"\xc0\x0c" + bytes.fromhex("0005 0001 00000005 0002 c00c")

Reply = Callable[[bytes], Sequence[bytes]]


def reply(query: bytes, rcode: int = 0, records: Sequence[bytes] = (A_RECORD,), flags: int = 0x8180) -> bytes:
    """A sound answer to ``query``."""
    header = query[:2] + struct.pack("!5H", flags | rcode, 1, len(records), 0, 0)
    return header + query[12:] + b"".join(records)


def asked_name(query: bytes) -> str:
    labels, offset = [], 12
    while query[offset]:
        labels.append(query[offset + 1 : offset + 1 + query[offset]].decode())
        offset += 1 + query[offset]
    return ".".join(labels)


class Resolver:
    """Answers each query with the datagrams that ``answer`` makes of it; remembers queries and when they came."""

    def __init__(self, answer: Reply, address: str = "127.0.0.1") -> None:
        self.queries: list[bytes] = []
        self.moments: list[float] = []
        self.sources: set[tuple[str, int]] = set()
        self._answer = answer
        self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self._socket.settimeout(0.05)
        self.port = int(self._socket.getsockname()[1])
        self._running = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def names(self) -> list[str]:
        return [asked_name(query) for query in self.queries]

    def _serve(self) -> None:
        while self._running:
            try:
                query, source = self._socket.recvfrom(2000)
            except TimeoutError:
                continue
            self.queries.append(query)
            self.moments.append(time.monotonic())
            self.sources.add(source)
            for datagram in self._answer(query):
                self._socket.sendto(datagram, source)

    def close(self) -> None:
        self._running = False
        self._thread.join(5)
        self._socket.close()


@contextmanager
def resolver(answer: Reply, address: str = "127.0.0.1") -> Iterator[Resolver]:
    serving = Resolver(answer, address)
    try:
        yield serving
    finally:
        serving.close()


def truncated(query: bytes) -> list[bytes]:
    return [reply(query, flags=0x8380)[:-7]]


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


@contextmanager
def over_tcp(
    serving: Resolver, answer: Callable[[bytes], bytes], *, hang: bool = False, pieces: int = 1 << 20
) -> Iterator[list[bytes]]:
    """Answer on the resolver's port over TCP as well; yields the queries that came."""
    queries: list[bytes] = []

    def answer_one(connection: socket.socket) -> None:
        queries.append(connection.recv(2000)[2:])
        data = answer(queries[-1])
        for at in range(0, len(data), pieces):
            connection.sendall(data[at : at + pieces])
            time.sleep(0.002 if pieces < len(data) else 0)
        if hang:
            connection.recv(1)

    with tcp_server(answer_one, "127.0.0.1", serving.port):
        yield queries
