"""The exporter itself on two hosts of the guest: configuration and plan in, metrics and probe records out."""

from __future__ import annotations

import csv
import io
import json
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
from exporter.contracts.topology import Topology
from lab.guest.network import Fabric, Port
from tests.rdma.guest.hosts import target, until
from tests.rdma.guest.spines import topology


class Exporter:
    """``fabric-exporter run`` with one RNIC."""

    def __init__(self, directory: Path, port: Port, listen: int, topology: Topology | None = None) -> None:
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
            "rdma": {"reliable": {"period_seconds": 2}},
            "throughput": {"step_seconds": 0.2},
        }
        if topology is not None:
            write(directory / "topology.json", encode(topology))
            configuration["topology"] = "topology.json"
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


@pytest.mark.virtual_time  # on the guest's one processor four exporters starve each other: no round trip would be sure
@pytest.mark.timeout(80)
def test_rdma_and_udp_paths_of_one_plan(either: Fabric, tmp_path: Path) -> None:
    near, far = either.ports
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
        until(lambda: (here.value("fabric_rdma_reliable_operations_total", operation="read") or 0) > 2, 30)
        assert here.value("fabric_rdma_reliable_connected", src_rnic="rxe0", destination=far.address, dscp="26") == 1
        assert there.value("fabric_rdma_reliable_served", rnic="rxe1") == 1
        rows = list(csv.DictReader(io.StringIO(here.get("/v1/probe-records"))))
        assert {row["task_type"] for row in rows} == {"RDMA_PING"}
        assert {(row["dial"], row["dst_ip"], row["dst_port"]) for row in rows} == {("success", far.address, "4791")}
        text = here.get("/metrics")
        assert text.count("# TYPE fabric_path_probes_sent_total ") == 1


@pytest.mark.virtual_time
@pytest.mark.timeout(80)
def test_an_rdma_path_has_its_links_on_the_page_and_its_route_in_the_records(spined: Fabric, tmp_path: Path) -> None:
    near, far = spined.ports
    with ExitStack() as stack:
        here = Exporter(tmp_path / "h0", near, 9105, topology(spined))
        there = Exporter(tmp_path / "h1", far, 9106)
        for each in (here, there):
            stack.callback(each.stop)
        until(lambda: here.value("fabric_rdma_up", rnic="rxe0") == 1 == there.value("fabric_rdma_up", rnic="rxe1"), 40)
        rdma = target(near, far, 49_153, period=0.1)
        plan = Plan(
            version=1, job="j", job_uid=None, phase="skeleton", generation=1, expires=9e9, targets=(rdma,)
        )  # fmt: skip
        write(here.plan, encode(plan))
        until(lambda: here.value("fabric_path_link_info", path=rdma.path), 40)
        page = here.get("/metrics")
        links = {
            sample.labels["link"]
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "fabric_path_link_info" and sample.labels["path"] == rdma.path
        }
        assert len(links) == 4
        assert here.value("fabric_path_route_hash", path=rdma.path)
        assert here.value("fabric_exporter_rdma_traces_total") == 1
        assert page.count("# TYPE fabric_path_link_info ") == 1
        rows = csv.DictReader(io.StringIO(here.get("/v1/probe-records")))
        (trace,) = [row for row in rows if row["task_type"] == "TRACEROUTE"]
        assert (trace["dst_port"], trace["src_port"], trace["dial"]) == ("4791", "49153", "success")
        assert len(json.loads(trace["route"])) == 3
