"""The ring of single probe results, from the prober to the control process, in shared memory.

The prober overwrites the oldest and never waits. Each entry carries its own number, so a reader knows
what it missed and never takes an entry that is being overwritten.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import NamedTuple

_WORDS = 5  # number, path row identity, Unix time ns, round trip ns, outcome with _STARVED where it holds
_HEADER_WORDS = 1  # entries written so far

ANSWERED, LOST, REFUSED = 1, 2, 3
REPLY_LOST = 4
"""Not a probe: the responder's count shows that one earlier LOST probe of the path had arrived there."""
RESTARTED = 5
"""Not a probe: the boot epoch shows that one earlier LOST probe of the path met a responder that was restarting."""
LOOKUP_FAILURES = {
    error: 16 + number
    for number, error in enumerate(
        ("nxdomain", "servfail", "refused", "other", "nodata", "truncated", "timeout", "unreachable", "tcp failed")
    )
}
"""Error of a DNS query that found no address, and its outcome; ANSWERED found one."""
UNANSWERED_LOOKUPS = frozenset(LOOKUP_FAILURES[error] for error in ("timeout", "unreachable", "tcp failed"))

LOOKUP = 1 << 62
"""Added to an identity that is not of a path's row but of a row in the DNS table."""
_STARVED = 1 << 8


class Result(NamedTuple):
    path: int
    """Identity of the path's row in the PATH table, or of a row in the DNS table with LOOKUP."""
    time_ns: int
    rtt_ns: int
    outcome: int
    starved: bool = False
    """The prober was short of CPU as it sent this probe or judged it: its own delay may be in the sample."""


class ResultRing:
    """One writer process, any number of readers that each keep their own position."""

    def __init__(self, capacity: int, descriptor: int | None = None) -> None:
        self.capacity = capacity
        size = (_HEADER_WORDS + capacity * _WORDS) * 8
        if descriptor is None:
            descriptor = os.memfd_create("fabric-exporter-results", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
            weakref.finalize(self, os.close, descriptor)
        elif os.fstat(descriptor).st_size != size:
            raise ValueError(f"result ring has {os.fstat(descriptor).st_size} bytes, its layout {size}")
        self.descriptor = descriptor
        self._words = memoryview(mmap.mmap(descriptor, size)).cast("Q")

    @property
    def written(self) -> int:
        return self._words[0]

    def append(self, path: int, time_ns: int, rtt_ns: int, outcome: int, starved: bool = False) -> None:
        words = self._words
        number = words[0] + 1
        at = _HEADER_WORDS + (number - 1) % self.capacity * _WORDS
        words[at] = 0
        words[at + 1] = path
        words[at + 2] = time_ns
        words[at + 3] = rtt_ns
        words[at + 4] = outcome | _STARVED if starved else outcome
        words[at] = number
        words[0] = number

    def paths(self) -> set[int]:
        """Identities of the path rows that results in the ring speak of."""
        return set(self._words[_HEADER_WORDS + 1 :: _WORDS].tolist())

    def read(self, after: int) -> tuple[list[Result], int, int]:
        """Return (results numbered past ``after``, number of the last, how many were overwritten unread)."""
        words = self._words
        last = words[0]
        if after > last:  # the writer started again
            after = 0
        first = max(after, last - self.capacity)
        results = []
        for number in range(first + 1, last + 1):
            at = _HEADER_WORDS + (number - 1) % self.capacity * _WORDS
            _, path, time_ns, rtt_ns, told = words[at : at + _WORDS].tolist()
            if words[at] == number:
                results.append(Result(path, time_ns, rtt_ns, told & ~_STARVED, bool(told & _STARVED)))
        return results, last, last - after - len(results)
