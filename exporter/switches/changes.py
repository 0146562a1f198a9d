"""Ups and downs of ports, counted from poll to poll: of switches that do not count them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from exporter.switches.decoding import Labels
from exporter.switches.table import WRAP_SECONDS, Floats


class StatusChanges:
    """Those of one switch."""

    def __init__(self) -> None:
        self._last: dict[Labels, tuple[float, float]] = {}
        self._count: dict[Labels, float] = {}

    def count(self, labels: Sequence[Labels], up: Floats, changed: Floats) -> Floats:
        """``up`` 1 or 0, ``changed`` its uptime at the last change as it tells, NaN where it does not."""
        for own, now in zip(labels, zip(up.tolist(), changed.tolist(), strict=True), strict=True):
            last = self._last.get(own)
            if last is not None and not math.isnan(now[0]):
                if last[0] != now[0]:
                    self._count[own] = self._count.get(own, 0.0) + 1
                elif _apart(now[1], last[1]) > 1:  # went and came back in between, or the switch did
                    self._count[own] = self._count.get(own, 0.0) + 2
            if not math.isnan(now[0]):
                known = last[1] if last is not None and math.isnan(now[1]) else now[1]
                self._last[own] = now[0], known
        return np.array([self._count.get(own, 0.0) if own in self._last else math.nan for own in labels])


def _apart(one: float, other: float) -> float:
    """Seconds between two values of sysUpTime, which wraps; NaN where one is not known."""
    seconds = abs(one - other) % WRAP_SECONDS
    return min(seconds, WRAP_SECONDS - seconds)
