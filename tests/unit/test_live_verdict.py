"""Is it the network? Put together of what Prometheus has; and the webhook that is told of suspects."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skeleton_service.live.verdict import Series, questions, verdict
from tests.unit.recorded import AVAILABLE, Sample, prometheus
from tests.unit.running import free_port, until
from tests.unit.serving import RunningService, decoded, job

LINK = "leaf-p0-r0:Ethernet0 -- spine-0:Ethernet0"
ALERT = {
    "alertname": "FabricLinkLoss", "severity": "critical", "component_kind": "link", "component": LINK,
    "suspect": LINK, "symptom": "loss", "cluster": "c1", "training_job": "j", "link": LINK,
}  # fmt: skip
STARVED = {
    "alertname": "FabricProberStarved", "severity": "warning", "component_kind": "agent", "component": "host-p0-0",
    "suspect": "host-p0-0", "symptom": "config", "cluster": "c1", "host": "host-p0-0", "training_job": "j",
}  # fmt: skip


def told(**series: Series) -> Mapping[str, Series]:
    return {**dict.fromkeys(questions("j"), ()), **series}


def number(value: float) -> Series:
    return [({}, value)]


@pytest.mark.parametrize(
    ("series", "answer", "summary"),
    [
        ({}, "unknown", "no exporter tells of a path of this job"),
        ({"probed": number(40)}, "no evidence", "none of 40 paths loses probes or is slow, and no alert concerns"),
        ({"probed": number(40), "losing": number(3)}, "unclear", "of 40 paths 3 lose probes, and no component"),
        (
            {"probed": number(40), "losing": number(3), "slow": number(2)},
            "unclear",
            "of 40 paths 3 lose probes and 2 are slow, and no component explains it yet",
        ),
        ({"probed": number(40), "starved": number(3)}, "unknown", "probers of 3 of 4 hosts are short of CPU"),
        ({"probed": number(40), "starved": number(1)}, "no evidence", "none of 40 paths loses"),
        ({"probed": number(40), "alerts": [(ALERT, 5.0)]}, "network", f"link {LINK}: loss (FabricLinkLoss)"),
        (
            {"alerts": [({**ALERT, "component": "late"}, 9.0), (ALERT, 5.0)]},
            "network",
            f"link {LINK}: loss (FabricLinkLoss, and 1 more)",
        ),
        ({"probed": number(40), "alerts": [(STARVED, 5.0)]}, "no evidence", "none of 40"),
    ],
)  # fmt: skip
def test_answers(series: dict[str, Series], answer: str, summary: str) -> None:
    found = verdict("j", 4, told(**series), 100.0)
    assert (found.answer, found.summary[: len(summary)]) == (answer, summary)


def test_what_makes_an_answer_less_sure_stands_beside_it() -> None:
    found = verdict("j", 4, told(probed=number(40), starved=number(1), alerts=[(STARVED, 5.0)]), 100.0)
    assert found.suspects == ()
    assert found.but == (
        "FabricProberStarved fires of host-p0-0",
        "probers of 1 of 4 hosts are short of CPU: their round trips are left out",
        "no path has learnt yet what is usual: slowness cannot be told",
    )
    assert verdict("j", 4, told(probed=number(40), learnt=number(40)), 100.0).but == ()


def recorded(*alerts: Mapping[str, str], probed: float = 40) -> list[Sample]:
    began = time.time() - 300
    return [
        *(("ALERTS", {**each, "alertstate": "firing"}, 1.0) for each in alerts),
        *(("ALERTS_FOR_STATE", each, began) for each in alerts),
        ("job_dscp:fabric_job_paths:count", {"cluster": "c1", "training_job": "j", "dscp": "26"}, probed),
        *(
            ("job_link:fabric_job_paths:count", {"cluster": "c1", "training_job": name, "link": LINK}, 4.0)
            for name in ("j", "k")
        ),
        ("fabric_path_rtt_threshold_seconds", {"cluster": "c1", "training_job": "j", "path": "p"}, 1e-5),
    ]


class Receiver(http.server.ThreadingHTTPServer):
    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.got: list[tuple[Mapping[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Receiver)
        server.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.mark.skipif(not AVAILABLE, reason="prometheus is not on PATH (apt: prometheus)")
def test_a_link_that_loses_is_the_verdict_of_each_job_over_it(tmp_path: Path) -> None:
    of_no_job = {name: value for name, value in ALERT.items() if name != "training_job"}
    (tmp_path / "service").mkdir()
    with prometheus(tmp_path / "prometheus", recorded(of_no_job)) as url:
        service = RunningService(tmp_path / "service", prometheus={"url": url})
        try:
            operator = service.client("operator", "ci")
            for name in ("j", "k", "other"):
                operator.put(f"/v1/jobs/{name}", json=job(name))
            reader = service.client("reader", "me")
            found: dict[str, Any] = {
                name: decoded(reader.get(f"/v1/jobs/{name}/verdict")) for name in ("j", "k", "other")
            }
            assert found["j"]["answer"] == found["k"]["answer"] == "network"
            assert found["j"]["summary"] == f"link {LINK}: loss (FabricLinkLoss)"
            assert abs(found["j"]["suspects"][0]["since"] - (time.time() - 300)) < 30
            assert (found["j"]["paths_probed"], found["k"]["paths_probed"]) == (40, None)
            assert found["other"]["answer"] == "unknown"
            (suspect,) = decoded(reader.get("/v1/suspects"))
            assert (suspect["component"], suspect["jobs"]) == (LINK, ["j", "k"])
            assert service.client("agent", "host-p0-0").get("/v1/suspects").status_code == 403
            assert reader.get("/v1/jobs/absent/verdict").status_code == 404
        finally:
            assert service.stop() == 0, service.log


@pytest.mark.skipif(not AVAILABLE, reason="prometheus is not on PATH (apt: prometheus)")
def test_suspects_are_sent_signed_until_they_are_taken(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service/secret").write_text("of both\n")
    receiver.status = 503
    url = f"http://127.0.0.1:{receiver.server_port}/"
    with prometheus(tmp_path / "prometheus", recorded(ALERT)) as asked:
        webhook = {"url": url, "key_file": "secret", "every_seconds": 5}
        service = RunningService(tmp_path / "service", prometheus={"url": asked}, webhook=webhook)
        try:
            until(lambda: len(receiver.got) == 1)
            receiver.status = 200
            until(lambda: len(receiver.got) == 2, 10)
            time.sleep(6)
            assert len(receiver.got) == 2, "what was taken is not sent again"
        finally:
            assert service.stop() == 0, service.log
    headers, body = receiver.got[1]
    moment, signature = (part.partition("=")[2] for part in headers["X-Fabric-Signature"].split(","))
    assert signature == hmac.new(b"of both", f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    message = msgspec.json.decode(body)
    assert [each["component"] for each in message["appeared"]] == [LINK]
    assert message["now"] == message["appeared"]
    assert message["gone"] == []
    assert service.log.count("webhook: ") == 1


def test_a_prometheus_that_does_not_answer_is_said(tmp_path: Path) -> None:
    service = RunningService(
        tmp_path, prometheus={"url": f"http://127.0.0.1:{free_port(socket.SOCK_STREAM, '127.0.0.1')}"}
    )
    try:
        service.client("operator", "ci").put("/v1/jobs/j", json=job())
        answer = service.client("reader", "me").get("/v1/jobs/j/verdict")
        assert answer.status_code == 503
        assert "refused" in decoded(answer)["error"]
    finally:
        assert service.stop() == 0, service.log


def test_without_a_prometheus_there_is_no_verdict(tmp_path: Path) -> None:
    service = RunningService(tmp_path)
    try:
        service.client("operator", "ci").put("/v1/jobs/j", json=job())
        answer = service.client("reader", "me").get("/v1/jobs/j/verdict")
        assert (answer.status_code, decoded(answer)) == (
            404,
            {"error": "this service knows no Prometheus", "remedy": "add a section 'prometheus'"},
        )
    finally:
        assert service.stop() == 0, service.log
