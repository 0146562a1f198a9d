"""``diagnose --follow``: exporters asked again and again, and each failure told as it comes and goes.

Only the seconds since the last round are asked for and diagnosed. Host clocks are taken to agree to a few seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from threading import Event

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.codec import ContractError, encode, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import OverlayState, read_overlay
from exporter.contracts.skeleton import Skeleton
from skeleton_service import records
from skeleton_service.diagnosis import Diagnoser
from skeleton_service.diagnosis.changes import Told
from skeleton_service.diagnosis.unused import unused_counters, unused_overlay, unused_records
from skeleton_service.polling import Sources, read_probes, read_samples
from skeleton_service.telling import change_lines

KEPT_SECONDS = 360
"""What is asked for at first, and how long DNS queries, and failures that ended, are kept."""
SETTLE_SECONDS = 4
"""A probe's record appears with its reply or its timeout: younger ones are not complete."""
LOOKUP_SECONDS = 30
"""The same of DNS queries, which are tried several times."""
COUNTER_SECONDS = 3600.0
PATIENCE_SECONDS = 10.0
"""How long a round waits for a source that answered the last time, or was never asked before."""


@dataclass(frozen=True, slots=True)
class Given:
    """What to follow, and where the verdict goes."""

    fabric: Fabric
    skeleton: Skeleton
    probes: Sequence[str]
    """URLs of exporters' ``/v1/probe-records``, or of what serves the like."""
    counters: Sequence[str]
    """URLs and files, each read whole each time."""
    overlay: Path | None
    output: Path
    interval: float
    """Seconds from round to round."""
    spraying: bool


class OverlayFile:
    """The overlay state in a file, read again when the file has changed."""

    def __init__(self, path: Path, fabric: Fabric) -> None:
        self._path = path
        self._fabric = fabric
        self._state: OverlayState | None = None
        self._seen: tuple[int, int] | None = None

    def read(self) -> OverlayState | None:
        """The last state that could be read; a file that is missing or wrong is told of once."""
        try:
            status = self._path.stat()
            seen = status.st_mtime_ns, status.st_size
        except OSError:
            seen = (0, 0)
        if seen != self._seen:
            self._seen = seen
            try:
                state = read_overlay(self._path)
                _warn(unused_overlay(state, self._fabric, str(self._path)))
                self._state = state
            except ContractError as error:
                kept = "the one before is used on" if self._state else "diagnosed without"
                print(f"overlay: {error}: {kept}", file=sys.stderr, flush=True)
        return self._state


class Following:
    """The state between rounds: a diagnoser, DNS queries of the last minutes, and what was told."""

    def __init__(self, given: Given, stop: Event, clock: Callable[[], float] = time.time) -> None:
        self._given = given
        self._stop = stop
        self._clock = clock
        self._probes = Sources(given.probes, read_probes, stop)
        self._counters = Sources(given.counters, read_samples, stop)
        self._samples: dict[str, pa.Table] = {}
        self._overlay = OverlayFile(given.overlay, given.fabric) if given.overlay else None
        self._diagnoser = Diagnoser(given.fabric, given.skeleton, spraying=given.spraying)
        self._told = Told()
        self._lookups = pa.table({name: pa.array([], kind) for name, kind in records.KINDS.items()})
        self._edge = floor(clock()) - KEPT_SECONDS
        """The seconds before it are diagnosed."""
        self._late: set[str] = set()
        self._checked = False

    def round(self) -> None:
        """Ask, diagnose, write the verdict, and tell what is new."""
        until = floor(self._clock()) - SETTLE_SECONDS
        answers = self._probes.fetch(self._edge - LOOKUP_SECONDS, PATIENCE_SECONDS)
        self._tell_late(answers)
        self._samples |= self._counters.fetch(until - COUNTER_SECONDS, PATIENCE_SECONDS)
        if self._stop.is_set():
            return
        until = max(until, self._edge)
        parts = [_between(each, self._edge, until) for each in answers.values()]
        fresh = _distinct(pa.concat_tables([self._lookups.slice(0, 0), *parts]))
        if len(fresh):
            self._check(fresh)
            self._diagnoser.advance(fresh)
        self._edge = until
        self._keep_lookups(answers)
        self._diagnoser.forget(until - KEPT_SECONDS)
        diagnosis = self._diagnoser.diagnosis(
            self._lookups,
            counters=pa.concat_tables(self._samples.values()) if self._samples else None,
            overlay=self._overlay.read() if self._overlay else None,
        )
        # Counters tell for an hour of what is over.
        diagnosis = msgspec.structs.replace(
            diagnosis,
            failures=tuple(f for f in diagnosis.failures if f.end is None or f.end >= until - KEPT_SECONDS),
        )
        write(self._given.output, encode(diagnosis))
        for change in self._told.update(diagnosis):
            print("\n".join(change_lines(change, self._clock())), flush=True)

    def _check(self, fresh: pa.Table) -> None:
        """Once: say what cannot be used."""
        if not self._checked:
            self._checked = True
            _warn(unused_records(fresh, self._given.fabric, self._given.probes))
            if self._samples:
                samples = pa.concat_tables(self._samples.values())
                _warn(unused_counters(samples, self._given.fabric, self._given.counters))

    def _tell_late(self, answers: Mapping[str, pa.Table]) -> None:
        """Say whose records come when their seconds are over: its clock is slow, or it was busy."""
        for name, table in answers.items():
            others = pc.is_in(table["task_type"], pa.array(["TRACEROUTE", "DNS"]))
            newest = pc.max(table.filter(pc.invert(others))["ping_time"]).as_py()
            if newest is not None and newest < self._edge * 1e9 and name not in self._late:
                self._late.add(name)
                age = self._clock() - newest / 1e9
                print(f"{name}: its newest record is {age:.0f} s old, too late: is its clock right?", file=sys.stderr)

    def _keep_lookups(self, answers: Mapping[str, pa.Table]) -> None:
        since = (self._edge - KEPT_SECONDS) * 10**9
        kept = pa.concat_tables([self._lookups, *answers.values()])
        recent = pc.and_(pc.equal(kept["task_type"], "DNS"), pc.greater_equal(kept["ping_time"], since))
        self._lookups = _distinct(kept.filter(recent))


def follow(given: Given, stop: Event) -> None:
    """Go on until told to stop, which takes as long as diagnosing one round at most."""
    following = Following(given, stop)
    while not stop.is_set():
        began = time.monotonic()
        following.round()
        stop.wait(max(0.0, given.interval - (time.monotonic() - began)))


def _between(table: pa.Table, first: int, last: int) -> pa.Table:
    """Records of the seconds from ``first`` to before ``last``; traces are of the moment at which one asks."""
    probed = table["ping_time"]
    inside = pc.and_(pc.greater_equal(probed, first * 10**9), pc.less(probed, last * 10**9))
    traced = pc.and_(pc.equal(table["task_type"], "TRACEROUTE"), pc.greater_equal(probed, first * 10**9))
    return table.filter(pc.or_(inside, traced))


def _distinct(table: pa.Table) -> pa.Table:
    """Each row once: two sources may serve the same exporter."""
    return table.group_by(table.column_names, use_threads=False).aggregate([]).select(table.column_names)


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
