"""Pods to jobs, as the operators of training jobs label them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.codec import encode, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Job, read_job
from skeleton_service.cli import main
from skeleton_service.jobs.pods import NETWORK_STATUS, Pod, jobs_of
from tests.unit.fabrics import leaf_spine

TOPOLOGY = leaf_spine(pods=2, rails=2, spines=2, hosts_per_pod=2)
FABRIC = Fabric(TOPOLOGY)
HOSTS = [host.name for host in TOPOLOGY.hosts]
RDMA = [{"resources": {"limits": {"rdma/hca_shared_devices_a": "1", "nvidia.com/gpu": 8}}}]
INDEX = "batch.kubernetes.io/job-completion-index"


def pod(name: str, host: str, labels: dict[str, str], **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "research", "labels": labels, **more.pop("metadata", {})}
    spec = {"nodeName": host, "containers": RDMA, **more.pop("spec", {})}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running", **more}}


def jobs(*pods: dict[str, Any], **options: Any) -> tuple[list[Job], list[str]]:
    return jobs_of(msgspec.convert(list(pods), list[Pod]), FABRIC, **options)


def only(*pods: dict[str, Any], **options: Any) -> Job:
    ((found,), wrong) = jobs(*pods, **options)
    assert wrong == []
    return found


def named(job: Job) -> list[tuple[str, str, int | None]]:
    return [(each.name, each.host, each.rank) for each in job.containers]


def test_a_pytorchjob_is_its_master_and_its_workers_by_number() -> None:
    owner = {"ownerReferences": [{"kind": "PyTorchJob", "uid": "u-1", "controller": True}]}

    def replica(kind: str, number: int, host: str) -> dict[str, Any]:
        labels = {
            "training.kubeflow.org/job-name": "ember",
            "training.kubeflow.org/replica-type": kind,
            "training.kubeflow.org/replica-index": str(number),
        }
        return pod(f"ember-{kind}-{number}", host, labels, metadata=owner)

    found = only(replica("worker", 10, HOSTS[3]), replica("worker", 9, HOSTS[2]), replica("master", 0, HOSTS[0]))
    assert (found.job, found.tenant, found.job_uid) == ("research.ember", "research", "u-1")
    assert named(found) == [
        ("research/ember-master-0", HOSTS[0], 0),
        ("research/ember-worker-9", HOSTS[2], 1),
        ("research/ember-worker-10", HOSTS[3], 2),
    ]


def test_a_jobset_is_one_job_of_all_its_jobs() -> None:
    def member(job: int, index: int, host: str) -> dict[str, Any]:
        labels = {
            "jobset.sigs.k8s.io/jobset-name": "ash",
            "jobset.sigs.k8s.io/jobset-uid": "u-2",
            "jobset.sigs.k8s.io/replicatedjob-name": "workers",
            "jobset.sigs.k8s.io/job-index": str(job),
            "batch.kubernetes.io/job-name": f"ash-workers-{job}",
            INDEX: str(index),
        }
        owner = {"ownerReferences": [{"uid": f"of-job-{job}", "controller": True}]}
        return pod(f"ash-{job}-{index}", host, labels, metadata=owner)

    found = only(member(1, 0, HOSTS[2]), member(0, 1, HOSTS[1]), member(0, 0, HOSTS[0]), member(1, 1, HOSTS[3]))
    assert (found.job, found.job_uid) == ("research.ash", "u-2")
    assert named(found) == [
        ("research/ash-0-0", HOSTS[0], 0), ("research/ash-0-1", HOSTS[1], 1),
        ("research/ash-1-0", HOSTS[2], 2), ("research/ash-1-1", HOSTS[3], 3),
    ]  # fmt: skip


@pytest.mark.parametrize("label", ["batch.kubernetes.io/job-name", "job-name"])
def test_a_plain_job_has_no_ranks_and_an_indexed_one_has(label: str) -> None:
    plain = only(pod("a", HOSTS[0], {label: "birch"}), pod("b", HOSTS[1], {label: "birch"}))
    assert named(plain) == [("research/a", HOSTS[0], None), ("research/b", HOSTS[1], None)]
    indexed = only(pod("a", HOSTS[0], {label: "birch", INDEX: "1"}), pod("b", HOSTS[1], {label: "birch", INDEX: "0"}))
    assert named(indexed) == [("research/b", HOSTS[1], 0), ("research/a", HOSTS[0], 1)]


def test_a_site_s_own_label_comes_first() -> None:
    labels = {"example.org/run": "cedar", "job-name": "cedar-part-1"}
    assert only(pod("a", HOSTS[0], labels), labels=["example.org/run"]).job == "research.cedar"


def test_who_has_no_rnics_who_has_ended_and_who_has_no_node_is_left_out() -> None:
    label = {"job-name": "elm"}
    found = only(
        pod("worker", HOSTS[0], label),
        pod("launcher", HOSTS[1], label, spec={"containers": [{}]}),
        pod("done", HOSTS[2], label, phase="Succeeded"),
        pod("waits", "", label, phase="Pending"),
        pod("on-the-host", HOSTS[3], label, spec={"containers": [{}], "hostNetwork": True}),
        pod("of-no-job", HOSTS[3], {}),
    )
    assert [each.name for each in found.containers] == ["research/on-the-host", "research/worker"]


def networks(*given: dict[str, Any]) -> dict[str, Any]:
    return {"annotations": {NETWORK_STATUS: json.dumps(given)}}


def test_rnics_are_those_of_the_pod_s_networks() -> None:
    first, second = TOPOLOGY.hosts[0].rnics
    label = {"job-name": "fir"}
    by_address = {"name": "default/fabric", "interface": "net1", "ips": [first.ip], "mac": "02:00:00:00:00:01"}
    pci = {"pci-address": "0000:03:00.2", "rdma-device": second.name}
    by_device = {"name": "default/fabric", "device-info": {"type": "pci", "version": "1.1.0", "pci": pci}}
    found = only(
        pod(
            "a",
            HOSTS[0],
            label,
            metadata=networks({"name": "cbr0", "ips": ["10.244.0.9"], "default": True}, by_address),
        ),
        pod("b", HOSTS[0], label, metadata=networks(by_device)),
    )
    assert {each.name: each.rnics for each in found.containers} == {
        "research/a": (first.name,), "research/b": (second.name,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given_pods", "problem"),
    [
        ([pod("a", "elsewhere", {"job-name": "fir"})], "node 'elsewhere' is not in the topology"),
        ([pod("a", HOSTS[0], {"job-name": "fir"}), pod("b", HOSTS[0], {"job-name": "fir"})], "has all RNICs of host"),
        ([pod("a", HOSTS[0], {"job-name": "fir"}, metadata={"annotations": {NETWORK_STATUS: "{"}})], NETWORK_STATUS),
    ],
)
def test_a_job_that_cannot_be_is_left_out_with_a_line(given_pods: list[dict[str, Any]], problem: str) -> None:
    found, (line,) = jobs(*given_pods, pod("c", HOSTS[1], {"job-name": "well"}))
    assert [each.job for each in found] == ["research.well"]
    assert problem in line


@given(
    st.text(min_size=1, max_size=300), st.text(max_size=50), st.recursive(st.none() | st.text(), st.lists),
)  # fmt: skip
def test_whatever_pods_say_ends_in_jobs_or_lines(name: str, index: str, status: Any) -> None:
    labels = {"job-name": name, INDEX: index}
    found, wrong = jobs(pod("a", HOSTS[0], labels, metadata={"annotations": {NETWORK_STATUS: json.dumps(status)}}))
    assert len(found) + len(wrong) == 1
    assert all("/" not in each.job for each in found)


def test_the_command_writes_files_and_takes_its_own_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "topology.json", encode(TOPOLOGY))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/by-hand.yaml").write_text("kept")
    pods = tmp_path / "pods.json"
    argv = [
        "jobs",
        "--pods",
        str(pods),
        "--topology",
        str(tmp_path / "topology.json"),
        "--output",
        str(tmp_path / "jobs"),
    ]
    pods.write_text(json.dumps({"items": [pod("a", HOSTS[0], {"job-name": "fir"})]}))
    assert main(argv) == 0
    assert read_job(tmp_path / "jobs/pods.research.fir.json").containers[0].host == HOSTS[0]
    pods.write_text(json.dumps({"items": [pod("a", "elsewhere", {"job-name": "oak"})]}))
    assert main(argv) == 1
    assert [file.name for file in (tmp_path / "jobs").iterdir()] == ["by-hand.yaml"]
    assert "left out: " in capsys.readouterr().err
    pods.write_text("{")
    assert main(argv) == 2
