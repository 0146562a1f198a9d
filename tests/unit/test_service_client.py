"""The exporter's talk with a service that answers as it likes."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter.contracts.plan import Plan
from exporter.service.client import Backoff, Client, Listed, PlanDirectory, UnansweredError
from exporter.service.process import take
from exporter.service.settings import Service, Told
from tests.unit.test_plan_contract import PLAN

Answer = tuple[int, dict[str, str], bytes]


class Odd(http.server.ThreadingHTTPServer):
    """Answers by ``answers``: {path without the host's part: what}."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.seconds = 0.0
        """Before each answer."""
        self.asked: list[tuple[str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Odd)
        server.asked.append((self.path, dict(self.headers)))
        time.sleep(server.seconds)
        status, headers, body = server.answers.get(self.path.removeprefix("/v1/agents/h"), (404, {}, b"{}"))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def odd() -> Iterator[Odd]:
    server = Odd()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def client(odd: Odd, tmp_path: Path) -> Client:
    (tmp_path / "token").write_text("secret-of-mine\n")
    url = f"http://127.0.0.1:{odd.server_port}"
    return Client(Service(url=url, plans=str(tmp_path / "plans"), token_file=str(tmp_path / "token")), "h")


def index(plans: dict[str, int], state: str = "s") -> bytes:
    return json.dumps({"state": state, "plans": [{"job": job, "generation": n} for job, n in plans.items()]}).encode()


def plan(job: str, generation: int = 1, expires: float = 9e9) -> Plan:
    return msgspec.structs.replace(PLAN, job=job, generation=generation, expires=expires)


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b"\xff\xfe"),
        (200, {}, b"[" * 100_000),
        (200, {}, b'{"state": "s", "plans": [{"job": "j", "generation": -1}]}'),
        (200, {}, b'{"plans": []}'),
        (200, {"Content-Encoding": "gzip"}, b"no gzip"),
        (200, {}, b"x" * ((1 << 20) + 1)),
        (302, {"Location": "http://127.0.0.1:1/"}, b""),
        (502, {}, b'{"error": "\xff"}'),
        (429, {"Retry-After": "nan"}, b"{}"),
        (503, {"Retry-After": "1e999"}, b'{"error": "later\\nforged"}'),
        (200, {"Content-Length": "1000"}, b"short"),
    ],
    ids=range(11),
)
def test_answers_that_are_none_are_told_in_a_line(odd: Odd, client: Client, answer: Answer) -> None:
    odd.answers["/plans?wait=0"] = answer
    with pytest.raises(UnansweredError) as error:
        client.plans("", 0.0)
    assert str(error.value).isprintable()
    assert 0 <= error.value.retry_after <= 60
    assert "secret-of-mine" not in str(error.value)


def test_a_token_with_something_unprintable_is_not_told(odd: Odd, client: Client, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"secret\x01of-mine\n")
    with pytest.raises(UnansweredError) as error:
        client.register(Told(1, {}), "1")
    assert "of-mine" not in str(error.value)
    assert not odd.asked


def test_a_host_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    with pytest.raises(UnansweredError, match="refused"):
        Client(Service(url="http://127.0.0.1:1", plans="p", token_file=str(tmp_path / "token")), "h").plans("", 0)


def test_what_is_wrong_with_one_plan_leaves_the_others(odd: Odd, client: Client, tmp_path: Path) -> None:
    directory = PlanDirectory(str(tmp_path / "plans"))
    directory.keep(plan("ended"))
    wrong: dict[str, Any] = {"broken": b"{", "foreign": msgspec.json.encode(plan("other"))}
    for job, body in {**wrong, "good": msgspec.json.encode(plan("good"))}.items():
        odd.answers[f"/plans/{job}"] = (200, {}, body)
    listed = Listed('"t"', "s", {"broken": 1, "foreign": 1, "gone": 1, "good": 1})
    with pytest.raises(UnansweredError, match="plan of job broken"):
        take(client, directory, listed)
    assert sorted(file.name for file in (tmp_path / "plans").glob("*.json")) == ["good.json"]
    assert PlanDirectory(str(tmp_path / "plans")).generations == {"good": 1}


def test_plans_of_another_state_lapse_by_themselves(tmp_path: Path) -> None:
    now = [1000.0]

    def directory() -> PlanDirectory:
        return PlanDirectory(str(tmp_path), lambda: now[0])

    first = directory()
    first.keep(plan("a", expires=2000))
    first.keep(plan("b", expires=3000))
    first.keep_only({"a": 1, "b": 1}, "one")
    first.keep_only({"b": 1}, "one")
    assert directory().generations == {"b": 1}, "ended, as the state says that listed it"
    first.keep(plan("a", expires=2000))
    first.keep_only({"a": 1, "b": 1}, "one")
    second = directory()
    second.keep(plan("c"))
    second.keep_only({"c": 1}, "two")
    second = directory()
    second.keep_only({"c": 1}, "two")
    assert second.generations == {"a": 1, "b": 1, "c": 1}
    second.keep(plan("b", 2))
    second.keep_only({"b": 2, "c": 1}, "two")
    second.keep_only({"c": 1}, "two")
    assert second.generations == {"a": 1, "c": 1}, "b was listed again, so it is known to have ended"
    now[0] = 2500
    second.keep_only({"c": 1}, "two")
    assert directory().generations == {"c": 1}


def test_a_plan_that_was_damaged_or_taken_away_is_missed(tmp_path: Path) -> None:
    directory = PlanDirectory(str(tmp_path))
    directory.keep(plan("a"))
    assert directory.has("a", 1)
    (tmp_path / "a.json").unlink()
    assert not directory.has("a", 1)
    directory.keep(plan("a"))
    (tmp_path / "a.json").write_text("{")
    (tmp_path / ".b.json.x7").write_text("half")
    assert not PlanDirectory(str(tmp_path)).has("a", 1)
    assert not (tmp_path / ".b.json.x7").exists()


@pytest.mark.parametrize("job", ["a/b", "..", ".hidden", "x" * 253, "ä" * 100, "a%2Fb"])
def test_whatever_a_job_is_called_its_plan_is_a_file_of_its_own(job: str, tmp_path: Path) -> None:
    directory = PlanDirectory(str(tmp_path / "plans"))
    directory.keep(plan(job))
    directory.keep(plan("other"))
    (file,) = set((tmp_path / "plans").glob("*.json")) - {tmp_path / "plans/other.json"}
    assert file.parent == tmp_path / "plans"
    assert PlanDirectory(str(tmp_path / "plans")).generations == {job: 1, "other": 1}


def test_a_plan_is_waited_for_longer_than_a_connection(
    client: Client, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.service.client._CONNECT_SECONDS", 0.3)
    odd.answers["/plans?wait=50"] = (304, {}, b"")
    odd.seconds = 1.0
    assert client.plans('"tag"', 50) is None


def test_a_service_that_takes_no_connection_is_given_up_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.service.client._CONNECT_SECONDS", 0.3)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)  # until the queue is full, SYNs are answered
        began = time.monotonic()
        with pytest.raises(UnansweredError, match="Connect"):
            Client(Service(url=f"http://127.0.0.1:{address[1]}", plans=str(tmp_path)), "h").plans("", 50)
        assert time.monotonic() < began + 10
        for each in waiting:
            each.close()


def test_pauses_grow_and_differ() -> None:
    backoff = Backoff(1.0, 60.0)
    pauses = [backoff.seconds() for _ in range(10)]
    assert all(most / 8 <= pause <= most for most, pause in zip((1, 2, 4, 8, 16, 32), pauses, strict=False))
    assert max(pauses) <= 60
    assert len(set(pauses)) == 10
    backoff.well()
    assert backoff.seconds(5) <= 6
