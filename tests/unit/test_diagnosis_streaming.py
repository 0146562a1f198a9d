"""Records as they come: in any pieces the same answer, and nothing kept of what is probed no more."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from exporter.contracts.fabric import Fabric
from lab.simulator.failures import Case, simulate
from skeleton_service.diagnosis.losses import IDLE_SECONDS, LEAST_IDLE, Losses
from skeleton_service.diagnosis.observations import Flow, Observations, Path, Trace, observe
from tests.unit.fabrics import leaf_spine

FABRIC = Fabric(leaf_spine(pods=2, rails=1, spines=2, hosts_per_pod=2))
BEGIN = 1_700_000_000


def told(losses: Losses) -> list[tuple[object, ...]]:
    """All that is known of the failures; paths by what they are, not by number."""
    paths = losses.index.paths
    found: list[tuple[object, ...]] = [
        (
            *(each.start, each.detected_at, each.end, each.suspect, each.scores, each.sent, each.lost),
            sorted(map(repr, (paths[number] for number in each.failing.tolist()))),
        )
        for each in losses.failures
    ]
    found += [
        (each.start, each.detected_at, each.end, each.suspect, each.scores, each.microseconds)
        for each in losses.slowness.failures
    ]
    return found


def pieces(observations: Observations, cuts: list[float]) -> list[Observations]:
    """The same, cut before these times."""
    columns = ("path", "time", "sent", "lost", "latency", "lost_back", "lost_untold", "refused")
    edges = [-np.inf, *cuts, np.inf]
    return [
        Observations(
            observations.paths,
            *(getattr(observations, name)[inside] for name in columns),
            tuple(trace for trace in observations.traces if first <= trace.time < last),
        )
        for first, last in pairwise(edges)
        for inside in [(observations.time >= first) & (observations.time < last)]
    ]


def observed(case: Case) -> Observations:
    return observe(case.probes, Fabric(case.topology), case.skeleton.job)


@pytest.mark.parametrize(
    "name", ["crc-error", "switch-port-down", "reroute-after-fault", "rnic-firmware-not-responding", "stray-loss"]
)
def test_records_in_pieces_give_the_answer_of_all_at_once(name: str) -> None:
    case = simulate(name, 80_000)
    observations = observed(case)
    batch = Losses(Fabric(case.topology))
    batch.advance(observations)
    random = np.random.default_rng(1)
    span = np.arange(np.floor(observations.time[0]) + 1, np.floor(observations.time[-1]))
    for cuts in (span.tolist(), np.sort(random.choice(span, 5, replace=False)).tolist()):
        streaming = Losses(Fabric(case.topology))
        for piece in pieces(observations, cuts):
            streaming.advance(piece)
        assert told(streaming) == told(batch)
    assert bool(told(batch)) == (name != "stray-loss")


def path(number: int) -> Path:
    """Of a container that no other path is of, between two hosts of different pods."""
    source, destination = f"host-p0-{number % 2}", f"host-p1-{number // 2 % 2}"
    flow = Flow(f"{source}:mlx5_0", f"{destination}:mlx5_0", number, 65300, tcp=False, overlay=False)
    return Path(flow, "UDP_PING", None, (f"c-{number}", destination), None, "job")


def second(numbers: range, at: int, lost: range = range(0)) -> Observations:
    """A probe of each of these paths, and a trace of each of those that are new."""
    paths = tuple(path(number) for number in numbers)
    count = len(paths)
    no = np.zeros(count, bool)
    time = BEGIN + at + np.arange(count) / count
    fails = np.array([number in lost for number in numbers], bool)
    latency = np.where(fails, np.nan, 20.0)
    egresses = FABRIC.egresses_of_route(
        paths[-1].flow.source, ["leaf-p0-r0", "spine-0", "leaf-p1-r0"], paths[-1].flow.destination
    )
    assert egresses is not None
    traces = (Trace(float(BEGIN + at), paths[-1].flow, egresses),)
    one = np.ones(count, np.int64)
    return Observations(paths, np.arange(count), time, one, one * fails, latency, no, ~no, no, traces)


LIVING = 40
MOST = 2 * LEAST_IDLE + IDLE_SECONDS + LIVING + 60


def test_an_hour_of_churn_leaves_no_more_behind_than_ten_minutes_of_it() -> None:
    """A container comes and one goes each second; each lives for 40 s."""
    losses = Losses(FABRIC)
    most = 0
    for at in range(3600):
        losses.advance(second(range(at, at + LIVING), at))
        most = max(most, len(losses.index))
    index = losses.index
    assert IDLE_SECONDS < most < MOST < 1000
    assert losses.failures == []
    assert len(index.number) == len(index.paths) == losses.counts.paths
    assert len(index.names) <= 3 * MOST, "its container, host and pair"
    assert len(losses.geometry.matrix().indptr) <= MOST
    assert len(losses.geometry._routes) <= MOST
    assert losses.slowness.latencies.paths <= MOST
    assert {path(number) for number in range(3599, 3599 + LIVING)} <= set(index.paths)
    assert path(0) not in index.number


def test_a_failure_keeps_its_paths_while_others_are_forgotten() -> None:
    losses = Losses(FABRIC)
    broken = range(50, 51)
    for at in range(1500):
        dead = broken if at >= 20 else range(0)
        losses.advance(second(range(at, at + LIVING), at, dead))
    (failure,) = losses.failures
    assert {losses.index.paths[number] for number in failure.failing.tolist()} == {path(number) for number in broken}
    assert len(losses.index) < MOST


def test_a_path_that_comes_back_is_counted_anew() -> None:
    losses = Losses(FABRIC)
    for at in (*range(30), *range(2000, 2030)):
        first = 0 if at < 30 else 500
        losses.advance(second(range(first, first + 300), at))
    assert len(losses.index) <= 600
    for at in range(2030, 2060):
        losses.advance(second(range(300), at))
    number = losses.index.number[path(0)]
    assert losses.counts.sent(BEGIN, BEGIN + 2060)[number] == 30
