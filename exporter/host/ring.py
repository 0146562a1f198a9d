"""The throughput ring: raw byte counters of each RNIC at a steady step, served as rates."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple


class Sample(NamedTuple):
    time: float
    """Seconds since the epoch at which the counters were read."""
    receive_bytes: int
    transmit_bytes: int


class Rate(NamedTuple):
    """Mean rates over the interval that ends at ``time``, as the throughput contract wants them."""

    time: float
    transmit_bytes_per_second: float
    receive_bytes_per_second: float


class ThroughputRing:
    """The last ``capacity`` samples of one RNIC."""

    def __init__(self, capacity: int) -> None:
        self._samples: deque[Sample] = deque(maxlen=capacity + 1)

    def append(self, sample: Sample) -> None:
        # A clock that stepped back would make an interval of negative length: start afresh.
        if self._samples and sample.time <= self._samples[-1].time:
            self._samples.clear()
        self._samples.append(sample)

    def clear(self) -> None:
        """Forget all: what comes now counts something else."""
        self._samples.clear()

    def rates(self, since: float = 0.0) -> Iterator[Rate]:
        """Yield the rates that end after ``since``. An interval with a counter reset is left out: it is a gap."""
        samples = list(self._samples)
        for before, after in itertools.pairwise(samples):
            received = after.receive_bytes - before.receive_bytes
            sent = after.transmit_bytes - before.transmit_bytes
            if after.time <= since or received < 0 or sent < 0:
                continue
            seconds = after.time - before.time
            yield Rate(after.time, sent / seconds, received / seconds)
