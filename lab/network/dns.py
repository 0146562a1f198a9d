"""As much of DNS as a client needs: queries for addresses, dynamic updates, and what an answer says.

RFC 1035 (messages), RFC 2136 (updates), RFC 3596 (AAAA). Messages are bytes, as in a UDP datagram.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

PORT = 53
A, SOA, AAAA = 1, 6, 28
IN, ANY = 1, 255
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH"}
OPCODE_UPDATE = 5 << 11
RECURSION_DESIRED = 0x0100
RESPONSE, TRUNCATED = 0x8000, 0x0200
_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")  # type, class, time to live, length


@dataclass(frozen=True)
class Answer:
    identifier: int
    rcode: int
    truncated: bool
    addresses: tuple[str, ...]  # of its A records


def encode_name(name: str) -> bytes:
    """``name`` as labels; raise ValueError when one is empty or too long."""
    out = bytearray()
    for label in name.rstrip(".").split("."):
        data = label.encode("ascii")
        if not 1 <= len(data) <= 63:
            raise ValueError(f"{name!r} is no domain name")
        out += bytes([len(data)]) + data
    if len(out) > 254:
        raise ValueError(f"{name!r} is longer than a domain name may be")
    return bytes(out) + b"\0"


def query(identifier: int, name: str, kind: int) -> bytes:
    return _HEADER.pack(identifier, RECURSION_DESIRED, 1, 0, 0, 0) + encode_name(name) + struct.pack("!HH", kind, IN)


def update(identifier: int, zone: str, name: str, address: str, time_to_live: int = 5) -> bytes:
    """Make ``address`` the only address of ``name``; ``time_to_live`` in seconds."""
    owner = encode_name(name)
    return b"".join(
        (
            _HEADER.pack(identifier, OPCODE_UPDATE, 1, 0, 2, 0),
            encode_name(zone) + struct.pack("!HH", SOA, IN),
            owner + _RECORD.pack(A, ANY, 0, 0),  # delete the set of records (RFC 2136, 2.5.2)
            owner + _RECORD.pack(A, IN, time_to_live, 4) + IPv4Address(address).packed,
        )
    )


def _skip_name(data: bytes, offset: int) -> int:
    while True:
        length = data[offset]
        if length >= 0xC0:  # a pointer ends a name
            return offset + 2
        offset += 1 + length
        if length == 0:
            return offset


def decode(data: bytes) -> Answer:
    """Read an answer; raise ValueError when it is none."""
    try:
        identifier, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
        if not flags & RESPONSE:
            raise ValueError("a question, no answer")
        offset = _HEADER.size
        if flags & 0x7800 == OPCODE_UPDATE:
            answers = questions = 0
        for _ in range(questions):
            offset = _skip_name(data, offset) + 4
        addresses = []
        for _ in range(answers):
            offset = _skip_name(data, offset)
            kind, _, _, length = _RECORD.unpack_from(data, offset)
            offset += _RECORD.size
            if kind == A:
                addresses.append(str(IPv4Address(data[offset : offset + length])))
            offset += length
    except (IndexError, struct.error) as error:
        raise ValueError("a message that ends too early") from error
    return Answer(identifier, flags & 0xF, bool(flags & TRUNCATED), tuple(addresses))
