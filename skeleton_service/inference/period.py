"""The iteration period: the shortest lag at which the endpoints' traffic repeats itself about as well as at any."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skeleton_service.inference.series import Floats, Rates

CYCLES = 2
"""A period must be seen this often before it counts as one."""

SHORTEST = 2.5
"""In samples. Anything faster is not resolved."""

SAMPLED_SERIES = 256
FINER = 8
FLOOR = 0.05
AS_WELL = 0.6
"""Multiples of the period correlate as well as the period does, or by chance of sampling better; fractions of it, as
micro-batches and layers have them, correlate less. A lag that reaches this share of the best counts."""

NEAR, STILL = 0.1, 0.5
"""A multiple is sought within this share of the period, and counts with this share of the correlation."""


@dataclass(frozen=True, slots=True)
class Period:
    """``strength`` is the autocorrelation at the period, up to 1."""

    seconds: float
    strength: float


def find_period(rates: Rates, step: float) -> Period | None:
    """Find the common period of ``rates`` (endpoints, samples), bytes per second; None when nothing repeats.

    Autocorrelations are averaged over endpoints, not signals: stages that burst in turn would cancel in a
    sum. Both of the rates and of their logarithms, since bursts repeat more exactly than what is between
    them, but not in every job. O(endpoints x samples log samples), over at most 256 endpoints.
    """
    some = rates[:: max(1, len(rates) // SAMPLED_SERIES)].astype(np.float64)
    known = np.isfinite(some)
    mean = np.where(known, some, 0).sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    some = np.where(known, some, mean)
    level = FLOOR * float(some.mean())
    samples = some.shape[1]
    if level <= 0 or samples < CYCLES * SHORTEST:
        return None
    correlation = (_autocorrelation(some) + _autocorrelation(np.log1p(some / level))) / 2
    lags = np.arange(correlation.size) / FINER
    inside = (lags >= SHORTEST) & (lags <= samples / CYCLES)
    lags, correlation = lags[inside], correlation[inside]
    peaks = 1 + np.flatnonzero((correlation[1:-1] >= correlation[:-2]) & (correlation[1:-1] > correlation[2:]))
    if not peaks.size or correlation[peaks].max() <= 0:
        return None
    first = int(peaks[correlation[peaks] >= AS_WELL * correlation[peaks].max()][0])
    lag = _sharpened(lags, correlation, first)
    return Period(seconds=lag * step, strength=float(correlation[first]))


def _sharpened(lags: Floats, correlation: Floats, first: int) -> float:
    """The period from its multiples, each of which places it more precisely, as long as they correlate."""
    lag, multiple = float(lags[first]), 2
    while multiple * lag <= lags[-1]:
        near = np.flatnonzero(np.abs(lags - multiple * lag) <= max(NEAR * lag, 0.5))
        best = int(near[np.argmax(correlation[near])])
        if correlation[best] < STILL * correlation[first]:
            break
        lag, multiple = float(lags[best]) / multiple, multiple + 1
    return lag


def _autocorrelation(series: Floats) -> Floats:
    """Mean autocorrelation (lags,) of the rows of ``series`` (endpoints, samples), at eighths of a sample."""
    samples = series.shape[1]
    centred = series - series.mean(axis=1, keepdims=True)
    size = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    centred /= np.maximum(size, 1e-9 * max(float(np.abs(series).max()), 1e-300))
    length = 1 << int(np.ceil(np.log2(2 * samples)))
    power = (np.abs(np.fft.rfft(centred, length, axis=1)) ** 2).mean(axis=0)
    fine: Floats = np.fft.irfft(power, length * FINER)[: samples * FINER]
    return fine / max(float(fine[0]), 1e-12)
