"""Moving the counters: ``Counters(directory).add(event, …)``, and ``clear(fault)`` when it is healed."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path

from lab.counters.dialects import ARISTA, CISCO
from lab.counters.names import COUNTERS, PRIORITIES
from lab.counters.rnic import GIDS
from lab.counters.timeline import FILE, LEAD_SECONDS, Event, Timeline
from lab.errors import LabError
from lab.network import design as drawn
from lab.network.design import Design

FOREVER = float("inf")


class Counters:
    """The timeline of one lab, inside or outside its sandbox. Changes take effect ``LEAD_SECONDS`` after the call."""

    def __init__(self, directory: Path, design: Design | None = None) -> None:
        self.path = directory / FILE
        self.design = design or drawn.load((directory / "design.json").read_bytes())

    def timeline(self) -> Timeline:
        try:
            return Timeline.load(self.path.read_bytes())
        except FileNotFoundError:
            raise LabError("this lab has no counters", f"{self.path} is missing: is the lab up?") from None

    def now(self) -> float:
        """The time that events are on, seconds since the epoch."""
        return self.timeline().now()

    def begin(self) -> None:
        """Start an empty timeline, for a lab that comes up."""
        self._write(Timeline((), {}, time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)))

    def add(self, *events: Event, fault: str = "") -> tuple[Event, ...]:
        """Let the events happen; return them as recorded.

        An event without a start begins now, one that would begin in the past begins now as well: what has been
        read cannot change. ``fault`` is the name under which ``clear`` ends them. Raise LabError for a node, port,
        counter or index that cannot be.
        """
        for event in events:
            self._check(event)
        with self._changing() as (timeline, effect):
            added = tuple(
                event._replace(start=max(event.start, effect), fault=fault or event.fault) for event in events
            )
            self._write(self._with(timeline, (*timeline.events, *added)))
        return added

    def clear(self, fault: str | None = None) -> tuple[Event, ...]:
        """End the events of one fault, or all (None); return those ended. What they have counted stays counted."""
        with self._changing() as (timeline, effect):
            ended = []
            kept = []
            for event in timeline.events:
                mine = fault is None or event.fault == fault
                if mine and (FOREVER if event.end is None else event.end) > effect:
                    kept.append(event._replace(end=max(effect, event.start)))
                    ended.append(kept[-1])
                else:
                    kept.append(event)
            self._write(self._with(timeline, kept))
        return tuple(ended)

    def remove_rnic(self, host: str, rnic: str, fault: str = "") -> None:
        """Let an RNIC vanish from its host's sysfs tree; ``clear(fault)`` brings it back, its counters at 0."""
        self.add(Event(host, rnic, "rnic_absent", level=1), fault=fault)

    def change_gid(self, host: str, rnic: str, index: int, gid: str, fault: str = "") -> None:
        """Put another GID (an IPv6 address; "" for none) at an index of the GID table."""
        self.add(Event(host, rnic, "gid", index, text=gid), fault=fault)

    def reset(self, node: str, port: str) -> None:
        """Let the scripted counters of a port or RNIC begin at 0 again, as after a driver reload."""
        self.add(Event(node, port, "reset"))

    def stop_counting_ecn(self, switch: str, fault: str = "") -> None:
        """Let a switch say that it does not count ECN marks (its rows then hold 0): blind, not healthy."""
        self.add(Event(switch, "", "ecn_counting_off", level=1), fault=fault)

    def speak(self, switch: str, dialect: str) -> None:
        """Let a switch serve the MIBs of another vendor: ``arista-eos`` or ``cisco-nx-os``."""
        if dialect not in (ARISTA, CISCO):
            raise LabError(f"no switch speaks {dialect!r}", f"{ARISTA} or {CISCO}")
        self._switch(switch)
        with self._changing() as (timeline, _):
            dialects = {**timeline.dialects, switch: dialect}
            self._write(Timeline(timeline.events, dialects, timeline.epoch, timeline.boot))

    # ---- how

    def _check(self, event: Event) -> None:
        counter = COUNTERS.get(event.counter)
        if counter is None:
            raise LabError(f"no counter is called {event.counter!r}", "they are listed in lab/counters/names.py")
        switches = {switch.name for switch in self.design.switches}
        if event.counter == "ecn_counting_off":
            self._switch(event.node)
        else:
            self.design.end(f"{event.node}:{event.port}")
            if counter.side not in ("both", "switch" if event.node in switches else "rnic"):
                raise LabError(f"{event.node}:{event.port} has no counter {event.counter!r}", f"a {counter.side} has")
        allowed = {"": (None,), "gid": range(GIDS)}.get(counter.slot, PRIORITIES)
        if event.slot not in allowed:
            raise LabError(f"{event.counter} has no {counter.slot or 'slot'} {event.slot}")
        amounts = (event.start, event.rate, event.once, event.level, event.ramp, event.delay)
        if not all(0 <= amount < FOREVER for amount in amounts):
            raise LabError(f"an event of {event.counter} would count backwards or without bounds")
        if event.counter == "gid" and event.text:
            try:
                IPv6Address(event.text)
            except AddressValueError as error:
                raise LabError(f"{event.text!r} is not a GID", "write it as an IPv6 address") from error

    def _switch(self, name: str) -> None:
        if name not in {switch.name for switch in self.design.switches}:
            raise LabError(f"there is no switch {name!r} in this lab")

    @staticmethod
    def _with(timeline: Timeline, events: Iterable[Event]) -> Timeline:
        return Timeline(events, timeline.dialects, timeline.epoch, timeline.boot)

    @contextmanager
    def _changing(self) -> Iterator[tuple[Timeline, float]]:
        """The timeline, locked against other writers, and when a change that is written now takes effect."""
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            timeline = self.timeline()
            yield timeline, timeline.now() + LEAD_SECONDS

    def _write(self, timeline: Timeline) -> None:
        new = self.path.with_suffix(".new")
        new.write_bytes(timeline.dump())
        new.replace(self.path)
