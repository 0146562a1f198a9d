"""Exporters wait for other plans before anything is made of their requests: thousands wait, and few are answered.

An ASGI application in front of the one that answers. Whoever waits takes a third of the memory here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import cast
from urllib.parse import parse_qs

from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from skeleton_service.live.identity import Believer, Identity, NotKnownError, Role
from skeleton_service.live.service import Service
from skeleton_service.live.tls import bearer_of

LONGEST_WAIT = 60.0
"""Seconds that an agent may ask to be kept waiting: what lies between gives idle connections up later."""


def who_asks(scope: Mapping[str, object], headers: Mapping[str, str], keys: Believer | None) -> Identity:
    """Of the bearer token, else of the client's certificate; raise NotKnownError."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token and keys is not None:
        return keys.verify(token.strip())
    state = scope["state"]
    if isinstance(state, dict) and (certificate := state.get("certificate")):
        return bearer_of(certificate)
    raise NotKnownError("no bearer token" if keys is not None else "no client certificate")


class Waiting:
    """Lets ``app`` have each request at once, but those of exporters that ask to wait."""

    def __init__(self, app: ASGIApp, service: Service, keys: Believer | None) -> None:
        self._app, self._service, self._keys = app, service, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # uvicorn is told to have no websockets and no lifespan, so that there are no other scopes.
        if (asked := self._asked(cast("HTTPScope", scope))) is not None:
            await self._service.book.other_than(*asked)
        await self._app(scope, receive, send)

    def _asked(self, scope: HTTPScope) -> tuple[str, str, float] | None:
        """Host, entity tag and seconds of somebody who may wait; whoever may not is refused by ``app``."""
        if scope["method"] != "GET" or not scope["query_string"] or self._service.not_ready:
            return None
        parts = scope["path"].rstrip("/").split("/")
        if parts[:3] != ["", "v1", "agents"] or parts[4:] != ["plans"]:
            return None
        # Of headers that are there twice the first counts, as it does for the application behind.
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(list(scope["headers"]))}
        with suppress(NotKnownError, ValueError, KeyError):
            (text,) = parse_qs(scope["query_string"].decode("latin-1"))["wait"]
            seconds = float(text)
            known = who_asks(scope, headers, self._keys) == Identity(Role.AGENT, parts[3])
            if known and "if-none-match" in headers and math.isfinite(seconds) and 0 < seconds <= LONGEST_WAIT:
                return parts[3], headers["if-none-match"], seconds
        return None
