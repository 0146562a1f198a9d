"""How sure a skeleton is: the chance that it holds every pair that exchanges bytes.

Two questions. Is there a structure: do units foretell one another? And if so, is it the right one? The second
answer is calibrated on simulated jobs that nothing else was chosen on (`make bench-inference` prints the
reliability table): wrong skeletons are rare, and come where the period is weak, or from chains of units.
"""

from __future__ import annotations

from math import exp, log

from skeleton_service.inference.period import Period
from skeleton_service.inference.shape import Shape

CONFIDENT = 0.5
"""Below, the basic list is probed."""

STRUCTURED, SURELY = 0.3, 20.0
"""The share of variation foretold at which structure and none are as likely, and how steeply that changes."""

BASE, WEAKER, CHAIN = 3.8, 0.45, 1.6
WEAKEST = 0.01
"""Log odds of the right structure: at full strength of the period, by the logarithm of its strength, for chains."""

SKEWED = 0.5


def confidence(period: Period, shape: Shape, skew: float) -> float:
    """0 to 1; ``skew`` as in `Throughput`: sampling instants that differ look like burst times that differ."""
    structured = _chance(SURELY * (shape.foretold - STRUCTURED))
    odds = BASE + WEAKER * log(max(period.strength, WEAKEST)) - (CHAIN if shape.chain else 0.0)
    return round(structured * _chance(odds) * max(1 - skew / SKEWED, 0.0), 4)


def _chance(odds: float) -> float:
    return 1 / (1 + exp(-max(min(odds, 500.0), -500.0)))
