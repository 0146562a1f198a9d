"""SNMP v2c and v3 with pysnmp: slower by far (20 to 40 times a row), and what the fast engine is held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pysnmp.error import PySnmpError
from pysnmp.hlapi.v3arch.asyncio import (
    USM_AUTH_HMAC96_MD5,
    USM_AUTH_HMAC96_SHA,
    USM_AUTH_HMAC128_SHA224,
    USM_AUTH_HMAC192_SHA256,
    USM_AUTH_HMAC256_SHA384,
    USM_AUTH_HMAC384_SHA512,
    USM_PRIV_CBC56_DES,
    USM_PRIV_CFB128_AES,
    USM_PRIV_CFB192_AES_BLUMENTHAL,
    USM_PRIV_CFB256_AES_BLUMENTHAL,
    CommunityData,
    ContextData,
    ObjectIdentity,
    ObjectType,
    SnmpEngine,
    Udp6TransportTarget,
    UdpTransportTarget,
    UsmUserData,
    bulk_cmd,
    get_cmd,
)

from exporter.switches.snmp import (
    MAX_ASKED,
    MAX_REPETITIONS,
    Community,
    Credentials,
    NoAnswerError,
    Oid,
    RefusedError,
    Rows,
    SnmpError,
    TooBigError,
    Value,
    WalkCheck,
    answered_error,
    planned_repetitions,
)

_AUTHENTICATION = {
    "md5": USM_AUTH_HMAC96_MD5,
    "sha": USM_AUTH_HMAC96_SHA,
    "sha224": USM_AUTH_HMAC128_SHA224,
    "sha256": USM_AUTH_HMAC192_SHA256,
    "sha384": USM_AUTH_HMAC256_SHA384,
    "sha512": USM_AUTH_HMAC384_SHA512,
}
_PRIVACY = {
    "des": USM_PRIV_CBC56_DES,
    "aes": USM_PRIV_CFB128_AES,
    "aes192": USM_PRIV_CFB192_AES_BLUMENTHAL,
    "aes256": USM_PRIV_CFB256_AES_BLUMENTHAL,
}
_NO_VALUE = ("NoSuchObject", "NoSuchInstance", "EndOfMibView", "Null")
_END = "EndOfMibView"
_TEXT = ("ObjectIdentifier", "IpAddress")
_OCTETS = ("OctetString", "Opaque", "Bits")
_TICK_SECONDS = 0.5
"""How often pysnmp looks whether a request is overdue: one that is due at its next look may have just been sent."""


class StandardSession:
    """One device; ``engine`` is shared by all of a process."""

    def __init__(
        self,
        engine: SnmpEngine,
        address: str,
        port: int,
        credentials: Credentials,
        timeout: float,
        retries: int,
        max_repetitions: int = MAX_REPETITIONS,
    ) -> None:
        self._engine = engine
        self._address = (address, port)
        self._credentials = _credentials(credentials)
        self._timeout = timeout + _TICK_SECONDS
        self._retries = retries
        self._repetitions = max_repetitions
        self._target: Any = None
        self._own = False
        self._silent = False

    def close(self) -> None:
        """The shared engine's sockets stay."""
        if self._own:
            self._engine.close_dispatcher()

    async def refresh(self) -> None:
        """pysnmp learns it with the first request, and never again: a device that restarted takes another engine."""
        if self._silent and isinstance(self._credentials, UsmUserData):
            self.close()
            self._engine, self._own, self._target, self._silent = SnmpEngine(), True, None, False

    async def get(self, oids: Sequence[Oid]) -> dict[Oid, Value]:
        found: dict[Oid, Value] = {}
        for start in range(0, len(oids), MAX_ASKED):
            found |= await self._get(oids[start : start + MAX_ASKED])
        return found

    async def _get(self, asked: Sequence[Oid]) -> dict[Oid, Value]:
        try:
            answer = await self._ask(get_cmd, (), asked)
        except TooBigError:
            if len(asked) == 1:
                raise
            half = len(asked) // 2
            return await self._get(asked[:half]) | await self._get(asked[half:])
        return {oid: value for oid, value in answer if value is not None and oid in asked}

    async def walk(self, column: Oid, known: Sequence[Oid] = ()) -> Rows:
        rows: Rows = []
        check = WalkCheck(column, known)
        repetitions = planned_repetitions(known, self._repetitions)
        position, prefix = column, column + "."
        while True:
            answer = await self._ask(bulk_cmd, (0, repetitions), [position])
            batch: Rows = []
            ended = not answer
            for oid, value in answer:
                ended = not oid.startswith(prefix)
                if ended:
                    break
                position = oid
                if value is not None:
                    batch.append((oid, value))
            check.batch(batch, len(rows))
            rows += batch
            if ended:
                check.whole(rows)
                return rows

    async def _ask(self, command: Any, numbers: tuple[int, ...], oids: Sequence[Oid]) -> list[tuple[Oid, Value | None]]:
        try:
            if self._target is None:
                kind = Udp6TransportTarget if ":" in self._address[0] else UdpTransportTarget
                self._target = await kind.create(self._address, timeout=self._timeout, retries=self._retries)
            asked = [ObjectType(ObjectIdentity(oid)) for oid in oids]
            indication, status, _, bindings = await command(
                self._engine, self._credentials, self._target, ContextData(), *numbers, *asked, lookupMib=False
            )
        except PySnmpError as error:
            raise SnmpError(f"an answer that cannot be read: {error}") from None
        if indication:
            text = str(indication)
            if "timeout" in text.lower() or "before" in text.lower():
                self._silent = True
                raise NoAnswerError(f"no answer from {self._address[0]}:{self._address[1]}: {text}")
            raise RefusedError(f"the device refuses: {text}")
        if status:
            raise answered_error(status.prettyPrint())
        # What says that the table ended has no name, so that it is in no column.
        return [
            ("" if type(value).__name__ == _END else ".".join(map(str, tuple(name))), _value(value))
            for name, value in bindings
        ]


def _value(value: Any) -> Value | None:
    tag = type(value).__name__
    if tag in _NO_VALUE:
        return None
    if tag in _TEXT:
        return str(value.prettyPrint())
    if tag in _OCTETS:
        return bytes(value)
    return int(value)


def _credentials(credentials: Credentials) -> Any:
    if isinstance(credentials, Community):
        return CommunityData(credentials.community, mpModel=1)  # noqa: S508 - v2c is what most fabrics serve
    return UsmUserData(
        credentials.name,
        authKey=credentials.authentication_key or None,
        privKey=credentials.privacy_key or None,
        authProtocol=_AUTHENTICATION.get(credentials.authentication or "") or UsmUserData.authentication_protocol,
        privProtocol=_PRIVACY.get(credentials.privacy or "") or UsmUserData.privacy_protocol,
    )
