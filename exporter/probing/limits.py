"""How many packets a second each source may ask of us."""

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
