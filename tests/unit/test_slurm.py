"""Slurm's jobs, as its releases tell them."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.codec import ContractError, encode, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Job
from skeleton_service.cli import main
from skeleton_service.jobs.slurm import SlurmJob, expanded, jobs_of
from tests.unit.fabrics import leaf_spine

TOPOLOGY = leaf_spine(pods=2, rails=2, spines=2, hosts_per_pod=2)
FABRIC = Fabric(TOPOLOGY)
BOTH = ["host-p0-0", "host-p0-1"]
RUNS: dict[str, Any] = {
    "job_id": 42, "name": "ember", "job_state": ["RUNNING"], "account": "research", "user_name": "ada",
}  # fmt: skip


def jobs(*told: dict[str, Any]) -> tuple[list[Job], list[str]]:
    return jobs_of(msgspec.convert(list(told), list[SlurmJob]), FABRIC)


@pytest.mark.parametrize(
    "nodes",
    [
        {"job_resources": {"nodes": {"list": "wrong", "allocation": [{"name": name} for name in BOTH]}}},
        {"job_resources": {"nodes": "wrong", "allocated_nodes": [{"nodename": name} for name in BOTH]}},
        {"job_resources": {"nodes": "host-p0-[0-1]"}},
        {"nodes": "host-p0-[0-1]"},
        {"nodes": "host-p0-[0-1]", "job_resources": None, "job_state": "RUNNING"},
    ],
)
def test_a_job_of_any_release_has_its_nodes(nodes: dict[str, Any]) -> None:
    ((found,), wrong) = jobs(RUNS | nodes)
    assert wrong == []
    assert (found.job, found.job_uid, found.tenant) == ("ember.42", "42", "research")
    assert [(each.name, each.host, each.rank) for each in found.containers] == [
        ("slurm/42/host-p0-0", "host-p0-0", 0), ("slurm/42/host-p0-1", "host-p0-1", 1),
    ]  # fmt: skip


def test_what_waits_what_has_ended_and_what_is_of_one_node_is_left_out() -> None:
    both = {"nodes": "host-p0-[0-1]"}
    pending, done = RUNS | both | {"job_state": ["PENDING"]}, RUNS | both | {"job_state": ["COMPLETED"]}
    assert jobs(pending, done, RUNS | {"nodes": "host-p0-0"}) == ([], [])


def test_names_are_made_fit_for_a_path() -> None:
    ((found,), _) = jobs(RUNS | {"nodes": "host-p0-[0-1]", "name": "../a b/ü"})
    assert found.job == "__a_b__.42"


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ("host-p0-0,elsewhere", "node 'elsewhere' is not in the topology"),
        ("host-p0-[0-", "a bracket is not closed"),
        ("host-p0-[[0]]", "a bracket too many"),
        ("host-p0-[0-x]", "range '0-x'"),
        ("n[0-9999999]", "more than 65536"),
        ("n[0-999][0-999]", "more than 65536"),
    ],
)
def test_a_job_that_cannot_be_is_left_out_with_a_line(nodes: str, problem: str) -> None:
    found, (line,) = jobs(RUNS | {"nodes": nodes}, RUNS | {"nodes": "host-p1-[0-1]", "job_id": 43})
    assert [each.job for each in found] == ["ember.43"]
    assert problem in line


@pytest.mark.parametrize(
    ("hostlist", "names"),
    [
        ("gpu[001-003,7],login", ["gpu001", "gpu002", "gpu003", "gpu7", "login"]),
        ("r[1-2]n[08-10]", ["r1n08", "r1n09", "r1n10", "r2n08", "r2n09", "r2n10"]),
        ("a[0-1]-ib,b", ["a0-ib", "a1-ib", "b"]),
        ("", []),
        ("x[5-4]", []),
    ],
)
def test_lists_of_hosts(hostlist: str, names: list[str]) -> None:
    assert list(expanded(hostlist, "job 1")) == names
    if (scontrol := shutil.which("scontrol")) and names:
        told = subprocess.run([scontrol, "show", "hostnames", hostlist], capture_output=True, text=True, check=True)
        assert told.stdout.split() == names


@given(st.text(alphabet="n[]0123456789-,x", max_size=40))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    with suppress(ContractError):
        assert len(list(expanded(text, "job 1"))) <= 65_536


def test_the_command_keeps_the_files_of_another_scheduler(tmp_path: Path) -> None:
    write(tmp_path / "topology.json", encode(TOPOLOGY))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/pods.research.fir.json").write_text("kept")
    told = tmp_path / "slurm.json"
    argv = ["jobs", "--slurm", str(told), "--topology", str(tmp_path / "topology.json")]
    argv += ["--output", str(tmp_path / "jobs")]
    told.write_text(json.dumps({"jobs": [RUNS | {"nodes": "host-p0-[0-1]"}], "meta": {}, "errors": []}))
    assert main(argv) == 0
    names = sorted(file.name for file in (tmp_path / "jobs").iterdir())
    assert names == ["pods.research.fir.json", "slurm.ember.42.json"]
    told.write_text('{"jobs": []}')
    assert main(argv) == 0
    assert [file.name for file in (tmp_path / "jobs").iterdir()] == ["pods.research.fir.json"]
