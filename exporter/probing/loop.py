"""The prober's event loop: epoll, and 10 ms slots in which everything due is sent together.

Packets whose arrival the kernel has noted can wait for a slot as well. To sleep and be woken costs more than to read
a packet, so a loop that is woken often stops listening and looks at each slot instead, as the kernel does with busy
network cards (NAPI, Documentation/networking/napi.rst).
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

SLOT_NS = 10_000_000
LATE_NS = 5_000_000
"""What happens later than this was starved of CPU: the delay is the host's, not the network's."""
LATEST_NS = 100_000_000
"""What is later than this is not sent any more: after a stall all that was missed would leave at once."""

_LONGEST_WAIT_NS = 1_000_000_000
_BUSY_WAKES = 4
"""So many more wakes than slots make a loop look at slots; it listens again after ``_QUIET_SLOTS`` without a packet."""
_QUIET_SLOTS = 4


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

    Handlers run when something comes in. Where they are ``patient`` that may be a slot later, which is for sockets
    with kernel timestamps only.

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
        self._patient = select.epoll()
        self._epoll.register(self._patient, select.EPOLLIN)
        self._listening = True  # for what is patient; else it is looked at each slot
        self._look_until_ns = 0
        self._wakes = 0.0  # by what is patient, one less for each slot that passes
        self._woken_ns = 0
        self._watched: dict[int, Readable] = {}
        self._slots: dict[int, dict[int, Callable[[], None]]] = {}
        self._timers = 0
        self._order: list[int] = []
        self._running = True

    def watch(self, item: Readable, *, output: bool = False) -> None:
        """Call the handlers of ``item`` as soon as it is ready."""
        descriptor = item.fileno()
        self._watched[descriptor] = item
        self._epoll.register(descriptor, select.EPOLLIN | (select.EPOLLOUT if output else 0))

    def watch_patiently(self, item: Readable) -> None:
        """Call the handlers of ``item`` at most a slot after it is ready: the kernel must note when that was."""
        descriptor = item.fileno()
        self._watched[descriptor] = item
        self._patient.register(descriptor, select.EPOLLIN)

    def forget(self, item: Readable) -> None:
        descriptor = item.fileno()
        if self._watched.pop(descriptor, None) is not None:
            for epoll in (self._epoll, self._patient):
                with suppress(FileNotFoundError):
                    epoll.unregister(descriptor)

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
            now = self.clock()
            due_ns = self._order[0] * SLOT_NS if self._order else now + _LONGEST_WAIT_NS
            if not self._listening:
                due_ns = min(due_ns, (now // SLOT_NS + 1) * SLOT_NS)
            ready = self._epoll.poll(min(max(0, due_ns - now), _LONGEST_WAIT_NS) / 1e9)
            self._handle(ready)
            if not self._listening and self.clock() >= due_ns:
                self._look()
            self._run_due_slots()

    def _look(self) -> None:
        """Read what came in since the last slot; listen again once nothing has for a while."""
        now = started = self.clock()
        while now - started < SLOT_NS and (ready := self._patient.poll(0)):
            self._handle(ready)
            now = self.clock()
            self._look_until_ns = now + _QUIET_SLOTS * SLOT_NS
        if now >= self._look_until_ns:
            self._listening = True
            self._epoll.modify(self._patient, select.EPOLLIN)

    def _on_patient(self) -> None:
        """Something patient has woken us: read it, and stop listening when that happens all the time."""
        self._handle(self._patient.poll(0))
        now = self.clock()
        self._wakes = max(0.0, self._wakes - (now - self._woken_ns) / SLOT_NS) + 1
        self._woken_ns = now
        if self._wakes > _BUSY_WAKES:
            self._wakes = 0.0
            self._look_until_ns = now + _QUIET_SLOTS * SLOT_NS
            self._listening = False
            self._epoll.modify(self._patient, 0)

    def _handle(self, ready: list[tuple[int, int]]) -> None:
        for descriptor, events in ready:
            if descriptor == self._patient.fileno():
                self._on_patient()
                continue
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

    def _run_due_slots(self) -> None:
        now = self.clock()
        while self._order and self._order[0] * SLOT_NS <= now:
            slot = heapq.heappop(self._order)
            self.late_ns = self.clock() - slot * SLOT_NS  # the slots before it took their time as well
            self._slot_delay(self.late_ns)
            for action in self._slots.pop(slot).values():
                action()
        self.late_ns = 0
