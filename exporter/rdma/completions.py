"""What a device says has completed, and when: by its own clock where it has one, or as it is found.

A device with a clock notes the moment of each completion (ibv_create_cq_ex(3), IBV_WC_EX_WITH_COMPLETION_TIMESTAMP);
how long ago that was needs the clock as it is now (ibv_query_rt_values_ex(3)). pyverbs can have no events from such a
queue, so it is looked at in every slot: what waits meanwhile, its time is known.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import NamedTuple, Protocol

from exporter.rdma.verbs import (
    CQ,
    CQEX,
    CompChannel,
    Context,
    CqInitAttrEx,
    PollCqAttr,
    PyverbsError,
    PyverbsRDMAError,
    constants,
)

MOST = 64
"""Completions of one look."""
_LENGTH = 16_384
_FLAGS = constants.IBV_WC_EX_WITH_BYTE_LEN | constants.IBV_WC_EX_WITH_QP_NUM | constants.IBV_WC_EX_WITH_SRC_QP
_TORN_NS = 50_000
_OLDEST_NS = 10_000_000_000
"""A completion that seems older was stamped before the clock was set back, or by another clock."""


class Completion(NamedTuple):
    identifier: int
    """That of the work request."""
    status: int
    """ibv_wc_status."""
    pair: int
    """Number of our queue pair."""
    source_pair: int
    """Number of the sender's."""
    bytes: int
    at_ns: int | None
    """When it completed, monotonic, by the device's clock; None when that is not known."""


class Completions(Protocol):
    """A completion queue."""

    queue: CQ | CQEX
    timestamps: str
    """``hardware`` or ``software``."""

    def fileno(self) -> int:
        """What is readable when something completed; -1 where it has to be looked for."""

    def rearm(self) -> None:
        """Take an event, and have another with the next completion: to be called before a look."""

    def look(self) -> list[Completion]:
        """Up to ``MOST``; raise PyverbsError."""

    def close(self) -> None: ...


class FoundCompletions:
    """A completion queue of a device without a clock."""

    timestamps = "software"

    def __init__(self, context: Context, length: int = _LENGTH) -> None:
        """Raise PyverbsError or OSError."""
        before = _channels()
        self._channel = CompChannel(context)
        (self._descriptor,) = _channels() - before or {-1}
        os.set_blocking(self._descriptor, False)
        self.queue = CQ(context, min(length, context.query_device().max_cqe), None, self._channel, 0)
        self.queue.req_notify()

    def fileno(self) -> int:
        return self._descriptor

    def rearm(self) -> None:
        with suppress(PyverbsRDMAError):  # EAGAIN: none
            self._channel.get_cq_event(self.queue)
            self.queue.ack_events(1)
        self.queue.req_notify()  # before the look, or what completes between the two would wake nobody

    def look(self) -> list[Completion]:
        count, found = self.queue.poll(MOST)
        if not count:
            return []
        return [Completion(each.wr_id, each.status, each.qp_num, each.src_qp, each.byte_len, None) for each in found]

    def close(self) -> None:
        try:
            self.queue.close()
        finally:
            self._channel.close()


class DeviceClock:
    """The clock of a device that stamps completions."""

    flags: int = constants.IBV_WC_EX_WITH_COMPLETION_TIMESTAMP

    def __init__(self, context: Context) -> None:
        """Raise PyverbsError: there is none."""
        attributes = context.query_device_ex()
        self._mask: int = attributes.completion_timestamp_mask
        self._kilohertz: int = attributes.hca_core_clock
        self._context = context
        if not self._mask or not self._kilohertz:
            raise PyverbsError("no clock that stamps completions")
        self.now()

    def now(self) -> int:
        """In ticks."""
        seconds, ticks = self._context.query_rt_values_ex()  # providers give ticks of the clock in place of ns
        return int(seconds) * 1_000_000_000 + int(ticks)

    def stamp(self, queue: CQEX) -> int:
        """When what the queue is at has completed, in ticks."""
        return int(queue.read_timestamp())

    def nanoseconds(self, ticks: int) -> int:
        return (ticks & self._mask) * 1_000_000 // self._kilohertz


class StampedCompletions:
    """A completion queue of a device with a clock."""

    timestamps = "hardware"

    def __init__(self, context: Context, clock: DeviceClock) -> None:
        """Raise PyverbsError: the device has no queue that says what it notes."""
        self._clock = clock
        length = min(_LENGTH, context.query_device().max_cqe)
        self.queue = CQEX(context, CqInitAttrEx(cqe=length, wc_flags=_FLAGS | clock.flags))
        self._attributes = PollCqAttr()

    def fileno(self) -> int:
        return -1

    def rearm(self) -> None:
        """There are no events."""

    def look(self) -> list[Completion]:
        queue = self.queue
        result = queue.start_poll(self._attributes)
        if result:
            self._check(result)
            return []
        found: list[tuple[tuple[int, int, int, int, int], int]] = []
        try:
            while not result:
                what = (queue.wr_id, queue.status, queue.read_qp_num(), queue.read_src_qp(), queue.read_byte_len())
                found.append((what, self._clock.stamp(queue)))
                if len(found) == MOST:
                    break
                result = queue.poll_next()
        finally:  # providers hold a lock from start_poll on
            queue.end_poll()
        self._check(result)
        # Both clocks at one moment: to be interrupted between the two would make all look younger.
        before_ns = time.monotonic_ns()
        now = self._clock.now()
        if time.monotonic_ns() - before_ns > _TORN_NS:
            return [Completion(*what, None) for what, _ in found]
        return [Completion(*what, self._time(before_ns, now - stamp)) for what, stamp in found]

    def _check(self, result: int) -> None:
        if result not in (0, errno.ENOENT):  # which means that nothing is left
            raise PyverbsRDMAError("cannot read the completion queue", result)

    def _time(self, now_ns: int, ticks: int) -> int | None:
        age_ns = self._clock.nanoseconds(ticks)
        return now_ns - age_ns if age_ns < _OLDEST_NS else None

    def close(self) -> None:
        self.queue.close()


def open_completions(context: Context) -> Completions:
    """The queue that knows most; raise PyverbsError or OSError when there can be none."""
    try:
        return StampedCompletions(context, DeviceClock(context))
    except PyverbsError:
        return FoundCompletions(context)


def _channels() -> set[int]:
    """Descriptors of this process that completion and device events come from."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").endswith("[infinibandevent]"):
                found.add(int(name))
        except OSError:  # that of the listing itself
            continue
    return found
