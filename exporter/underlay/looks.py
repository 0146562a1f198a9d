"""When the host looks at what leaves it: for moments, so that the job's packets pass a filter for moments only."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from exporter.contracts.catalogue import (
    UNDERLAY,
    UNDERLAY_FLOWS,
    UNDERLAY_LEARNT,
    UNDERLAY_LOOKING,
    UNDERLAY_REJECTED,
    UNDERLAY_SEEN,
)
from exporter.probing.loop import Loop, Timer
from exporter.store import RowWriter
from exporter.underlay.capture import Capture
from exporter.underlay.encapsulation import filter_program
from exporter.underlay.learning import Learner

_PERIODS = 2.5
"""A look lasts for so many probes of the slowest flow: two in a row must agree."""
_SHORTEST_SECONDS, _LONGEST_SECONDS = 1.0, 30.0
_LOOKS_TO_PAUSE = 10
"""A pause is so many times as long as a look at least, but for the first few while a flow is not seen."""
_FIRST_PAUSE = 1.0
_MOST_PACKETS = 50_000
"""Of one look. Far more than probers send; whoever forges what the filter passes ends the look, and no more."""
_FLOWS = UNDERLAY.metrics.index(UNDERLAY_FLOWS)
_LEARNT = UNDERLAY.metrics.index(UNDERLAY_LEARNT)
_LOOKING = UNDERLAY.metrics.index(UNDERLAY_LOOKING)
_SEEN = UNDERLAY.metrics.index(UNDERLAY_SEEN)
_REJECTED = UNDERLAY.metrics.index(UNDERLAY_REJECTED)


class Looks:
    """Looks until every flow was seen, once a period; sooner again, but ever more rarely, while one is not."""

    def __init__(
        self,
        loop: Loop,
        learner: Learner,
        counters: RowWriter,
        *,
        devices: Sequence[str],
        port: int,
        period_seconds: float,
        look_at: type[Capture] = Capture,
    ) -> None:
        self._loop = loop
        self._learner = learner
        self._counters = counters
        self._devices = devices
        self._program = filter_program(port)
        self._period = period_seconds
        self._look_at = look_at
        self._longest = _SHORTEST_SECONDS
        self._longest_pause = period_seconds
        self._pause = _FIRST_PAUSE
        self._captures: list[Capture] = []
        self._began_ns = 0
        self._packets = 0
        self._timer: Timer | None = None
        self._missing: set[str] = set()

    def follow(self, slowest_seconds: float) -> None:
        """There are other flows now: look at once."""
        self._longest = min(max(_PERIODS * slowest_seconds, _SHORTEST_SECONDS), _LONGEST_SECONDS)
        self._longest_pause = max(self._period, _LOOKS_TO_PAUSE * self._longest)
        self._pause = _FIRST_PAUSE
        self._end()
        self._begin()

    def _begin(self) -> None:
        self._learner.begin_look()
        self._book()
        if not self._learner.flows:
            return
        self._began_ns, self._packets = self._loop.clock(), 0
        for device in self._devices:
            try:
                capture = self._look_at(device, self._program, self._on_packet)
            except OSError as error:
                if device not in self._missing:
                    print(f"underlay: cannot look at {device}: {error.strerror}", file=sys.stderr, flush=True)
                self._missing.add(device)
                continue
            self._missing.discard(device)
            self._captures.append(capture)
            self._loop.watch(capture)
        self._timer = self._loop.after(self._longest, self._finish)

    def _on_packet(self, packet: bytes) -> None:
        if not self._captures:  # the last of a batch, after the look
            return
        wanted = self._learner.on_packet(packet)
        self._counters.begin()
        self._counters.add(_SEEN if wanted else _REJECTED)
        self._counters.end()
        self._packets += 1
        if self._packets >= _MOST_PACKETS or not self._learner.awaited:
            self._finish()

    def _finish(self) -> None:
        settled = not self._learner.awaited
        self._end()
        self._pause = _FIRST_PAUSE if settled else min(2 * self._pause, self._longest_pause)
        self._timer = self._loop.after(self._longest_pause if settled else self._pause, self._begin)

    def _end(self) -> None:
        if self._timer is not None:
            self._loop.cancel(self._timer)
        if self._captures:
            self._counters.begin()
            self._counters.add(_LOOKING, (self._loop.clock() - self._began_ns) / 1e9)
            self._counters.end()
        for capture in self._captures:
            self._loop.forget(capture)
            capture.close()
        self._captures = []
        self._book()

    def _book(self) -> None:
        flows = self._learner.flows
        self._counters.begin()
        self._counters.set(_FLOWS, len(flows))
        self._counters.set(_LEARNT, sum(learnt.outer is not None for learnt in flows.values()))
        self._counters.end()
