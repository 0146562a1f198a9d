"""Whole overlay tables for whoever asks, and not oftener than the host can bear."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from exporter.contracts.overlay import Entry, OverlayState
from exporter.oneshot import OneShot, OneShotError
from exporter.overlay.settings import OverlaySettings

_KEPT = 3
"""States in one answer: a table in the middle of churn shows by two that differ."""


class Dumps:
    """Reads the state again when the last one is old enough; answers with the last few."""

    def __init__(self, settings: OverlaySettings, least_seconds: float) -> None:
        self._settings = msgspec.msgpack.encode(settings)
        self._least_seconds = least_seconds
        self._one = OneShot("exporter.overlay.state", "read overlay tables")
        self._states: deque[OverlayState] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._tried = -least_seconds
        self._problem = ""
        self.made = 0

    def answer(self) -> bytes:
        """The overlay state in JSON; raise OneShotError, also for what failed a moment ago."""
        with self._lock:
            due = time.monotonic() - self._tried >= self._least_seconds
            if due:
                self._tried = time.monotonic()
        if due:
            self._read()
        with self._lock:
            if self._problem or not self._states:
                raise OneShotError(self._problem or "the tables are being read: ask again in a few seconds")
            states = list(self._states)
        return msgspec.json.encode(joined(states))

    def _read(self) -> None:
        problem, state = "", None
        try:
            state = msgspec.json.decode(self._one.run(self._settings), type=OverlayState)
        except (OneShotError, msgspec.MsgspecError) as error:
            problem = str(error)
        with self._lock:
            self._problem = problem
            self.made += 1
            if state is not None:
                self._states.append(state)


def joined(states: Sequence[OverlayState]) -> OverlayState:
    """Successive states of one host as one.

    An entry may tell when it last changed only if that was after the state before: the contract counts it as of the
    first snapshot that follows.
    """
    entries: list[Entry] = []
    before = -math.inf
    for state in states:
        now = state.snapshots[0].time
        entries += [
            entry if entry.time > before else msgspec.structs.replace(entry, time=now) for entry in state.entries
        ]
        before = now
    snapshots = tuple(snapshot for state in states for snapshot in state.snapshots)
    return OverlayState(version=1, snapshots=snapshots, entries=tuple(entries))
