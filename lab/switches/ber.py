"""The part of BER that an SNMP v2c agent needs (X.690; messages and PDUs: RFC 3416 and RFC 1901).

An OID on the wire is its whole encoding, tag and length included: that is what a request holds, what an answer
repeats, and what ``Walk`` finds a position by, without decoding it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeAlias

Oid: TypeAlias = tuple[int, ...]
Value: TypeAlias = "int | bytes | Oid | None"
"""A number; the bytes of a string, an Opaque or an address; an OID; None for Null."""

GET, GET_NEXT, RESPONSE, GET_BULK = 0xA0, 0xA1, 0xA2, 0xA5
VERSION_2C = 1

NO_SUCH_OBJECT, NO_SUCH_INSTANCE, END_OF_MIB_VIEW = b"\x80\x00", b"\x81\x00", b"\x82\x00"

TOO_BIG, GENERAL_ERROR = 1, 5

SMALLEST_VARBIND = 7
"""Bytes of a varbind of the shortest name and an empty value."""


class Tag(IntEnum):
    """Types of values: the tag byte of BER, which is also the number that .snmprec files write."""

    INTEGER = 2
    OCTET_STRING = 4
    NULL = 5
    OID = 6
    IP_ADDRESS = 64
    COUNTER32 = 65
    GAUGE32 = 66
    TIME_TICKS = 67
    OPAQUE = 68
    COUNTER64 = 70


COUNTERS = {Tag.COUNTER32: 1 << 32, Tag.COUNTER64: 1 << 64}
"""Each kind of counter, and the value at which it is 0 again."""

_RANGES = {
    Tag.INTEGER: range(-(1 << 31), 1 << 31),
    Tag.COUNTER32: range(1 << 32),
    Tag.GAUGE32: range(1 << 32),
    Tag.TIME_TICKS: range(1 << 32),
    Tag.COUNTER64: range(1 << 64),
}
_SEQUENCE = 0x30
_SHORT = [bytes([_SEQUENCE, length]) for length in range(128)]


class Request(NamedTuple):
    """A request as it was decoded; the two counts are 0 unless it is a GETBULK."""

    version: int
    community: bytes
    kind: int
    request_id: int
    non_repeaters: int
    max_repetitions: int
    names: list[bytes]
    """The OIDs asked for, as they are on the wire."""


def decode_request(data: bytes) -> Request:
    """Decode a datagram; raise ValueError if it is no request of SNMP v1 or v2c."""
    at, end = _expect(data, 0, _SEQUENCE, len(data))
    start, at = _expect(data, at, Tag.INTEGER, end)
    version = int.from_bytes(data[start:at], "big", signed=True)
    start, at = _expect(data, at, Tag.OCTET_STRING, end)
    community = data[start:at]
    kind, at, end = _element(data, at, end)
    if kind not in {GET, GET_NEXT, GET_BULK}:
        raise ValueError(f"PDU type {kind:#x} is no request that is answered")
    numbers = []
    for _ in range(3):
        start, at = _expect(data, at, Tag.INTEGER, end)
        numbers.append(int.from_bytes(data[start:at], "big", signed=True))
    at, end = _expect(data, at, _SEQUENCE, end)
    names = []
    while at < end:
        name, after = _expect(data, at, _SEQUENCE, end)
        _, name_end = _expect(data, name, Tag.OID, after)
        names.append(data[name:name_end])
        at = after
    bulk = kind == GET_BULK
    return Request(version, community, kind, numbers[0], numbers[1] * bulk, numbers[2] * bulk, names)


def _element(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Tag of the element at this place, and where its contents begin and end."""
    if at + 2 > end:
        raise ValueError("an element ends too early")
    length = data[at + 1]
    start = at + 2
    if length >= 0x80:  # 0x80 itself, a length told later, is not allowed in SNMP
        size = length & 0x7F
        if not 0 < size <= 4:
            raise ValueError(f"a length of {size} bytes")
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    if start + length > end:
        raise ValueError("an element is longer than what holds it")
    return data[at], start, start + length


def _expect(data: bytes, at: int, tag: int, end: int) -> tuple[int, int]:
    """Where the contents of the element at this place begin and end; raise ValueError if its tag is another."""
    start = at + 2
    if start <= end and data[at] == tag and (length := data[at + 1]) < 0x80 and start + length <= end:
        return start, start + length  # most are: this is what the time of an answer goes to
    found, start, end = _element(data, at, end)
    if found != tag:
        raise ValueError(f"tag {found:#x} where {tag:#x} is expected")
    return start, end


def decode_oid(encoded: bytes) -> Oid:
    """The OID of its encoding with tag and length; raise ValueError if it ends within a number or has none."""
    start, end = _expect(encoded, 0, Tag.OID, len(encoded))
    numbers = []
    number = 0
    for byte in encoded[start:end]:
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            numbers.append(number)
            number = 0
    if start == end or encoded[end - 1] >= 0x80:
        raise ValueError("an OID that ends too early")
    first = min(numbers[0] // 40, 2)
    return (first, numbers[0] - 40 * first, *numbers[1:])


def encode_oid(oid: Oid) -> bytes:
    """Encode an OID with tag and length; raise ValueError for what is none."""
    if len(oid) < 2 or min(oid) < 0 or oid[0] > 2 or (oid[0] < 2 and oid[1] > 39):
        raise ValueError(f"{oid} is no OID")
    body = bytearray()
    for number in (40 * oid[0] + oid[1], *oid[2:]):
        if number < 0x80:
            body.append(number)
        else:
            groups = (number.bit_length() + 6) // 7
            body.extend(number >> 7 * place & 0x7F | (0x80 if place else 0) for place in range(groups - 1, -1, -1))
    return _wrap(Tag.OID, bytes(body))


def encode_integer(tag: int, number: int) -> bytes:
    """Encode a number in as few bytes as it takes."""
    size = (number if number >= 0 else ~number).bit_length() // 8 + 1
    return bytes((tag, size)) + number.to_bytes(size, "big", signed=True)


def encode_value(tag: Tag, value: Value) -> bytes:
    """Encode a value with tag and length; raise ValueError if the type does not have such a value."""
    if isinstance(value, int) and tag in _RANGES:
        if value not in _RANGES[tag]:
            raise ValueError(f"{value} is out of range for {tag.name}")
        return encode_integer(tag, value)
    if isinstance(value, bytes) and tag in {Tag.OCTET_STRING, Tag.IP_ADDRESS, Tag.OPAQUE}:
        if tag == Tag.IP_ADDRESS and len(value) != 4:
            raise ValueError("an IpAddress has 4 bytes")
        return _wrap(tag, value)
    if isinstance(value, tuple) and tag == Tag.OID:
        return encode_oid(value)
    if value is None and tag == Tag.NULL:
        return b"\x05\x00"
    raise ValueError(f"{value!r} is no value of {tag.name}")


def encode_varbind(name: bytes, value: bytes) -> bytes:
    """A varbind of a name and a value that are both encoded."""
    length = len(name) + len(value)
    return _SHORT[length] + name + value if length < 128 else _wrap(_SEQUENCE, name + value)


def encode_response(
    community: bytes, request_id: int, varbinds: bytes, error_status: int = 0, error_index: int = 0
) -> bytes:
    """A whole response; ``varbinds`` are the encoded ones, one after the other."""
    numbers = (
        encode_integer(Tag.INTEGER, request_id) + encode_integer(Tag.INTEGER, error_status)
        + encode_integer(Tag.INTEGER, error_index) if error_status or error_index
        else encode_integer(Tag.INTEGER, request_id) + b"\x02\x01\x00\x02\x01\x00"
    )  # fmt: skip
    pdu = _wrap(RESPONSE, numbers + _wrap(_SEQUENCE, varbinds))
    return _wrap(_SEQUENCE, b"\x02\x01\x01" + _wrap(Tag.OCTET_STRING, community) + pdu)


def _wrap(tag: int, body: bytes) -> bytes:
    length = len(body)
    if length < 0x80:
        return bytes((tag, length)) + body
    if length < 0x100:
        return bytes((tag, 0x81, length)) + body
    if length < 0x10000:
        return bytes((tag, 0x82, length >> 8, length & 0xFF)) + body
    return bytes((tag, 0x84)) + length.to_bytes(4, "big") + body
