"""The exporter's HTTP server against clients that mean no good."""

from __future__ import annotations

import socket
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
