"""SNMP v2c walks with pysnmp (RFC 3416 GetBulk), several columns at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pysnmp.hlapi.v1arch.asyncio import (
    CommunityData,
    ObjectIdentity,
    ObjectType,
    SnmpDispatcher,
    UdpTransportTarget,
    bulk_cmd,
)

Oid = tuple[int, ...]
Value = int | bytes | None
"""None stands for noSuchObject, noSuchInstance and endOfMibView."""

MAX_REPETITIONS = 25
MAX_ROWS = 100_000


class SnmpError(Exception):
    """A walk that could not be finished; the message says what the device did."""


class Session(Protocol):
    """One device. Engines differ; walks do not."""

    async def bulk(self, oids: Sequence[Oid], repetitions: int) -> list[tuple[Oid, Value]]: ...


class PysnmpSession:
    """pysnmp without MIB lookup, which would cost more than the rest together."""

    def __init__(
        self, dispatcher: SnmpDispatcher, address: str, port: int, community: str, timeout: float, retries: int
    ) -> None:
        self._dispatcher = dispatcher
        self._address = (address, port)
        self._community = CommunityData(community, mpModel=1)  # noqa: S508 - v2c is what most fabrics serve
        self._timeout = timeout
        self._retries = retries
        self._target: UdpTransportTarget | None = None

    async def bulk(self, oids: Sequence[Oid], repetitions: int) -> list[tuple[Oid, Value]]:
        if self._target is None:
            self._target = await UdpTransportTarget.create(self._address, timeout=self._timeout, retries=self._retries)
        asked = [ObjectType(ObjectIdentity(oid)) for oid in oids]
        indication, status, _, bindings = await bulk_cmd(
            self._dispatcher, self._community, self._target, 0, repetitions, *asked, lookupMib=False
        )
        if indication:
            raise SnmpError(str(indication))
        if status:
            raise SnmpError(f"device answered {status.prettyPrint()}")
        return [(tuple(name), _value(value)) for name, value in bindings]


def _value(value: Any) -> Value:
    tag = type(value).__name__
    if tag in ("NoSuchObject", "NoSuchInstance", "EndOfMibView"):
        return None
    if tag in ("OctetString", "IpAddress", "Opaque", "Bits"):
        return bytes(value)
    if tag in ("ObjectIdentifier", "Null"):
        return None
    return int(value)


async def walk(session: Session, columns: Sequence[Oid]) -> dict[Oid, dict[Oid, Value]]:
    """Read table columns to their ends; return {column: {index: value}}.

    Raise SnmpError on a device that answers out of order (a loop would never end), answers nothing,
    or holds more rows than any switch has.
    """
    result: dict[Oid, dict[Oid, Value]] = {column: {} for column in columns}
    position = {column: column for column in columns}
    while position:
        asked = list(position)
        bindings = await session.bulk([position[column] for column in asked], MAX_REPETITIONS)
        if not bindings:
            raise SnmpError("device answered an empty list")
        for number, (oid, value) in enumerate(bindings):
            column = asked[number % len(asked)]
            if column not in position:
                continue
            if value is None or oid[: len(column)] != column:
                del position[column]
                continue
            if oid <= position[column]:
                raise SnmpError(f"OIDs do not increase at {'.'.join(map(str, oid))}")
            position[column] = oid
            result[column][oid[len(column) :]] = value
            if len(result[column]) > MAX_ROWS:
                raise SnmpError(f"more than {MAX_ROWS} rows in {'.'.join(map(str, column))}")
    return result
