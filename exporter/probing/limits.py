"""How many packets a second: what each source may ask of us, and what we may ask of each switch."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MAX_SOURCES = 65_536


class SourceLimit:
    """A token bucket for each source address, the least recently used forgotten first.

    A bucket holds ``per_second`` tokens, one second's worth, is full at first, and gives one token a packet. A source
    that is forgotten begins again with a full one: whoever has more than ``capacity`` addresses gets a burst of each.
    ``clock`` gives monotonic nanoseconds.
    """

    def __init__(
        self, per_second: float, capacity: int = MAX_SOURCES, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._per_second = per_second
        self._most = max(per_second, 1.0)
        self._capacity = capacity
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()  # tokens, and when there were so many

    def __len__(self) -> int:
        return len(self._buckets)

    def allows(self, address: str) -> bool:
        """Take a token of ``address``; False when it has none left. O(1)."""
        now = self._clock()
        tokens, counted_ns = self._buckets.get(address, (self._most, now))
        tokens = min(self._most, tokens + (now - counted_ns) / 1e9 * self._per_second)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - 1 if allowed else tokens, now)
        self._buckets.move_to_end(address)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return allowed


class Pace:
    """When each of many may be asked the next time: the generic cell rate algorithm (ITU-T I.371), one cell a turn.

    Each has ``per_second`` turns, of which it may save up ``burst``. Turns are given in the order they are taken, so
    that none who waits has to ask again. Of more than ``capacity`` the least recently asked are forgotten. ``clock``
    gives monotonic nanoseconds.
    """

    def __init__(
        self,
        per_second: float,
        *,
        burst: int = 1,
        capacity: int = MAX_SOURCES,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._interval_ns = int(1e9 / per_second)
        self._tolerance_ns = (burst - 1) * self._interval_ns
        self._capacity = capacity
        self._clock = clock
        self._next_ns: OrderedDict[str, int] = OrderedDict()

    def wait(self, name: str) -> float:
        """Seconds until the next turn that is left; 0 when it is now."""
        return max(self._next_ns.get(name, 0) - self._tolerance_ns - self._clock(), 0) / 1e9

    def take(self, name: str) -> float:
        """Take that turn and return how many seconds off it is. O(1)."""
        wait = self.wait(name)
        self._next_ns[name] = max(self._next_ns.get(name, 0), self._clock()) + self._interval_ns
        self._next_ns.move_to_end(name)
        if len(self._next_ns) > self._capacity:
            self._next_ns.popitem(last=False)
        return wait
