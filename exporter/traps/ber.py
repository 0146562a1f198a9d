"""As much of the Basic Encoding Rules (ITU-T X.690) as SNMP uses (RFC 3417, section 8), for bytes of anybody.

A reader never recurses, copies nothing but what is asked for, and fails with MalformedError alone. Indefinite lengths
and tags of more than one byte are refused, as SNMP has neither.
"""

from __future__ import annotations

Oid = tuple[int, ...]
Value = int | bytes | Oid | None

INTEGER, OCTETS, NULL, OBJECT, SEQUENCE = 0x02, 0x04, 0x05, 0x06, 0x30
ADDRESS, COUNTER32, GAUGE32, TICKS, OPAQUE, COUNTER64 = 0x40, 0x41, 0x42, 0x43, 0x44, 0x46
_INTEGERS = frozenset({INTEGER, COUNTER32, GAUGE32, TICKS, COUNTER64})
_LONGEST_OID = 128  # sub-identifiers (RFC 2578, section 3.5)
_MOST_SUBIDENTIFIER = 2**32 - 1


class MalformedError(ValueError):
    """Not what SNMP sends."""


class Reader:
    """The elements between two offsets of ``data``, one after the other."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end

    @property
    def more(self) -> bool:
        return self.at < self.end

    def next(self) -> tuple[int, Reader]:
        """Tag and contents of the next element."""
        data, at, end = self.data, self.at, self.end
        if at + 2 > end:
            raise MalformedError("ends within an element")
        tag, length = data[at], data[at + 1]
        at += 2
        if tag & 0x1F == 0x1F:
            raise MalformedError("has a tag of several bytes")
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4 or at + size > end:
                raise MalformedError("has a length that SNMP has not")
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > end:
            raise MalformedError("has an element that ends after it")
        self.at = at + length
        return tag, Reader(data, at, self.at)

    def take(self, expected: int) -> Reader:
        tag, contents = self.next()
        if tag != expected:
            raise MalformedError(f"has tag {tag:#x} where {expected:#x} belongs")
        return contents

    def integer(self) -> int:
        return self.take(INTEGER).as_integer()

    def octets(self) -> bytes:
        return self.take(OCTETS).contents()

    def oid(self) -> Oid:
        return self.take(OBJECT).as_oid()

    def value(self) -> Value:
        """The next element as what its tag says; None for the types that nothing here reads, and for no value."""
        tag, contents = self.next()
        if tag in _INTEGERS:
            return contents.as_integer()
        if tag in (OCTETS, ADDRESS, OPAQUE):
            return contents.contents()
        return contents.as_oid() if tag == OBJECT else None

    def contents(self) -> bytes:
        return self.data[self.at : self.end]

    def as_integer(self) -> int:
        if not 1 <= self.end - self.at <= 9:  # Counter64 with its highest bit set takes nine bytes
            raise MalformedError("has an integer of a length that SNMP has not")
        return int.from_bytes(self.contents(), "big", signed=True)

    def as_oid(self) -> Oid:
        numbers: list[int] = []
        number, within = 0, False
        for byte in self.contents():
            number = number << 7 | byte & 0x7F
            within = bool(byte & 0x80)
            if number > _MOST_SUBIDENTIFIER or len(numbers) >= _LONGEST_OID:
                raise MalformedError("has an object identifier beyond those of SNMP")
            if not within:
                numbers.append(number)
                number = 0
        if within or not numbers:
            raise MalformedError("has an object identifier that does not end")
        first = min(numbers[0] // 40, 2)
        return (first, numbers[0] - 40 * first, *numbers[1:])


def element(tag: int, *contents: bytes) -> bytes:
    """One element that holds these, in the shortest form."""
    inside = b"".join(contents)
    size = len(inside)
    if size < 0x80:
        return bytes((tag, size)) + inside
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + inside


def integer(number: int, tag: int = INTEGER) -> bytes:
    return element(tag, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def oid(numbers: Oid) -> bytes:
    encoded = bytearray()
    for number in (40 * numbers[0] + numbers[1], *numbers[2:]):
        parts = [number & 0x7F]
        while number := number >> 7:
            parts.append(number & 0x7F | 0x80)
        encoded += bytes(reversed(parts))
    return element(OBJECT, bytes(encoded))
