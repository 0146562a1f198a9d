"""From which source ports a pair is probed: how many cover its equal-cost paths, and which are drawn anew."""

from __future__ import annotations

import hashlib
import zlib
from functools import lru_cache
from math import ceil, log

from exporter.contracts.plan import RESPONDER_PORT


@lru_cache(maxsize=1024)
def port_count(paths: int, probability: float) -> int:
    """How many random source ports cover all of ``paths`` equal-cost paths with ``probability`` (R-Pingmesh).

    ceil(ln(1 - P^(1/m)) / ln((m - 1)/m)): each path is missed by one port with probability (m - 1)/m.
    """
    if paths <= 1:
        return 1
    return ceil(log(1 - probability ** (1 / paths)) / log((paths - 1) / paths))


def path_probability(paths: int, ports: int) -> float:
    """With what probability ``ports`` random source ports cover all of ``paths`` equal-cost paths."""
    return 1.0 if paths <= 1 else (1 - ((paths - 1) / paths) ** ports) ** paths


def rotated_count(ports: int, share: float) -> int:
    """How many of a pair's ports are drawn anew: the ``share`` of them, one at least, and never the first."""
    return min(max(int(ports * share), 1), ports - 1) if share else 0


class SourcePorts:
    """The ports of each pair in one generation; ``most`` is the largest number that a pair has.

    Those that stay are ``first`` and up. The others come from the generation's pool, which all pairs share and which
    holds as many as the pair with the most draws: an exporter has a socket for each source address and port, so that
    rotating costs it none. Pools lie between the ports that stay and ``end``; raises ValueError if none fits.
    """

    def __init__(self, first: int, most: int, share: float, generation: int, end: int = RESPONDER_PORT) -> None:
        self._first = first
        self._share = share
        self._generation = generation
        size = rotated_count(most, share)
        pools = (end - first - most) // max(size, 1)
        if pools < 1:
            raise ValueError(f"ports {first} to {end - 1} leave no room for {most} ports and {size} to rotate")
        digest = hashlib.blake2s(str(generation).encode(), digest_size=8).digest()
        start = first + most + size * (int.from_bytes(digest, "big") % pools)
        self._pool = range(start, start + size)

    def of(self, one: str, other: str, ports: int) -> tuple[int, ...]:
        """So many ports of the pair, the same both ways: first those of every generation, then those of this one."""
        rotated = rotated_count(ports, self._share)
        key = f"{min(one, other)} {max(one, other)} {self._generation}"
        place = zlib.crc32(key.encode()) if rotated else 0
        drawn = (self._pool[(place + number) % len(self._pool)] for number in range(rotated))
        return (*range(self._first, self._first + ports - rotated), *drawn)
