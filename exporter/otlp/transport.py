"""Sends encoded requests by the official exporters, which own retries, TLS, headers and environment variables.

The official OTLP/HTTP exporter takes metrics only as the SDK's objects, at 40 us a point. So it is handed
an empty batch, and the adapter under its session (both public interfaces, of the exporter and of requests)
puts our bytes in place of the empty body. The adapter also does what the library leaves out: the time-out
holds for a whole exchange and not for each read, an answer is read to a limit, a redirect is no success,
and rejected points are noticed.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.sdk.metrics.export import MetricsData
from requests.adapters import HTTPAdapter

from exporter.otlp.push import Outcome, Transport
from exporter.otlp.settings import Otlp, compression_of, endpoint_of, read_headers

_ANSWER_BYTES = 65_536
_PROBLEM_LETTERS = 200
_SECRET_LETTERS = 4  # what is shorter hides nothing, and stands in many a word
_HARMLESS_HEADERS = {
    "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "user-agent",
}  # fmt: skip
_GZIP_LEVEL = 1  # the library's level 9 costs ten times as much for 15 % fewer bytes

# The libraries log every attempt, with what the receiver says of it, a header of the environment that is none, and
# URLs with their keys. We say what went wrong once, without secrets.
for _library in ("opentelemetry", "urllib3"):
    logging.getLogger(_library).addHandler(logging.NullHandler())
    logging.getLogger(_library).propagate = False


def one_line(text: str, secrets: Iterable[str] = ()) -> str:
    """Text of a stranger, short, printable and without any word of the secrets that it may have been told."""
    words = {word for secret in secrets for word in (secret, *secret.split()) if len(word) >= _SECRET_LETTERS}
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "***")
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= _PROBLEM_LETTERS else text[:_PROBLEM_LETTERS] + "…"


def rejected_of(answer: bytes) -> tuple[int, str]:
    """(points rejected, the receiver's message) of an ``ExportMetricsServiceResponse``; (0, "") when it is none."""
    try:
        partial = ExportMetricsServiceResponse.FromString(answer).partial_success
    except DecodeError:
        return 0, ""
    return max(partial.rejected_data_points, 0), partial.error_message


class HttpTransport:
    """OTLP over HTTP."""

    def __init__(self, settings: Otlp) -> None:
        self._adapter = _Adapter(settings.ca_file)
        session = requests.Session()
        session.auth = _no_authentication
        session.headers["Accept-Encoding"] = "identity"  # an answer cannot grow past what is read of it
        session.mount("http://", self._adapter)
        session.mount("https://", self._adapter)
        self._exporter = OTLPMetricExporter(
            endpoint=endpoint_of(settings),
            certificate_file=settings.ca_file,
            client_key_file=settings.key_file,
            client_certificate_file=settings.certificate_file,
            headers=read_headers(settings.headers_file) if settings.headers_file else None,
            timeout=settings.timeout_seconds,
            compression=Compression(compression_of(settings)),
            session=session,
        )

    def send(self, body: bytes) -> Outcome:
        return self._adapter.carry(body, lambda: self._exporter.export(MetricsData(resource_metrics=[])))

    def abort(self) -> None:
        self._adapter.abort()
        self._exporter.shutdown()


def make_transport(settings: Otlp) -> Transport:
    """The transport of the configured protocol; raise ContractError when its files cannot be used."""
    if settings.protocol == "grpc":
        from exporter.otlp.grpc import GrpcTransport  # noqa: PLC0415 - an extra, which may not be installed

        return GrpcTransport(settings)
    return HttpTransport(settings)


def _no_authentication(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Without any, requests would look into ~/.netrc and replace the configured Authorization header."""
    return request


class _Adapter(HTTPAdapter):
    """Sends the body it was told to carry; remembers the answer. ``abort`` alone may come from another thread."""

    def __init__(self, ca_file: str | None) -> None:
        self._ca_file = ca_file
        self._connections: set[_Watched] = set()
        self._bodies: dict[str, bytes] = {}
        self._status = 0
        self._answer = b""
        self._problem = ""
        self._secrets: list[str] = []
        self._ends: float | None = None
        self._expired = False
        self._aborted = False
        super().__init__(max_retries=0)

    def carry(self, body: bytes, export: Callable[[], object]) -> Outcome:
        self._bodies = {"": body}
        self._ends = None
        self._status, self._answer, self._problem = 0, b"", "could not be sent"
        try:
            export()
        finally:
            self._bodies = {}
        if 200 <= self._status < 300:
            rejected, said = rejected_of(self._answer)
            return Outcome(True, rejected, one_line(said, self._secrets))
        retryable = self._status in (0, 429, 502, 503, 504)  # as the specification of OTLP/HTTP has it
        problem = f"HTTP status {self._status}" if self._status else self._problem
        if 300 <= self._status < 400:
            problem += ", and redirects are not followed"
        return Outcome(False, 0, one_line(problem, self._secrets), worth_trying=not retryable)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002 - the answer is always streamed, to read it to a limit
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Exchange one request for its answer within ``timeout`` seconds; raise RequestException.

        The library reckons what is left for another attempt by a clock that may be set back, so we reckon too.
        """
        self._secrets = [value for name, value in request.headers.items() if name.lower() not in _HARMLESS_HEADERS]
        self._secrets += [value for _, value in parse_qsl(urlsplit(request.url or "").query)]
        request.prepare_body(self._encoded(request.headers.get("Content-Encoding", "")), None)
        now = time.monotonic()
        self._ends = now + timeout if self._ends is None else self._ends
        timeout = min(timeout, self._ends - now)
        self._status, self._expired = 0, timeout <= 0
        watch = threading.Timer(timeout, self._expire)
        watch.daemon = True
        watch.start()
        try:
            if self.over:
                raise requests.RequestException("no time left")
            # requests would let REQUESTS_CA_BUNDLE override the file that the configuration names.
            response = super().send(request, True, timeout, self._ca_file or verify, cert, proxies)
            answer = response.raw.read(_ANSWER_BYTES, decode_content=False)
            response.raw.close()
            if self._expired:
                raise requests.RequestException("timed out")
        except Exception as error:
            if self._expired:  # no error of the connection, which the library would try again after
                self._problem = "no whole answer within the time-out"
                raise requests.RequestException(self._problem) from error
            self._problem = _cause(error)
            if isinstance(error, requests.RequestException):
                raise
            raise requests.ConnectionError(self._problem) from error
        finally:
            watch.cancel()
            self._let_go()
        response.raw = io.BytesIO(answer)
        self._status, self._answer = response.status_code, answer
        return response

    def _encoded(self, encoding: str) -> bytes:
        """The body, compressed as the library's header announces it; kept for the next attempt."""
        body = self._bodies[""]
        if encoding == "gzip" and encoding not in self._bodies:
            self._bodies[encoding] = gzip.compress(body, _GZIP_LEVEL)
        return self._bodies.get(encoding, body)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Let connections tell us their sockets, so that one can be shut while a thread waits for it."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if not issubclass(pool.ConnectionCls, _Watched):
            pool.ConnectionCls = type("Watched", (_Watched, pool.ConnectionCls), {"adapter": self})
        return pool

    @property
    def over(self) -> bool:
        """Whether no connection may go on."""
        return self._expired or self._aborted

    def watch(self, connection: _Watched) -> None:
        self._connections.add(connection)

    def abort(self) -> None:
        self._aborted = True
        self._shut()

    def _expire(self) -> None:
        self._expired = True
        self._shut()

    def _shut(self) -> None:
        for connection in list(self._connections):
            connection.shut()

    def _let_go(self) -> None:
        """Forget the connections that ended with the exchange."""
        for connection in [each for each in self._connections if each.sock is None]:
            self._connections.discard(connection)
            connection.let_go()


class _Watched:
    """Mixed into urllib3's connections: keeps a second descriptor of the socket.

    The first one is not the connection's for long: TLS takes it over, and an answer that is the connection's last.
    """

    adapter: _Adapter
    sock: socket.socket | None
    _own: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        made: socket.socket = super()._new_conn()  # type: ignore[misc]
        self.let_go()
        self._own = made.dup()
        self.adapter.watch(self)
        if self.adapter.over:
            self.shut()
        return made

    def shut(self) -> None:
        if self._own is not None:
            with contextlib.suppress(OSError):  # closed meanwhile
                self._own.shutdown(socket.SHUT_RDWR)

    def let_go(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None


def _cause(error: BaseException) -> str:
    """The innermost reason; requests' and urllib3's own texts repeat the URL, which may hold a key."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
