"""Rules in Mimir's ruler: against a stand-in that is as strict as the reference of its HTTP API says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from tests.unit.running import until
from tests.unit.serving import RunningService, job

TENANT, TOKEN = "fabric", "a-token"
MOST_GROUPS, MOST_RULES = 70, 20


class Mimir(ThreadingHTTPServer):
    """{namespace: {group: rules}} of one tenant; limits are those of a Mimir that nobody configured."""

    def __init__(self) -> None:
        self.rules: dict[str, dict[str, Any]] = {}
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def _parts(self) -> list[str] | None:
        prefix = "/prometheus/config/v1/rules"
        if self.headers["X-Scope-OrgID"] != TENANT or self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._answer(401, "no org id\n")
        if not self.path.startswith(prefix):
            return self._answer(404, "404 page not found\n")
        return [unquote(part) for part in self.path.removeprefix(prefix).split("/")[1:]]

    def _answer(self, status: int, body: str, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    @property
    def _rules(self) -> dict[str, dict[str, Any]]:
        assert isinstance(self.server, Mimir)
        return self.server.rules

    def do_GET(self) -> None:
        parts = self._parts()
        if parts is None:
            return None
        if not parts:
            if not self._rules:
                return self._answer(404, "no rule groups found\n")
            whole = {name: list(groups.values()) for name, groups in self._rules.items()}
            return self._answer(200, yaml.safe_dump(whole), "application/yaml")
        group = self._rules.get(parts[0], {}).get(parts[1])
        if group is None:
            return self._answer(404, "group does not exist\n")
        return self._answer(200, yaml.safe_dump(group), "application/yaml")

    def do_POST(self) -> None:
        parts = self._parts()
        if parts is None:
            return None
        (namespace,) = parts
        group = yaml.safe_load(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Content-Type"] != "application/yaml" or set(group) - {"name", "interval", "rules", "limit"}:
            return self._answer(400, "unable to decode rule group payload\n")
        if len(group["rules"]) > MOST_RULES:
            return self._answer(400, f"per-user rules per rule group limit (limit: {MOST_RULES}) exceeded\n")
        others = sum(len(groups) for groups in self._rules.values())
        if group["name"] not in self._rules.get(namespace, {}) and others >= MOST_GROUPS:
            return self._answer(400, f"per-user rule groups limit (limit: {MOST_GROUPS}) exceeded\n")
        self._rules.setdefault(namespace, {})[group["name"]] = group
        return self._answer(202, '{"status":"success"}', "application/json")

    def do_DELETE(self) -> None:
        parts = self._parts()
        if parts is None:
            return None
        groups = self._rules.get(parts[0], {})
        if parts[1] not in groups:
            return self._answer(404, "group does not exist\n")
        del groups[parts[1]]
        if not groups:
            del self._rules[parts[0]]
        return self._answer(202, '{"status":"success"}', "application/json")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def mimir() -> Iterator[Mimir]:
    server = Mimir()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def service(tmp_path: Path, mimir: Mimir) -> Iterator[RunningService]:
    (tmp_path / "token").write_text(TOKEN)
    where = {"url": f"http://127.0.0.1:{mimir.server_port}/prometheus", "tenant": TENANT, "token_file": "token"}
    running = RunningService(tmp_path, rules={"mimir": where, "after_seconds": 0})
    yield running
    assert running.stop() == 0, running.log
    assert "Traceback" not in running.log


def test_rules_come_with_a_job_and_go_with_it(service: RunningService, mimir: Mimir) -> None:
    operator = service.client("operator", "ci")
    mimir.rules["of-another"] = {"g": {"name": "g", "rules": []}}
    assert operator.put("/v1/jobs/ember", json=job("ember")).status_code == 200
    until(lambda: "fabric-skeleton.ember" in mimir.rules)
    until(lambda: operator.get("/v1/jobs/ember/rules").status_code == 200)
    groups = yaml.safe_load(operator.get("/v1/jobs/ember/rules").text)["groups"]
    assert {group["name"]: group for group in groups} == mimir.rules["fabric-skeleton.ember"]
    assert all(len(group["rules"]) <= MOST_RULES for group in groups)
    service.process.kill()
    service.process.wait()
    mimir.rules["fabric-skeleton.gone"] = {"g": {"name": "g", "rules": []}}
    service.start()
    until(lambda: "fabric-skeleton.gone" not in mimir.rules)
    assert set(mimir.rules) == {"of-another", "fabric-skeleton.ember"}
    assert operator.delete("/v1/jobs/ember").status_code == 204
    until(lambda: set(mimir.rules) == {"of-another"})


def test_jobs_beyond_the_limit_are_told_and_keep_nothing_from_others(service: RunningService, mimir: Mimir) -> None:
    operator = service.client("operator", "ci")
    mimir.rules["of-others"] = {str(number): {"name": str(number), "rules": []} for number in range(MOST_GROUPS - 5)}
    for number in range(2):
        assert operator.put(f"/v1/jobs/job-{number}", json=job(f"job-{number}")).status_code == 200
    until(lambda: "per-user rule groups limit" in service.log)
    assert "fabric_service_refused_rules 1.0" in operator.get("/metrics").text
    whole = [name for name, groups in mimir.rules.items() if name.startswith("fabric-skeleton.") and len(groups) >= 4]
    assert len(whole) == 1
    mimir.rules["of-others"].clear()
    until(lambda: "fabric_service_refused_rules 0.0" in operator.get("/metrics").text, 20)


def test_a_mimir_that_is_away_is_told_once_and_asked_again(service: RunningService, mimir: Mimir) -> None:
    (service.directory / "token").write_text("another")
    operator = service.client("operator", "ci")
    assert operator.put("/v1/jobs/ember", json=job("ember")).status_code == 200
    until(lambda: "Mimir says 401" in service.log)
    (service.directory / "token").write_text(TOKEN)
    until(lambda: "fabric-skeleton.ember" in mimir.rules, 20)
