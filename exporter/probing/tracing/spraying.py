"""Whether the fabric sprays a flow's packets over its equal-cost paths, so that no trace tells where they go."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

TRACES = 5
CHANGES = 3
STEADY = 10


class RecentRoutes:
    """The last complete routes of one flow between which it lost nothing.

    ECMP keeps a flow on its path until a link of it goes; that seldom happens three times in five traces, and not
    without a loss. So ``CHANGES`` within ``TRACES`` of them are spraying (or adaptive routing), until ``STEADY`` in a
    row are the same: packets sprayed over two equal-cost paths take the same one as the last every other time.
    """

    __slots__ = ("_added_ns", "_routes", "_steady", "sprayed")

    def __init__(self) -> None:
        self.sprayed = False
        self._routes: deque[Sequence[str]] = deque(maxlen=TRACES)
        self._steady = 0
        self._added_ns = 0

    def add(self, route: Sequence[str], now_ns: int, last_loss_ns: int) -> None:
        """Take a complete route traced at ``now_ns``; both times are monotonic, 0 is never."""
        if last_loss_ns > self._added_ns:
            self._routes.clear()
        self._added_ns = now_ns
        self._steady = self._steady + 1 if self._routes and self._routes[-1] == route else 1
        self._routes.append(route)
        if sum(one != other for one, other in pairwise(self._routes)) >= CHANGES:
            self.sprayed = True
        elif self._steady >= STEADY:
            self.sprayed = False
