"""Windows of round trips: which are slow, of which paths, since when; and which only look so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skeleton_service.diagnosis.latency import STEP_SECONDS, Latencies, Slow
from skeleton_service.diagnosis.quantiles import quantiles

PATHS = 12
SECONDS = 460
ONSET = 400
"""By then the look back is full."""

Shape = Callable[[int, NDArray[np.float64], np.random.Generator], NDArray[np.float64]]
"""(second, usual round trips of all paths, random) -> round trips in microseconds."""


def usual(_: int, trips: NDArray[np.float64], __: np.random.Generator) -> NDArray[np.float64]:
    return trips


def run(shape: Shape, seconds: int = SECONDS, latencies: Latencies | None = None) -> Iterator[tuple[int, Slow]]:
    """(second, verdict) of each step; paths 0 and 1 have the shape, the others are as ever."""
    latencies = latencies if latencies is not None else Latencies()
    latencies.grow(PATHS)
    random = np.random.default_rng(11)
    numbers = np.arange(PATHS)
    for second in range(seconds):
        trips = random.lognormal(np.log(16), 0.06, PATHS)
        trips[:2] = shape(second, trips[:2], random)
        latencies.add(numbers, second + numbers / 50, trips)
        if second % STEP_SECONDS == STEP_SECONDS - 1:
            yield second, latencies.judge(second + 0.9)


def flagged(shape: Shape, kind: str) -> set[int]:
    """Paths that were found slow in that way at any time."""
    return {number for _, slow in run(shape) for number in np.flatnonzero(getattr(slow, kind)).tolist()}


def risen(second: int, trips: NDArray[np.float64], _: np.random.Generator) -> NDArray[np.float64]:
    return trips + 40 if second >= ONSET else trips


def some_late(second: int, trips: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """As of a virtual switch that has lost some of its offloaded flows."""
    late = random.random(len(trips)) < 0.5
    return np.where(late & (second >= ONSET), trips * 7, trips)


def checkpoint(second: int, trips: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Storage traffic for a minute: a heavy tail, and a queue that is empty now and then."""
    queue = random.pareto(1.5, len(trips)) * 15 * (random.random(len(trips)) < 0.7)
    return trips + queue if ONSET - 100 <= second < ONSET - 40 else trips


def iterations(second: int, trips: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """An all-reduce for ten of every thirty seconds."""
    return trips + random.exponential(60, len(trips)) if second % 30 < 10 else trips


def test_usual_round_trips_are_never_slow() -> None:
    assert flagged(usual, "steady") == flagged(usual, "partly") == set()


def test_a_path_of_which_all_round_trips_rose_is_steadily_slow_and_by_how_much() -> None:
    found = [(second, slow) for second, slow in run(risen) if slow.steady.any()]
    assert {number for _, slow in found for number in np.flatnonzero(slow.steady).tolist()} == {0, 1}
    assert ONSET + 10 < found[0][0] <= ONSET + 40
    last = found[-1][1]
    assert last.microseconds[:2] == pytest.approx([40, 40], abs=3)
    assert not last.microseconds[2:].any()
    assert not last.partly.any()


def test_a_path_of_which_some_round_trips_rose_is_slow_in_part() -> None:
    assert flagged(some_late, "partly") == {0, 1}
    assert flagged(some_late, "steady") == set()


@pytest.mark.parametrize("shape", [checkpoint, iterations])
def test_congestion_that_leaves_a_queue_empty_now_and_then_is_not_steady(shape: Shape) -> None:
    assert flagged(shape, "steady") == set()


def test_what_a_job_does_every_iteration_is_usual() -> None:
    assert flagged(iterations, "partly") == set()


def test_a_rise_that_is_small_beside_the_round_trip_is_none() -> None:
    def little(second: int, trips: NDArray[np.float64], _: np.random.Generator) -> NDArray[np.float64]:
        return trips + 1.0 if second >= ONSET else trips

    assert flagged(little, "steady") == flagged(little, "partly") == set()


def test_nothing_is_judged_before_there_is_something_to_compare_with() -> None:
    def early(second: int, trips: NDArray[np.float64], _: np.random.Generator) -> NDArray[np.float64]:
        return trips + 40 if second >= 60 else trips

    assert not any(slow.judged.any() or slow.steady.any() for _, slow in run(early, 100))


def test_a_path_without_answers_is_not_judged() -> None:
    def silent(second: int, trips: NDArray[np.float64], _: np.random.Generator) -> NDArray[np.float64]:
        return np.where(second >= ONSET, np.nan, trips)

    *_, (_, last) = run(silent)
    assert not last.judged[:2].any()
    assert last.judged[2:].all()


def test_a_slow_path_is_compared_with_what_it_was_before_for_as_long_as_it_lasts() -> None:
    """Else it would be usual after a while."""
    *_, (_, last) = run(risen, seconds=ONSET + 600)
    assert last.steady[:2].all()


def test_a_path_that_takes_another_way_has_no_past() -> None:
    latencies = Latencies()
    slow: list[Slow] = []
    for second, verdict in run(risen, latencies=latencies):
        if second == ONSET - 1:
            latencies.forget(0)
        slow.append(verdict)
    assert not any(verdict.steady[0] for verdict in slow)
    assert any(verdict.steady[1] for verdict in slow)
    assert not slow[-1].judged[0]


def test_the_onset_is_when_the_first_of_the_slow_round_trips_was_sent() -> None:
    latencies = Latencies()
    second = next(second for second, slow in run(risen, latencies=latencies) if slow.steady[0])
    assert latencies.onset([0]) == pytest.approx(ONSET, abs=1.5)
    assert second > ONSET + 5


def test_the_outlier_factor_tells_a_slow_window_from_a_usual_one() -> None:
    latencies = Latencies()
    assert any(slow.steady[0] for _, slow in run(risen, latencies=latencies))
    assert latencies.outlier_factor(0) > 3
    assert np.median([latencies.outlier_factor(path) for path in range(2, PATHS)]) < 1.5
    fresh = Latencies()
    list(run(usual, 30, fresh))
    assert np.isnan(fresh.outlier_factor(0))


def test_of_a_path_probed_often_a_window_still_holds_half_a_minute() -> None:
    """Samples that come faster than the ring holds are thinned, not the window shortened."""
    latencies = Latencies()
    latencies.grow(1)
    path = np.zeros(1, np.int64)
    for tick in range(600):
        latencies.add(path, np.array([tick / 10]), np.array([10.0]))
    kept = latencies._time[0][np.isfinite(latencies._time[0])]
    assert kept.max() - kept.min() > 20


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(0, 10, width=32), min_size=1, max_size=12),
        min_size=1,
        max_size=6,
    )
)
def test_quantiles_equal_numpys(rows: list[list[float]]) -> None:
    shares = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    ordered = np.full((len(rows), 12), np.nan, np.float32)
    for row, values in zip(ordered, rows, strict=True):
        row[: len(values)] = sorted(values)
    by_numpy = np.nanquantile(ordered.astype(np.float64), shares, axis=1)
    assert np.array(quantiles(ordered, shares)) == pytest.approx(by_numpy, abs=1e-5)
