"""Jobs as a cluster has them: found by their pods, planned for, given rules, and forgotten with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightkube.resources.batch_v1 import Job

from tests.kubernetes.cluster import Cluster, job
from tests.unit.fabrics import leaf_spine
from tests.unit.running import until
from tests.unit.serving import RunningService, decoded

HOSTS = [host.name for host in leaf_spine().hosts]


@pytest.fixture
def service(cluster: Cluster, tmp_path: Path) -> Iterator[RunningService]:
    for host in HOSTS:
        cluster.node(host)
    rules = {"objects": {"labels": {"release": "prometheus"}}, "after_seconds": 0}
    running = RunningService(tmp_path, kubernetes={"kubeconfig": str(cluster.kubeconfig)}, rules=rules)
    yield running
    assert running.stop() == 0, running.log
    assert "Traceback" not in running.log


def containers(service: RunningService, name: str) -> Any:
    answer = service.client("reader", "me").get(f"/v1/jobs/{name}/file")
    return sorted(each["host"] for each in decoded(answer)["containers"]) if answer.status_code == 200 else None


def test_a_job_is_probed_for_while_its_pods_run_and_has_rules_that_go_with_it(
    cluster: Cluster, service: RunningService
) -> None:
    namespace = cluster.namespace("research")
    cluster.apply(job("ember", namespace, 2))
    cluster.schedule(namespace, [HOSTS[0], HOSTS[-1]], pods=2)
    until(lambda: containers(service, "research.ember") == sorted([HOSTS[0], HOSTS[-1]]), 15)
    plan = service.client("agent", HOSTS[0]).get(f"/v1/agents/{HOSTS[0]}/plans/research.ember")
    assert plan.status_code == 200
    until(lambda: cluster.rules(namespace))
    ((name, rule),) = cluster.rules(namespace).items()
    assert name == "fabric-job-research.ember"
    assert rule.metadata.labels["release"] == "prometheus"
    (owner,) = rule.metadata.ownerReferences
    known = cluster.client.get(Job, "ember", namespace=namespace)
    assert (owner.kind, owner.name, owner.uid) == ("Job", "ember", known.metadata.uid)
    text = service.client("reader", "me").get("/v1/jobs/research.ember/rules").text
    assert yaml.safe_load(text) == {"groups": rule["spec"]["groups"]}
    cluster.end(namespace, "ember")
    until(lambda: containers(service, "research.ember") is None, 15)
    until(lambda: not cluster.rules(namespace))
