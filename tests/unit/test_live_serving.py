"""The service as it runs: asked over HTTP by agents, people and strangers, and started again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.plan import Plan, check_plan
from exporter.contracts.service_metrics import SERVED, SUSPECT_SCORE
from tests.unit.running import until
from tests.unit.serving import RunningService, decoded, job


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    running = RunningService(tmp_path)
    yield running
    assert running.stop() == 0, running.log


def plan_of(service: RunningService, host: str, name: str = "j") -> Plan:
    answer = service.client("agent", host).get(f"/v1/agents/{host}/plans/{name}")
    assert answer.status_code == 200, answer.text
    plan = msgspec.json.decode(answer.content, type=Plan)
    check_plan(plan, "plan")
    return plan


def test_a_job_reaches_the_agents_of_its_hosts_and_no_others(service: RunningService) -> None:
    with service.client("operator", "ci") as operator:
        answer = operator.put("/v1/jobs/j", json=job())
        assert answer.status_code == 200, answer.text
        assert decoded(answer)["phase"] == "preload"
    plan = plan_of(service, "host-p0-0")
    ends = {(target.source_address, target.destination_address) for target in plan.targets}
    assert ends >= {(f"10.0.0.{rail}", f"10.1.0.{rail}") for rail in (1, 2)}
    assert {(source[:6], destination[:6]) for source, destination in ends} == {("10.0.0", "10.1.0")}
    assert plan.expires > time.time() + 3000
    other = service.client("agent", "host-p0-1").get("/v1/agents/host-p0-1/plans")
    assert decoded(other)["plans"] == []


def test_a_long_poll_ends_when_there_is_another_plan_and_not_before(service: RunningService) -> None:
    agent, host = service.client("agent", "host-p0-0"), "/v1/agents/host-p0-0/plans"
    tag = agent.get(host).headers["etag"]
    begun = time.monotonic()
    quiet = agent.get(host, params={"wait": 0.5}, headers={"If-None-Match": tag})
    assert quiet.status_code == 304
    assert 0.5 <= time.monotonic() - begun < 3
    found: list[object] = []

    def wait() -> None:
        answer = agent.get(host, params={"wait": 20}, headers={"If-None-Match": tag})
        found.extend((time.monotonic(), decoded(answer)))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.5)
    assert not found
    operator = service.client("operator", "ci")
    operator.put("/v1/jobs/j", json=job())
    made = time.monotonic()
    waiting.join(10)
    woken, told = found
    assert isinstance(woken, float)
    assert woken - made < 1
    assert [each["job"] for each in told["plans"]] == ["j"]  # type: ignore[index]
    assert operator.delete("/v1/jobs/j").status_code == 204
    assert decoded(agent.get(host))["plans"] == []
    assert agent.get(f"{host}/j").status_code == 404


def test_nobody_learns_or_does_what_is_not_theirs(service: RunningService) -> None:
    service.client("operator", "ci").put("/v1/jobs/j", json=job())
    agent = service.client("agent", "host-p0-0")
    registration = {"boot_epoch": 1, "version": "1"}
    for who, method, path, status in (
        (service.client(), "GET", "/v1/agents/host-p0-0/plans", 401),
        (service.client(), "GET", "/v1/jobs", 401),
        (agent, "GET", "/v1/agents/host-p1-0/plans", 403),
        (agent, "GET", "/v1/agents/host-p1-0/plans/j", 403),
        (agent, "PUT", "/v1/agents/host-p1-0", 403),
        (agent, "GET", "/v1/jobs", 403),
        (agent, "PUT", "/v1/jobs/k", 403),
        (agent, "DELETE", "/v1/jobs/j", 403),
        (service.client("reader", "grafana"), "PUT", "/v1/jobs/k", 403),
        (service.client("reader", "grafana"), "DELETE", "/v1/jobs/j", 403),
        (service.client("reader", "grafana"), "GET", "/v1/agents/host-p0-0/plans", 403),
        (service.client("operator", "ci"), "GET", "/v1/agents/host-p0-0/plans", 403),
        (service.client("reader", "grafana"), "GET", "/v1/jobs/j", 200),
        (agent, "PUT", "/v1/agents/host-p0-0", 204),
    ):
        body = {"PUT": job("k") if "jobs" in path else registration}.get(method)
        assert who.request(method, path, json=body).status_code == status, (method, path)
    expired = service.client()
    expired.headers["Authorization"] = f"Bearer {service.token('reader', 'x', -300)}"
    answer = expired.get("/v1/jobs")
    assert (answer.status_code, decoded(answer)["error"]) == (401, "the bearer token has expired")


def test_a_wrong_job_is_refused_with_its_remedy(service: RunningService) -> None:
    operator = service.client("operator", "ci")
    answer = operator.put("/v1/jobs/j", json=job(hosts=("host-p0-0", "host-p9-9")))
    assert answer.status_code == 400
    assert decoded(answer) == {
        "error": "job j: host 'host-p9-9' of container 'j-host-p9-9' is not in the topology",
        "remedy": "add it, or correct the job",
    }
    assert operator.put("/v1/jobs/k", json=job()).status_code == 400
    assert operator.put("/v1/jobs/j", content=b"{").status_code == 400
    assert operator.get("/v1/jobs/j").status_code == 404


def test_what_was_answered_survives_a_kill(service: RunningService) -> None:
    service.client("operator", "ci").put("/v1/jobs/j", json=job())
    before = plan_of(service, "host-p0-0")
    tag = service.client("agent", "host-p0-0").get("/v1/agents/host-p0-0/plans").headers["etag"]
    service.process.kill()
    service.process.wait()
    service.start()
    assert plan_of(service, "host-p0-0") == before
    assert service.client("agent", "host-p0-0").get("/v1/agents/host-p0-0/plans").headers["etag"] == tag


def test_a_keys_file_that_is_rotated_counts_at_once(service: RunningService) -> None:
    old = service.client("reader", "grafana")
    path = service.directory / "keys"
    before = path.read_text()
    path.write_text("n" * 40 + "\n" + before)
    until(lambda: "keys read anew" in service.log)
    assert old.get("/v1/jobs").status_code == 200
    path.write_text("short\n")
    until(lambda: "fewer than 32 bytes" in service.log)
    assert old.get("/v1/jobs").status_code == 200
    path.write_text("n" * 40)
    until(lambda: service.log.count("keys read anew") == 2)
    assert old.get("/v1/jobs").status_code == 401


def test_jobs_of_files_begin_and_end_with_them(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "j.yaml").write_text(yaml.safe_dump(job()))
    service = RunningService(tmp_path, jobs="jobs")
    try:
        reader, operator = service.client("reader", "x"), service.client("operator", "ci")
        until(lambda: [each["source"] for each in decoded(reader.get("/v1/jobs"))] == ["file"])
        assert operator.delete("/v1/jobs/j").status_code == 409
        (jobs / "j.yaml").write_text(yaml.safe_dump(job(hosts=("host-p0-0", "host-p0-1", "host-p1-0"))))
        until(lambda: decoded(reader.get("/v1/jobs/j"))["containers"] == 3)
        (jobs / "j.yaml").write_text("nonsense: [")
        until(lambda: "job refused" in service.log)
        assert decoded(reader.get("/v1/jobs/j"))["containers"] == 3
        (jobs / "j.yaml").unlink()
        until(lambda: decoded(reader.get("/v1/jobs")) == [])
    finally:
        assert service.stop() == 0, service.log


def test_a_topology_is_taken_anew_and_a_wrong_one_changes_nothing(service: RunningService) -> None:
    operator = service.client("operator", "ci")
    topology = service.directory / "topology.json"
    good = topology.read_bytes()
    topology.write_bytes(b"{")
    service.process.send_signal(signal.SIGHUP)
    until(lambda: "not reloaded" in service.log)
    assert operator.put("/v1/jobs/j", json=job()).status_code == 200
    topology.write_bytes(good.replace(b"host-p1-0", b"host-p1-x"))
    service.configure(metrics_protected=True)
    service.process.send_signal(signal.SIGHUP)
    until(lambda: "info reloaded" in service.log)
    assert "'metrics_protected' is another now: that needs a start" in service.log
    assert operator.put("/v1/jobs/k", json=job("k")).status_code == 400
    assert operator.put("/v1/jobs/k", json=job("k", ("host-p0-0", "host-p1-x"))).status_code == 200


def test_what_a_job_does_not_have_is_said_with_what_makes_it_come(service: RunningService) -> None:
    service.client("operator", "ci").put("/v1/jobs/j", json=job())
    reader = service.client("reader", "me")
    for what, remedy in (("skeleton", "inference"), ("rules", "rules"), ("diagnosis", "diagnosis")):
        answer = reader.get(f"/v1/jobs/j/{what}")
        assert (answer.status_code, decoded(answer)["remedy"]) == (404, f"add a section '{remedy}'")
        assert decoded(reader.get(f"/v1/jobs/k/{what}"))["error"] == "no job k runs"


def test_a_planner_that_dies_is_started_again(service: RunningService) -> None:
    operator = service.client("operator", "ci")
    operator.put("/v1/jobs/j", json=job())
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    assert operator.put("/v1/jobs/k", json=job("k")).status_code == 200


def samples(text: str) -> dict[str, float]:
    return {
        sample.name
        + "".join(f"|{value}" for name, value in sorted(sample.labels.items()) if name != "le"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_it_tells_of_itself(service: RunningService) -> None:
    operator = service.client("operator", "ci")
    operator.put("/v1/jobs/j", json=job())
    operator.put("/v1/jobs/k", json=job("k", ("host-p9-9",)))
    service.client().get("/v1/jobs")
    text = service.client().get("/metrics").text
    found = samples(text)
    assert found["fabric_service_requests_total|put_job|200"] == 1
    assert found["fabric_service_requests_total|put_job|400"] == 1
    assert found["fabric_service_requests_total|jobs|401"] == 1
    assert found["fabric_service_jobs"] == found["fabric_service_plans_total"] == 1
    assert found["fabric_service_plan_failures_total"] == 1
    assert found["fabric_service_plan_duration_seconds_count"] == 1
    assert abs(found["fabric_service_plan_expires_timestamp_seconds"] - time.time() - 3600) < 60
    ours = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE fabric_")}
    assert ours == {metric.name for metric in SERVED} - {SUSPECT_SCORE.name}, "which takes a section 'diagnosis'"


def test_what_it_tells_of_itself_can_be_protected(tmp_path: Path) -> None:
    service = RunningService(tmp_path, metrics_protected=True)
    try:
        assert service.client().get("/metrics").status_code == 401
        assert service.client("agent", "host-p0-0").get("/metrics").status_code == 403
        assert "fabric_service_jobs 0.0" in service.client("reader", "prometheus").get("/metrics").text
    finally:
        assert service.stop() == 0, service.log
