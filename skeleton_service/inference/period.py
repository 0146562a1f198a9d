"""The iteration period: the fundamental that explains most of the endpoints' variation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skeleton_service.inference.series import Floats

HARMONICS = 5
CYCLES = 3
"""A period must be seen this often before it counts as one."""

SAMPLED_SERIES = 512
OVERSAMPLING = 16
FINER = 4
ALIKE = 0.5


@dataclass(frozen=True, slots=True)
class Period:
    """``strength`` is the share (0..1) of the endpoints' variance that the period explains, beyond chance."""

    seconds: float
    strength: float


def find_period(signals: Floats, step: float) -> Period | None:
    """Find the common period of ``signals`` (endpoints, samples); None when nothing varies or time is too short.

    Spectra are averaged over endpoints, not signals: stages that burst in turn would cancel in a sum,
    and the noise of single endpoints does not line up in a mean of spectra. A candidate is worth the
    power at its first harmonics, less what noise would put there, times the autocorrelation at its lag:
    multiples of the period explain as much as the period does, but correlate less over a finite window,
    and fractions of it correlate less at all.
    O(endpoints x samples log samples), over at most 512 endpoints.
    """
    samples = signals.shape[1]
    stride = max(1, signals.shape[0] // SAMPLED_SERIES)
    centred = signals[::stride] - signals[::stride].mean(axis=1, keepdims=True)
    scale = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    varying = scale[:, 0] > 1e-9 * (np.abs(signals[::stride]).max(initial=0) or 1.0)
    longest, shortest = samples * step / CYCLES, 2.5 * step
    if not varying.any() or longest <= shortest:
        return None
    normal = centred[varying] / scale[varying]
    size = 1 << int(np.ceil(np.log2(samples * OVERSAMPLING)))
    power = (np.abs(np.fft.rfft(normal, size, axis=1)) ** 2).mean(axis=0) * 2 / samples
    frequencies = np.arange(1 / longest, 1 / shortest, 1 / (size * step))
    orders = np.arange(1, HARMONICS + 1)
    harmonics = np.outer(frequencies, orders)
    below_nyquist = harmonics <= 0.5 / step
    places = np.minimum(np.round(harmonics * size * step).astype(np.int64), power.size - 1)
    count = below_nyquist.sum(axis=1)
    explained = np.where(below_nyquist, power[places], 0).sum(axis=1)
    chance = 2 * count / samples
    score = np.clip((explained - chance) / (1 - chance), 0, 1)
    correlation = np.fft.irfft(power, size * FINER)[: size * FINER // 2]
    lags = np.arange(correlation.size) * step / FINER
    agreement = np.interp(1 / frequencies, lags, correlation / correlation[0])
    best = int(np.argmax(score * np.clip(agreement, 0, None)))
    if score[best] <= 0 or agreement[best] <= 0:
        return None
    for divisor in (3, 2):
        # With few samples per period a multiple of it can look better than the period itself.
        near = np.abs(frequencies / (divisor * frequencies[best]) - 1) < 0.05
        if near.any():
            part = int(np.argmax(np.where(near, score, -1)))
            if score[part] > 0.7 * score[best] and agreement[part] > ALIKE * agreement[best]:
                best = part
                break
    return Period(seconds=float(1 / frequencies[best]), strength=float(score[best]))
