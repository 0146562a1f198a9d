"""A scenario is played, and what it leaves can be read by everything that reads such files."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from exporter.contracts.codec import read
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.overlay import OverlayState
from exporter.contracts.plan import read_plan
from exporter.contracts.skeleton import read_skeleton
from exporter.contracts.tables import CounterSample, ProbeRecord, ThroughputRow
from exporter.contracts.topology import read_topology
from lab.sandbox import environment

SEED = 20
Row = TypeVar("Row")


def rows(file: Path, contract: type[Row]) -> list[Row]:
    """Every row of a table, held to its contract."""
    with gzip.open(file, "rt", newline="") as lines:
        return [
            msgspec.convert({name: cell or None for name, cell in row.items()}, contract, strict=False)
            for row in csv.DictReader(lines)
        ]


def lab(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "lab", *words]
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=220, check=False)


@pytest.fixture(scope="module")
def recording(sandbox_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    directory = tmp_path_factory.mktemp("scenarios") / "with a space"
    done = lab("run", "rnic-hardware-failure", "--seed", str(SEED), "--output", str(directory))
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_the_effect_was_measured_and_went_away(recording: Path) -> None:
    document = json.loads((recording / "scenario.json").read_text())
    assert document["seed"] == SEED
    assert [document["measured"][when]["value"] for when in ("before", "during", "after")] == [0, 100, 0]
    times = document["times"]
    assert times["begin"] < times["injected"] < times["repaired"] < times["end"]


def test_every_file_is_what_its_contract_says(recording: Path) -> None:
    topology = read_topology(recording / "topology.json")
    skeleton = read_skeleton(recording / "skeleton.json")
    hosts = {host.name for host in topology.hosts}
    assert {endpoint.host for endpoint in skeleton.endpoints} == hosts
    assert read(recording / "overlay.json", OverlayState).entries
    document = json.loads((recording / "scenario.json").read_text())
    for layer in ("underlay", "overlay"):
        plan = read_plan(recording / f"plan-{layer}.json")
        records = rows(recording / f"probes-{layer}.csv.gz", ProbeRecord)
        paths = {(t.source_address, t.destination_address) for t in plan.targets}
        assert {(record.src_ip, record.dst_ip) for record in records} <= paths
        assert {record.src_node_sn for record in records} == hosts
        real = {rnic.ip for host in topology.hosts for rnic in host.rnics}
        assert {record.src_real_ip for record in records} == real, "an overlay's probe names the RNIC below it"
    throughput = rows(recording / "throughput.csv.gz", ThroughputRow)
    assert {row.container for row in throughput} == {endpoint.container for endpoint in skeleton.endpoints}
    assert max(row.tx_bytes_per_second for row in throughput) > 1e6, "the job's bytes crossed the RNICs"
    counters = rows(recording / "counters.csv.gz", CounterSample)
    assert {sample.node for sample in counters} == hosts | {switch.name for switch in topology.switches}
    seconds = {sample.time for sample in counters}
    assert min(seconds) < document["times"]["injected"] < document["times"]["repaired"] < max(seconds)


def test_the_truth_is_a_diagnosis_and_probes_before_the_fault_are_healthy(recording: Path) -> None:
    failure = read(recording / "truth.json", Diagnosis).failures[0]
    assert failure.component.kind == "rnic"
    assert any("ping" in line for line in failure.evidence)
    records = rows(recording / "probes-overlay.csv.gz", ProbeRecord)
    broken = [r for r in records if f"{r.dst_node_sn}:{r.dst_rnic}" == failure.component.name]
    during = [r for r in broken if failure.start + 1 < r.ping_time / 1e9 < (failure.end or 0) - 1]
    before = [r for r in broken if r.ping_time / 1e9 < failure.start - 1]
    assert during
    assert all(record.dial == "fail" for record in during)
    assert sum(record.dial == "fail" for record in before) <= len(before) / 20


def test_a_recording_is_replayed_offline_and_the_truth_is_named(recording: Path) -> None:
    done = lab("replay", str(recording))
    assert done.returncode in (0, 1), done.stderr
    truth = read(recording / "truth.json", Diagnosis).failures[0]
    assert truth.component.name in done.stdout
    assert done.stdout.splitlines()[-1] in ("named", "not named")


def test_what_cannot_be_played_or_replayed_is_said_in_one_line(recording: Path, tmp_path: Path) -> None:
    for words, complaint in (
        (("run", "no-such-thing"), "there is no scenario 'no-such-thing'"),
        (("run", "bond-error", "--output", str(recording)), "is there already"),
        (("replay", str(tmp_path)), "is this a directory that `lab run` recorded?"),
    ):
        refused = lab(*words)
        assert refused.returncode == 2
        assert complaint in refused.stderr
        assert refused.stderr.count("\n") == 1
