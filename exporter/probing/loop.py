"""The prober's event loop: epoll, and 10 ms slots in which everything due is sent together.

To sleep and be woken costs more than to send or read a packet, so packets are dealt with together. Answers, whose
arrival the kernel has noted, wait for the next slot. Requests wake the loop; when that happens all the time it stops
listening and looks for them every 100 ms instead, as the kernel does with busy network cards (NAPI,
Documentation/networking/napi.rst).
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

SLOT_NS = 10_000_000
FEW = 10
"""What need not be exact to the slot happens in each tenth only: fewer wakes, with more to do in each."""
LATE_NS = 5_000_000
"""What happens later than this was starved of CPU: the delay is the host's, not the network's."""
LATEST_NS = 100_000_000
"""What is later than this is not sent any more: after a stall all that was missed would leave at once."""

_LONGEST_WAIT_NS = 1_000_000_000
_LOOK_NS = FEW * SLOT_NS
_BRIEF_NS = 1_000_000
"""A look that took longer is followed by one ``_SOON_NS`` later: what a socket can hold is a few full-size packets."""
_SOON_NS = SLOT_NS // 2
_BUSY_WAKES = 4
"""So many wakes more than looks would have been make the loop look instead; it listens again after ``_QUIET_NS``."""
_QUIET_NS = 2 * _LOOK_NS


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
    began, in nanoseconds; ``late_ns`` says so of the slot or look under way. ``run_delay`` gives the nanoseconds
    that this thread has been kept waiting for a processor. ``awake_since_ns`` is when the loop was last woken after it
    had found nothing: what is handled now has come since, unless the process was frozen, for less than it was to sleep.
    ``woken_ns`` is when it last looked at its descriptors. ``now_ns`` is the time for what need not be exact: where the
    kernel has no vDSO, reading a clock is a system call, and may cost more than all else that a packet needs.
    """

    def __init__(
        self,
        slot_delay: Callable[[int], None] = lambda _: None,
        clock: Callable[[], int] = time.monotonic_ns,
        run_delay: Callable[[], int] = lambda: 0,
    ) -> None:
        self.clock = clock
        self.late_ns = 0
        self.awake_since_ns = 0
        self.now_ns = self.woken_ns = clock()
        self._slot_delay = slot_delay
        self._run_delay = run_delay
        self._was_stopped = False
        self._watched: dict[int, tuple[Readable]] = {}  # a new tuple each time: the kernel gives descriptors again
        self._epoll = select.epoll()
        self._answers = select.epoll()
        self._requests = select.epoll()
        self._epoll.register(self._requests, select.EPOLLIN)
        self._listening = True  # for requests; else they are looked for
        self._busy_until_ns = 0
        self._look_at_ns = 0
        self._wakes = 0.0  # by requests, one less for each look that there could have been
        self._requested_ns = 0
        self._slots: dict[int, dict[int, Callable[[], None]]] = {}
        self._timers = 0
        self._order: list[int] = []
        self._running = True

    def watch(self, item: Readable, *, output: bool = False) -> None:
        """Call the handlers of ``item`` as soon as it is ready."""
        self._watch(item, self._epoll, output)

    def watch_for_requests(self, item: Readable) -> None:
        """Call the handlers of ``item`` when it is ready, or 100 ms later: the kernel must note when that was."""
        self._watch(item, self._requests)

    def watch_for_answers(self, item: Readable) -> None:
        """Call the handlers of ``item`` in slots only; ``look_by`` says when there has to be one."""
        self._watch(item, self._answers)

    def _watch(self, item: Readable, epoll: select.epoll, output: bool = False) -> None:
        descriptor = item.fileno()
        self._watched[descriptor] = (item,)
        epoll.register(descriptor, select.EPOLLIN | (select.EPOLLOUT if output else 0))

    def forget(self, item: Readable) -> None:
        descriptor = item.fileno()
        if self._watched.pop(descriptor, None) is not None:
            for epoll in (self._epoll, self._answers, self._requests):
                with suppress(FileNotFoundError):
                    epoll.unregister(descriptor)

    def at(self, due_ns: int, action: Callable[[], None], *, every: int = 1) -> Timer:
        """Run ``action`` in the first slot that starts at or after ``due_ns``, of those that ``every`` divides."""
        slot = self._slot(due_ns, every)
        self._timers += 1
        self._slots[slot][self._timers] = action
        return Timer(slot, self._timers)

    def _slot(self, due_ns: int, every: int) -> int:
        slot = -(-due_ns // (SLOT_NS * every)) * every
        if slot not in self._slots:
            self._slots[slot] = {}
            heapq.heappush(self._order, slot)
        return slot

    def look_by(self, due_ns: int) -> None:
        """Look for answers at ``due_ns`` at the latest, or ``FEW`` slots later."""
        self._slot(due_ns, FEW)

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        return self.at(self.clock() + int(seconds * 1e9), action)

    def cancel(self, timer: Timer) -> None:
        """Let go of an action and of all it holds; what has run, or is of the slot under way, is left alone."""
        actions = self._slots.get(timer.slot)
        if actions is not None:
            actions.pop(timer.number, None)

    def stop(self) -> None:
        self._running = False

    def on_continued(self) -> None:
        """The process had been stopped: what is ready now may have come long ago."""
        self._was_stopped = True

    def run(self) -> None:
        while self._running:
            now = self.clock()
            due_ns = min(now + _LONGEST_WAIT_NS, self._order[0] * SLOT_NS if self._order else now + _LONGEST_WAIT_NS)
            if not self._listening:
                due_ns = min(due_ns, self._look_at_ns)
            ready = self._epoll.poll(0)
            nothing = not ready  # so that what is there afterwards has come meanwhile
            if nothing:
                delayed_ns = self._run_delay()
                ready = self._epoll.poll(max(0, due_ns - self.clock()) / 1e9)
            self.now_ns = self.woken_ns = self.clock()
            overslept = self.woken_ns - max(due_ns, now) > LATE_NS  # frozen, say: what is there may have come long ago
            if nothing and not overslept and not self._was_stopped:
                self.awake_since_ns = self.woken_ns - (self._run_delay() - delayed_ns)
            self._was_stopped = False
            self._handle(ready)
            self.now_ns = now = self.clock()
            if now >= due_ns:
                self.late_ns = now - due_ns
                self._look()
                self._run_due_slots()
                self.late_ns = 0

    def _look(self) -> None:
        """Read the answers that came since the last slot; and the requests, unless we listen for them."""
        started = now = self.clock()
        while now - started < SLOT_NS and (ready := self._answers.poll(0)):
            self._handle(ready)
            now = self.clock()
        if self._listening:
            return
        started = now
        while now - started < SLOT_NS and (ready := self._requests.poll(0)):
            self._handle(ready)
            now = self.clock()
            self._busy_until_ns = now + _QUIET_NS
        # On a grid of its own, which the slots of light plans are on.
        self._look_at_ns = (now // _LOOK_NS + 1) * _LOOK_NS if now - started < _BRIEF_NS else now + _SOON_NS
        if now >= self._busy_until_ns:
            self._listen(True)

    def _on_requests(self) -> None:
        """Requests have woken us: stop listening for them when that happens all the time."""
        self._handle(self._requests.poll(0))
        now = self.clock()
        self._wakes = max(0.0, self._wakes - (now - self._requested_ns) / _LOOK_NS) + 1
        self._requested_ns = now
        if self._wakes > _BUSY_WAKES:
            self._wakes = 0.0
            self._busy_until_ns = now + _QUIET_NS
            self._look_at_ns = now + _SOON_NS
            self._listen(False)

    def _listen(self, listening: bool) -> None:
        self._listening = listening
        self._epoll.modify(self._requests, select.EPOLLIN if listening else 0)

    def _handle(self, ready: list[tuple[int, int]]) -> None:
        watched = self._watched
        for descriptor, watch, events in [(each, watched.get(each), events) for each, events in ready]:
            if descriptor == self._requests.fileno():
                self._on_requests()
                continue
            # A handler of this round may close any of them, and open another that has its descriptor.
            if watch is None or watched.get(descriptor) is not watch:
                continue
            item = watch[0]
            # Errors first: the transmit time of a probe waits on the error queue, and its reply needs it.
            if events & select.EPOLLERR:
                item.on_error()
            if events & (select.EPOLLIN | select.EPOLLHUP) and watched.get(descriptor) is watch:
                item.on_input()
            if events & select.EPOLLOUT and watched.get(descriptor) is watch:
                item.on_output()

    def _run_due_slots(self) -> None:
        now = self.clock()
        while self._order and self._order[0] * SLOT_NS <= now:
            slot = heapq.heappop(self._order)
            self.now_ns = self.clock()
            self.late_ns = self.now_ns - slot * SLOT_NS  # the slots before it took their time as well
            self._slot_delay(self.late_ns)
            for action in self._slots.pop(slot).values():
                action()
