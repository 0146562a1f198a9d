"""When a case begins, breaks, heals and ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.simulator.failures.effects import Interval

EPOCH, EPOCHS = 1_790_000_000.0, 3e7  # seconds since the epoch: the first begin, and how much later the last
DRIFT_SECONDS = 7200.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds since the epoch. ``repaired`` is None where the failure outlasts the records."""

    begin: float
    injected: float
    repaired: float | None
    end: float

    @property
    def over(self) -> float:
        return self.end if self.repaired is None else self.repaired

    @property
    def during(self) -> tuple[Interval, ...]:
        return ((self.injected, self.over),)


def draw_clock(draw: np.random.Generator, *, slow: bool, drift: bool, heals: bool) -> Clock:
    """``slow``: with more than five minutes of health before; ``drift``: two hours; ``heals``: one in ten does."""
    begin = EPOCH + round(float(draw.uniform(0.0, EPOCHS)), 3)
    if drift:
        return Clock(begin, begin + draw.uniform(1500.0, 2400.0), None, begin + DRIFT_SECONDS)
    before = draw.uniform(330.0, 360.0) if slow else draw.uniform(45.0, 110.0)
    injected = begin + before
    lasting = draw.uniform(45.0, 75.0)
    healed = injected + draw.uniform(20.0, lasting - 10.0) if draw.random() < 0.1 and heals else None
    return Clock(begin, injected, healed, injected + lasting)
