"""The exporter's HTTP server against clients that mean no good."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import urlopen

from exporter.server import Response, Server

LARGE = Response(200, "text/plain", bytes(32 << 20))  # far more than the sockets of both ends hold


def test_eight_clients_that_never_read_do_not_keep_a_ninth_from_metrics() -> None:
    """Each used to hold one of the eight turns until its socket timed out."""
    server = Server("127.0.0.1", 0, {"/large": lambda _: LARGE, "/metrics": lambda _: Response(200, "x", b"up 1\n")})
    clients = []
    try:
        for _ in range(8):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(8) == b"HTTP/1.1"  # its answer is being sent
            clients.append(client)
        with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=2) as answer:
            assert answer.read() == b"up 1\n"
    finally:
        for client in clients:
            client.close()
        server.close()


def test_what_is_being_sent_to_clients_that_never_read_is_bounded() -> None:
    """Sixty-four of them had the exporter hold sixty-four answers of tens of megabytes."""
    server = Server("127.0.0.1", 0, {"/large": lambda _: LARGE})
    clients: list[socket.socket] = []
    told = []
    try:
        for _ in range(4):
            clients.append(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            clients[-1].sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            told.append(clients[-1].recv(12))
        assert told == [b"HTTP/1.1 200"] * 2 + [b"HTTP/1.1 503"] * 2
        for client in clients:
            client.close()
        clients.clear()
        ends = time.monotonic() + 5
        while told[-1] != b"200" and time.monotonic() < ends:  # as soon as the server has seen that they are gone
            with suppress(HTTPError), urlopen(f"http://127.0.0.1:{server.port}/large", timeout=5) as answer:
                told.append(str(answer.status).encode())
        assert told[-1] == b"200"
    finally:
        for client in clients:
            client.close()
        server.close()
