"""Jobs as a cluster has them: found by their pods, planned for, given rules, and forgotten with them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod

from tests.kubernetes.cluster import Cluster, job
from tests.unit.fabrics import leaf_spine
from tests.unit.running import until
from tests.unit.serving import RunningService, decoded

HOSTS = [host.name for host in leaf_spine().hosts]
NEXT_LINE = "\u0085"
"""Which Python takes for the end of a line, and JSON does not."""


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


def run(cluster: Cluster, name: str, namespace: str, *hosts: str) -> None:
    cluster.apply(job(name, cluster.namespace(namespace), len(hosts)))
    cluster.schedule(namespace, list(hosts), pods=len(hosts))


def made(cluster: Cluster, namespace: str) -> dict[str, tuple[str, str]]:
    """{object: (uid, version)}: another uid is another object, another version one that was changed."""
    found = cluster.rules(namespace)
    return {name: (each.metadata.uid, each.metadata.resourceVersion) for name, each in found.items()}


def test_a_job_is_probed_for_while_its_pods_run_and_has_rules_that_go_with_it(
    cluster: Cluster, service: RunningService
) -> None:
    run(cluster, "ember", "research", HOSTS[0], HOSTS[-1])
    until(lambda: containers(service, "research.ember") == sorted([HOSTS[0], HOSTS[-1]]), 15)
    plan = service.client("agent", HOSTS[0]).get(f"/v1/agents/{HOSTS[0]}/plans/research.ember")
    assert plan.status_code == 200
    until(lambda: cluster.rules("research"))
    ((name, rule),) = cluster.rules("research").items()
    assert name == "fabric-job-research.ember"
    assert rule.metadata.labels["release"] == "prometheus"
    (owner,) = rule.metadata.ownerReferences
    known = cluster.client.get(Job, "ember", namespace="research")
    assert (owner.kind, owner.name, owner.uid) == ("Job", "ember", known.metadata.uid)
    text = service.client("reader", "me").get("/v1/jobs/research.ember/rules").text
    assert yaml.safe_load(text) == {"groups": rule["spec"]["groups"]}
    cluster.end("research", "ember")
    until(lambda: containers(service, "research.ember") is None, 40)
    until(lambda: not cluster.rules("research"))
    # Its exporters have no plan of it, so that their series of it are gone too (tests/unit/test_service_agents.py).
    agent = service.client("agent", HOSTS[0])
    assert agent.get(f"/v1/agents/{HOSTS[0]}/plans/research.ember").status_code == 404
    assert "research.ember" not in agent.get(f"/v1/agents/{HOSTS[0]}/plans").text


def test_a_service_that_starts_again_leaves_jobs_and_rules_as_they_are(
    cluster: Cluster, service: RunningService
) -> None:
    run(cluster, "ember", "lasting", HOSTS[0], HOSTS[-1])
    until(lambda: made(cluster, "lasting"), 15)
    before, reader = made(cluster, "lasting"), service.client("reader", "me")
    began = decoded(reader.get("/v1/jobs/lasting.ember"))["began"]
    service.process.kill()
    service.process.wait()
    service.start()
    assert decoded(reader.get("/v1/jobs/lasting.ember"))["began"] == began
    time.sleep(4)
    assert decoded(reader.get("/v1/jobs/lasting.ember"))["began"] == began
    assert "job has ended" not in service.log
    assert made(cluster, "lasting") == before

    service.process.kill()
    service.process.wait()
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        (service.directory / name).unlink(missing_ok=True)
    service.settings["rules"]["after_seconds"] = 5
    service.configure()
    service.start()
    assert reader.get("/v1/jobs/lasting.ember").status_code == 200, "known before anybody is answered"
    time.sleep(8)
    assert made(cluster, "lasting") == before
    assert "rules removed" not in service.log


def test_a_job_whose_pods_are_made_again_is_the_same_job(cluster: Cluster, service: RunningService) -> None:
    run(cluster, "ember", "again", HOSTS[0], HOSTS[-1])
    reader = service.client("reader", "me")
    until(lambda: made(cluster, "again"), 15)
    began = decoded(reader.get("/v1/jobs/again.ember"))["began"]
    for pod in cluster.client.list(Pod, namespace="again"):
        cluster.client.delete(Pod, pod.metadata.name, namespace="again", grace_period=0)
    cluster.schedule("again", [HOSTS[1], HOSTS[-1]], pods=2)
    until(lambda: containers(service, "again.ember") == sorted([HOSTS[1], HOSTS[-1]]), 15)
    assert decoded(reader.get("/v1/jobs/again.ember"))["began"] == began


def test_rules_that_somebody_took_away_come_back_and_those_of_no_job_go(
    cluster: Cluster, service: RunningService
) -> None:
    run(cluster, "ember", "swept", HOSTS[0], HOSTS[-1])
    until(lambda: made(cluster, "swept"), 15)
    (rule,) = cluster.rules("swept").values()
    other = {**rule.to_dict(), "metadata": {**rule.to_dict()["metadata"], "name": "of-another-day"}}
    other["metadata"]["annotations"] = {"fabric-skeleton/job": "swept.gone"}
    for name in ("uid", "resourceVersion", "managedFields", "creationTimestamp", "generation", "ownerReferences"):
        other["metadata"].pop(name, None)
    cluster.apply(other)
    foreign = {**other, "metadata": {**other["metadata"], "name": "of-another", "labels": {}}}
    cluster.apply(foreign)
    cluster.client.delete(type(rule), rule.metadata.name, namespace="swept")
    until(lambda: set(made(cluster, "swept")) == {rule.metadata.name, "of-another"}, 90)
    assert "rules removed: of no job that runs rules=swept/of-another-day" in service.log


def test_what_one_pod_says_hides_no_other(cluster: Cluster, service: RunningService) -> None:
    namespace = cluster.namespace("hostile")
    path = f"/api/v1/namespaces/{namespace}/pods"
    container = {"name": "a", "image": "b"}
    metadata = {"name": "odd", "labels": {"job-name": "odd"}, "annotations": {"a": f"a{NEXT_LINE}b"}}
    cluster.post(path, {"metadata": metadata, "spec": {"containers": [container]}})
    run(cluster, "ember", "research-2", HOSTS[0], HOSTS[-1])
    until(lambda: containers(service, "research-2.ember"), 15)
    assert "cannot be" not in service.log


def test_changes_are_told_again_once_the_api_server_is_back(cluster: Cluster, service: RunningService) -> None:
    run(cluster, "before", "outage", HOSTS[0], HOSTS[-1])
    until(lambda: containers(service, "outage.before"), 15)
    cluster.restart_server()
    run(cluster, "after", "outage", HOSTS[1], HOSTS[2])
    until(lambda: containers(service, "outage.after"), 40)
    assert containers(service, "outage.before")
    assert service.client("reader", "me").get("/metrics").text.count("fabric_service_refused_pod_jobs 0.0") == 1


def test_a_namespace_that_may_not_be_read_keeps_nothing_from_others(cluster: Cluster, tmp_path: Path) -> None:
    open_, closed = cluster.namespace("open"), cluster.namespace("closed")
    account = cluster.config("limited", cluster.token(open_, "limited"), open_)
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    rules = {"apiGroups": ["monitoring.coreos.com"], "resources": ["prometheusrules"],
             "verbs": ["get", "list", "create", "patch", "delete"]}  # fmt: skip
    api = "rbac.authorization.k8s.io"
    cluster.apply(
        {
            "apiVersion": f"{api}/v1", "kind": "Role", "metadata": {"name": "r", "namespace": open_},
            "rules": [rule, rules],
        },
        {
            "apiVersion": f"{api}/v1", "kind": "RoleBinding", "metadata": {"name": "r", "namespace": open_},
            "roleRef": {"apiGroup": api, "kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "limited", "namespace": open_}],
        },
    )  # fmt: skip
    for host in HOSTS:
        cluster.node(host)
    run(cluster, "ember", open_, HOSTS[0], HOSTS[-1])
    running = RunningService(
        tmp_path, ready_seconds=90, kubernetes={"kubeconfig": str(account), "namespaces": [open_, closed]},
        rules={"objects": {}, "after_seconds": 0},
    )  # fmt: skip
    try:
        until(lambda: containers(running, "open.ember"))
        until(lambda: made(cluster, open_))
        assert "closed" in running.log
        assert "says 403" in running.log
        assert "fabric_service_refused_pod_jobs 3.0" in running.client("reader", "me").get("/metrics").text
    finally:
        assert running.stop() == 0, running.log
