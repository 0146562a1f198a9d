"""A skeleton is kept as long as it explains the traffic, and not a moment longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from exporter.contracts.skeleton import Skeleton
from lab.simulator import CASES, Simulation, simulate
from skeleton_service.inference import Throughput, basic, infer


def job(case: str = "1f1b", seed: int = 1) -> Simulation:
    return simulate(CASES[case], seed=seed, hosts=16, seconds=600.0)


def with_containers_exchanged(throughput: Throughput, order: np.ndarray) -> Throughput:
    """The same traffic, of other containers: what a restart with other ranks looks like."""
    containers = sorted({source.container for source in throughput.endpoints})
    rows = {container: [] for container in containers}
    for row, source in enumerate(throughput.endpoints):
        rows[source.container].append(row)
    place = np.arange(len(throughput.endpoints))
    for container, other in zip(containers, order.tolist(), strict=True):
        place[rows[container]] = rows[containers[other]]
    return replace(throughput, tx=throughput.tx[place], rx=throughput.rx[place])


@pytest.mark.parametrize("case", ["1f1b", "interleaved", "data-parallel-only", "pipeline-only", "mixture-of-experts"])
def test_what_holds_is_given_back_with_the_new_window(case: str) -> None:
    simulation = job(case)
    throughput = simulation.throughput
    first = infer(throughput, simulation.topology)
    assert first.fallback is None
    half = len(throughput.times) // 2
    later = replace(throughput, times=throughput.times[half:], tx=throughput.tx[:, half:], rx=throughput.rx[:, half:])
    found = infer(later, simulation.topology, first)
    assert (found.groups, found.edges, found.confidence) == (first.groups, first.edges, first.confidence)
    assert found.window.start == pytest.approx(later.times[0] - 1)


def any_order(_: Skeleton) -> np.ndarray:
    return np.random.default_rng(0).permutation(16)


def replicas_of_one_stage(first: Skeleton) -> np.ndarray:
    """The groups stay as they were; who talks to whom between two stages does not."""
    stage = {endpoint.container: endpoint.stage for endpoint in first.endpoints}
    assert all(endpoint.replica is not None for endpoint in first.endpoints)
    moved = [n for n, container in enumerate(sorted(stage)) if stage[container] == 0]
    order = np.arange(16)
    order[moved] = np.roll(moved, 1)
    return order


@pytest.mark.parametrize(("exchange", "differs"), [(any_order, "groups"), (replicas_of_one_stage, "edges")])
def test_another_placement_is_inferred_anew(exchange: Callable[[Skeleton], np.ndarray], differs: str) -> None:
    simulation = job()
    first = infer(simulation.throughput, simulation.topology)
    moved = with_containers_exchanged(simulation.throughput, exchange(first))
    found = infer(moved, simulation.topology, first)
    assert found == infer(moved, simulation.topology)
    assert getattr(found, differs) != getattr(first, differs)


def test_a_container_on_another_host_is_another_endpoint() -> None:
    simulation = job()
    first = infer(simulation.throughput, simulation.topology)
    hosts = sorted({source.host for source in simulation.throughput.endpoints})
    swap = {hosts[0]: hosts[1], hosts[1]: hosts[0]}
    moved = replace(
        simulation.throughput,
        endpoints=tuple(replace(s, host=swap.get(s.host, s.host)) for s in simulation.throughput.endpoints),
    )
    found = infer(moved, simulation.topology, first)
    assert {(e.id, e.host) for e in found.endpoints} == {(s.id, s.host) for s in moved.endpoints}


def test_a_job_that_is_not_to_be_looked_at_has_the_basic_list() -> None:
    simulation = job()
    found = basic(simulation.throughput, simulation.topology)
    assert (found.fallback, found.confidence, found.edges) == ("basic", 0.0, ())
    assert {group.rail for group in found.groups} == {endpoint.rail for endpoint in found.endpoints}
