"""What inference reads: the throughput of one job's RNICs on one common time grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.contracts.names import endpoint_id

Floats = NDArray[np.float64]
Rates = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one series comes from: an RNIC of a container on a host."""

    host: str
    container: str
    rnic: str
    rank: int | None = None

    @property
    def id(self) -> str:
        return endpoint_id(self.container, self.rnic)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Mean rates on a regular grid.

    ``times`` (samples,) are the ends of the intervals, in seconds since the epoch; ``tx`` and ``rx``
    (endpoints, samples) are bytes per second, NaN where nothing was observed. Row i belongs to
    ``endpoints[i]``. ``skew`` is how far the sampling instants of nine of ten endpoints lie off the grid
    at most, in steps (0 to 0.5): interpolation then blurs those endpoints' bursts.
    """

    job: str
    endpoints: tuple[Source, ...]
    times: Floats
    tx: Rates
    rx: Rates
    skew: float = 0.0

    @property
    def step_seconds(self) -> float:
        return float(self.times[1] - self.times[0]) if len(self.times) > 1 else 1.0
