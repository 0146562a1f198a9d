"""From bytes per unit to what the RNICs' counters show: noise, other traffic, missing samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab.simulator.case import Background, Case
from lab.simulator.traffic import RX, TX, Floats, Integers, Traffic

Rates = NDArray[np.float32]
_ROWS = 1024  # endpoints at a time: the temporary arrays stay small


@dataclass(frozen=True, slots=True)
class Rnics:
    """Per endpoint (endpoints,): its unit, container, index in the container, and host."""

    unit: Integers
    container: Integers
    local: Integers
    host: Integers


def read_storage(background: Background, storage: Traffic, draw: np.random.Generator) -> None:
    """Reads from storage that have nothing to do with the iterations."""
    hosts = storage.host.size
    number = draw.poisson(hosts * storage.seconds / 60 * background.storage_bursts_per_minute)
    low, high = np.log(background.storage_bytes)
    sizes = np.exp(draw.uniform(low, high, (1, number)))
    low, high = np.log(background.storage_bytes_per_second)
    seconds = sizes / np.exp(draw.uniform(low, high, (1, number)))
    begin = draw.uniform(-10, storage.seconds, (1, number))
    storage.outside(RX, draw.integers(hosts, size=number), begin, seconds, sizes)


def storage_shares(rnics: int, draw: np.random.Generator) -> Floats:
    """(RNICs of a container,): over which of them storage is reached; all alike, or one alone. Sums to 1."""
    if draw.random() < 0.5:
        return np.full(rnics, 1 / rnics)
    shares = np.zeros(rnics)
    shares[int(draw.integers(rnics))] = 1.0
    return shares


def count(
    case: Case,
    traffic: Traffic,
    storage: Traffic,
    rnics: Rnics,
    started: Floats,
    draw: np.random.Generator,
) -> tuple[Rates, Rates]:
    """Rates in bytes per second (endpoints, samples), sent and received; NaN where nothing was counted.

    ``started`` (containers,): seconds into the window from which on a container is there to be counted.
    """
    moved, read, step = traffic.sums(), storage.sums(), traffic.step
    endpoints, samples = rnics.unit.size, traffic.samples
    shares = storage_shares(int(rnics.local.max()) + 1, draw)
    factor = 1 + case.nic_spread * draw.standard_normal(endpoints, dtype=np.float32).clip(-4, 4)
    level = (case.background.other_bytes_per_second * draw.gamma(2, 0.5, endpoints)).astype(np.float32)
    absent = _Absence.draw(case, rnics, started, traffic, draw)
    rates = np.empty((2, endpoints, samples), np.float32)
    for begin in range(0, endpoints, _ROWS):
        rows = slice(begin, begin + _ROWS)
        missing = absent.of(rows, draw)
        for direction in (TX, RX):
            own = moved[direction, rnics.unit[rows]].astype(np.float32)
            own *= factor[rows, None]
            error = draw.standard_normal(own.shape, dtype=np.float32)
            own *= np.maximum(1 + np.float32(case.noise) * error, 0)
            own += read[direction, rnics.container[rows]] * shares[rnics.local[rows], None]
            own /= np.float32(step)
            own += level[rows, None] * draw.standard_exponential(own.shape, dtype=np.float32)
            own[missing] = np.nan
            rates[direction, rows] = own
    return rates[TX], rates[RX]


@dataclass(frozen=True, slots=True)
class _Absence:
    """``share`` of the samples are lost one by one; ``resets`` (hosts, samples): a counter began anew; ``before``
    (containers,): samples that end before the container was there for a whole interval.
    """

    share: float
    resets: NDArray[np.bool_]
    before: Integers
    rnics: Rnics

    @staticmethod
    def draw(case: Case, rnics: Rnics, started: Floats, traffic: Traffic, draw: np.random.Generator) -> _Absence:
        hosts = int(rnics.host.max()) + 1
        resets = np.zeros((hosts, traffic.samples), dtype=np.bool_)
        number = draw.poisson(case.counter_resets_per_hour * hosts * traffic.seconds / 3600)
        resets[draw.integers(hosts, size=number), draw.integers(traffic.samples, size=number)] = True
        before = np.ceil(started / traffic.step).astype(np.int64)
        return _Absence(case.missing_share, resets, before, rnics)

    def of(self, rows: slice, draw: np.random.Generator) -> NDArray[np.bool_]:
        missing: NDArray[np.bool_] = self.resets[self.rnics.host[rows]]
        missing = missing | (np.arange(missing.shape[1]) < self.before[self.rnics.container[rows], None])
        if self.share:
            missing |= draw.random(missing.shape, dtype=np.float32) < self.share
        return missing
