"""Who asks, and what they may: bearer tokens (JSON Web Tokens, RFC 7519) and client certificates (RFC 8705).

A token is signed with a key that the service holds in a file, and names its bearer; the service keeps no list of them.
To take one back, change the key: the file may hold several, the first signs, all are believed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import jwt

from exporter.contracts.codec import ContractError, read_bytes

_ALGORITHM = "HS256"
_AUDIENCE = "fabric-skeleton"
LEAST_KEY_BYTES = 32
"""Of HS256 (RFC 7518, section 3.2)."""
LEEWAY_SECONDS = 60.0
"""By which clocks may differ."""


class Role(StrEnum):
    AGENT = "agent"
    """The exporter of one host: learns that host's plans, says when its endpoints are up."""
    READER = "reader"
    """People, dashboards and CI: read everything."""
    OPERATOR = "operator"
    """What starts and ends jobs."""


@dataclass(frozen=True, slots=True)
class Identity:
    role: Role
    name: str
    """Of the host, for an agent; else of a person or a program, for the log."""


class NotKnownError(Exception):
    """What was presented names nobody. ``str()`` says why, and holds no secret."""


class Believer(Protocol):
    """Whoever knows bearers by their tokens."""

    def verify(self, token: str) -> Identity:
        """Raise NotKnownError for a token that is forged, too old, or not for us."""
        raise NotImplementedError


class Tokens:
    """Tokens of ours, which are signed with a secret, and of a cluster, which are signed with a key pair."""

    def __init__(self, keys: Believer | None, cluster: Believer | None) -> None:
        self._keys, self._cluster = keys, cluster

    def verify(self, token: str) -> Identity:
        """Raise NotKnownError."""
        if self._cluster is None and self._keys is not None:
            return self._keys.verify(token)
        try:
            ours = jwt.get_unverified_header(token).get("alg") == _ALGORITHM
        except jwt.InvalidTokenError:
            raise NotKnownError("the bearer token is no token") from None
        believer = self._keys if ours else self._cluster
        if believer is None:
            raise NotKnownError("the bearer token is of nobody who is believed here")
        return believer.verify(token)


class Keys:
    """The keys of a file, one a line, the newest first; looked at again when the file has changed."""

    def __init__(self, path: Path) -> None:
        """Raise ContractError where the file holds none."""
        self._path = path
        self._keys = read_keys(path)
        self._seen = self._state()

    def _state(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def refresh(self) -> bool:
        """Read the file again if it is another; True when its keys are believed from now on.

        Raise ContractError where it holds no keys now: those before it stay.
        """
        try:
            seen = self._state()
        except OSError as error:
            raise ContractError(str(self._path), error.strerror or str(error), "the keys before stay") from error
        if seen == self._seen:
            return False
        self._seen = seen
        self._keys = read_keys(self._path)
        return True

    def sign(self, identity: Identity, seconds: float, now: float | None = None) -> str:
        """A token of that identity for so long."""
        begun = time.time() if now is None else now
        claims: dict[str, object] = {"aud": _AUDIENCE, "role": identity.role, "sub": identity.name}
        claims |= {"iat": int(begun), "exp": int(begun + seconds)}
        return jwt.encode(claims, self._keys[0], algorithm=_ALGORITHM)

    def verify(self, token: str) -> Identity:
        """Raise NotKnownError for a token that is forged, too old, or not ours."""
        problem = "is signed with no key of ours"
        for key in self._keys:
            try:
                claims = jwt.decode(
                    token, key, algorithms=[_ALGORITHM], audience=_AUDIENCE, leeway=LEEWAY_SECONDS,
                    options={"require": ["aud", "exp", "sub", "role"]},
                )  # fmt: skip
                return Identity(Role(claims["role"]), str(claims["sub"]))
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                problem = "has expired"
            except (jwt.InvalidTokenError, ValueError):
                problem = "is no token of this service"
            break
        raise NotKnownError(f"the bearer token {problem}")


def read_keys(path: Path) -> list[bytes]:
    """Keys of a file, a line each; raise ContractError, which holds none of them."""
    keys = [line.strip() for line in read_bytes(path).splitlines() if line.strip()]
    if not keys:
        raise ContractError(str(path), "holds no key", "head -c 32 /dev/urandom | base64 > FILE")
    if short := next((number for number, key in enumerate(keys, 1) if len(key) < LEAST_KEY_BYTES), None):
        problem = f"the key on line {short} has fewer than {LEAST_KEY_BYTES} bytes"
        raise ContractError(str(path), problem, "head -c 32 /dev/urandom | base64")
    return keys
