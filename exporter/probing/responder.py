"""Answers probes: same traffic class, never more bytes than came in, no faster than each source may ask."""

from __future__ import annotations

import errno
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from exporter.contracts.catalogue import (
    PROBER,
    PROBER_ANSWERED,
    PROBER_DROPPED,
    PROBER_LIMITED,
    PROBER_REJECTED,
    PROBER_REPLAYED,
)
from exporter.probing.limits import SourceLimit
from exporter.probing.packet import HELLO, REQUEST, TRACE, Codec
from exporter.probing.sockets import TransmitTime, error_queue, is_roomy, open_responder, receive, send_options
from exporter.store import RowWriter

MAX_STREAMS = 65_536
IDLE_SECONDS = 600.0
"""A path that asked nothing for so long is taken to be gone: containers come and go by the thousand."""
REMEMBERED = 4
"""Sequence numbers of a path that are told apart; the probes of one path are 10 ms apart or more."""
_BATCH = 64
_TIMED_FIRST, _TIMED_EACH = 15, 31
"""A reply says how long it was held, which lasts until it leaves. The first replies and then one in so many ask the
kernel when that was, and all say what it took the quickest of the last: no round trip should come out too short."""
_ABSURD_NS = 1_000_000_000
_ERRORS_READ = 8
_DROPPED = PROBER.metrics.index(PROBER_DROPPED)
_ANSWERED = PROBER.metrics.index(PROBER_ANSWERED)
_REJECTED = PROBER.metrics.index(PROBER_REJECTED)
_REPLAYED = PROBER.metrics.index(PROBER_REPLAYED)
_LIMITED = PROBER.metrics.index(PROBER_LIMITED)


class _Stream:
    """Requests of one path."""

    __slots__ = ("_recent", "number", "requests", "used_ns")

    def __init__(self, number: int, now_ns: int) -> None:
        self.number = number
        self.requests = 0
        self.used_ns = now_ns
        self._recent: tuple[int, ...] = ()

    def is_fresh(self, sequence: int) -> bool:
        recent = self._recent
        return sequence not in recent and (len(recent) < REMEMBERED or sequence > recent[0])

    def take(self, sequence: int, now_ns: int) -> None:
        self.requests += 1
        self.used_ns = now_ns
        self._recent = tuple(sorted((*self._recent, sequence))[-REMEMBERED:])


class Streams:
    """Requests counted per (prober's address, path token), the least recently used forgotten first.

    Forgotten is what was idle for ``IDLE_SECONDS``, and the oldest when there are more than ``capacity``: keys come
    from the network. A forgotten path starts again under a new stream number, so that its prober does not mistake
    the smaller count for loss. ``clock`` gives monotonic nanoseconds.

    A prober's sequence numbers only grow, so one that was seen, or is smaller than the last ``REMEMBERED``, is a
    duplicate or a replay (RFC 4303, section 3.4.3). It would raise the count, and so turn loss on the way there into
    loss on the way back.
    """

    def __init__(self, capacity: int = MAX_STREAMS, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._capacity = capacity
        self._clock = clock
        self._counts: OrderedDict[tuple[str, int], _Stream] = OrderedDict()
        self._next = 0

    def count(self, address: str, token: int, sequence: int) -> tuple[int, int] | None:
        """Count one request and return (requests so far, stream number modulo 2^16); None for a replay."""
        key, now = (address, token), self._clock()
        self._forget_idle(now)
        entry = self._counts.get(key)
        if entry is None:
            self._next = (self._next + 1) & 0xFFFF
            entry = self._counts[key] = _Stream(self._next, now)
            if len(self._counts) > self._capacity:
                self._counts.popitem(last=False)
        elif not entry.is_fresh(sequence):
            return None
        else:
            self._counts.move_to_end(key)
        entry.take(sequence, now)
        return entry.requests, entry.number

    def _forget_idle(self, now: int) -> None:
        """Two at most: a request adds one at most, and none of them has to wait for a long clean-up."""
        for _ in range(2):
            if not self._counts or now - next(iter(self._counts.values())).used_ns < IDLE_SECONDS * 1e9:
                return
            self._counts.popitem(last=False)


class UdpResponder:
    """One responder address. ``streams``, ``limit`` and ``counters`` are shared by all addresses of a host.

    ``on_hello`` is called with our address and that of whoever greeted it, which holds our key or repeats who does.
    """

    def __init__(
        self,
        codec: Codec,
        address: str,
        port: int,
        boot_epoch: int,
        streams: Streams,
        limit: SourceLimit,
        counters: RowWriter,
        on_hello: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        self._codec = codec
        self._address = address
        self._on_hello = on_hello
        self._epoch = boot_epoch
        self._streams = streams
        self._limit = limit
        self._counters = counters
        self._dropped = 0
        self._replies = 0
        self._left: deque[int] = deque(maxlen=_TIMED_FIRST)
        self._leaving_ns = 0  # from looking at the clock for a reply until that has left
        self._timed_ns = 0  # when we did so for the reply whose leaving is awaited, Unix; 0 = for none
        self._socket = open_responder(address, port)

    @property
    def may_wait(self) -> bool:
        """Whether requests may wait in its socket: one as the kernel grants anybody holds 25 full-size ones."""
        return is_roomy(self._socket)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def on_input(self) -> None:
        for datagram in receive(self._socket, _BATCH):
            if datagram.dropped != self._dropped:
                self._book(_DROPPED, (datagram.dropped - self._dropped) & 0xFFFFFFFF)
                self._dropped = datagram.dropped
            request = self._codec.parse(datagram.data)
            if request is None or request.kind not in (REQUEST, TRACE, HELLO):
                self._book(_REJECTED)
                continue
            # Asked of keyed packets only: without the key nobody makes us hold a bucket, or empties another's.
            if not self._limit.allows(datagram.address[0]):
                self._book(_LIMITED)
                continue
            answered, stream = 0, 0
            if request.kind == REQUEST:
                counted = self._streams.count(datagram.address[0], request.token, request.sequence)
                if counted is None:
                    self._book(_REPLAYED)
                    continue
                answered, stream = counted
            timed = self._replies < _TIMED_FIRST or self._replies % _TIMED_EACH == 0
            options = send_options(datagram.traffic_class, timed=timed)
            now = time.time_ns()
            delay = now - datagram.received_ns + self._leaving_ns if datagram.received_ns else 0
            # A clock step between the two must not turn into a negative or absurd delay.
            delay = delay if 0 <= delay < _ABSURD_NS else 0
            reply = self._codec.reply(request, stream, self._epoch, answered, delay)
            try:
                self._socket.sendmsg([reply], options, 0, datagram.address)
            except OSError as error:
                if error.errno in (errno.EBADF, errno.ENOTSOCK):
                    raise
                continue  # no route back, buffers full: the prober will see a loss on the way back
            self._replies += 1
            if timed:
                self._timed_ns = now
                self._learn_leaving()  # most often it is known at once
            self._book(_ANSWERED)
            if request.kind == HELLO:
                self._on_hello(self._address, datagram.address[0])

    def _book(self, column: int, times: int = 1) -> None:
        self._counters.begin()
        self._counters.add(column, times)
        self._counters.end()

    def _learn_leaving(self) -> None:
        for item in error_queue(self._socket, _ERRORS_READ):
            if isinstance(item, TransmitTime) and self._timed_ns:
                took, self._timed_ns = item.sent_ns - self._timed_ns, 0
                if 0 < took < _ABSURD_NS:  # else the clock was stepped
                    self._left.append(took)
                    self._leaving_ns = min(self._left) if len(self._left) == _TIMED_FIRST else 0

    def on_error(self) -> None:
        self._learn_leaving()
        self.on_input()  # consumes errors of other kinds

    def on_output(self) -> None:
        """Never asked for."""
