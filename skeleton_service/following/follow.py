"""``diagnose --follow``: exporters asked again and again, and each failure told as it comes and goes.

Only the seconds since the last round are asked for and diagnosed. Host clocks are taken to agree to a few seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from threading import Event

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from exporter.contracts.skeleton import Skeleton
from skeleton_service.diagnosis import Diagnoser
from skeleton_service.diagnosis.changes import Told
from skeleton_service.diagnosis.telling import change_lines
from skeleton_service.diagnosis.unused import DRAINED, FOREIGN, STRANGE, unusable_counters, unusable_records
from skeleton_service.following.files import OverlayFile, VerdictFile
from skeleton_service.following.polling import Read, Sources, read_probes, read_samples
from skeleton_service.following.remarks import AHEAD_SECONDS, Clocks, Leftovers
from skeleton_service.reading import records

KEPT_SECONDS = 360
"""What is asked for at first, and how long failures that ended are kept."""
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
    output: Path | None
    """The verdict; None for whoever asks ``Following`` for it."""
    interval: float
    """Seconds from round to round."""
    spraying: bool
    first_seconds: int = KEPT_SECONDS
    """How far back it looks at first."""
    read: Read = read_probes


class Following:
    """The state between rounds: a diagnoser, the newest DNS queries, and what was told."""

    def __init__(self, given: Given, stop: Event, clock: Callable[[], float] = time.time) -> None:
        self._stop = stop
        self._clock = clock
        self._probes = Sources(given.probes, given.read, stop)
        self._counters = Sources(given.counters, read_samples, stop)
        self._samples: dict[str, pa.Table] = {}
        self._overlay = OverlayFile(given.overlay, given.fabric) if given.overlay else None
        self._verdict = VerdictFile(given.output) if given.output else None
        self.diagnosis = Diagnosis(version=1, failures=())
        """Of the last round."""
        self._diagnoser = Diagnoser(given.fabric, given.skeleton, spraying=given.spraying)
        self._told = Told()
        self._lasting: set[tuple[str, float]] = set()
        """Failures that have not ended, by id and start."""
        self._lookups = pa.table({name: pa.array([], kind) for name, kind in records.KINDS.items()})
        self._edge = self._settled = floor(clock()) - given.first_seconds
        """The seconds before it are diagnosed; those before the latter for DNS queries."""
        self._clocks = Clocks()
        self._unused_records = Leftovers(lambda rows: unusable_records(rows, given.fabric), (FOREIGN, DRAINED))
        self._unused_samples = Leftovers(lambda rows: unusable_counters(rows, given.fabric), (STRANGE,))

    def round(self) -> None:
        """Ask, diagnose, write the verdict, and tell what is new."""
        until = floor(self._clock()) - SETTLE_SECONDS
        answers = self._probes.fetch(self._edge - LOOKUP_SECONDS, PATIENCE_SECONDS)
        samples = self._counters.fetch(until - COUNTER_SECONDS, PATIENCE_SECONDS)
        if self._stop.is_set():
            return
        now = self._clock()
        prompt = {name: table for name, table in answers.items() if name not in self._probes.returned}
        self._clocks.tell_late(prompt, self._edge, until, now)
        self._clocks.tell_ahead(answers, "ping_time", 1e-9, "src_node_sn", now)
        self._clocks.tell_ahead(samples, "time", 1.0, "node", now)
        until = max(until, self._edge)
        self._take_probes(answers, until)
        self._take_lookups(answers, now)
        self._unused_samples.tell(samples)
        self._samples |= samples
        self._tell(until)
        self._diagnoser.forget(until - KEPT_SECONDS)

    def _take_probes(self, answers: Mapping[str, pa.Table], until: int) -> None:
        """Let the diagnoser have the seconds to before ``until``."""
        parts = {name: _between(table, self._edge, until) for name, table in answers.items()}
        self._unused_records.tell(parts)
        fresh = _distinct(pa.concat_tables([self._lookups.slice(0, 0), *parts.values()]))
        if len(fresh):
            self._diagnoser.advance(fresh)
        self._edge = until

    def _take_lookups(self, answers: Mapping[str, pa.Table], now: float) -> None:
        """Let the diagnoser have the queries that are complete, and keep those that others may come in between of."""
        known = pa.concat_tables([self._lookups, *answers.values()])
        known = known.filter(pc.equal(known["task_type"], "DNS"))
        settled = max(self._settled, self._edge - LOOKUP_SECONDS)
        complete = _between(known, self._settled, settled)
        if len(complete):
            self._diagnoser.advance_lookups(_distinct(complete))
        self._settled = settled
        self._lookups = _distinct(_between(known, settled, floor(now) + AHEAD_SECONDS))

    def _tell(self, until: int) -> None:
        """Diagnose what was seen until then, and say what is new."""
        diagnosis = self._diagnoser.diagnosis(
            self._lookups,
            counters=self._counted(),
            overlay=self._overlay.read() if self._overlay else None,
        )
        # Counters tell for an hour of what is over. What was told to last is told to have ended, late as that may show.
        recent = tuple(
            each
            for each in diagnosis.failures
            if each.end is None or each.end >= until - KEPT_SECONDS or (each.id, each.start) in self._lasting
        )
        self._lasting = {(each.id, each.start) for each in recent if each.end is None}
        diagnosis = msgspec.structs.replace(diagnosis, failures=recent)
        self.diagnosis = diagnosis
        if self._verdict is not None:
            self._verdict.write(diagnosis)
        for change in self._told.update(diagnosis):
            print("\n".join(change_lines(change, self._clock())), flush=True)

    def _counted(self) -> pa.Table | None:
        """The counter samples of the last hour, but for those of times to come."""
        if not self._samples:
            return None
        samples = pa.concat_tables(self._samples.values())
        return samples.filter(pc.less_equal(samples["time"], self._clock() + AHEAD_SECONDS))


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
