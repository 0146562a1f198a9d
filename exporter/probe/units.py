"""Numbers as a person reads them."""

from __future__ import annotations


def seconds(value: float) -> str:
    """Three digits in µs, ms or s: '45.1 µs', '1.23 ms', '312 ms'."""
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if value < 999.5 * size:
            return f"{_three_digits(value / size)} {unit}"
    return f"{_three_digits(value)} s"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def percent(ratio: float) -> str:
    """'0 %', '0.5 %', '33.3 %', '100 %'."""
    return f"{100 * ratio:.3g} %"
