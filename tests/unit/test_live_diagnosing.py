"""A job that Prometheus says is hurt is diagnosed from what its exporters tell, until nothing hurts it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from skeleton_service.live.diagnosing import hurt_most
from skeleton_service.live.verdict import questions, verdict
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
            assert scores(reader) == {}
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
