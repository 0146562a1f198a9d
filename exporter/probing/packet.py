"""The probe packet: 48 bytes of header and a 16-byte keyed digest, padded to the probed size.

    0  magic "FSKP"   4  version   5  kind   6  stream
    8  sequence (prober's, unique)          16  path token (prober's, random per path)
   24  boot epoch of the responder, ns      32  responder's count of requests on this path
   40  responder delay, ns                  48  BLAKE2s-128 over bytes 0-47, keyed

The count is the reflector's sequence number of RFC 5357 (TWAMP): it tells loss on the way there from
loss on the way back. ``stream`` changes when a responder had to forget a path and counts afresh.
A reply is never larger than its request, so a responder cannot amplify.
"""

from __future__ import annotations

import hmac
import struct
from hashlib import blake2s
from typing import NamedTuple

MAGIC = b"FSKP"
VERSION = 1
REQUEST = 1
REPLY = 2
TRACE = 3
"""A request sent to find the route: answered like a request, but not counted."""
HELLO = 4
"""A request sent to learn who is up: answered like a trace, and its sender may be greeted back."""
ECHO = 5
"""A request over TCP: answered once a connection, and not counted."""

ASK = 6
"""A request, over UDP, for the queue pair that answers RDMA probes: the reply has its number in place of the count."""
OPEN, CHALLENGE, ACCEPT = 7, 8, 9
"""Of another length: what makes a reliable connection (exporter.rdma.connecting)."""
LATE, MARKED = 0x40, 0x80
"""Added to the kind of a reply over RDMA: the responder was busy as the request came, so that its delay is the least it
can have been; the request had been marked by a congested queue (ECN, RFC 3168)."""

DIGEST_BYTES = 16
_HEADER = struct.Struct("!4sBBHQQQQQ")
PACKET_BYTES = _HEADER.size + DIGEST_BYTES


class Packet(NamedTuple):
    kind: int
    stream: int
    sequence: int
    token: int
    epoch: int
    answered: int
    delay: int


class Codec:
    """Writes and checks packets under one shared key (16 to 32 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._digest = blake2s(key=key, digest_size=DIGEST_BYTES)

    def seal(self, data: bytes) -> bytes:
        """``data`` and its digest."""
        digest = self._digest.copy()
        digest.update(data)
        return data + digest.digest()

    def unseal(self, sealed: bytes, length: int) -> bytes | None:
        """The first ``length`` bytes, or None when what follows them is not their digest under our key."""
        data = sealed[:length]
        digest = self._digest.copy()
        digest.update(data)
        return data if hmac.compare_digest(digest.digest(), sealed[length : length + DIGEST_BYTES]) else None

    def request(self, kind: int, sequence: int, token: int) -> bytes:
        return self.seal(_HEADER.pack(MAGIC, VERSION, kind, 0, sequence, token, 0, 0, 0))

    def reply(self, request: Packet, stream: int, epoch: int, answered: int, delay: int, kind: int = REPLY) -> bytes:
        return self.seal(
            _HEADER.pack(MAGIC, VERSION, kind, stream, request.sequence, request.token, epoch, answered, delay)
        )

    def parse(self, data: bytes) -> Packet | None:
        """Return the packet, or None for anything not written under our key: it came from the network."""
        if len(data) < PACKET_BYTES or data[:5] != MAGIC + bytes((VERSION,)):
            return None
        header = self.unseal(data, _HEADER.size)
        if header is None:
            return None
        _, _, kind, stream, sequence, token, epoch, answered, delay = _HEADER.unpack(header)
        return Packet(kind, stream, sequence, token, epoch, answered, delay)


def quoted_sequence(data: bytes) -> int | None:
    """Sequence of a request as quoted inside an ICMP error, which may be cut short; None when it is."""
    if len(data) < 16 or data[:5] != MAGIC + bytes((VERSION,)):
        return None
    return int.from_bytes(data[8:16], "big")
