"""Resolvers that fail, or answer late, compared with what they did before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


def failing_resolvers(records: pa.Table) -> list[Slowness]:
    """Each resolver's failures, from the DNS records of a table (``skeleton_service.records.KINDS``)."""
    records = records.filter(pc.equal(records["task_type"], "DNS")).sort_by("ping_time")
    found: list[Slowness] = []
    for resolver in sorted(name for name in records["dst_node_id"].unique().to_pylist() if name):
        found += _failures(resolver, records.filter(pc.equal(records["dst_node_id"], resolver)))
    return found


def _failures(resolver: str, records: pa.Table) -> Iterator[Slowness]:
    time = pc.cast(records["ping_time"], pa.float64(), safe=False).to_numpy() / 1e9
    # An answer without an address (loss ratio 0) is the zone's matter, not the resolver's.
    failed = pc.equal(records["dial"], "fail").to_numpy() & (pc.fill_null(records["loss_rate"], 1.0).to_numpy() > 0)
    latency = pc.cast(records["latency"], pa.float64()).to_numpy()
    hosts = np.array(records["src_node_sn"].to_pylist(), object)
    bad: int | None = None
    last_bad = 0
    state = (0, 0, 0.0, 0.0)
    first_bad = 0
    usual, known = _USUAL_MICROSECONDS, 0
    for place in range(len(time)):
        begin = int(np.searchsorted(time, time[place] - WINDOW_SECONDS, side="right"))
        if bad is None and begin >= known + LEAST_QUERIES:
            answered = latency[max(0, begin - _PAST_QUERIES) : begin]
            usual, known = float(np.nanmedian(answered)) if np.isfinite(answered).any() else usual, begin
        window = slice(begin, place + 1)
        verdict = _judge(failed[window], latency[window], usual)
        if verdict is not None:
            if bad is None:
                bad, first_bad = place, _first(failed[window], latency[window], verdict[3]) + begin
            last_bad, state = place, verdict
        elif bad is not None and time[place] - time[last_bad] > QUIET_SECONDS:
            yield _told(resolver, time, hosts, first_bad, bad, last_bad, state, ended=True)
            bad = None
    if bad is not None:
        yield _told(resolver, time, hosts, first_bad, bad, last_bad, state, ended=False)


def _judge(
    failed: NDArray[np.bool_], latency: NDArray[np.float64], usual: float
) -> tuple[int, int, float, float] | None:
    """(failed, queries, median, usual median) of a window in which the resolver does badly; None if it does not."""
    failures, queries = int(failed.sum()), len(failed)
    answered = latency[np.isfinite(latency)]
    median = float(np.median(answered)) if len(answered) else float("nan")
    fails = failures >= LEAST_FAILURES and failures > FAILED_RATIO * queries
    late = len(answered) >= LEAST_QUERIES and median > max(LATE_RATIO * usual, usual + LATE_MICROSECONDS)
    return (failures, queries, median, usual) if fails or late else None


def _first(failed: NDArray[np.bool_], latency: NDArray[np.float64], usual: float) -> int:
    """Where in a window the first query failed or was late."""
    wrong = failed | (np.nan_to_num(latency) > max(LATE_RATIO * usual, usual + LATE_MICROSECONDS))
    return int(np.argmax(wrong))


def _told(
    resolver: str,
    time: NDArray[np.float64],
    hosts: NDArray[np.object_],
    first: int,
    found: int,
    last: int,
    state: tuple[int, int, float, float],
    *,
    ended: bool,
) -> Slowness:
    failed, queries, median, usual = state
    asking = len(set(hosts[first : last + 1].tolist()))
    return Slowness(
        resolver, float(time[first]), float(time[found]), float(time[last]) if ended else None,
        failed, queries, median, usual, asking,
    )  # fmt: skip
