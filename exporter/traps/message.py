"""Messages of SNMP v2c (RFC 1901, RFC 3416) and v3 (RFC 3412, RFC 3414), as far as notifications need them."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.traps.ber import INTEGER, OCTETS, SEQUENCE, MalformedError, Oid, Reader, Value

INFORM, TRAP, RESPONSE, REPORT = 0xA6, 0xA7, 0xA2, 0xA8
AUTHENTICATED, ENCRYPTED, REPORTABLE = 1, 2, 4
"""Bits of msgFlags (RFC 3412, section 6.4)."""
USM = 3
TRAP_OID: Oid = (1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0)
"""snmpTrapOID.0: what a notification is (RFC 3416, section 4.2.6)."""
_VERSION_2C, _VERSION_3 = 1, 3
_MOST_VARIABLES = 64
_LONGEST_USER = 32  # bytes (RFC 3414, section 2.4); reports repeat it


@dataclass(frozen=True, slots=True)
class CommunityMessage:
    """A message of v2c whose community was read, and nothing else."""

    data: bytes
    community: bytes
    pdu_at: int
    """Offset of the PDU in ``data``."""


@dataclass(frozen=True, slots=True)
class SecuredMessage:
    """A message of v3 whose headers were read, and nothing else. None of it is to be believed before its digest is."""

    data: bytes
    identifier: int
    flags: int
    engine: bytes
    """Of who is authoritative: the sender of a trap, the receiver of an inform."""
    boots: int
    time: int
    user: bytes
    digest_at: int
    digest: bytes
    salt: bytes
    encrypted: bool
    payload_at: int
    payload_end: int
    """Where the scoped PDU lies in ``data``: its element, or the contents of an encrypted one."""

    @property
    def payload(self) -> bytes:
        return self.data[self.payload_at : self.payload_end]


@dataclass(frozen=True, slots=True)
class Notification:
    """A trap or an inform: what it is, and what it names."""

    kind: Oid
    variables: tuple[tuple[Oid, Value], ...]
    confirmed: bool
    """An inform, which its sender repeats until it is acknowledged."""


def read_message(data: bytes) -> CommunityMessage | SecuredMessage:
    """The headers of a datagram; raise MalformedError, for v1 too."""
    outside = Reader(data)
    message = outside.take(SEQUENCE)
    version = message.integer()
    if version == _VERSION_2C:
        return CommunityMessage(data, message.octets(), message.at)
    if version != _VERSION_3:
        raise MalformedError(f"is of version {version}, neither v2c (1) nor v3 (3)")
    header = message.take(SEQUENCE)
    identifier = header.integer()
    header.take(INTEGER)  # the largest message that its sender takes: ours are small
    flags = header.octets()
    if len(flags) != 1 or header.integer() != USM:
        raise MalformedError("has no security model that is known")
    security = message.take(OCTETS).take(SEQUENCE)
    engine, boots, time, user = security.octets(), security.integer(), security.integer(), security.octets()
    if len(user) > _LONGEST_USER:
        raise MalformedError("has a user name that is too long")
    digest = security.take(OCTETS)
    salt = security.octets()
    started = message.at
    tag, payload = message.next()
    if tag not in (SEQUENCE, OCTETS):
        raise MalformedError("has no scoped PDU")
    encrypted = tag == OCTETS
    if encrypted != bool(flags[0] & ENCRYPTED) or flags[0] & (AUTHENTICATED | ENCRYPTED) == ENCRYPTED:
        raise MalformedError("has flags that its contents belie")
    return SecuredMessage(
        data=data,
        identifier=identifier,
        flags=flags[0],
        engine=engine,
        boots=boots,
        time=time,
        user=user,
        digest_at=digest.at,
        digest=digest.contents(),
        salt=salt,
        encrypted=encrypted,
        payload_at=payload.at if encrypted else started,
        payload_end=payload.end,
    )


def find_pdu(scoped: bytes) -> tuple[int, int]:
    """Where in a scoped PDU the PDU begins and where it ends: behind it there may be padding. Raise MalformedError."""
    inside = Reader(scoped).take(SEQUENCE)
    inside.octets()  # contextEngineID
    inside.octets()  # contextName
    return inside.at, inside.end


def read_notification(data: bytes, at: int) -> Notification:
    """The trap or inform at an offset; raise MalformedError for anything else."""
    tag, pdu = Reader(data, at).next()
    if tag not in (TRAP, INFORM):
        raise MalformedError(f"has a PDU {tag:#x}, neither a trap nor an inform")
    for _ in range(3):  # request-id, and two numbers that are 0
        pdu.integer()
    listed = pdu.take(SEQUENCE)
    kind: Oid | None = None
    variables: list[tuple[Oid, Value]] = []
    while listed.more:
        if len(variables) >= _MOST_VARIABLES:
            raise MalformedError(f"has over {_MOST_VARIABLES} variables")
        variable = listed.take(SEQUENCE)
        name, value = variable.oid(), variable.value()
        if name == TRAP_OID and kind is None and isinstance(value, tuple):
            kind = value
        variables.append((name, value))
    if kind is None:
        raise MalformedError("does not say what it is: no snmpTrapOID.0")
    return Notification(kind, tuple(variables), tag == INFORM)


def acknowledged(data: bytes, pdu_at: int) -> bytes:
    """The same with the inform at this offset turned into its response, which repeats it (RFC 3416, 4.2.7)."""
    return data[:pdu_at] + bytes((RESPONSE,)) + data[pdu_at + 1 :]
