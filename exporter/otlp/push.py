"""Pushes in a thread of its own: a receiver that is slow, dead or hostile costs a thread that waits, nothing else.

Nothing is queued. Values are cumulative, so a push that failed is made up for by the next one, which
also ends the series that have gone in between.
"""

from __future__ import annotations

import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from exporter.contracts.catalogue import (
    OTLP,
    OTLP_POINTS_REJECTED,
    OTLP_PUSH_DURATION,
    OTLP_PUSH_FAILURES,
    OTLP_PUSH_TIME,
    OTLP_PUSHES,
)
from exporter.otlp.encode import Push
from exporter.store import RowWriter

FLUSH_SECONDS = 3.0
"""How long the end of the exporter waits for its last push."""

_PUSHES = OTLP.metrics.index(OTLP_PUSHES)
_FAILURES = OTLP.metrics.index(OTLP_PUSH_FAILURES)
_REJECTED = OTLP.metrics.index(OTLP_POINTS_REJECTED)
_DURATION = OTLP.metrics.index(OTLP_PUSH_DURATION)
_TIME = OTLP.metrics.index(OTLP_PUSH_TIME)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request."""

    delivered: bool
    rejected: int = 0
    """Points that the receiver left out of a request it took."""
    problem: str = ""
    """Why it was not delivered, or why points were rejected; one line without secrets."""
    worth_trying: bool = True
    """Whether the next request may fare better: the receiver answered, and it was not in trouble."""


class Transport(Protocol):
    """Sends one request at a time."""

    def send(self, body: bytes) -> Outcome:
        """Send an ``ExportMetricsServiceRequest``, with retries, within the time-out."""

    def abort(self) -> None:
        """Let ``send`` return soon, from another thread; nothing can be sent afterwards."""


class Pusher:
    """Pushes every ``period_seconds`` from ``start`` to ``stop``."""

    def __init__(
        self,
        transport: Transport,
        encode: Callable[[bool], Push],
        delivered: Callable[[Push], None],
        counters: RowWriter,
        period_seconds: float,
        name: str,
    ) -> None:
        """``encode(last)`` reads the stores; ``last`` asks to end every series. ``name`` spreads the exporters' pushes.

        ``delivered`` is told of a push that the receiver has got.
        """
        self._transport = transport
        self._encode = encode
        self._delivered = delivered
        self._counters = counters
        self._period = period_seconds
        self._phase = zlib.crc32(name.encode()) / 2**32 * period_seconds
        self._stopping = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Push once more, then end every series, as a scrape that fails would; within ``FLUSH_SECONDS``."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(FLUSH_SECONDS)
        self._transport.abort()

    def _run(self) -> None:
        while not self._stopping.wait(self._period - (time.time() - self._phase) % self._period):
            self._push_whatever_happens()
        if self._push_whatever_happens():
            self._push_whatever_happens(last=True)

    def _push_whatever_happens(self, *, last: bool = False) -> bool:
        try:
            return self.push(last=last)
        except Exception as error:  # noqa: BLE001 - one push that fails, as for want of memory, must not be the last
            self._counters.begin()
            self._counters.add(_FAILURES)
            self._counters.end()
            self._say(f"{type(error).__name__}, before anything was sent")
            return False

    def push(self, *, last: bool = False) -> bool:
        """Push now; return whether the receiver took every request."""
        row, began = self._counters, time.monotonic()
        row.begin()
        row.add(_PUSHES)
        row.end()
        push = self._encode(last)
        ended, sent, rejected, trouble = 0, 0, 0, ""
        for number, request in enumerate(push.requests):
            outcome = self._send(request.body)
            rejected += outcome.rejected
            if outcome.delivered:
                sent += 1
                ended += number < push.endings
                if outcome.rejected:
                    trouble = trouble or f"{outcome.rejected} points rejected: {outcome.problem}"
                continue
            trouble = outcome.problem
            if not outcome.worth_trying or time.monotonic() - began > self._period:
                break
        whole = sent == len(push.requests)
        # Once all endings have arrived, what came after them is a part of this push: a series that
        # is taken to be known and is not is later ended for nothing, which does no harm.
        if whole or (ended == push.endings and sent > ended):
            self._delivered(push)
        row.begin()
        row.add(_FAILURES, 0.0 if whole else 1.0)
        row.add(_REJECTED, rejected)
        row.set(_DURATION, time.monotonic() - began)
        if whole:
            row.set(_TIME, time.time())
        row.end()
        self._say(trouble)
        return whole

    def _send(self, body: bytes) -> Outcome:
        try:
            return self._transport.send(body)
        except Exception as error:  # noqa: BLE001 - whatever a receiver makes of a library, the next push is due
            return Outcome(False, problem=type(error).__name__, worth_trying=False)

    def _say(self, trouble: str) -> None:
        """Log when trouble begins, changes or ends, and not every few seconds."""
        if trouble != self._trouble:
            self._trouble = trouble
            print(f"OTLP push: {trouble or 'all is well again'}", file=sys.stderr, flush=True)
