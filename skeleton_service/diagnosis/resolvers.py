"""Resolvers that fail, or answer late, compared with what they did before."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

WINDOW_SECONDS = 10.0
LEAST_QUERIES = 8
LEAST_FAILURES = 3
FAILED_RATIO = 0.1
"""Of the queries of a window; a stray one is lost now and then."""
LATE_RATIO, LATE_MICROSECONDS = 5.0, 20_000.0
"""Median answer, against the resolver's own, beyond which names hold up whoever starts."""
_USUAL_MICROSECONDS = 5_000.0
_PAST_QUERIES = 500
QUIET_SECONDS = 20.0
"""So long no window is bad before a failure is over, and its queries succeed again."""
IDLE_SECONDS = 300.0
"""A resolver that nobody asks for so long fails no more, as far as anybody knows."""


@dataclass(frozen=True, slots=True)
class Slowness:
    """A resolver that fails or is late. Times are seconds since the epoch; the median of answers in microseconds."""

    resolver: str
    start: float
    detected_at: float
    end: float | None
    failed: int
    queries: int
    median: float
    usual: float
    hosts: int


class Resolvers:
    """The failures of resolvers, from DNS records in pieces. Of each are kept its newest queries, and what fails."""

    def __init__(self) -> None:
        self._histories: dict[str, _History] = {}
        self._ended: list[Slowness] = []

    def advance(self, records: pa.Table) -> None:
        """Take DNS records of a table (``skeleton_service.reading.records.KINDS``), later than those before."""
        for resolver, queries in _by_resolver(records):
            history = self._histories.setdefault(resolver, _History(resolver))
            self._ended += history.advance(queries)

    def failures(self, newest: pa.Table, now: float) -> list[Slowness]:
        """All failures until ``now`` (seconds since the epoch) by resolver and time, if no more than these came last.

        Nothing is changed: of the ``newest`` records, which are later than all that were taken, more may come.
        """
        found = list(self._ended)
        histories = dict(self._histories)
        for resolver, queries in _by_resolver(newest):
            histories[resolver] = copy(histories.get(resolver) or _History(resolver))
            found += histories[resolver].advance(queries)
        lasting = (history.lasting(now) for history in histories.values())
        return sorted((*found, *filter(None, lasting)), key=lambda each: (each.resolver, each.start))

    def forget(self, before: float) -> None:
        """Drop failures that ended before a time (seconds since the epoch), and resolvers that nobody asked since."""
        self._ended = [each for each in self._ended if each.end is None or each.end >= before]
        for resolver, history in list(self._histories.items()):
            if history.asked < before - IDLE_SECONDS:
                del self._histories[resolver]


def failing_resolvers(records: pa.Table) -> list[Slowness]:
    """Each resolver's failures, from the DNS records of a table (``skeleton_service.reading.records.KINDS``)."""
    newest = pc.max(records["ping_time"]).as_py()
    return Resolvers().failures(records, 0.0 if newest is None else newest / 1e9)


@dataclass(slots=True)
class _Queries:
    """Of one resolver, in order of time (seconds since the epoch); latency in microseconds, NaN of none."""

    time: NDArray[np.float64]
    failed: NDArray[np.bool_]
    latency: NDArray[np.float64]
    hosts: NDArray[np.object_]

    def since(self, place: int) -> _Queries:
        return _Queries(self.time[place:], self.failed[place:], self.latency[place:], self.hosts[place:])

    def then(self, more: _Queries) -> _Queries:
        pairs = ((getattr(self, name), getattr(more, name)) for name in ("time", "failed", "latency", "hosts"))
        return _Queries(*(np.concatenate(pair) for pair in pairs))


def _by_resolver(records: pa.Table) -> Iterator[tuple[str, _Queries]]:
    records = records.filter(pc.equal(records["task_type"], "DNS"))
    records = records.sort_by([("ping_time", "ascending"), ("src_node_sn", "ascending")])
    for resolver in sorted(name for name in records["dst_node_id"].unique().to_pylist() if name):
        own = records.filter(pc.equal(records["dst_node_id"], resolver))
        # An answer without an address (loss ratio 0) is the zone's matter, not the resolver's.
        lost = pc.fill_null(own["loss_rate"], 1.0).to_numpy() > 0
        yield (
            resolver,
            _Queries(
                pc.cast(own["ping_time"], pa.float64(), safe=False).to_numpy() / 1e9,
                pc.equal(own["dial"], "fail").to_numpy() & lost,
                pc.cast(own["latency"], pa.float64()).to_numpy(),
                np.array(own["src_node_sn"].to_pylist(), object),
            ),
        )


_NONE = _Queries(np.zeros(0), np.zeros(0, bool), np.zeros(0), np.zeros(0, object))


@dataclass(slots=True)
class _History:
    """The queries of a resolver that its next ones are compared with; a copy shares what is never changed in place."""

    resolver: str
    queries: _Queries = field(default_factory=lambda: _NONE)
    unknown: int = 0
    """How many queries at the end of the past are not in its usual median yet."""
    past: int = 0
    """How many queries are older than the window of the newest."""
    usual: float = _USUAL_MICROSECONDS
    bad: Slowness | None = None
    """What lasts."""
    last_bad: float = 0.0
    hurt: frozenset[str] = frozenset()
    """Hosts that asked from the first bad query to the last, and those that asked since."""
    since: frozenset[str] = frozenset()

    @property
    def asked(self) -> float:
        """When the newest query was sent."""
        return float(self.queries.time[-1])

    def advance(self, more: _Queries) -> list[Slowness]:
        """Judge each of these, which are later than those before; return the failures that ended."""
        ended: list[Slowness] = []
        judged = len(self.queries.time)
        self.queries = self.queries.then(more)
        for place in range(judged, len(self.queries.time)):
            if place and self.queries.time[place] - self.queries.time[place - 1] > IDLE_SECONDS:
                ended += self._end()
            ended += self._judge(place)
        dropped = max(0, self.past - _PAST_QUERIES)
        self.queries = self.queries.since(dropped)
        self.past -= dropped
        return ended

    def lasting(self, now: float) -> Slowness | None:
        """What has not ended, unless nobody has asked for long."""
        if self.bad is None or now - self.asked <= IDLE_SECONDS:
            return self.bad
        return replace(self.bad, end=self.last_bad)

    def _judge(self, place: int) -> list[Slowness]:
        time = self.queries.time
        begin = int(np.searchsorted(time, time[place] - WINDOW_SECONDS, side="right"))
        self.unknown += begin - self.past
        self.past = begin
        if self.bad is None and self.unknown >= LEAST_QUERIES:
            self._learn()
        failed, latency = self.queries.failed[begin : place + 1], self.queries.latency[begin : place + 1]
        verdict = _judge(failed, latency, self.usual)
        if verdict is not None or (self.bad is not None and failed.all()):
            self._continue(begin, place, verdict)
        elif self.bad is not None:
            self.since |= {self.queries.hosts[place]}
            if time[place] - self.last_bad > QUIET_SECONDS and _well(failed, latency, self.usual):
                return self._end()
        return []

    def _learn(self) -> None:
        """Take the median of the past for what is usual."""
        answered = self.queries.latency[max(0, self.past - _PAST_QUERIES) : self.past]
        if np.isfinite(answered).any():
            self.usual = float(np.nanmedian(answered))
        self.unknown = 0

    def _continue(self, begin: int, place: int, verdict: tuple[int, int, float] | None) -> None:
        """The window from ``begin`` to ``place`` is bad, or all of too few queries failed while it was bad before."""
        time, hosts = self.queries.time, self.queries.hosts
        self.last_bad = float(time[place])
        if self.bad is None:
            window = slice(begin, place + 1)
            first = begin + _first(self.queries.failed[window], self.queries.latency[window], self.usual)
            self.hurt, self.since = frozenset(), frozenset(hosts[first : place + 1].tolist())
            start = float(time[first])
            self.bad = Slowness(self.resolver, start, self.last_bad, None, 0, 0, np.nan, self.usual, 0)
        self.hurt, self.since = self.hurt | self.since | {hosts[place]}, frozenset()
        self.bad = replace(self.bad, hosts=len(self.hurt))
        if verdict is not None:
            failed, queries, median = verdict
            self.bad = replace(self.bad, failed=failed, queries=queries, median=median)

    def _end(self) -> list[Slowness]:
        ended = [] if self.bad is None else [replace(self.bad, end=self.last_bad)]
        self.bad = None
        return ended


def _judge(failed: NDArray[np.bool_], latency: NDArray[np.float64], usual: float) -> tuple[int, int, float] | None:
    """(failed, queries, median) of a window in which the resolver does badly; None if it does not."""
    failures, queries = int(failed.sum()), len(failed)
    answered = latency[np.isfinite(latency)]
    median = float(np.median(answered)) if len(answered) else float("nan")
    fails = failures >= LEAST_FAILURES and failures > FAILED_RATIO * queries
    late = len(answered) >= LEAST_QUERIES and median > _latest(usual)
    return (failures, queries, median) if fails or late else None


def _well(failed: NDArray[np.bool_], latency: NDArray[np.float64], usual: float) -> bool:
    """Whether the queries of a window are answered in time, be they too few to say that they are not."""
    answered = latency[np.isfinite(latency) & ~failed]
    return bool(failed.sum() <= FAILED_RATIO * len(failed) and len(answered) and np.median(answered) <= _latest(usual))


def _latest(usual: float) -> float:
    """The median in microseconds beyond which answers are late."""
    return max(LATE_RATIO * usual, usual + LATE_MICROSECONDS)


def _first(failed: NDArray[np.bool_], latency: NDArray[np.float64], usual: float) -> int:
    """Where in a window the first query failed or was late."""
    wrong = failed | (np.nan_to_num(latency) > _latest(usual))
    return int(np.argmax(wrong))
