"""Exporters that show a token of Kubernetes: one of their pod's service account, which names the pod's node.

The API server signs such tokens for an audience (KEP-1205), and since Kubernetes 1.30 it names the node in them
(KEP-4193). They are checked here, with the keys that it publishes (``/openid/v1/jwks``): it is not asked about each.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import jwt

from skeleton_service.live.errors import BrokenError
from skeleton_service.live.identity import LEEWAY_SECONDS, Identity, NotKnownError, Role

_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"})
_FRESH_SECONDS = 300.0
"""The keys are asked for anew so often; at once for a key that is not among them, but with pauses."""
_PAUSE_SECONDS = 10.0
_log = logging.getLogger(__name__)

Published = Callable[[], Awaitable[Mapping[str, Any]]]
"""The cluster's keys, a JSON Web Key Set (RFC 7517); or BrokenError."""


class ServiceAccounts:
    """Tokens of these accounts are agents' of their nodes."""

    def __init__(self, published: Published, *, audience: str, accounts: Collection[str]) -> None:
        """``accounts``: ``NAMESPACE/NAME``."""
        self._published, self._audience = published, audience
        self._subjects = {f"system:serviceaccount:{each.replace('/', ':', 1)}" for each in accounts}
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked: float | None = None
        self._missing = True
        self.problem = ""

    async def turn(self) -> None:
        """Have the keys, when that is due."""
        now, every = time.monotonic(), _PAUSE_SECONDS if self._missing or self.problem else _FRESH_SECONDS
        if self._asked is not None and now - self._asked < every:
            return
        self._asked, self._missing = now, False
        try:
            found = jwt.PyJWKSet.from_dict(dict(await self._published()))
        except (BrokenError, jwt.PyJWTError, TypeError, AttributeError) as error:
            problem = f"keys of the cluster: {error or type(error).__name__}"
            if problem != self.problem:
                _log.error("%s; what was before stays", problem)
            self.problem = problem
            return
        self.problem = ""
        self._keys = {key.key_id: key for key in found.keys if key.key_id and key.algorithm_name in _ALGORITHMS}

    def verify(self, token: str) -> Identity:
        """The agent of the node that it names; raise NotKnownError."""
        try:
            key = self._keys.get(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                self._missing = True
                raise NotKnownError("the bearer token is signed with no key of the cluster")
            claims = jwt.decode(
                token, key, algorithms=[key.algorithm_name], audience=self._audience, leeway=LEEWAY_SECONDS,
                options={"require": ["aud", "exp", "sub"]},
            )  # fmt: skip
        except jwt.ExpiredSignatureError:
            raise NotKnownError("the bearer token has expired") from None
        except jwt.InvalidTokenError as error:
            raise NotKnownError(f"the bearer token is none of the cluster's for this service: {error}") from None
        if claims["sub"] not in self._subjects:
            raise NotKnownError("the bearer token is of an account that is no exporter's")
        bound = claims.get("kubernetes.io")
        names = [_name(bound.get(what)) if isinstance(bound, dict) else None for what in ("pod", "node")]
        # Of a pod that is there: whoever may make tokens may have them name any node, without one.
        name = names[1] if all(names) else None
        if name is None:
            raise NotKnownError("the bearer token names no pod on a node: that takes Kubernetes 1.30")
        return Identity(Role.AGENT, name)


def _name(bound: object) -> str | None:
    name = bound.get("name") if isinstance(bound, dict) else None
    return name if isinstance(name, str) and name else None
