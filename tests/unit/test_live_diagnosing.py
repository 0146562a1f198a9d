"""A job that Prometheus says is hurt is diagnosed from what its exporters tell, until nothing hurts it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pyarrow as pa
import pytest

from exporter.contracts.diagnosis import Diagnosis
from skeleton_service.live.diagnosing import Diagnoses, hurt_most
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.follower import attributed, of_job
from skeleton_service.live.service import Service
from skeleton_service.live.settings import DiagnosisSettings
from skeleton_service.live.state import StoredJob
from skeleton_service.live.verdict import questions, verdict
from skeleton_service.reading import records
from tests.unit.followed import BROKEN, HOSTS, TOPOLOGY, World, serving
from tests.unit.recorded import AVAILABLE, prometheus
from tests.unit.running import until
from tests.unit.serving import RunningService, decoded
from tests.unit.test_changes import failure

PATH = f"{HOSTS[0]}:mlx5_0>{HOSTS[2]}:mlx5_0/udp/106/61000"
LOSES = (
    "job_path:fabric_path_forward_loss:ratio_rate",
    {"cluster": "c1", "training_job": "j", "path": PATH, "probe": "udp", "dscp": "26"},
    0.5,
)
ALL = {
    "version": 1,
    "job": "j",
    "containers": [{"name": f"c-{host}", "host": host, "rnics": ["mlx5_0"]} for host in HOSTS],
}


class Now(World):
    """By the clock of the machine."""

    def rows(self, host: str, since: float) -> Iterator[dict[str, Any]]:
        self.now = time.time()
        return super().rows(host, since)


def followers(service: RunningService) -> list[int]:
    listed = subprocess.run(
        ["pgrep", "--parent", str(service.process.pid), "--full", "live.follower"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [int(word) for word in listed.stdout.split()]


@pytest.mark.skipif(not AVAILABLE, reason="prometheus is not on PATH (apt: prometheus)")
def test_a_job_that_is_hurt_is_diagnosed_until_it_ends(tmp_path: Path) -> None:
    world = Now(broken=time.time() - 60, repaired=float("inf"))
    (tmp_path / "service").mkdir()
    with prometheus(tmp_path / "prometheus", [LOSES]) as asked, serving(world) as exporters:
        service = RunningService(
            tmp_path / "service",
            TOPOLOGY,
            prometheus={"url": asked},
            diagnosis={"exporters": f"{exporters}/{{host}}", "every_seconds": 1},
        )
        try:
            operator, reader = service.client("operator", "ci"), service.client("reader", "me")
            for name in ("j", "well"):
                renamed = [{**each, "name": f"{name}/{each['name']}"} for each in ALL["containers"]]
                told = ALL if name == "j" else {**ALL, "job": name, "containers": renamed}
                assert operator.put(f"/v1/jobs/{name}", json=told).status_code == 200

            def found() -> Any:
                answer = reader.get("/v1/jobs/j/diagnosis")
                return answer.status_code == 200 and decoded(answer)["failures"]

            until(lambda: bool(found()), 60)
            assert [each["component"]["name"] for each in found()] == [BROKEN]
            answer = decoded(reader.get("/v1/jobs/j/verdict"))
            assert answer["answer"] == "network"
            assert answer["summary"].startswith(f"link {BROKEN}: flap (")
            assert scores(reader)[f'component="{BROKEN}",kind="link",layer="underlay",training_job="j"'] > 0.5
            assert reader.get("/v1/jobs/well/diagnosis").status_code == 404
            assert f"found: flap: link {BROKEN}" in service.log

            (first,) = followers(service)
            os.kill(first, signal.SIGKILL)
            until(lambda: followers(service) not in ([], [first]))
            until(lambda: bool(found()), 60)

            assert operator.delete("/v1/jobs/j").status_code == 204
            until(lambda: not followers(service))
            until(lambda: scores(reader) == {})
            assert operator.put("/v1/jobs/j", json=ALL).status_code == 200
            until(lambda: bool(followers(service)))
            service.process.kill()
            service.process.wait()
            until(lambda: not still_there("live.follower"))
        finally:
            service.stop()
    assert "Traceback" not in service.log


def still_there(name: str) -> bool:
    return subprocess.run(["pgrep", "--full", name], capture_output=True, check=False).returncode == 0


def scores(reader: httpx.Client) -> dict[str, float]:
    lines = [line for line in reader.get("/metrics").text.splitlines() if line.startswith("fabric_suspect_score{")]
    return {line.partition("{")[2].rpartition("} ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def rows(*ends: tuple[str, str], job: str | None = None, task: str = "UDP_PING") -> pa.Table:
    given = [
        {"task_type": task, "src_node_sn": source, "src_rnic": "m", "dst_node_sn": far, "dst_rnic": "m", "job": job}
        for source, far in ends
    ]
    return pa.Table.from_pylist(given, pa.schema(list(records.KINDS.items())))


def test_records_are_of_the_host_that_was_asked_and_of_the_job_whose_rnics_they_join() -> None:
    rnics = frozenset({"a:m", "b:m"})
    shared = attributed(rows(("a", "b"), ("a", "c"), ("x", "b"), job="first"), "a", "j", rnics)
    assert shared.select(["src_node_sn", "dst_node_sn", "job"]).to_pylist() == [
        {"src_node_sn": "a", "dst_node_sn": "b", "job": "j"},
        {"src_node_sn": "a", "dst_node_sn": "c", "job": "first"},
    ]
    for said in ("j", None):
        assert attributed(rows(("a", "c"), job=said), "a", "j", rnics)["job"].to_pylist() == ["other jobs"]
    assert attributed(rows(("a", "r"), task="DNS"), "a", "j", rnics)["job"].to_pylist() == ["j"]


def test_a_name_without_end_is_left_out() -> None:
    table = rows(("a", "b"), ("a", "b"), task="DNS")
    names = pa.array(["r" * 70_000, "resolver"], pa.string())
    table = table.set_column(table.column_names.index("dst_node_id"), "dst_node_id", names)
    assert attributed(table, "a", "j", frozenset()).num_rows == 1


def test_what_is_told_is_of_the_job_and_bounded() -> None:
    many = [failure(f"f{number}", job="j", confidence=number / 100) for number in range(100)]
    told = of_job(Diagnosis(version=1, failures=(*many, failure("k", job="k"))), "j")
    assert [each.confidence for each in told.failures] == [number / 100 for number in range(99, 49, -1)]


class Says:
    """What hurts, as a test says."""

    def __init__(self) -> None:
        self.now: dict[str, int] = {}
        self.silent = False

    async def hurting(self) -> dict[str, int]:
        if self.silent:
            raise BrokenError("no answer")
        return self.now

    async def hurting_paths(self, _: str) -> list[str]:
        return []


class OfJobs:
    """A service that has these jobs."""

    def __init__(self, *names: str) -> None:
        document = msgspec.json.encode({"version": 1, "job": "j", "containers": [{"name": "c", "host": "absent"}]})
        self.jobs = [StoredJob(name, document, "api", 0.0, "preload", 1, 1e12, None, 1) for name in names]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are not started."""

    async def run(*_: object) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(Diagnoses, "_run", run)
    monkeypatch.setattr("skeleton_service.live.diagnosing._LAST_WORD_SECONDS", 0.01)


async def followed(diagnoses: Diagnoses) -> list[str]:
    await diagnoses.turn()
    return sorted(diagnoses._followed)


@pytest.mark.usefixtures("quiet")
def test_who_is_hurt_worst_is_diagnosed_and_stays_so_while_nobody_knows() -> None:
    says = Says()
    settings = DiagnosisSettings(exporters="http://{host}:1", jobs=1)
    diagnoses = Diagnoses(cast("Service", OfJobs("a", "b")), settings, says, b"")

    async def play() -> None:
        assert await followed(diagnoses) == []
        says.now = {"a": 10, "gone": 99}
        assert await followed(diagnoses) == ["a"]
        says.now = {"a": 10, "b": 15}
        assert await followed(diagnoses) == ["a"], "not by a little"
        says.silent = True
        assert await followed(diagnoses) == ["a"]
        says.silent, says.now = False, {"a": 10, "b": 25}
        assert await followed(diagnoses) == ["b"]

    asyncio.run(play())


def test_a_process_that_ends_at_once_is_started_less_and_less_often(caplog: pytest.LogCaptureFixture) -> None:
    says = Says()
    says.now = {"a": 1}
    topology = msgspec.msgpack.encode(TOPOLOGY)
    settings = DiagnosisSettings(exporters="http://{host}:1", jobs=1)
    diagnoses = Diagnoses(cast("Service", OfJobs("a")), settings, says, topology)

    async def play() -> None:
        await diagnoses.turn()
        task = diagnoses._followed["a"].task
        assert task is not None
        await asyncio.wait_for(task, 60)
        await diagnoses.turn()
        assert diagnoses._followed == {}
        assert diagnoses._pauses["a"][0] == 5.0
        diagnoses._pause("a", 1.0)
        assert diagnoses._pauses["a"][0] == 10.0

    caplog.set_level("INFO")
    asyncio.run(play())
    assert "host 'absent' of container 'c' is not in the topology" in caplog.text
    assert "the process that diagnosed it ended with 1" in caplog.text


@pytest.mark.usefixtures("quiet")
def test_what_was_found_long_ago_is_told_to_nobody() -> None:
    says = Says()
    says.now = {"a": 1}
    diagnoses = Diagnoses(cast("Service", OfJobs("a")), DiagnosisSettings(exporters="http://{host}:1"), says, b"")
    found = Diagnosis(version=1, failures=(failure(end=None),))
    diagnoses._found["a"] = time.monotonic(), found
    assert diagnoses.of("a") == found
    assert len(next(iter(diagnoses.collect())).samples) == 1
    diagnoses._found["a"] = time.monotonic() - 100, found
    assert diagnoses.of("a") is None
    assert next(iter(diagnoses.collect())).samples == []


def test_hosts_that_a_large_jobs_failing_paths_have_in_common_come_first() -> None:
    paths = ["c:m>b:m/udp/1/1", "c:m>a:m/udp/1/1", "no path", "d:m>c:m/udp/1/2"]
    assert hurt_most(["a", "b", "c", "d", "e"], paths, 3) == ["c", "a", "b"]
    assert hurt_most(["a", "b"], [], 64) == ["a", "b"]


@pytest.mark.parametrize(
    ("confidence", "layer", "answer"),
    [(0.9, "underlay", "network"), (0.9, "host", "unclear"), (0.4, "rnic", "unclear")],
)
def test_a_diagnosis_answers_where_no_alert_does(confidence: float, layer: str, answer: str) -> None:
    told: Any = {**dict.fromkeys(questions("j"), ()), "probed": [({}, 40.0)], "losing": [({}, 3.0)]}
    found = verdict("j", 4, told, 100.0, [failure(confidence=confidence, layer=layer)])
    assert found.answer == answer
    assert ("by probe records" in found.summary) == (confidence >= 0.5)
    assert found.failures[0].confidence == confidence
