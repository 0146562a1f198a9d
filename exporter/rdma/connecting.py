"""What prober and responder tell each other over UDP before a reliable connection: 76 bytes, keyed.

     0  magic "FSKP"   4  version   5  kind   6  traffic class, 2 bytes
     8  number (prober's; answers repeat it)
    16  challenge (responder's), 16 bytes
    32  queue pair   36  first packet number   40  path MTU   44  bytes of memory
    48  address of the memory   56  its key   60  BLAKE2s-128 over bytes 0-59, keyed

OPEN asks, CHALLENGE answers (with the queue pair that it serves the asker by already, if it does), OPEN with the
challenge asks again, ACCEPT answers. Whoever returns a challenge receives
what is sent to its address: a recorded OPEN, or one under a forged address, opens nothing, and nothing is kept for it.
The exchange also has the kernels of both ends know each other's next hop, without which a queue pair that is made ready
stands still for a second (rdma_resolve_ip). No answer is larger than its question.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Callable
from hashlib import blake2s
from typing import NamedTuple

from exporter.probing.packet import ACCEPT, CHALLENGE, DIGEST_BYTES, MAGIC, OPEN, VERSION, Codec

MTUS = (256, 512, 1024, 2048, 4096)
"""Of a path, bytes of payload: what enum ibv_mtu counts from 1."""
MAX_24_BITS = 0xFFFFFF
"""Largest number of a queue pair, and of a packet (InfiniBand Architecture, 9.2)."""
MAX_TRAFFIC_CLASS = 0xFF
NO_CHALLENGE = bytes(16)
_MESSAGE = struct.Struct("!4sBBHQ16sIIIIQI")
MESSAGE_BYTES = _MESSAGE.size + DIGEST_BYTES
_FRESH_NS = 5_000_000_000
"""How long a challenge holds: the kernel still knows the next hop then."""


class End(NamedTuple):
    """One end of a connection; of a responder that accepts with its memory."""

    queue_pair: int = 0
    first_packet: int = 0
    mtu: int = 0
    """Bytes: what this end can do; of one that accepts, what the path does."""
    length: int = 0
    """Bytes of memory: asked for, or given."""
    address: int = 0
    key: int = 0

    def is_sound(self) -> bool:
        """Whether a queue pair can be connected to this."""
        is_pair = 0 < self.queue_pair <= MAX_24_BITS and self.first_packet <= MAX_24_BITS
        return is_pair and self.mtu in MTUS and self.length > 0


class Message(NamedTuple):
    kind: int
    traffic_class: int
    """That the connection is to have, which may not be that of the packet any more when it arrives."""
    number: int
    challenge: bytes
    end: End


NOT_YET = End()


def seal(codec: Codec, message: Message) -> bytes:
    end = message.end
    return codec.seal(
        _MESSAGE.pack(
            MAGIC,
            VERSION,
            message.kind,
            message.traffic_class,
            message.number,
            message.challenge,
            end.queue_pair,
            end.first_packet,
            end.mtu,
            end.length,
            end.address,
            end.key,
        )
    )


def parse(codec: Codec, data: bytes) -> Message | None:
    """The message, or None for anything that is none, or not sealed under our key."""
    if len(data) != MESSAGE_BYTES or data[:5] != MAGIC + bytes((VERSION,)):
        return None
    sealed = codec.unseal(data, _MESSAGE.size)
    if sealed is None:
        return None
    _, _, kind, traffic_class, number, challenge, *end = _MESSAGE.unpack(sealed)
    if kind not in (OPEN, CHALLENGE, ACCEPT) or traffic_class > MAX_TRAFFIC_CLASS:
        return None
    return Message(kind, traffic_class, number, challenge, End(*end))


class Challenges:
    """Challenges of one responder, which need not be remembered. ``clock`` gives monotonic nanoseconds."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)

    def make(self, address: str, traffic_class: int, number: int) -> bytes:
        """One for whoever asked from ``address``, in this class, under this number."""
        return self._sign(self._clock(), address, traffic_class, number)

    def made(self, challenge: bytes, address: str, traffic_class: int, number: int) -> int | None:
        """When it was made, monotonic ns; None for one that is not ours, or too old."""
        made_ns = int.from_bytes(challenge[:8])
        if not hmac.compare_digest(challenge, self._sign(made_ns, address, traffic_class, number)):
            return None
        return made_ns if self._clock() - made_ns <= _FRESH_NS else None

    def _sign(self, made_ns: int, address: str, traffic_class: int, number: int) -> bytes:
        data = made_ns.to_bytes(8) + number.to_bytes(8) + bytes((traffic_class,)) + address.encode()
        return data[:8] + blake2s(data, key=self._secret, digest_size=8).digest()
