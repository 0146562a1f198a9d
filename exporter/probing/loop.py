"""The prober's event loop: epoll, and 10 ms slots in which everything due is sent together."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

SLOT_NS = 10_000_000
LATE_NS = 5_000_000
"""What happens later than this was starved of CPU: the delay is the host's, not the network's."""
LATEST_NS = 100_000_000
"""What is later than this is not sent any more: after a stall all that was missed would leave at once."""


class Readable(Protocol):
    """What the loop watches: a descriptor with a handler for input and one for the error queue."""

    def fileno(self) -> int: ...

    def on_input(self) -> None: ...

    def on_error(self) -> None: ...

    def on_output(self) -> None: ...


class Timer(NamedTuple):
    """What ``Loop.at`` gave, for taking it back."""

    slot: int
    number: int


class Loop:
    """Runs callbacks at slots and handlers on descriptors, in one thread.

    ``clock`` gives monotonic nanoseconds. ``slot_delay`` is called once for each slot with how late it
    began, in nanoseconds; ``late_ns`` says so of the slot under way.
    """

    def __init__(
        self, slot_delay: Callable[[int], None] = lambda _: None, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.clock = clock
        self.late_ns = 0
        self._slot_delay = slot_delay
        self._epoll = select.epoll()
        self._watched: dict[int, Readable] = {}
        self._slots: dict[int, dict[int, Callable[[], None]]] = {}
        self._timers = 0
        self._order: list[int] = []
        self._running = True

    def watch(self, item: Readable, *, output: bool = False) -> None:
        descriptor = item.fileno()
        self._watched[descriptor] = item
        self._epoll.register(descriptor, select.EPOLLIN | (select.EPOLLOUT if output else 0))

    def forget(self, item: Readable) -> None:
        descriptor = item.fileno()
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def at(self, due_ns: int, action: Callable[[], None]) -> Timer:
        """Run ``action`` in the first slot that starts at or after ``due_ns``."""
        slot = -(-due_ns // SLOT_NS)
        if slot not in self._slots:
            self._slots[slot] = {}
            heapq.heappush(self._order, slot)
        self._timers += 1
        self._slots[slot][self._timers] = action
        return Timer(slot, self._timers)

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        return self.at(self.clock() + int(seconds * 1e9), action)

    def cancel(self, timer: Timer) -> None:
        """Let go of an action and of all it holds; what has run, or is of the slot under way, is left alone."""
        actions = self._slots.get(timer.slot)
        if actions is not None:
            actions.pop(timer.number, None)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        while self._running:
            wait = 1.0
            if self._order:
                wait = min(wait, max(0.0, (self._order[0] * SLOT_NS - self.clock()) / 1e9))
            for descriptor, events in self._epoll.poll(wait):
                item = self._watched.get(descriptor)
                if item is None:
                    continue  # an earlier handler of this round closed it
                # Errors first: the transmit time of a probe waits on the error queue, and its reply needs it.
                if events & select.EPOLLERR:
                    item.on_error()
                if events & (select.EPOLLIN | select.EPOLLHUP) and self._watched.get(descriptor) is item:
                    item.on_input()
                if events & select.EPOLLOUT and self._watched.get(descriptor) is item:
                    item.on_output()
            self._run_due_slots()

    def _run_due_slots(self) -> None:
        now = self.clock()
        while self._order and self._order[0] * SLOT_NS <= now:
            slot = heapq.heappop(self._order)
            self.late_ns = self.clock() - slot * SLOT_NS  # the slots before it took their time as well
            self._slot_delay(self.late_ns)
            for action in self._slots.pop(slot).values():
                action()
        self.late_ns = 0
