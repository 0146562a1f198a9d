"""The traffic simulator: what it moves is conserved, goes between the truth's pairs only, and is drawn reproducibly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from exporter.contracts.codec import encode
from exporter.contracts.skeleton import Skeleton, check_skeleton, read_skeleton
from exporter.contracts.topology import check_topology, read_topology
from lab.simulator import CASES, QUIET, Case, Simulation, simulate
from lab.simulator.__main__ import main
from lab.simulator.schedules import awaited, order
from lab.simulator.traffic import RX, TX, Journal, Traffic
from skeleton_service.reading.throughput import from_table, read_throughput

STRUCTURED = sorted(name for name, case in CASES.items() if case.structure == "training")


def plain(case: Case) -> Case:
    """Without anything that is not the job's own traffic, exactly counted."""
    return replace(
        case, noise=0.0, nic_spread=0.0, clock_offset_seconds=0.0, background=replace(QUIET, other_bytes_per_second=0.0)
    )


def journalled(name: str, seed: int = 3) -> tuple[Simulation, Journal]:
    journal = Journal()
    return simulate(CASES[name], seed, hosts=12, seconds=400, journal=journal), journal


def unit_pairs(simulation: Simulation, truth: Skeleton) -> set[frozenset[int]]:
    unit = {source.id: int(unit) for source, unit in zip(simulation.throughput.endpoints, simulation.unit, strict=True)}
    return {frozenset((unit[a], unit[b])) for a, b, _ in truth.pairs()}


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_case_runs_and_its_files_are_valid(name: str) -> None:
    simulation = simulate(CASES[name], 5, hosts=12, seconds=60)
    rates = simulation.throughput
    check_topology(simulation.topology, name)
    check_skeleton(simulation.truth, name)
    assert rates.tx.shape == rates.rx.shape == (len(rates.endpoints), 60)
    assert rates.tx.dtype == rates.rx.dtype == np.float32
    assert {source.id for source in rates.endpoints} == {end.id for end in simulation.truth.endpoints}
    known = {(host.name, rnic.name) for host in simulation.topology.hosts for rnic in host.rnics}
    assert {(source.host, source.rnic) for source in rates.endpoints} <= known
    assert simulation.structured == (simulation.truth.fallback is None)
    assert np.nanmin(rates.tx) >= 0
    assert np.nanmin(rates.rx) >= 0


@pytest.mark.parametrize("name", STRUCTURED)
def test_only_pairs_of_the_truth_exchange_bytes_and_all_roles_do(name: str) -> None:
    simulation, journal = journalled(name)
    moved = {frozenset(pair) for pair, size in journal.pairs().items() if size > 0}
    assert moved
    assert moved <= unit_pairs(simulation, simulation.truth)
    # Members of a group talk in rings, so a clique has more pairs than move bytes; pipeline edges all do.
    assert unit_pairs(simulation, msgspec.structs.replace(simulation.truth, groups=())) <= moved


@pytest.mark.parametrize("name", STRUCTURED)
def test_what_is_sent_inside_the_job_is_received(name: str) -> None:
    case = replace(plain(CASES[name]), checkpoint_iterations=None, missing_share=0, counter_resets_per_hour=0)
    rates = simulate(replace(case, startup_skew_seconds=0), 4, hosts=12, seconds=60).throughput
    np.testing.assert_allclose(rates.tx.sum(axis=0, dtype=float), rates.rx.sum(axis=0, dtype=float), rtol=1e-5, atol=10)


def test_pipeline_neighbours_see_the_same_bytes() -> None:
    case = replace(plain(CASES["pipeline-only"]), schedule=("1f1b",))
    simulation = simulate(case, 2, hosts=2, seconds=120)
    stage = {end.id: end.stage for end in simulation.truth.endpoints}
    rows = [[row for row, s in enumerate(simulation.throughput.endpoints) if stage[s.id] == n] for n in (0, 1)]
    tx, rx = simulation.throughput.tx, simulation.throughput.rx
    assert tx.sum() > 0
    for rail in range(8):
        np.testing.assert_allclose(tx[rows[0][rail]], rx[rows[1][rail]], rtol=1e-5)
        np.testing.assert_allclose(rx[rows[0][rail]], tx[rows[1][rail]], rtol=1e-5)


def test_the_journal_agrees_with_the_counters() -> None:
    journal = Journal()
    simulation = simulate(plain(CASES["mixture-of-experts"]), 9, hosts=12, seconds=100, journal=journal)
    sent = np.zeros(simulation.unit.max() + 1)
    for entry in journal.entries:
        end = np.clip(entry.begin + entry.seconds, 0, 100)
        inside = (end - np.clip(entry.begin, 0, 100)) / entry.seconds
        np.add.at(sent, entry.source, (entry.size * inside).sum(axis=0))
    counted = simulation.throughput.tx.sum(axis=1, dtype=float)
    np.testing.assert_allclose(counted, sent[simulation.unit], rtol=1e-4)


@pytest.mark.parametrize("name", ["1f1b", "overlapped", "small-tensor-parallelism", "fully-sharded"])
def test_a_stage_synchronises_at_one_instant_in_all_replicas(name: str) -> None:
    simulation, journal = journalled(name)
    rings = [entry for entry in journal.entries if entry.kind == "dp"]
    assert rings
    for entry in rings:
        assert (entry.begin == entry.begin[:, :1]).all()
        members = simulation.job.replicas * simulation.job.ranks_per_container
        assert set(entry.source) == set(entry.destination)
        assert entry.source.size == members


def test_the_same_seed_gives_the_same_job_and_another_seed_another() -> None:
    a, b, c = (simulate(CASES["1f1b"], seed, hosts=12, seconds=60) for seed in (1, 1, 2))
    assert encode(a.truth) == encode(b.truth)
    assert encode(a.topology) == encode(b.topology)
    np.testing.assert_array_equal(a.throughput.tx, b.throughput.tx)
    assert encode(a.truth) != encode(c.truth)


def test_more_noise_is_the_same_job() -> None:
    calm = simulate(CASES["1f1b"], 6, hosts=12, seconds=60)
    wild = simulate(replace(CASES["1f1b"], noise=0.15), 6, hosts=12, seconds=60)
    assert encode(calm.truth) == encode(wild.truth)
    assert not np.array_equal(calm.throughput.tx, wild.throughput.tx)


def test_the_table_reads_back_as_the_arrays() -> None:
    simulation = simulate(CASES["missing-samples"], 8, hosts=6, seconds=90)
    again = from_table(simulation.table(ranks=True))
    assert again.job == simulation.throughput.job
    assert [source.id for source in again.endpoints] == [source.id for source in simulation.throughput.endpoints]
    assert all(source.rank is not None for source in again.endpoints)
    assert all(source.rank is None for source in simulation.throughput.endpoints)
    np.testing.assert_array_equal(again.times, simulation.throughput.times)
    gaps = np.isnan(simulation.throughput.tx)
    assert gaps.any()
    np.testing.assert_allclose(again.tx[~gaps], simulation.throughput.tx[~gaps], rtol=1e-6)


def test_without_hosts_all_kinds_of_degrees_are_drawn() -> None:
    jobs = [simulate(CASES["1f1b"], seed, seconds=1).job for seed in range(40)]
    assert any(job.replicas % 2 for job in jobs)
    assert any(job.stages % 2 for job in jobs)
    assert len({(job.replicas, job.stages) for job in jobs}) > 20
    assert all(4 <= job.period <= 60 for job in jobs)


def test_hosts_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(ValueError, match="7 hosts cannot be split"):
        simulate(CASES["1f1b"], 1, hosts=7)


@pytest.mark.parametrize(("schedule", "chunks"), [("1f1b", 1), ("gpipe", 1), ("interleaved", 3)])
def test_schedules_compute_everything_once_after_what_they_wait_for(schedule: str, chunks: int) -> None:
    operations = order(schedule, 4, 8, chunks)  # type: ignore[arg-type]
    assert len(set(operations)) == len(operations) == 2 * 4 * 8 * chunks
    place = {operation: index for index, operation in enumerate(operations)}
    for operation in operations:
        needed = awaited(operation, 4, chunks)
        assert needed is None or place[needed] < place[operation]


@pytest.mark.parametrize(("name", "chunks"), [("1f1b", 1), ("gpipe", 1), ("interleaved", 2)])
def test_an_iteration_without_jitter_takes_as_long_as_its_pipeline(name: str, chunks: int) -> None:
    """(micro-batches x chunks + stages - 1) x (forward + backward), Megatron-LM's formula, then the optimizer step."""
    regular = replace(
        CASES[name],
        operation_jitter=0.0,
        replica_jitter_seconds=(1e-9, 1e-9),
        stage_spread=0.0,
        end_stages=(1.0, 1.0),
        activation_bytes=(1.0, 1.0),
        gradient_bytes=(1.0, 1.0),
        virtual_stages=(2,),
    )
    for seed in range(4):
        simulation = simulate(regular, seed, hosts=12, seconds=300)
        job = simulation.job
        assert job.chunks == chunks
        expected = 3 * float(job.forward[0]) * (job.batches * chunks + job.stages - 1) + job.optimizer
        assert simulation.truth.period_seconds == pytest.approx(expected, rel=2e-3)


def test_a_restart_is_minutes_of_silence() -> None:
    case = replace(plain(CASES["restarts"]), restarts=(1, 1), period_seconds=(5.0, 8.0))
    silent = simulate(case, 2, hosts=12, seconds=900).throughput.tx.sum(axis=0) < 1
    longest = max(map(len, "".join("x" if each else " " for each in silent).split()))
    assert 60 <= longest <= 260


def test_checkpoints_pause_training_while_storage_is_written() -> None:
    case = replace(plain(CASES["checkpoints"]), period_seconds=(6.0, 8.0), checkpoint_writers=("all",))
    rates = simulate(case, 4, hosts=12, seconds=300).throughput
    surplus = rates.tx.sum(axis=0, dtype=float) - rates.rx.sum(axis=0, dtype=float)
    assert (surplus > 1e8).sum() > 5


def test_bursts_fall_into_the_samples_of_the_hosts_own_clock() -> None:
    traffic = Traffic(4, 1.0, np.array([0, 1]), np.array([0.0, 0.5]))
    everyone, other = np.array([0]), np.array([1])
    traffic.transfer("pp", everyone, other, np.array([[0.75]]), 0.5, 100.0)
    traffic.collective("dp", everyone, other, np.array([2.75]), np.array([0.5]), np.array([100.0]))
    sums = traffic.sums()
    np.testing.assert_allclose(sums[TX, 0], [50, 50, 50, 50], atol=1e-9)
    np.testing.assert_allclose(sums[RX, 1], [100, 0, 100, 0], atol=1e-9)


def test_bytes_between_containers_of_one_host_pass_no_rnic() -> None:
    simulation, journal = journalled("containers-share-hosts")
    host = {
        int(unit): source.host for source, unit in zip(simulation.throughput.endpoints, simulation.unit, strict=True)
    }
    assert all(host[a] != host[b] for a, b in journal.pairs())


def test_a_container_is_not_seen_before_it_starts() -> None:
    simulation = simulate(CASES["startup-skew"], 3, hosts=12, seconds=400)
    first = np.isfinite(simulation.throughput.tx).argmax(axis=1)
    assert len(set(first.tolist())) > 6
    assert all(np.isfinite(row[begin:]).all() for row, begin in zip(simulation.throughput.tx, first, strict=True))


def test_the_command_writes_what_others_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in CASES)
    words = ["1f1b", "--seed=3", "--hosts=4", "--seconds=30", f"--output={tmp_path}", "--ranks"]
    assert main(words) == 0
    assert main([*words, "--csv"]) == 0
    for name in ("throughput.parquet", "throughput.csv.gz"):
        assert len(read_throughput([tmp_path / name]).endpoints) == 32
    assert read_skeleton(tmp_path / "truth.json").parallelism is not None
    assert read_topology(tmp_path / "topology.json").hosts


def test_the_page_lists_the_cases_as_they_are() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/simulator.md").read_text()
    rows = [line for line in page.split("## Cases")[1].split("\n## ")[0].splitlines() if line.startswith("| `")]
    assert rows == [f"| `{case.name}` | {case.help} |" for case in CASES.values()]
