"""The exporter itself on two hosts of the guest: configuration and plan in, metrics and probe records out."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.codec import encode, write
from exporter.contracts.plan import Plan
from lab.guest.network import Fabric, Port
from tests.rdma.guest.hosts import target, until


class Exporter:
    """``fabric-exporter run`` with one RNIC."""

    def __init__(self, directory: Path, port: Port, listen: int) -> None:
        directory.mkdir()
        (directory / "key").write_bytes(b"k" * 32)
        self.plan = directory / "plan.json"
        self._url = f"http://127.0.0.1:{listen}"
        configuration = {
            "host": directory.name,
            "listen": {"address": "127.0.0.1", "port": listen},
            "plan": "plan.json",
            "rnics": [{"name": port.device, "ip": port.address, "netdev": port.netdev}],
            "probing": {"key_file": "key", "responder_port": 10_000 + listen},
            "rdma": {},
            "throughput": {"step_seconds": 0.2},
        }
        config = directory / "config.yaml"
        config.write_text(yaml.safe_dump(configuration))
        self._process = subprocess.Popen([sys.executable, "-m", "exporter.cli", "run", "--config", str(config)])

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(self._url + path, timeout=5) as answer:  # noqa: S310 - our own server
                return str(answer.read().decode())
        except OSError:
            return ""

    def value(self, name: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(20)


@pytest.mark.timeout(80)
def test_rdma_and_udp_paths_of_one_plan(fabric: Fabric, tmp_path: Path) -> None:
    near, far = fabric.ports
    with ExitStack() as stack:
        here, there = Exporter(tmp_path / "here", near, 9105), Exporter(tmp_path / "there", far, 9106)
        for each in (here, there):
            stack.callback(each.stop)
        until(lambda: here.value("fabric_rdma_up", rnic="rxe0") == 1 == there.value("fabric_rdma_up", rnic="rxe1"), 40)
        rdma = target(near, far, period=0.05)
        plan = Plan(
            version=1, job="j", job_uid=None, phase="skeleton", generation=1, expires=9e9, targets=(rdma,)
        )  # fmt: skip
        write(here.plan, encode(plan))
        until(lambda: (here.value("fabric_rtt_seconds_count", probe="rdma") or 0) >= 20, 30)
        assert here.value("fabric_path_probes_lost_total", path=rdma.path, probe="rdma") == 0
        assert here.value("fabric_job_path_info", path=rdma.path, training_job="j") == 1
        assert here.value("fabric_path_info", path=rdma.path, dscp="26", source_port="50000") == 1
        rows = list(csv.DictReader(io.StringIO(here.get("/v1/probe-records"))))
        assert {row["task_type"] for row in rows} == {"RDMA_PING"}
        assert {(row["dial"], row["dst_ip"], row["dst_port"]) for row in rows} == {("success", far.address, "4791")}
        text = here.get("/metrics")
        assert text.count("# TYPE fabric_path_probes_sent_total ") == 1
