"""A job that the service watches: from all pairs of a rail to the pairs that talk, and its rules with it."""

from __future__ import annotations

import csv
import http.server
import io
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest
import yaml

from exporter.contracts.skeleton import Skeleton
from lab.simulator import CASES, Simulation, simulate
from tests.unit.running import until
from tests.unit.serving import RunningService, decoded

HOSTS = 9


class Exporters(http.server.ThreadingHTTPServer):
    """What exporters of a simulated job serve as ``/HOST/v1/throughput``."""

    def __init__(self, simulation: Simulation) -> None:
        table = simulation.table()
        plain = [f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in table.schema]
        rows = table.cast(pa.schema(list(zip(table.column_names, plain, strict=True)))).to_pylist()
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            self.rows[row["host"]].append(row)
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Exporters)
        parts = urlsplit(self.path)
        host = parts.path.split("/")[1]
        (job,) = parse_qs(parts.query)["job"]
        rows = [row for row in server.rows.get(host, ()) if row["job"] == job]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(next(iter(server.rows.values()))[0]))
        writer.writeheader()
        writer.writerows(rows)
        body = text.getvalue().encode()
        self.send_response(200 if host in server.rows else 404)
        self.send_header("Content-Type", "text/csv")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(CASES["1f1b"], 50_001, hosts=HOSTS, seconds=600)


@pytest.fixture
def exporters(simulation: Simulation) -> Iterator[Exporters]:
    server = Exporters(simulation)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def service(tmp_path: Path, simulation: Simulation, exporters: Exporters) -> Iterator[RunningService]:
    inference = {
        "exporters": f"http://127.0.0.1:{exporters.server_port}/{{host}}", "after_seconds": 10, "every_seconds": 10,
    }  # fmt: skip
    running = RunningService(
        tmp_path, simulation.topology, inference=inference, rules={"directory": "rules", "after_seconds": 0}
    )
    yield running
    assert running.stop() == 0, running.log


def document(truth: Skeleton) -> dict[str, Any]:
    members: dict[tuple[str, str], list[str]] = defaultdict(list)
    for end in truth.endpoints:
        members[end.container, end.host].append(end.rnic)
    containers = [
        {"name": name, "host": host, "rnics": rnics, "rank": rank}
        for rank, ((name, host), rnics) in enumerate(members.items())
    ]
    return {"version": 1, "job": truth.job, "containers": containers}


def test_a_job_is_planned_for_whom_its_traffic_connects(service: RunningService, simulation: Simulation) -> None:
    truth, rules = simulation.truth, service.directory / "rules"
    operator, path = service.client("operator", "ci"), f"/v1/jobs/{truth.job}"
    assert operator.put(path, json=document(truth)).status_code == 200
    until(lambda: len(list(rules.glob("*.yaml"))) == 1)
    assert "job_stage:fabric_skeleton_rnics:count" not in operator.get(f"{path}/rules").text
    assert operator.get(f"{path}/skeleton").status_code == 404
    before = {(each["source"], each["destination"]) for each in decoded(operator.get(f"{path}/plan"))["targets"]}
    until(lambda: operator.get(f"{path}/skeleton").status_code == 200, 60)
    found = decoded(operator.get(f"{path}/skeleton"))
    assert {frozenset(group["members"]) for group in found["groups"]} == {
        frozenset(group.members) for group in truth.groups
    }
    assert {end["rank"] for end in found["endpoints"]} == set(range(HOSTS))
    assert decoded(operator.get(path))["phase"] == "skeleton"
    after = {(each["source"], each["destination"]) for each in decoded(operator.get(f"{path}/plan"))["targets"]}
    assert len(after) < 0.7 * len(before)
    until(lambda: "job_stage:fabric_skeleton_rnics:count" in operator.get(f"{path}/rules").text)
    (file,) = rules.glob("*.yaml")
    groups = yaml.safe_load(file.read_text())["groups"]
    assert {group["name"].rpartition("-")[0] for group in groups} == {f"fabric-job-{truth.job}"}

    service.process.kill()
    service.process.wait()
    written = file.stat().st_mtime_ns
    (rules / "of-somebody-else.yaml").write_text("groups: []\n")
    service.start()
    until(lambda: operator.get(f"{path}/rules").status_code == 200)
    assert file.stat().st_mtime_ns == written, "rules of a job that goes on stay as they are"
    assert operator.delete(path).status_code == 204
    until(lambda: not file.exists())
    assert (rules / "of-somebody-else.yaml").exists()


def test_rules_of_a_job_that_ended_while_the_service_was_away_go(
    service: RunningService, simulation: Simulation
) -> None:
    truth, rules = simulation.truth, service.directory / "rules"
    service.client("operator", "ci").put(f"/v1/jobs/{truth.job}", json=document(truth))
    until(lambda: len(list(rules.glob("*.yaml"))) == 1)
    service.process.kill()
    service.process.wait()
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        (service.directory / name).unlink(missing_ok=True)
    service.start()
    until(lambda: not list(rules.glob("*.yaml")))
    assert "rules removed: of no job that runs" in service.log


def test_a_job_that_is_seen_in_part_keeps_all_of_its_paths(
    service: RunningService, simulation: Simulation, exporters: Exporters
) -> None:
    truth = simulation.truth
    del exporters.rows[truth.endpoints[0].host]
    operator, path = service.client("operator", "ci"), f"/v1/jobs/{truth.job}"
    operator.put(path, json=document(truth))
    before = decoded(operator.get(path))["generation"]
    until(lambda: "no skeleton: " in service.log, 60)
    assert decoded(operator.get(path))["generation"] == before
    assert operator.get(f"{path}/skeleton").status_code == 404
