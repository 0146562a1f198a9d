"""As much of a DNS message as a probe needs: a question for an address, and what an answer says (RFC 1035).

No library: the prober imports nothing heavy, and of an answer it wants the header, the question and how many
addresses follow. What comes from the network is read in one pass, by length alone. A compression pointer ends a
name (section 4.1.4) and is never followed, so none can lead anywhere.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5

_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")  # type, class, time to live, length
_QUESTION_END = struct.pack("!HH", 1, 1)  # type A, class IN
_RESPONSE, _OPCODE, _TRUNCATED, _RECURSION_DESIRED, _RCODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x000F
_LONGEST_LABEL, _POINTER = 63, 0xC0


class Answer(NamedTuple):
    rcode: int
    truncated: bool
    addresses: int
    """A records in the answer section, of whatever owner: a chain of aliases (CNAME) ends in another name."""


def encode_name(name: str) -> bytes:
    """``name`` as labels; raise ValueError when it is no domain name (RFC 1035, 2.3.4: labels of 63, 255 in all)."""
    encoded = bytearray()
    for label in name.removesuffix(".").split("."):
        data = label.encode("ascii")
        if not 1 <= len(data) <= _LONGEST_LABEL:
            raise ValueError(f"{name!r} has a label of {len(data)} bytes")
        encoded += bytes([len(data)]) + data
    if len(encoded) > 254:
        raise ValueError(f"{name!r} takes {len(encoded) + 1} bytes")
    return bytes(encoded) + b"\0"


def encode_query(identifier: int, name: str) -> bytes:
    """Ask for the addresses (A) of ``name``, with recursion; raise ValueError when it is no domain name."""
    return _HEADER.pack(identifier, _RECURSION_DESIRED, 1, 0, 0, 0) + encode_name(name) + _QUESTION_END


def decode_answer(query: bytes, data: bytes) -> Answer | None:
    """What ``data`` answers to ``query``; None when it is no answer to it, or no sound message.

    The identifier and the question must be those of the query (RFC 5452, 9.1). Letters compare without case: nobody
    acts on the address of a probe, so a resolver that does not keep their case is not to be taken for a dead one.
    """
    if len(data) < len(query):
        return None
    _, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    asked, echoed = query[_HEADER.size :], data[_HEADER.size : len(query)]
    if query[:2] != data[:2] or not flags & _RESPONSE or flags & _OPCODE or questions != 1:
        return None
    # A length is at most 63 and the type is 1: neither is a letter, so lowering the whole of it is sound.
    if echoed.lower() != asked.lower():
        return None
    rcode, truncated = flags & _RCODE, bool(flags & _TRUNCATED)
    if truncated:
        return Answer(rcode, truncated, 0)  # its records end anywhere
    addresses = _count_addresses(data, len(query), answers)
    return None if addresses is None else Answer(rcode, truncated, addresses)


def _count_addresses(data: bytes, offset: int, records: int) -> int | None:
    """A records among the next ``records``; None when the message ends before they do. O(length)."""
    addresses = 0
    for _ in range(records):
        try:
            while 0 < data[offset] <= _LONGEST_LABEL:
                offset += 1 + data[offset]
            if 0 < data[offset] < _POINTER:
                return None
            offset += 2 if data[offset] else 1
            kind, record_class, _, length = _RECORD.unpack_from(data, offset)
        except (IndexError, struct.error):
            return None
        offset += _RECORD.size + length
        if offset > len(data):
            return None
        addresses += (kind, record_class, length) == (1, 1, 4)
    return addresses
