"""Inference against jobs whose truth is known: no true pair is missed, and no structure is made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporter.contracts.codec import ContractError
from exporter.contracts.skeleton import Skeleton, check_skeleton
from lab.jobs.job import draw_job
from lab.jobs.workload import simulate
from skeleton_service.inference import Source, Throughput, infer
from skeleton_service.inference.groups import silhouette
from skeleton_service.inference.period import find_period
from skeleton_service.inference.stages import order_stages
from skeleton_service.throughput import from_table
from tests.unit.fabrics import rails_only

SMALL = rails_only(8, 2)


def pairs(skeleton: Skeleton) -> set[frozenset[str]]:
    return {frozenset((a, b)) for a, b, _ in skeleton.pairs()}


def observed(seed: int, **options: float) -> Throughput:
    return from_table(simulate(draw_job(seed, SMALL), seconds=options.pop("seconds", 45), **options))


@pytest.mark.parametrize("seed", range(40))
def test_a_short_watch_of_a_small_job_finds_every_pair(seed: int) -> None:
    truth = draw_job(seed, SMALL).truth()
    found = infer(observed(seed), SMALL)
    check_skeleton(found, "found")
    assert found.fallback is None
    assert found.parallelism == truth.parallelism
    assert {frozenset(g.members) for g in found.groups} == {frozenset(g.members) for g in truth.groups}
    assert pairs(found) >= pairs(truth)
    assert len(pairs(found)) < 2.5 * len(pairs(truth))


@pytest.mark.parametrize("seed", range(4))
def test_a_long_watch_of_a_larger_job_finds_every_pair(seed: int) -> None:
    topology = rails_only(32, 8)
    job = draw_job(seed, topology, period_seconds=(30, 30))
    found = infer(from_table(simulate(job, seconds=900)), topology)
    assert pairs(found) >= pairs(job.truth())
    assert found.parallelism == job.truth().parallelism
    assert found.period_seconds == pytest.approx(30, rel=0.05)


@pytest.mark.parametrize(
    "trouble", [{"noise": 0.15, "jitter": 0.04}, {"gaps": 0.05}, {"clock_spread": 0.1}, {"clock_spread": 1.0}]
)
@pytest.mark.parametrize("seed", range(8))
def test_trouble_costs_precision_never_recall(seed: int, trouble: dict[str, float]) -> None:
    assert pairs(infer(observed(seed, **trouble), SMALL)) >= pairs(draw_job(seed, SMALL).truth())


def test_the_period_is_found() -> None:
    right = 0
    for seed in range(40):
        found = infer(observed(seed), SMALL).period_seconds
        right += found is not None and abs(found / draw_job(seed, SMALL).period_seconds - 1) < 0.05
    assert right >= 36  # a multiple now and then, where a second holds no fraction of the period


def test_row_order_and_scale_change_nothing() -> None:
    table = simulate(draw_job(3, SMALL), seconds=45)
    expected = infer(from_table(table), SMALL)
    assert infer(from_table(table.take(np.random.default_rng(0).permutation(len(table)))), SMALL) == expected
    throughput = from_table(table)
    larger = replace(throughput, tx=throughput.tx * 1024, rx=throughput.rx * 1024)
    assert infer(larger, SMALL) == expected


def test_names_of_hosts_do_not_matter() -> None:
    """The same series under other names give the same pairs, renamed."""
    throughput = observed(5)
    renamed = {f"host-{n:04d}": f"host-{(n * 3 + 5) % 8:04d}" for n in range(8)}
    sources = [
        Source(host=renamed[s.host], container=f"x-{renamed[s.host]}", rnic=s.rnic) for s in throughput.endpoints
    ]
    name = {old.id: new.id for old, new in zip(throughput.endpoints, sources, strict=True)}
    order = sorted(range(len(sources)), key=lambda n: sources[n].host)
    shuffled = replace(
        throughput,
        endpoints=tuple(sources[n] for n in order),
        tx=throughput.tx[order],
        rx=throughput.rx[order],
    )
    expected = {frozenset(name[end] for end in pair) for pair in pairs(infer(throughput, SMALL))}
    assert pairs(infer(shuffled, SMALL)) == expected


def test_an_idle_rnic_adds_no_edge() -> None:
    topology = rails_only(9, 2)
    job = draw_job(1, SMALL)
    table = simulate(job, seconds=45)
    quiet = table.filter(pc.equal(table["host"], "host-0000"))
    quiet = quiet.set_column(2, "host", pa.array(["host-0008"] * len(quiet)))
    quiet = quiet.set_column(3, "container", pa.array(["idle"] * len(quiet)))
    for column in ("tx_bytes_per_second", "rx_bytes_per_second"):
        place = quiet.column_names.index(column)
        quiet = quiet.set_column(place, column, pa.array(np.full(len(quiet), 40.0)))
    found = infer(from_table(pa.concat_tables([table, quiet])), topology)
    assert pairs(found) == pairs(infer(from_table(table), topology))
    assert "idle/mlx5_0" in {endpoint.id for endpoint in found.endpoints}


def test_an_endpoint_hardly_seen_is_paired_with_its_whole_rail() -> None:
    throughput = observed(2)
    tx = throughput.tx.copy()
    tx[0, 5:] = np.nan
    hidden = throughput.endpoints[0].id
    found = pairs(infer(replace(throughput, tx=tx), SMALL))
    assert sum(hidden in pair for pair in found) == 7
    assert found >= pairs(draw_job(2, SMALL).truth())


@pytest.mark.parametrize("seed", range(10))
def test_noise_falls_back_to_every_pair_of_a_rail(seed: int) -> None:
    throughput = observed(seed)
    random = np.random.default_rng(seed)
    for noise in (random.exponential(1e6, throughput.tx.shape), random.exponential(1e6, throughput.tx.shape[1:])):
        rates = np.broadcast_to(noise, throughput.tx.shape).astype(np.float32)
        found = infer(replace(throughput, tx=rates, rx=rates[::-1]), SMALL)
        assert found.fallback == "basic" or (found.parallelism is not None and found.parallelism.pp == 1)
        assert len(pairs(found)) == 2 * 28
    assert infer(replace(throughput, tx=0 * throughput.tx, rx=0 * throughput.rx), SMALL).fallback == "basic"


def test_too_short_a_watch_falls_back() -> None:
    assert infer(observed(0, seconds=5), SMALL).fallback == "basic"


def test_a_job_without_pipeline_is_one_group_per_rail() -> None:
    """Replicas alone: every host has the series of one."""
    throughput = observed(4)
    random = np.random.default_rng(0)
    tx, rx = (np.repeat(a[:1], 16, axis=0) * random.normal(1, 0.05, a.shape) for a in (throughput.tx, throughput.rx))
    found = infer(replace(throughput, tx=tx.astype(np.float32), rx=rx.astype(np.float32)), SMALL)
    assert found.fallback is None
    assert [len(group.members) for group in found.groups] == [8, 8]
    assert found.edges == ()


def test_a_host_outside_the_topology_is_named() -> None:
    with pytest.raises(ContractError, match="host 'host-0007' is missing, needed by endpoint"):
        infer(observed(0), rails_only(7, 2))


def test_parts() -> None:
    apart = np.array([[0, 1, 9, 9], [1, 0, 9, 9], [9, 9, 0, 1], [9, 9, 1, 0]], dtype=float)
    assert silhouette(apart, np.array([0, 0, 1, 1])) == pytest.approx(8 / 9)
    assert silhouette(apart, np.array([0, 1, 0, 1])) < 0
    assert find_period(np.ones((4, 50)), 1.0) is None
    assert find_period(np.sin(np.arange(60) * 2 * np.pi / 6.3)[None], 1.0).seconds == pytest.approx(6.3, rel=0.02)
    assert order_stages(np.ones((2, 9), np.float32), np.ones((2, 9), np.float32), 3).adjacent == {(0, 1)}


def test_one_container_name_on_two_hosts_is_refused_with_both() -> None:
    """Both used to become one endpoint of the skeleton, and the paths of one host were never probed."""
    throughput = observed(0)
    sources = tuple(
        replace(source, container="worker") if source.host in ("host-0001", "host-0004") else source
        for source in throughput.endpoints
    )
    with pytest.raises(ContractError, match=r"'worker' is on two hosts, host-0001 and host-0004 \(name containers"):
        infer(replace(throughput, endpoints=sources), SMALL)
