"""``skeleton-service inject``: the admission webhook that gives pods of jobs an exporter.

It answers one question, from one API server, and knows nothing else: so it is no part of the service.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn

import uvicorn
import uvloop

from exporter.contracts.codec import ContractError
from exporter.contracts.watchedfile import WatchedFile
from skeleton_service.jobs.injection import Sidecar, read_sidecar, reviewed
from skeleton_service.live.connections import Connection, Server
from skeleton_service.live.logs import Form, log_to_stderr
from skeleton_service.live.tls import Certificates

_LARGEST_REVIEW = 8 << 20
"""Bytes: a pod has 1.5 MiB at most in etcd, and comes twice."""
_MOST_CONNECTIONS = 1024
_LOOK_SECONDS = 5.0
_LAST_ANSWERS_SECONDS = 5
_log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]


class Injector:
    """An ASGI application."""

    def __init__(self, sidecar: WatchedFile[Sidecar]) -> None:
        self._sidecar = sidecar

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        status, kind, body = await self._answer(scope, receive)
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Message, receive: Callable[[], Awaitable[Message]]) -> tuple[int, bytes, bytes]:
        asked = scope["method"], scope["path"]
        if asked == ("GET", "/healthz"):
            return 200, b"text/plain", b"ok\n"
        if asked != ("POST", "/v1/inject"):
            return 404, b"text/plain", b"POST /v1/inject, GET /healthz\n"
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > _LARGEST_REVIEW:
                return 413, b"text/plain", b"more than 8 MiB\n"
            if not message.get("more_body"):
                break
        sidecar = self._sidecar.value
        assert sidecar is not None  # noqa: S101 - it was read at the start, and stays when the file is wrong
        try:
            return 200, b"application/json", reviewed(bytes(body), sidecar)
        except ContractError as error:
            _log.warning("refused: %s", error)
            return 400, b"text/plain", f"{error}\n".encode()


async def _serve(sidecar: WatchedFile[Sidecar], certificates: Certificates, address: str, port: int) -> None:
    config = uvicorn.Config(
        Injector(sidecar), host=address, port=port, http=Connection.of(certificates, _MOST_CONNECTIONS), ws="none",
        lifespan="off", log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
    )  # fmt: skip
    config.load()
    config.ssl = certificates.context
    server = Server(config)

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)

    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            sidecar.changed()
            try:
                certificates.refresh()
            except ContractError as error:
                _log.error("%s; what was before stays", error)

    looking = asyncio.create_task(look())
    _log.info("listens on %s port %d", address, port)
    await server.serve()
    looking.cancel()


def inject(path: str, certificate: str, key: str, address: str, port: int, form: Form) -> NoReturn:
    """Serve until SIGTERM or SIGINT. Raise ContractError."""
    log_to_stderr(form)
    read_sidecar(path)
    certificates = Certificates(certificate, key, None)
    sidecar = WatchedFile(path, read_sidecar, "sidecar", _log.error)
    sidecar.changed()
    uvloop.run(_serve(sidecar, certificates, address, port))
    raise SystemExit(0)
