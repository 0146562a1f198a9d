"""A service that is treated badly: by strangers, by agents, by its disk, and by its own processes that die."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml

from skeleton_service.live.connections import MOST_HEADER_BYTES
from tests.unit.fabrics import leaf_spine
from tests.unit.running import until
from tests.unit.serving import RunningService, decoded, job

LARGE = leaf_spine(pods=8, rails=8, hosts_per_pod=64)
"""Its topology does not fit into a pipe."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    running = RunningService(tmp_path)
    yield running
    assert running.stop() == 0, running.log


def well(service: RunningService) -> bool:
    return service.client().get("/healthz").status_code == 200


def memory(service: RunningService) -> int:
    """Bytes of the process that answers."""
    return int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children(service: RunningService) -> list[int]:
    task = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    return list(map(int, task.read_text().split()))


@pytest.mark.parametrize("piece", [b"a: b\r\n" * 1000, b"x" * 6000], ids=["headers", "url"])
def test_a_stranger_is_not_read_without_end(service: RunningService, piece: bytes) -> None:
    before = memory(service)
    with socket.create_connection(("127.0.0.1", service.port), 5) as stranger:
        stranger.sendall(b"GET /" if piece[:1] == b"x" else b"GET / HTTP/1.1\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            stranger.sendall(piece * 2000)
    assert memory(service) - before < 100 * MOST_HEADER_BYTES
    assert well(service)


def test_who_says_nothing_is_hung_up_on(service: RunningService) -> None:
    with (
        socket.create_connection(("127.0.0.1", service.port), 20) as silent,
        socket.create_connection(("127.0.0.1", service.port), 20) as slow,
    ):
        slow.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost:")
        begun = time.monotonic()
        for each in (silent, slow):
            with suppress(ConnectionResetError):
                assert each.recv(100) == b""
        assert 8 < time.monotonic() - begun < 15


@pytest.mark.parametrize(
    "body", [b'{"x": ' + b"[" * 60_000, b'{"version": "\xff", "boot_epoch": 1}', b"\xff\xfe", b""], ids=range(4)
)
def test_bodies_that_nobody_can_read_are_refused(service: RunningService, body: bytes) -> None:
    agent = service.client("agent", "host-p0-0")
    answer = agent.put("/v1/agents/host-p0-0", content=body)
    assert answer.status_code == 400, answer.text
    assert decoded(answer)["error"]
    large = agent.put("/v1/agents/host-p0-0", content=b'{"boot_epoch": 1, "version": "' + b"v" * 100_000 + b'"}')
    assert large.status_code == 413


def test_one_agent_waits_a_few_times_at_once_and_no_more(service: RunningService) -> None:
    agent, path = service.client("agent", "host-p0-0"), "/v1/agents/host-p0-0/plans"
    tag = agent.get(path).headers["etag"]
    answers: list[httpx.Response] = []

    def wait() -> None:
        headers = {"If-None-Match": f"W/{tag}"}
        answers.append(service.client("agent", "host-p0-0").get(path, params={"wait": 8}, headers=headers))

    threads = [threading.Thread(target=wait) for _ in range(12)]
    for each in threads:
        each.start()
    until(lambda: len(answers) == 8)
    assert {each.status_code for each in answers} == {304}
    for each in threads:
        each.join()


def test_a_planner_that_dies_as_it_starts_holds_nobody_up(tmp_path: Path) -> None:
    service = RunningService(tmp_path, LARGE)
    try:
        for _ in range(5):
            for child in children(service):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            assert well(service)
            time.sleep(0.05)
        operator = service.client("operator", "ci")
        until(lambda: operator.put("/v1/jobs/j", json=job()).status_code == 200, 20)
    finally:
        assert service.stop() == 0, service.log


def test_a_state_that_somebody_holds_is_told_and_waited_for(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    service = RunningService(tmp_path, jobs="jobs")
    try:
        holder = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        (jobs / "j.yaml").write_text(yaml.safe_dump(job()))
        answer = service.client("agent", "host-p0-0").put(
            "/v1/agents/host-p0-0", json={"boot_epoch": 1, "version": "1"}
        )
        assert answer.status_code == 503
        assert "database is locked" in decoded(answer)["error"]
        assert "retry-after" in answer.headers
        until(lambda: "job refused" in service.log)
        holder.execute("ROLLBACK")
        holder.close()
        until(lambda: service.client("reader", "x").get("/v1/jobs/j").status_code == 200, 15)
    finally:
        assert service.stop() == 0, service.log


def test_one_state_is_one_services(service: RunningService) -> None:
    other = service.directory / "other"
    other.mkdir()
    with pytest.raises(AssertionError, match="another service has it"):
        RunningService(other, state=str(service.directory / "state.db"))


def test_a_job_file_that_was_refused_is_taken_once_the_topology_has_its_hosts(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "j.yaml").write_text(yaml.safe_dump(job(hosts=("host-p0-0", "host-p1-x"))))
    service = RunningService(tmp_path, jobs="jobs")
    try:
        reader = service.client("reader", "x")
        until(lambda: "'host-p1-x' of container" in service.log)
        time.sleep(2)
        assert service.log.count("'host-p1-x' of container") == 1
        topology = tmp_path / "topology.json"
        topology.write_bytes(topology.read_bytes().replace(b"host-p1-0", b"host-p1-x"))
        service.process.send_signal(signal.SIGHUP)
        until(lambda: reader.get("/v1/jobs/j").status_code == 200)
    finally:
        assert service.stop() == 0, service.log


def test_plans_follow_a_topology_that_is_taken_anew(service: RunningService, tmp_path: Path) -> None:
    service.client("operator", "ci").put("/v1/jobs/j", json=job())
    agent = service.client("agent", "host-p0-0")
    topology = tmp_path / "topology.json"
    topology.write_bytes(topology.read_bytes().replace(b"10.1.0.1", b"10.1.0.77"))
    service.configure(plans={"valid_seconds": 86400})
    service.process.send_signal(signal.SIGHUP)
    until(lambda: b"10.1.0.77" in agent.get("/v1/agents/host-p0-0/plans/j").content)
    assert decoded(service.client("reader", "x").get("/v1/jobs/j"))["expires"] > time.time() + 80_000


def test_before_job_files_were_looked_at_no_agent_is_told_that_it_has_no_plans(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    for number in range(30):
        (jobs / f"{number}.yaml").write_text(yaml.safe_dump(job(f"j{number}")))
    service = RunningService(tmp_path, jobs="jobs")
    try:
        seen = set()
        service.process.kill()
        service.process.wait()
        for name in ("state.db", "state.db-wal", "state.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        watching = threading.Event()

        def watch() -> None:
            agent = service.client("agent", "host-p0-0")
            while not watching.is_set():
                try:
                    answer = agent.get("/v1/agents/host-p0-0/plans")
                    seen.add((answer.status_code, len(decoded(answer).get("plans", ()))))
                except httpx.TransportError:
                    pass

        thread = threading.Thread(target=watch)
        thread.start()
        service.start()
        watching.set()
        thread.join()
        assert seen <= {(503, 0), (200, 30)}
    finally:
        assert service.stop() == 0, service.log


def test_names_that_no_url_can_hold_are_refused(service: RunningService) -> None:
    operator = service.client("operator", "ci")
    for name in ("a/b", "..", ".", "a b", "a\n", "", "x" * 254):
        assert operator.put("/v1/jobs/j", json=job(name)).status_code == 400
    assert operator.put("/v1/jobs/a:b@c", json=job("a:b@c")).status_code == 200
    assert service.client("agent", "host-p0-0").get("/v1/agents/host-p0-0/plans/a:b@c").status_code == 200


def test_who_asked_for_what_is_in_the_log_and_nobody_writes_lines_into_it(service: RunningService) -> None:
    operator = service.client("operator", "ci\n2026-01-01T00:00:00.000Z info forged")
    operator.put("/v1/jobs/j", json=job())
    assert " info asked for job=j by=ci\N{REPLACEMENT CHARACTER}2026" in service.log
    assert not [line for line in service.log.splitlines() if line.startswith("2026-01-01")]
