"""Connections as strangers may use them: bounded in number, in time, and in what is read before anybody is known."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from skeleton_service.live.tls import Certificates

MOST_HEADER_BYTES = 65_536
HEADER_SECONDS, BODY_SECONDS = 10.0, 60.0
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Server(uvicorn.Server):
    """Signals are for whoever runs it: uvicorn would end by the one that it got, as if it had not been handled."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Connection(HttpToolsProtocol):
    """One of them. Its requests carry the client's certificate, which only the connection knows."""

    certificates: Certificates | None = None
    most = 1 << 20
    """Connections at a time; set, as the line before, by ``of``."""

    @classmethod
    def of(cls, certificates: Certificates | None, most: int) -> type[Connection]:
        """The protocol of a server."""
        return type("Connection", (cls,), {"certificates": certificates, "most": most})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._header_bytes, self._in_header = 0, True
        self._generation = self.certificates.generation if self.certificates is not None else 0
        if len(self.connections) > self.most:
            transport.close()
            return
        self._arm(HEADER_SECONDS)

    def _arm(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arm(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_header:
            self._header_bytes += len(data)
            if self._header_bytes > MOST_HEADER_BYTES:  # with what of a body came along with it
                self.transport.write(_TOO_LARGE)
                self.transport.close()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_header = True
        self._arm(HEADER_SECONDS)
        self.scope["state"]["certificate"] = self._certificate()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_header, self._header_bytes = False, 0
        self._arm(BODY_SECONDS)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._arm(None)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_old and not self.pipeline:
            self.transport.close()  # the next handshake is by the newest files

    @property
    def _is_old(self) -> bool:
        return self.certificates is not None and self.certificates.generation != self._generation

    def _certificate(self) -> Mapping[str, Any] | None:
        """The client's; None where it has none, or it is no longer good."""
        handshake = self.transport.get_extra_info("ssl_object")
        certificate: Mapping[str, Any] | None = handshake.getpeercert() if handshake is not None else None
        if not certificate or self._is_old or ssl.cert_time_to_seconds(certificate["notAfter"]) < time.time():
            return None
        return certificate
