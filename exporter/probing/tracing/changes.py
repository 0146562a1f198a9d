"""Which paths have changed their route within the last hour, as traces see it, whether they lose probes or not.

What a failing path votes for is frozen (exporter.probing.tracing.tracer): after a move to a way that loses packets, the
new route would be told when the losses end. Whoever is woken wants to know of the move at once. It is no vote.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence

from exporter.contracts.catalogue import MOST_ROUTE_CHANGES
from exporter.probing.loop import Loop, Timer
from exporter.probing.tracing.spraying import RecentRoutes
from exporter.store import RowWriter, TableWriter

KEPT_SECONDS = 3600.0


class SeenRoute:
    """The route of one flow by its complete traces, lossy or not.

    A flow that goes back and forth (``RecentRoutes``, here without regard to losses) changes no more until it is
    steady: its series would be another after each trace.
    """

    __slots__ = ("_recent", "_route")

    def __init__(self) -> None:
        self._recent = RecentRoutes()
        self._route: Sequence[str] | None = None

    def take(self, hops: Sequence[str], now_ns: int) -> Sequence[str] | None:
        """The route before a complete trace, if that makes it another; ``now_ns`` is monotonic."""
        self._recent.add(hops, now_ns, 0)
        before = self._route
        if before is not None and (self._recent.sprayed or hops == before):
            return None
        self._route = hops
        return before

    def forget(self) -> None:
        """The fabric sprays the flow, so that it has no one route; or it is another flow from now on."""
        self._recent, self._route = RecentRoutes(), None


class RouteChanges:
    """A row of the last change of each path or flow, for an hour; of more than ``MOST_ROUTE_CHANGES`` the newest."""

    def __init__(self, loop: Loop, rows: TableWriter, unix: Callable[[], float] = time.time) -> None:
        """``unix`` gives the time in seconds."""
        self._loop = loop
        self._rows = rows
        self._unix = unix
        self._kept: dict[Hashable, tuple[RowWriter, Timer]] = {}  # oldest first

    def book(self, key: Hashable, labels: Sequence[str], before: Sequence[str], after: Sequence[str]) -> None:
        """``labels`` say in the row whose change it is."""
        self.forget(key)
        if len(self._kept) >= MOST_ROUTE_CHANGES:
            self.forget(next(iter(self._kept)))
        row = self._rows.add((*labels, f"{self._unix():.3f}", " ".join(before), " ".join(after)))
        self._kept[key] = row, self._loop.after(KEPT_SECONDS, lambda: self.forget(key))

    def forget(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._rows.remove(kept[0])
            self._loop.cancel(kept[1])
