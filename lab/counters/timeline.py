"""One timeline for all counters: every value is a pure function of the timeline and of the time.

So the SNMP subagents, the sysfs trees and a recorder show the same numbers without a word between them.
A counter never goes back: an event adds its rate for as long as it lasts, and is closed, not deleted,
when its fault is healed. Only a declared reset (a driver reload, an RNIC that comes back) starts at 0.

Imported by the SNMP subagent, which starts without site-packages: standard library only, and little of it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

VERSION = 1
FILE = "counters.json"  # in the lab's directory

LEAD_SECONDS = 0.1
"""A change takes effect so long after it is written. Readers take the time first and the file second:
what they compute for the time before an event's end is the same with the old file and with the new."""


class Event(NamedTuple):
    """What happens to one counter of one port between two times. ``rate`` is per second.

    ``once`` is added once, at the start, or at the end when ``at_end``; ``delay`` seconds after either. An
    event that ends before its delay has passed has not happened: a watchdog never fires for a short pause.
    """

    node: str
    port: str
    counter: str
    slot: int | None = None
    """Priority, queue or GID index, where the counter has one."""
    start: float = 0.0
    """Seconds since the epoch; 0 is the moment at which the event is added."""
    end: float | None = None
    rate: float = 0.0
    ramp: float = 0.0
    """Seconds in which the rate grows from 0 to its full height."""
    once: float = 0.0
    at_end: bool = False
    delay: float = 0.0
    level: float = 0.0
    """Of a gauge, while the event lasts; levels add up."""
    text: str = ""
    """Of a state, while the event lasts; the event added last wins."""
    fault: str = ""
    """The fault it belongs to; ``Counters.clear`` ends the events of a fault."""

    def lasts(self, t: float) -> bool:
        return self.start + self.delay <= t and (self.end is None or t < self.end)

    def added(self, t: float) -> float:
        """What the event has added to its counter by ``t``; never less at a later time."""
        begin = self.start + self.delay
        if self.at_end:
            return self.once if self.end is not None and t >= self.end + self.delay else 0.0
        if t < begin or (self.end is not None and self.end < begin):
            return 0.0
        seconds = (t if self.end is None else min(t, self.end)) - begin
        if seconds < self.ramp:
            return self.once + min(self.rate * seconds * seconds / (2 * self.ramp), self.rate * self.ramp / 2)
        return self.once + self.rate * self.ramp / 2 + self.rate * (seconds - self.ramp)


Series = tuple[str, str, str, "int | None"]
_DEFAULTS = Event._field_defaults


class Timeline:
    """All events of a lab, and which dialect of SNMP each switch speaks."""

    def __init__(
        self,
        events: Iterable[Event] = (),
        dialects: Mapping[str, str] | None = None,
        epoch: float = 0.0,
        boot: float = 0.0,
    ) -> None:
        self.events = tuple(events)
        self.dialects = dict(dialects or {})
        self.epoch, self.boot = epoch, boot
        self._series: dict[Series, list[Event]] = {}
        self._ports: dict[tuple[str, str], list[Event]] = {}
        for event in self.events:
            self._series.setdefault((event.node, event.port, event.counter, event.slot), []).append(event)
            if event.counter in ("reset", "rnic_absent"):
                self._ports.setdefault((event.node, event.port), []).append(event)

    # ---- time

    def now(self) -> float:
        """Seconds since the epoch on a clock that never steps, the same for every process of the machine."""
        if not self.boot:
            return time.time()
        return self.epoch + time.clock_gettime(time.CLOCK_BOOTTIME) - self.boot

    # ---- values

    def total(self, node: str, port: str, counter: str, slot: int | None, t: float) -> int:
        """What the events have added to a counter by ``t``, since its last reset."""
        events = self._series.get((node, port, counter, slot))
        if not events:
            return 0
        total = sum(event.added(t) for event in events)
        since = self.last_reset(node, port, t)
        return math.floor(total if since is None else total - sum(event.added(since) for event in events))

    def level(self, node: str, port: str, counter: str, slot: int | None, t: float) -> float:
        events = self._series.get((node, port, counter, slot), ())
        return sum((event.level for event in events if event.lasts(t)), 0.0)

    def text(self, node: str, port: str, counter: str, slot: int | None, t: float) -> str | None:
        events = self._series.get((node, port, counter, slot), ())
        return next((event.text for event in reversed(events) if event.lasts(t)), None)

    def absent(self, node: str, port: str, t: float) -> bool:
        """Whether the RNIC is gone from its host."""
        return self.level(node, port, "rnic_absent", None, t) > 0

    def last_reset(self, node: str, port: str, t: float) -> float | None:
        """When the port's counters last began at 0: at a reset, or when an absent RNIC came back."""
        times = [
            time_of
            for event in self._ports.get((node, port), ())
            for time_of in [event.start + event.delay if event.counter == "reset" else event.end]
            if time_of is not None and time_of <= t
        ]
        return max(times, default=None)

    # ---- the file

    def dump(self) -> bytes:
        events = [
            {
                name: value
                for name, value in event._asdict().items()
                if name not in _DEFAULTS or value != _DEFAULTS[name]
            }
            for event in self.events
        ]
        document = {"version": VERSION, "epoch": self.epoch, "boot": self.boot, "dialects": self.dialects}
        return json.dumps({**document, "events": events}, indent=1).encode() + b"\n"

    @classmethod
    def load(cls, data: bytes) -> Timeline:
        """Read what ``dump`` wrote; raise ValueError when it is something else."""
        document: dict[str, Any] = json.loads(data)
        if document.get("version") != VERSION:
            raise ValueError(f"a timeline of version {document.get('version')!r}, not {VERSION}")
        try:
            events = [Event(**event) for event in document["events"]]
            return cls(events, document["dialects"], document["epoch"], document["boot"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a timeline: {error}") from error


class Watched:
    """A timeline's file, read again when it was replaced."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._seen: tuple[int, int, int] | None = None
        self._timeline = Timeline()

    def moment(self) -> tuple[float, Timeline]:
        """The time, and the timeline that is right for it. In this order: see LEAD_SECONDS."""
        t = self._timeline.now()
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return t, self._timeline
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            first = self._seen is None
            with open(self._path, "rb") as file:
                self._timeline = Timeline.load(file.read())
            self._seen = seen
            if first:
                t = self._timeline.now()
        return t, self._timeline
