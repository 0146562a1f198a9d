"""The exporter's HTTP side: /metrics, the throughput ring, probe records, health. One thread a request, few of them."""

from __future__ import annotations

import gzip
import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_MAX_REQUESTS = 8  # answers being made at once
_MAX_CONNECTIONS = 64
_MOST_HELD = 64 << 20  # bytes of answers of one page that are being sent: each is held until its client has read it
_SOCKET_TIMEOUT = 30
_GZIP_LEVEL = 1  # level 9 costs ten times as much for 15 % fewer bytes


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    content_type: str
    body: bytes | bytearray
    compresses: bool = True
    """False where the body is compressed already."""


class Query(dict[str, str]):
    """Parameters of a request, the last value of each."""

    accept: str = ""
    """The Accept header: what kinds of answers the client takes."""


Route = Callable[[Query], Response]


def number_of(query: Query, name: str, default: float) -> float:
    """A numeric query parameter; raise ValueError with a line for the client."""
    text = query.get(name)
    if text is None:
        return default
    try:
        number = float(text)
        if math.isnan(number):
            raise ValueError(text)
    except ValueError as error:
        raise ValueError(f"parameter {name!r} is {text!r}, not a number") from error
    return number


def format_of(query: Query, types: Mapping[str, str]) -> str:
    """Which of ``types`` ({format: media type}) a client wants; raise ValueError with a line for it.

    The parameter ``format`` says so, else the likeliest in its Accept header (RFC 9110, 12.5.1), else it is the first.
    """
    asked = query.get("format")
    if asked is not None and asked not in types:
        raise ValueError(f"parameter 'format' is {asked!r}, not one of {', '.join(types)}")
    if asked is not None:
        return asked
    best, most = next(iter(types)), 0.0
    for part in query.accept.lower().split(","):
        media, *parameters = (text.strip() for text in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                with suppress(ValueError):
                    weight = float(parameter[2:])
        for name, own in types.items():
            if media == own and weight > most:
                best, most = name, weight
    return best


class Server:
    """Serves ``routes`` until closed. Raise OSError when the address cannot be bound."""

    def __init__(self, address: str, port: int, routes: Mapping[str, Route]) -> None:
        slots = threading.BoundedSemaphore(_MAX_REQUESTS)
        held, holding = Counter[str](), threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _SOCKET_TIMEOUT
            server_version = "fabric-exporter"
            sys_version = ""

            def do_GET(self) -> None:
                # A slot is held to make the answer, not to send it: a slow reader takes nobody's turn.
                if not slots.acquire(timeout=5):
                    self._answer(Response(503, "text/plain", b"too many requests at once\n"))
                    return
                try:
                    response = self._respond()
                finally:
                    slots.release()
                page, size = self.path.partition("?")[0], len(response.body)
                with holding:
                    fits = not held[page] or held[page] + size <= _MOST_HELD
                    held[page] += size if fits else 0
                if not fits:
                    self._answer(Response(503, "text/plain", b"too much is being sent to slow clients\n"))
                    return
                try:
                    self._answer(response)
                finally:
                    with holding:
                        held[page] -= size
                        if not held[page]:
                            del held[page]

            do_HEAD = do_GET  # noqa: N815 - the base class looks it up by this name

            def _respond(self) -> Response:
                try:
                    url = urlsplit(self.path)
                    route = routes.get(url.path)
                    if route is None:
                        return Response(404, "text/plain", f"no such page; try {' '.join(routes)}\n".encode())
                    query = Query({key: values[-1] for key, values in parse_qs(url.query).items()})
                    query.accept = self.headers.get("Accept", "")
                    return route(query)
                except ValueError as error:
                    return Response(400, "text/plain", f"{error}\n".encode())

            def _answer(self, response: Response) -> None:
                body = response.body
                self.send_response(response.status)
                if "gzip" in self.headers.get("Accept-Encoding", "") and len(body) > 1024 and response.compresses:
                    body = gzip.compress(body, _GZIP_LEVEL)
                    self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Type", response.content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Requests are not logged: a scrape every few seconds is no event."""

        class _Threading(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64
            connections = threading.BoundedSemaphore(_MAX_CONNECTIONS)

            def process_request(self, request: Any, client_address: Any) -> None:
                """One thread a connection, and no more than so many: whoever comes too late is sent away."""
                if not self.connections.acquire(blocking=False):
                    self.shutdown_request(request)
                    return
                super().process_request(request, client_address)

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                try:
                    super().process_request_thread(request, client_address)
                finally:
                    self.connections.release()

            def server_bind(self) -> None:
                """Bind without the base class' reverse look-up of our own name: it hangs when DNS is down."""
                TCPServer.server_bind(self)
                self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that leaves in the middle of an answer is no event either."""
                if not isinstance(sys.exc_info()[1], OSError):
                    super().handle_error(request, client_address)  # type: ignore[arg-type]

        self._http = _Threading((address, port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
