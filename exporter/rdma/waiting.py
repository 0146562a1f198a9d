"""RDMA targets that wait: probed once their destination has answered an introduction.

As exporter.probing.registration for UDP: whoever is waited for is asked ever more rarely, and at once when it asks us,
so that whoever starts last completes its pairs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from exporter.contracts.plan import Target
from exporter.probing.loop import Loop, Timer
from exporter.probing.registration import FIRST_SECONDS, LONGEST_SECONDS, SHORTEST_SECONDS, Pair


@dataclass(eq=False, slots=True)
class _Awaited:
    pair: Pair
    targets: list[Target] = field(default_factory=list)
    pause: float = SHORTEST_SECONDS
    asked_ns: int = 0
    """Monotonic; 0 = never."""
    timer: Timer | None = None


class Waiting:
    """``ask`` is given a pair and a traffic class; ``registered`` gets a pair's targets, once."""

    def __init__(
        self,
        loop: Loop,
        ask: Callable[[Pair, int], None],
        registered: Callable[[Sequence[Target]], None],
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._loop = loop
        self._ask = ask
        self._registered = registered
        self._spread = spread
        self._awaited: dict[Pair, _Awaited] = {}

    def expect(self, targets: Iterable[Target]) -> None:
        """Wait for the destinations of these targets, and from now on for no others."""
        wanted: dict[Pair, list[Target]] = {}
        for target in targets:
            wanted.setdefault((target.source_address, target.destination_address), []).append(target)
        for pair in self._awaited.keys() - wanted.keys():
            self._forget(pair)
        for pair, own in wanted.items():
            if pair not in self._awaited:
                self._awaited[pair] = _Awaited(pair)
                self._ask_after(self._awaited[pair], self._spread() * FIRST_SECONDS)
            self._awaited[pair].targets = own

    def targets_of(self, source: str) -> int:
        """How many targets of this source address wait."""
        return sum(len(awaited.targets) for pair, awaited in self._awaited.items() if pair[0] == source)

    def on_answer(self, pair: Pair) -> None:
        if pair in self._awaited:
            self._registered(self._forget(pair).targets)

    def on_asked(self, pair: Pair) -> None:
        """The destination of the pair has asked its source who it is: it is up."""
        awaited = self._awaited.get(pair)
        if awaited is not None:
            since = (self._loop.clock() - awaited.asked_ns) / 1e9 if awaited.asked_ns else SHORTEST_SECONDS
            awaited.pause = SHORTEST_SECONDS
            self._ask_after(awaited, max(SHORTEST_SECONDS - since, 0.0))

    def _ask_after(self, awaited: _Awaited, seconds: float) -> None:
        if awaited.timer is not None:
            self._loop.cancel(awaited.timer)
        awaited.timer = self._loop.after(seconds, lambda: self._on_time(awaited))

    def _on_time(self, awaited: _Awaited) -> None:
        if self._awaited.get(awaited.pair) is not awaited:
            return  # it answered earlier in this slot
        awaited.asked_ns = self._loop.clock()
        self._ask_after(awaited, awaited.pause * (1 + self._spread()))
        awaited.pause = min(2 * awaited.pause, LONGEST_SECONDS / 2)
        self._ask(awaited.pair, awaited.targets[0].traffic_class)

    def _forget(self, pair: Pair) -> _Awaited:
        awaited = self._awaited.pop(pair)
        if awaited.timer is not None:
            self._loop.cancel(awaited.timer)
        return awaited
