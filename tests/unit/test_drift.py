"""What becomes slower over hours, on log-normal round trips made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from exporter.contracts.diagnosis import Diagnosis
from skeleton_service.diagnosis import diagnose
from skeleton_service.diagnosis.degradation import ALPHA, chance
from skeleton_service.diagnosis.drift import LEAST_SAMPLES, SLOT_SECONDS, Drift, Drifted
from skeleton_service.diagnosis.losses import Losses
from skeleton_service.diagnosis.observations import Observations, observe
from tests.unit.probed import FABRIC, PATHS, SKELETON, record, table, trace

BEGIN = 1_790_000_100.0  # as a slot begins
HALF_HOUR, HOURS = 1800.0, 7200.0
USUAL, SPREAD = 30.0, 0.1  # microseconds, and deviation of their logs
COUNT = 16
Grow = Callable[[np.ndarray], Any]


def seconds(latencies: np.ndarray, period: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What ``Drift.add`` takes, of (paths, rounds) round trips."""
    for round_, latency in enumerate(latencies.T):
        yield np.arange(len(latency)), np.full(len(latency), BEGIN + round_ * period), latency


def drawn(period: float, grow: Grow, *, seed: int = 1, hours: float = HOURS) -> np.ndarray:
    """(paths, rounds) round trips; those of the first path grow by the ratio ``grow(seconds since the begin)``."""
    time = np.arange(0.0, hours, period)
    latency = USUAL * np.exp(SPREAD * np.random.default_rng(seed).standard_normal((COUNT, len(time))))
    latency[0] *= 1.0 + grow(time)
    return latency


def judged(drift: Drift, latencies: np.ndarray, period: float, excused: Any = False) -> list[Drifted]:
    """The judgement of every slot."""
    drift.grow(len(latencies))
    told: list[Drifted] = []
    slot = int(BEGIN // SLOT_SECONDS)
    for path, time, latency in seconds(latencies, period):
        drift.add(path, time, latency)
        if time[0] // SLOT_SECONDS > slot:
            slot = int(time[0] // SLOT_SECONDS)
            told.append(drift.judge(slot, np.full(drift.paths, excused)))
    return told


def significant(told: list[Drifted]) -> np.ndarray:
    """(slots, paths) whether the Z-test finds a path slower."""
    return np.array([chance(each.z) < np.log(ALPHA) for each in told])


@pytest.mark.parametrize("period", [1.0, 30.0])
def test_a_step_is_found_at_either_rate_and_measured(period: float) -> None:
    told = judged(Drift(), drawn(period, lambda time: 0.2 * (time > 3000)), period)
    assert np.flatnonzero(significant(told).any(axis=0)).tolist() == [0]
    assert np.expm1(told[-1].shift[0]) == pytest.approx(0.2, abs=0.06)
    assert told[-1].usual[0] == pytest.approx(USUAL * np.exp(-0.6745 * SPREAD), rel=0.05)  # the lower quartile


def test_nothing_is_said_before_two_half_hours() -> None:
    told = judged(Drift(), drawn(30.0, lambda time: 0.0 * time), 30.0)
    assert [bool(each.judged.any()) for each in told[:12]] == [False] * 11 + [True]


def test_healthy_paths_are_standard_normal() -> None:
    latencies = np.concatenate([drawn(30.0, lambda time: 0.0 * time, seed=seed) for seed in range(40)])
    z = judged(Drift(), latencies, 30.0)[-1].z
    assert abs(z.mean()) < 0.2
    assert z.std() == pytest.approx(1.0, abs=0.15)


def test_a_slow_creep_is_not_absorbed_step_by_step() -> None:
    """3 % in each 1.5 h, which a reference that followed every healthy half hour would never see."""
    latencies = drawn(5.0, lambda time: 0.03 * np.maximum(time - 1800, 0) / 5400, hours=12 * 3600.0)
    told = judged(Drift(), latencies, 5.0)
    assert significant(told)[-1][0]
    assert told[-1].shift[0] > np.log(1.1)


def test_a_path_that_was_refreshed_is_still_judged() -> None:
    """Healthy for hours, then slow: the reference is a later one by then."""
    told = judged(Drift(), drawn(30.0, lambda time: 0.2 * (time > 16_000), hours=20_000.0), 30.0)
    assert not significant(told)[:52].any()
    assert significant(told)[-1].tolist() == [True] + [False] * (COUNT - 1)


def test_another_route_is_another_path() -> None:
    drift = Drift()
    latencies = drawn(30.0, lambda time: 0.3 * (time > 3600))
    judged(drift, latencies[:, :120], 30.0)
    drift.forget(0)
    last = int(BEGIN // SLOT_SECONDS) + 13
    for path, time, latency in seconds(latencies[:, 120:], 30.0):
        drift.add(path, time + 3600.0, latency)
    assert drift.judge(last + 11, np.zeros(COUNT, bool)).judged.tolist() == [False] + [True] * (COUNT - 1)


def test_excused_paths_are_not_judged_and_leave_no_reference() -> None:
    told = judged(Drift(), drawn(30.0, lambda time: 0.0 * time), 30.0, excused=True)
    assert not any(each.judged.any() for each in told)


def test_a_path_of_too_few_samples_is_not_judged() -> None:
    period = HALF_HOUR / (LEAST_SAMPLES - 2)
    assert not any(each.judged.any() for each in judged(Drift(), drawn(period, lambda time: 0.0 * time), period))


def test_memory_does_not_grow_with_time() -> None:
    drift = Drift()
    drift.grow(1000)

    def size() -> int:
        return sum(each.nbytes for each in vars(drift).values() if isinstance(each, np.ndarray))

    before = size()
    judged(drift, drawn(1.0, lambda time: 0.0 * time, hours=4000.0), 1.0)
    assert size() == before
    assert size() / 1000 < 1.8 * 1024


def test_paths_that_are_forgotten_leave_the_others_as_they_were() -> None:
    latencies = drawn(30.0, lambda time: 0.2 * (time > 3600))
    drift, whole = Drift(), Drift()
    judged(drift, latencies, 30.0)
    judged(whole, latencies, 30.0)
    drift.keep(np.array([0, 3]))
    slot = int((BEGIN + HOURS) // SLOT_SECONDS)
    few, all_ = drift.judge(slot, np.zeros(2, bool)), whole.judge(slot, np.zeros(COUNT, bool))
    assert few.shift.tolist() == all_.shift[[0, 3]].tolist()
    assert few.shift[0] > 0.1


HOST = "host-p0-0"


def records(
    grow: Grow, *, of: Callable[[tuple[str, str, int]], bool], period: float = 30.0, bursts: float = 0.0
) -> pa.Table:
    """Two hours of probes on all paths; those ``of`` which it is true grow by ``grow(seconds)``.

    From the second half hour on a share ``bursts`` of theirs meets a queue of 40 us as well.
    """
    draw = np.random.default_rng(3)
    time = np.arange(0.0, HOURS, period)
    rows = [trace(path) for path in PATHS]
    for path in PATHS:
        latency = USUAL * np.exp(SPREAD * draw.standard_normal(len(time))) * (1 + of(path) * grow(time))
        latency += 40.0 * (of(path) & (time > HALF_HOUR) & (draw.random(len(time)) < bursts))
        rows += [record(path, moment, latency=own) for moment, own in zip(time.tolist(), latency.tolist(), strict=True)]
    return table(*rows)


def of_host(path: tuple[str, str, int]) -> bool:
    return HOST in path


def diagnosed(probes: pa.Table) -> Diagnosis:
    return diagnose(probes, FABRIC, SKELETON)


def creep(time: np.ndarray) -> np.ndarray:
    grown: np.ndarray = 0.3 * np.maximum(time - 1900, 0) / (HOURS - 1900)
    return grown


def test_a_host_that_creeps_up_is_named_and_nothing_else() -> None:
    (failure,) = diagnosed(records(creep, of=of_host)).failures
    assert failure.symptom == "latency"
    assert failure.component.name.partition(":")[0] == HOST  # whose one RNIC no probe tells from it
    assert 1900 < failure.start - 1000 < failure.detected_at - 1000 < HOURS
    assert all(HOST in "".join(pair) for pair in failure.paths)
    assert "slower over hours" in failure.evidence[0]


def test_what_all_paths_have_in_common_is_no_components_failure() -> None:
    assert diagnosed(records(creep, of=lambda _: True)).failures == ()


def test_a_rise_below_the_floor_is_healthy_however_significant() -> None:
    assert diagnosed(records(lambda time: 0.03 * (time > 1900), of=of_host, period=10.0)).failures == ()


def test_a_jobs_bursts_are_no_drift_though_one_half_hour_meets_more_of_them() -> None:
    assert diagnosed(records(lambda time: 0.0 * time, of=of_host, bursts=0.25)).failures == ()


def test_a_half_hour_that_passes_is_no_drift() -> None:
    assert diagnosed(records(lambda time: 0.12 * ((time > 3600) & (time < 5400)), of=of_host)).failures == ()


def test_a_step_that_the_short_term_has_told_is_not_told_again() -> None:
    (failure,) = diagnosed(records(lambda time: 2.0 * (time > 4000), of=of_host, period=3.0)).failures
    assert failure.component.name.partition(":")[0] == HOST
    assert failure.detected_at - 1000 < 4100


def test_what_recovers_has_ended() -> None:
    def hill(time: np.ndarray) -> np.ndarray:
        slow: np.ndarray = 0.3 * ((time > 1900) & (time < 5200))
        return slow

    (failure,) = diagnosed(records(hill, of=of_host)).failures
    assert failure.end is not None
    assert 5200 < failure.end - 1000 < 5200 + HALF_HOUR + 600


def test_records_in_pieces_give_the_same_answer() -> None:
    observations = observe(records(creep, of=of_host), FABRIC, "job-1")
    whole, pieces = Losses(FABRIC), Losses(FABRIC)
    whole.advance(observations)
    for first, last in ((0, 2000), (2000, 5017), (5017, None)):
        time = observations.time
        low = time[first]
        high = np.inf if last is None else time[last]
        pieces.advance(_piece(observations, low, high))

    def said(losses: Losses) -> list[Any]:
        failures = losses.degradations.failures
        return [(each.detected_at, each.start, each.suspect, each.slow.tolist(), each.z) for each in failures]

    assert len(said(whole)) == 1
    assert said(whole) == said(pieces)


def _piece(observations: Observations, low: float, high: float) -> Observations:
    inside = (observations.time >= low) & (observations.time < high)
    arrays = {
        each.name: getattr(observations, each.name)[inside]
        for each in fields(observations)
        if isinstance(getattr(observations, each.name), np.ndarray)
    }
    traces = tuple(each for each in observations.traces if low <= each.time < high)
    return replace(observations, traces=traces, **arrays)
