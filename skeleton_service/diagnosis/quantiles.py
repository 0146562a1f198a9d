"""Quantiles of rows of unequal length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def quantiles(ordered: NDArray[np.float32], shares: tuple[float, ...]) -> list[NDArray[np.float32]]:
    """Quantiles of each row, which is in order, NaN last; linear between two values, as NumPy's are."""
    count = np.isfinite(ordered).sum(axis=1)
    rows = np.arange(len(ordered))
    found = []
    for share in shares:
        place = share * (count - 1)
        below = np.floor(place).astype(np.int64)
        above = np.minimum(below + 1, count - 1)
        low, high = ordered[rows, below], ordered[rows, above]
        found.append((low + (high - low) * (place - below)).astype(np.float32))
    return found
