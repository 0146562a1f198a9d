"""What a switch is asked over SNMP, whichever engine carries it (RFC 3416).

Two engines do: gufo_snmp for everything day by day (exporter/switches/fast.py) and pysnmp (standard.py), which tests
hold the other to. An OID is written with dots, ``1.3.6.1.2.1.2.2.1.10.17``; a value is an ``int`` (INTEGER, Counter,
Gauge, TimeTicks), ``bytes`` (OCTET STRING, Opaque) or ``str`` (OBJECT IDENTIFIER, IpAddress).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

Oid = str
Value = int | bytes | str
Rows = list[tuple[Oid, Value]]

MAX_ROWS = 100_000
"""Of one column; no switch has as many ports x queues x counts."""
MAX_ASKED = 48
"""OIDs in one GET: their answer stays below an Ethernet frame's 1,500 bytes, as agents like it."""
MAX_REPETITIONS = 50
"""Of one GETBULK, unless a profile or the configuration says fewer."""

UPTIME: Oid = "1.3.6.1.2.1.1.3.0"
OBJECT_ID: Oid = "1.3.6.1.2.1.1.2.0"
DESCRIPTION: Oid = "1.3.6.1.2.1.1.1.0"
SYSTEM_NAME: Oid = "1.3.6.1.2.1.1.5.0"


class SnmpError(Exception):
    """A request that gave no result; the message says what the device did, and what might help."""


class NoAnswerError(SnmpError):
    """Nothing came back in time."""


class RefusedError(SnmpError):
    """The device does not accept our user or keys."""


class TooBigError(SnmpError):
    """The answer would be longer than the device sends: what was asked for is to be asked for in pieces."""


class Community(msgspec.Struct, frozen=True, tag="v2c"):
    """Who we are to a device, over SNMP v2c."""

    community: str

    def __repr__(self) -> str:
        return "Community(…)"


class User(msgspec.Struct, frozen=True, tag="v3", kw_only=True):
    """Who we are to a device, over SNMP v3 (RFC 3414): protocols by name, keys as passwords."""

    name: str
    authentication: str | None = None
    """md5, sha (SHA-1), sha224, sha256, sha384 or sha512."""
    authentication_key: str = ""
    privacy: str | None = None
    """des, aes (128), aes192 or aes256."""
    privacy_key: str = ""

    def __repr__(self) -> str:
        return f"User({self.name!r}, …)"


Credentials = Community | User


class Session(Protocol):
    """One device, asked one thing at a time."""

    async def get(self, oids: Sequence[Oid]) -> dict[Oid, Value]:
        """Values of exact OIDs. What the device does not have, or did not answer, is left out. Raise SnmpError."""

    async def walk(self, column: Oid, known: Sequence[Oid] = ()) -> Rows:
        """All rows below ``column`` in order; ``known`` is what the last walk gave, by which this one is planned.

        Raise SnmpError: also for a device that goes back, or has no end.
        """

    async def refresh(self) -> None:
        """Learn the device's engine, boots and time anew (v3, RFC 3414); nothing over v2c. Raise SnmpError."""

    def close(self) -> None: ...


@lru_cache(1 << 16)
def numbers(oid: Oid) -> tuple[int, ...]:
    """The sub-identifiers of an OID, which is how OIDs are ordered; raise ValueError.

    Kept, because switches of one kind have the same ones.
    """
    return tuple(map(int, oid.split(".")))


class WalkCheck:
    """Watches a walk go on: a device that goes back would never end (a classic of broken agents)."""

    def __init__(self, column: Oid, known: Sequence[Oid]) -> None:
        self._column = column
        self._known = known
        self._last = numbers(column)

    def batch(self, rows: Rows, rows_before: int) -> None:
        """Check that the walk advances with the rows of one answer; raise SnmpError."""
        if not rows:
            return
        last = numbers(rows[-1][0])
        if last <= self._last:
            raise SnmpError(f"OIDs do not increase at {rows[-1][0]}: the device's agent goes round in circles")
        self._last = last
        if rows_before + len(rows) > MAX_ROWS:
            raise SnmpError(f"more than {MAX_ROWS} rows in {self._column}")

    def whole(self, rows: Rows) -> None:
        """Check each step of the whole walk, unless it is the one that is known; raise SnmpError."""
        oids = [oid for oid, _ in rows]
        if len(oids) == len(self._known) and oids == list(self._known):
            return
        prefix = self._column + "."
        last: tuple[int, ...] = ()
        for oid in oids:
            if not oid.startswith(prefix):
                raise SnmpError(f"device answered {oid} when asked for {self._column}")
            now = numbers(oid)
            if now <= last:
                raise SnmpError(f"OIDs do not increase at {oid}: the device's agent goes round in circles")
            last = now


def planned_repetitions(known: Sequence[Oid], most: int) -> int:
    """Rows to ask for: one more than the column has, so that the same answer tells where it ends."""
    return min(most, len(known) + 1) if known else most


_ERRORS = (
    "", "tooBig", "noSuchName", "badValue", "readOnly", "genErr", "noAccess", "wrongType", "wrongLength",
    "wrongEncoding", "wrongValue", "noCreation", "inconsistentValue", "resourceUnavailable", "commitFailed",
    "undoFailed", "authorizationError", "notWritable", "inconsistentName",
)  # fmt: skip
_RESPONSE = 0xA2


def error_status(head: bytes) -> str:
    """Name of what a v2c response says went wrong, by its first bytes; empty where nothing did (RFC 3416, 3)."""
    at = 0
    try:
        for tag, inside in ((0x30, True), (0x02, False), (0x04, False), (_RESPONSE, True), (0x02, False)):
            start, length = _element(head, at, tag)
            at = start if inside else start + length
        start, length = _element(head, at, 0x02)
        status = int.from_bytes(head[start : start + length], "big")
    except (IndexError, ValueError):
        return ""
    if status == 0:
        return ""
    return _ERRORS[status] if status < len(_ERRORS) else f"error {status}"


def answered_error(name: str) -> SnmpError:
    return (TooBigError if name == "tooBig" else SnmpError)(f"the device answered {name}")


def _element(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the contents of a BER element begin, and their length; raise ValueError for another tag, or IndexError."""
    if data[at] != tag:
        raise ValueError(f"tag {data[at]:#x}")
    length = data[at + 1]
    if length < 0x80:
        return at + 2, length
    size = length & 0x7F
    return at + 2 + size, int.from_bytes(data[at + 2 : at + 2 + size], "big")
