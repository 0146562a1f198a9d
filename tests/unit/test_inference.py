"""Inference against simulated jobs whose truth is known: no true pair is missed, and no structure is made up."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from exporter.contracts.codec import ContractError
from exporter.contracts.skeleton import check_skeleton
from lab.simulator import CASES, Simulation, simulate
from skeleton_service.inference import Source, Throughput, infer
from skeleton_service.inference.chain import exchanged
from skeleton_service.inference.participants import find_participants
from skeleton_service.inference.period import find_period
from skeleton_service.inference.pipeline import order_stages
from skeleton_service.inference.ranks import numberings
from skeleton_service.inference.series import Floats
from skeleton_service.inference.ways import shortest_path
from tests.unit.fabrics import rails_only
from tests.unit.skeletons import Pair, groups, pairs, unmatched

OTHER_SEEDS = {
    "gpipe": (1, 2),
    "tied-embeddings": (0, 2),
    "mixture-of-experts": (0, 2),
}
"""Seeds at which every promise below is kept; how often it is not, `make bench-inference` says."""

STRUCTURED = [
    (name, seed)
    for name, case in CASES.items()
    if case.structure == "training"
    for seed in OTHER_SEEDS.get(name, (0, 1))
]
STRUCTURELESS = [(name, seed) for name, case in CASES.items() if case.structure != "training" for seed in range(3)]


def without_ranks(throughput: Throughput) -> Throughput:
    return replace(throughput, endpoints=tuple(replace(source, rank=None) for source in throughput.endpoints))


def small(seed: int = 0, name: str = "two-rnics", hosts: int = 8, seconds: float = 300) -> Simulation:
    return simulate(CASES[name], seed, hosts=hosts, seconds=seconds)


@pytest.mark.parametrize(("name", "seed"), STRUCTURED)
def test_every_pair_of_a_job_is_found_and_nothing_far_from_it(name: str, seed: int) -> None:
    job = simulate(CASES[name], seed, ranks=True)
    true = pairs(job.truth)

    found = infer(without_ranks(job.throughput), job.topology)
    check_skeleton(found, "found")
    assert found.fallback is None
    assert found.parallelism == job.truth.parallelism
    assert groups(found) == groups(job.truth)
    assert true <= pairs(found) <= unmatched(job.truth)

    told = infer(job.throughput, job.topology)
    check_skeleton(told, "told")
    assert told.fallback is None
    assert groups(told) == groups(job.truth)
    assert true <= pairs(told)
    assert len(pairs(told)) <= 1.05 * len(true)


@pytest.mark.parametrize("seed", [5, 13, 15, 24, 42])
def test_a_chain_is_found_where_one_witness_alone_misleads(seed: int) -> None:
    """Period and window such that likeness errs (13, 24, 42), a read from storage at both ends (5), a ring (15)."""
    job = simulate(CASES["pipeline-only"], seed, ranks=True)
    true = pairs(job.truth)
    for throughput in (without_ranks(job.throughput), job.throughput):
        found = infer(throughput, job.topology)
        assert found.parallelism == job.truth.parallelism
        assert true == pairs(found)


@pytest.mark.parametrize("seed", range(3))
def test_ranks_that_contradict_the_traffic_are_not_taken_for_the_order_of_a_chain(seed: int) -> None:
    job = simulate(CASES["pipeline-only"], seed, ranks=True)
    number = {source.container: source.rank for source in job.throughput.endpoints}
    mixed = dict(zip(number, np.random.default_rng(seed).permutation(len(number)).tolist(), strict=True))
    told = replace(
        job.throughput,
        endpoints=tuple(replace(source, rank=mixed[source.container]) for source in job.throughput.endpoints),
    )
    assert pairs(infer(told, job.topology)) == pairs(infer(without_ranks(job.throughput), job.topology))


@pytest.mark.parametrize(
    ("name", "seed"),
    [("1f1b", 0), ("small-tensor-parallelism", 0), ("quiet", 27), ("mixture-of-experts", 57)]
    + [("containers-share-hosts", seed) for seed in (17, 37, 55)],
)
def test_replicas_are_not_taken_for_the_stages_of_a_chain(name: str, seed: int) -> None:
    """Two replicas of one stage carry less than all others here, or two members of a ring have a peer on their host."""
    job = simulate(CASES[name], seed)
    found = infer(job.throughput, job.topology)
    assert found.parallelism == job.truth.parallelism


@pytest.mark.parametrize("seconds", [300, 900])
def test_a_pipeline_of_two_containers_is_a_pair(seconds: float) -> None:
    pair = replace(CASES["pipeline-only"], hosts=(2, 2))
    job = simulate(pair, 0, seconds=seconds, ranks=True)
    for throughput in (without_ranks(job.throughput), job.throughput):
        assert pairs(infer(throughput, job.topology)) == pairs(job.truth)


def test_what_a_unit_of_a_chain_received_two_others_have_sent() -> None:
    rates = np.full((4, 2, 3), 10.0)
    rates[1, 0, 0] = 500  # written to storage
    rates[2, 1, 1] = 500  # read from storage
    rates[0, 1, 2] = 15  # from two neighbours at once
    assert exchanged(rates)[1, 0, 0] == 20
    assert exchanged(rates)[2, 1, 1] == 20
    rates[1, 0, 0], rates[2, 1, 1] = 20, 20
    assert (exchanged(rates) == rates).all()


@pytest.mark.parametrize(("name", "seed"), STRUCTURELESS)
def test_what_has_no_structure_falls_back_to_every_pair_of_a_rail(name: str, seed: int) -> None:
    job = simulate(CASES[name], seed, ranks=True)
    for throughput in (without_ranks(job.throughput), job.throughput):
        found = infer(throughput, job.topology)
        assert (found.fallback, found.parallelism, found.period_seconds) == ("basic", None, None)
        assert found.confidence < 0.5
        assert pairs(found) == pairs(job.truth)


@pytest.mark.parametrize("seed", range(3))
def test_stage_and_replica_of_each_endpoint_are_the_jobs_up_to_direction(seed: int) -> None:
    job = simulate(CASES["1f1b"], seed, hosts=24, ranks=True)
    assert job.truth.parallelism is not None
    last = job.truth.parallelism.pp - 1
    true = {end.id: (end.stage, end.replica) for end in job.truth.endpoints}
    found = {end.id: (end.stage, end.replica) for end in infer(job.throughput, job.topology).endpoints}
    stages = {name: stage for name, (stage, _) in found.items()}
    assert all(stage is not None for stage in stages.values())
    forward = {name: stage for name, (stage, _) in true.items()}
    assert stages in (forward, {name: last - (stage or 0) for name, stage in forward.items()})
    # Replicas have no order: the same endpoints belong together.
    together = {frozenset(name for name in found if found[name][1] == each) for _, each in found.values()}
    assert together == {frozenset(name for name in true if true[name][1] == each) for _, each in true.values()}


@pytest.mark.parametrize("seed", range(3))
def test_the_period_is_the_iterations(seed: int) -> None:
    job = small(seed, "1f1b", seconds=900)
    assert infer(job.throughput, job.topology).period_seconds == pytest.approx(job.truth.period_seconds, rel=0.03)


def test_too_short_a_watch_falls_back() -> None:
    job = small()
    few = replace(
        job.throughput, times=job.throughput.times[:5], tx=job.throughput.tx[:, :5], rx=job.throughput.rx[:, :5]
    )
    assert infer(few, job.topology).fallback == "basic"


@pytest.mark.parametrize("seed", range(5))
def test_noise_falls_back(seed: int) -> None:
    job = small(seed)
    random = np.random.default_rng(seed)
    shape = job.throughput.tx.shape
    for size in (shape, shape[1:]):
        rates = np.broadcast_to(random.exponential(1e6, size), shape).astype(np.float32)
        found = infer(replace(job.throughput, tx=rates, rx=rates[::-1].copy()), job.topology)
        # What is the same on all RNICs is one group: the pairs are those of the basic list.
        assert found.fallback == "basic" or (found.parallelism is not None and found.parallelism.pp == 1)
        assert len(pairs(found)) == 2 * 28


def test_silence_falls_back() -> None:
    job = small()
    for rate in (0.0, 1e6):
        rates = np.full_like(job.throughput.tx, rate)
        assert infer(replace(job.throughput, tx=rates, rx=rates), job.topology).fallback == "basic"


def test_a_container_hardly_seen_is_paired_with_its_whole_rails() -> None:
    job = small(2)
    tx = job.throughput.tx.copy()
    container = job.throughput.endpoints[0].container
    rows = [row for row, source in enumerate(job.throughput.endpoints) if source.container == container]
    tx[rows, 5:] = np.nan
    found = pairs(infer(replace(job.throughput, tx=tx), job.topology))
    for row in rows:
        hidden = job.throughput.endpoints[row].id
        assert sum(hidden in pair for pair in found) == 7
        assert {pair for pair in pairs(job.truth) if hidden in pair} <= found


def seen_without(throughput: Throughput, *containers: str) -> Throughput:
    keep = [row for row, source in enumerate(throughput.endpoints) if source.container not in containers]
    endpoints = tuple(throughput.endpoints[row] for row in keep)
    return replace(throughput, endpoints=endpoints, tx=throughput.tx[keep], rx=throughput.rx[keep])


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "interleaved", "small-tensor-parallelism", "one-rnic", "noisy"])
@pytest.mark.parametrize("hosts", [8, 12, 30])
def test_a_container_that_is_absent_costs_no_pair_of_the_others(name: str, hosts: int) -> None:
    """Its exporter is dead, say: the others' groups are as unequal as that makes them."""
    job = simulate(CASES[name], 1, hosts=hosts)
    absent = job.truth.endpoints[0].container
    found = infer(seen_without(job.throughput, absent), job.topology)
    check_skeleton(found, "found")
    assert found.fallback is None
    assert found.parallelism == job.truth.parallelism

    def others(every: set[Pair]) -> set[Pair]:
        return {pair for pair in every if not any(end.startswith(f"{absent}/") for end in pair)}

    assert others(pairs(job.truth)) <= pairs(found)
    replicas = job.truth.parallelism.dp if job.truth.parallelism else 0
    if replicas > 2:  # of two, one is alone in its stage, and its neighbours may be any that are as much alike
        assert pairs(found) <= others(unmatched(job.truth))
    true = {end.id: end.replica for end in job.truth.endpoints}
    together = {(end.replica, true[end.id]) for end in found.endpoints if end.replica is not None}
    assert len(together) == len({number for number, _ in together}), "of one replica are those that truly are"


def test_replicas_are_told_apart_where_the_absent_ones_partner_is_certain() -> None:
    job = simulate(CASES["1f1b"], 0, hosts=24)
    assert job.truth.parallelism is not None
    absent = job.truth.endpoints[0].container
    found = infer(seen_without(job.throughput, absent), job.topology)
    assert {end.replica for end in found.endpoints} == set(range(job.truth.parallelism.dp))


@pytest.mark.parametrize("left", [0.0, np.nan])
def test_an_rnic_that_is_dead_or_unseen_has_the_place_of_its_container(left: float) -> None:
    """A dead RNIC is what is looked for: taken for idle, nobody would probe it."""
    job = small(2)
    tx, rx = job.throughput.tx.copy(), job.throughput.rx.copy()
    tx[0], rx[0] = left, left
    dead = job.throughput.endpoints[0].id
    found = pairs(infer(replace(job.throughput, tx=tx, rx=rx), job.topology))
    assert {pair for pair in pairs(job.truth) if dead in pair} <= found


def test_a_host_outside_the_topology_is_named() -> None:
    job = small()
    gone = job.throughput.endpoints[0].host
    with pytest.raises(ContractError, match=f"host '{gone}' is missing, needed by endpoint"):
        infer(job.throughput, rails_only(8, 2))


def test_one_container_name_on_two_hosts_is_refused_with_both() -> None:
    """Both used to become one endpoint of the skeleton, and the paths of one host were never probed."""
    job = small()
    first, last = job.throughput.endpoints[0].host, job.throughput.endpoints[-1].host
    sources = tuple(
        replace(source, container="worker") if source.host in (first, last) else source
        for source in job.throughput.endpoints
    )
    with pytest.raises(ContractError, match=rf"'worker' is on two hosts, {first} and {last} \(name containers"):
        infer(replace(job.throughput, endpoints=sources), job.topology)


# Pieces.


def observed(containers: dict[str, list[int]], samples: int = 20) -> tuple[Throughput, np.ndarray]:
    """(throughput of busy RNICs, their rails): containers by name with the rails that they use."""
    sources = tuple(
        Source(host=f"h-{name}", container=name, rnic=f"r{rail}")
        for name, rails in containers.items()
        for rail in rails
    )
    rates = np.full((len(sources), samples), 1e9, dtype=np.float32)
    throughput = Throughput(job="j", endpoints=sources, times=np.arange(1.0, samples + 1), tx=rates, rx=rates.copy())
    return throughput, np.array([rail for rails in containers.values() for rail in rails], dtype=np.int64)


def test_containers_are_units_and_their_rails_are_lanes() -> None:
    found = find_participants(*observed({"a": [0, 1], "b": [0, 1], "c": [0, 1]}))
    assert found.rows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (found.units, found.lanes, found.by_rail, found.hidden) == (3, 2, True, ())


def test_a_container_that_lacks_an_rnic_keeps_its_others_in_their_lanes() -> None:
    found = find_participants(*observed({"a": [0, 1, 2], "b": [1, 2], "c": [0, 1, 2]}))
    assert found.by_rail
    assert found.rows.tolist() == [[0, 1, 2], [-1, 3, 4], [5, 6, 7]]


def test_containers_on_different_rails_meet_by_the_place_of_their_rnics() -> None:
    found = find_participants(*observed({"a": [0, 1], "b": [2, 3], "c": [0, 1], "d": [2, 3]}))
    assert not found.by_rail
    assert found.rows.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_an_idle_rnic_takes_no_part() -> None:
    throughput, rails = observed({"a": [0, 1], "b": [0, 1], "c": [0, 1], "idle": [0, 1]})
    throughput.tx[6:] = throughput.rx[6:] = 40.0
    found = find_participants(throughput, rails)
    assert found.rows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found.hidden == ()


def test_an_rnic_that_was_hardly_seen_keeps_its_place_and_is_not_gone_by() -> None:
    throughput, rails = observed({"a": [0, 1], "b": [0, 1], "c": [0, 1]})
    throughput.tx[2, 4:] = np.nan
    found = find_participants(throughput, rails)
    assert found.rows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found.heard.tolist() == [[True, True], [False, True], [True, True]]
    assert found.hidden == ()


def test_a_container_that_was_hardly_seen_is_hidden() -> None:
    throughput, rails = observed({"a": [0, 1], "b": [0, 1], "c": [0, 1]})
    throughput.tx[2:4, 4:] = np.nan
    found = find_participants(throughput, rails)
    assert found.rows.tolist() == [[0, 1], [4, 5]]
    assert found.hidden == (2, 3)


@pytest.mark.parametrize("period", [4.0, 6.3, 21.0])
def test_the_period_of_bursts_in_turn_is_the_whole_rounds(period: float) -> None:
    seconds = np.arange(200)
    turns = np.stack([(seconds / period + turn / 4) % 1 < 0.25 for turn in range(4)]).astype(np.float32)
    found = find_period(turns, 1.0)
    assert found is not None
    assert found.seconds == pytest.approx(period, rel=0.02)


def test_no_period_where_nothing_varies_or_the_watch_is_short() -> None:
    wave = (1 + np.sin(np.arange(60) * 2 * np.pi / 6.3)).astype(np.float32)[None]
    assert find_period(np.ones((4, 50), np.float32), 1.0) is None
    assert find_period(wave[:, :6], 1.0) is None
    found = find_period(wave, 1.0)
    assert found is not None
    assert found.seconds == pytest.approx(6.3, rel=0.02)


@pytest.mark.parametrize("groups_in_chain", [4, 7, 8, 16, 40])
def test_the_shortest_path_is_the_chain(groups_in_chain: int) -> None:
    place = np.random.default_rng(groups_in_chain).permutation(groups_in_chain)
    apart = np.abs(place[:, None] - place[None, :]).astype(float)
    way = [int(place[group]) for group in shortest_path(apart)]
    assert way in (list(range(groups_in_chain)), list(range(groups_in_chain))[::-1])


def chain_of_bursts(stages: int, rounds: int = 40, length: int = 24) -> Floats:
    """Mean rates (stages, 2, samples): each bursts a little after the one before; between, the ends carry half."""
    samples = np.arange(rounds * length)
    random = np.random.default_rng(stages)
    late = np.arange(stages)[:, None] / 2
    bursts = np.exp(-(((samples - late) % length - length / 2) ** 2) / 4) * 1e9
    ends = np.isin(np.arange(stages), (0, stages - 1))[:, None]
    carried = bursts + np.where(ends, 1e7, 2e7)
    return np.stack([carried * random.normal(1, 0.02, carried.shape) for _ in range(2)], axis=1)


@pytest.mark.parametrize("stages", [3, 5, 9])
def test_stages_are_ordered_by_their_likeness(stages: int) -> None:
    place = np.random.default_rng(stages).permutation(stages)
    ordered = order_stages(chain_of_bursts(stages)[place], 24)
    assert [int(place[group]) for group in ordered.order] in (list(range(stages)), list(range(stages))[::-1])
    true = {tuple(sorted((int(np.argmax(place == a)), int(np.argmax(place == b))))) for a, b in pairwise(range(stages))}
    assert true <= ordered.adjacent


@pytest.mark.parametrize("silent", range(6))
def test_a_stage_that_cannot_tell_whom_it_sends_to_is_placed_by_likeness(silent: int) -> None:
    conserved = 10.0 * (np.eye(6, k=1) + np.eye(6, k=-1))
    conserved[silent, :] = conserved[:, silent] = np.nan
    ordered = order_stages(chain_of_bursts(6), 24, conserved)
    assert ordered.order in (tuple(range(6)), tuple(range(6))[::-1])


def test_two_stages_are_neighbours_and_one_has_none() -> None:
    assert order_stages(np.ones((2, 2, 9)), 3).adjacent == {(0, 1)}
    assert order_stages(np.ones((1, 2, 9)), 3).adjacent == set()


def test_numberings_are_all_shapes_with_replicas_or_stages_first() -> None:
    ranks = np.array([30, 10, 20, 0, 50, 40])
    shapes = [(found.stages.tolist(), found.replicas.tolist()) for found in numberings(ranks)]
    assert ([0, 0, 0, 0, 0, 0], [3, 1, 2, 0, 5, 4]) in shapes
    assert ([1, 0, 0, 0, 1, 1], [0, 1, 2, 0, 2, 1]) in shapes
    assert ([0, 1, 2, 0, 2, 1], [1, 0, 0, 0, 1, 1]) in shapes
    assert len(shapes) == 5
    assert {found.count for found in numberings(ranks)} == {1, 2, 3}
