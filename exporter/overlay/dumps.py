"""Whole overlay tables for whoever asks, and not oftener than the host can bear."""

from __future__ import annotations

import threading
import time
import zlib
from collections import deque
from typing import NamedTuple

import msgspec

from exporter.oneshot import OneShot, OneShotError
from exporter.overlay.settings import OverlaySettings
from exporter.overlay.state import Order, Told

_KEPT = 3
"""States in one answer: a table in the middle of churn shows by two that differ."""
_KEPT_SECONDS = 300.0
"""What is older has changed, most likely, and would say nothing but that."""


class _Kept(NamedTuple):
    time: float
    """Unix time."""
    snapshots: bytes
    entries: bytes
    """Compressed: nobody may ask again."""


class Dumps:
    """Reads the state again when the last one is old enough; answers with the last few."""

    def __init__(self, settings: OverlaySettings, least_seconds: float) -> None:
        self._settings = settings
        self._least_seconds = least_seconds
        self._one = OneShot("exporter.overlay.state", "read overlay tables")
        self._kept: deque[_Kept] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._tried = -least_seconds
        self._reading = False
        self._problem = ""
        self.made = 0

    def answer(self) -> bytes:
        """The overlay state in JSON; raise OneShotError, also for what failed a moment ago."""
        with self._lock:
            due = not self._reading and time.monotonic() - self._tried >= self._least_seconds
            if due:
                self._tried, self._reading = time.monotonic(), True
        if due:
            self._read()
        with self._lock:
            if self._problem or not self._kept:
                raise OneShotError(self._problem or "the tables are being read: ask again in a few seconds")
            kept = list(self._kept)
        snapshots = b",".join(each.snapshots for each in kept)
        entries = b",".join(text for each in kept if (text := zlib.decompress(each.entries)))
        return b'{"version":1,"snapshots":[' + snapshots + b'],"entries":[' + entries + b"]}"

    def _read(self) -> None:
        with self._lock:
            while self._kept and time.time() - self._kept[0].time > _KEPT_SECONDS:
                self._kept.popleft()
            before = self._kept[-1].time if self._kept else None
        problem, new = "", None
        try:
            answer = self._one.run(msgspec.msgpack.encode(Order(self._settings, before)))
            told = msgspec.msgpack.decode(answer, type=Told)
            new = _Kept(told.time, told.snapshots, zlib.compress(told.entries, 1))
        except (OneShotError, msgspec.MsgspecError) as error:
            problem = str(error)
        finally:
            with self._lock:
                self._reading, self._problem = False, problem
                self.made += 1
                if new is not None:
                    if self._kept and new.time <= self._kept[-1].time:
                        self._kept.clear()  # the clock was set back: these are not before it
                    self._kept.append(new)
