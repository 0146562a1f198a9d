"""Pushing by the official exporters to real servers: good, dead, slow and hostile ones."""

from __future__ import annotations

import gzip
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporter.contracts.catalogue import OTLP
from exporter.contracts.switch_counters import SWITCH
from exporter.otlp.encode import Encoder
from exporter.otlp.push import Outcome, Pusher
from exporter.otlp.settings import Otlp
from exporter.otlp.transport import HttpTransport, make_transport
from exporter.store import Store
from tests.unit.otlp_receiver import Receiver, accept
from tests.unit.running import free_port, until

SECRET = "Bearer s3cr3t-t0ken"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()
    assert made.problems == []


def requests(rows: int) -> int:
    """Of 100 points each: the counters of so many switches, and three of pushing itself."""
    counters = sum(metric.kind == "counter" for metric in SWITCH.metrics)
    return math.ceil((rows * counters + 3) / 100)


class Pushing:
    """A pusher with a store of ``rows`` switches, pushed to ``endpoint``."""

    def __init__(self, settings: Otlp, rows: int = 3) -> None:
        self.store = Store([(SWITCH, max(rows, 1)), (OTLP, 1)])
        self.writer = self.store.writer(SWITCH)
        self.rows = [self.writer.add((f"leaf-{number}",)) for number in range(rows)]
        self.counters = self.store.writer(OTLP).add(())
        self.encoder = Encoder({"service.name": "fabric-exporter"}, settings.max_points)
        self.transport = make_transport(settings)
        self.pusher = Pusher(
            self.transport,
            lambda last: self.encoder.encode([] if last else [self.store], [], time.time_ns()),
            self.encoder.delivered,
            self.counters,
            settings.period_seconds,
            "host-1",
        )

    @property
    def own(self) -> dict[str, float]:
        return {metric.otel_name.removeprefix("fabric.exporter.otlp."): self.counters.get(index)
                for index, metric in enumerate(OTLP.metrics)}  # fmt: skip


def outcome(receiver: Receiver, **settings: object) -> Outcome:
    transport = HttpTransport(Otlp(endpoint=receiver.url, **settings))  # type: ignore[arg-type]
    try:
        return transport.send(b"\n\0")
    finally:
        transport.abort()


def reply(
    status: int, body: bytes = b"", content_type: str = "text/html", **headers: str
) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(status)
        for key, value in {
            "Content-Type": content_type, "Content-Length": str(len(body)), **headers
        }.items():  # fmt: skip
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_push_arrives_whole_with_headers_and_compression(
    receiver: Receiver, compression: str, tmp_path: Path
) -> None:
    (tmp_path / "headers").write_text(f"Authorization: {SECRET}\nX-Scope-OrgID: tenant-1\n")
    settings = Otlp(endpoint=receiver.url, compression=compression, headers_file=str(tmp_path / "headers"))  # type: ignore[arg-type]
    pushing = Pushing(settings)
    assert pushing.pusher.push()
    assert pushing.pusher.push()
    assert {dict(labels)["switch"] for name, labels in receiver.sink.series if "polls" in name} == {
        "leaf-0", "leaf-1", "leaf-2"
    }  # fmt: skip
    (path, headers, _), _ = receiver.requests
    assert path == "/v1/metrics"
    assert headers["authorization"] == SECRET
    assert headers["x-scope-orgid"] == "tenant-1"
    assert headers.get("content-encoding") == ("gzip" if compression == "gzip" else None)
    assert headers["user-agent"].startswith("OTel-OTLP-Exporter-Python/")
    # The counters of a push go out with the next one.
    assert receiver.sink.series["fabric_exporter_otlp_pushes_total", ()].value == 2
    assert pushing.own["push.failures"] == 0
    assert abs(pushing.own["push.timestamp"] - time.time()) < 10
    assert 0 < pushing.own["push.duration"] < 5


def test_many_points_are_split_and_one_connection_carries_them(receiver: Receiver) -> None:
    connections: list[tuple[str, int]] = []

    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        connections.append(handler.client_address)
        accept(handler)

    receiver.answer = answer
    pushing = Pushing(Otlp(endpoint=receiver.url, max_points=100), rows=500)
    assert pushing.pusher.push()
    assert len(connections) == requests(rows=500)
    assert len(set(connections)) == 1


def test_the_environment_names_the_endpoint_and_headers(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.removesuffix("/v1/metrics"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    assert Pushing(Otlp()).pusher.push()
    path, headers, _ = receiver.requests[0]
    assert path == "/v1/metrics"
    assert headers["x-key"] == "a b"
    assert "content-encoding" not in headers


def test_netrc_does_not_replace_the_configured_header(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    (tmp_path / "headers").write_text(f"Authorization: {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert Pushing(Otlp(endpoint=receiver.url, headers_file=str(tmp_path / "headers"))).pusher.push()
    assert receiver.requests[0][1]["authorization"] == SECRET


def test_a_receiver_in_trouble_is_tried_again_within_the_time_out(receiver: Receiver) -> None:
    attempts: list[float] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        attempts.append(time.monotonic())
        (reply(503, Retry_After="0") if len(attempts) < 3 else lambda handler, _: accept(handler))(handler, body)

    receiver.answer = answer
    assert outcome(receiver, timeout_seconds=5.0).delivered
    assert len(attempts) == 3


def test_rejected_points_are_counted_and_the_reason_is_logged_once(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver.answer = lambda handler, _: accept(handler, rejected=7, message="too old\x1b[31m " + "x" * 10_000)
    pushing = Pushing(Otlp(endpoint=receiver.url))
    assert pushing.pusher.push()
    assert pushing.pusher.push()
    assert pushing.own["points.rejected"] == 14
    assert pushing.own["push.failures"] == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("OTLP push: 7 points rejected: too old [31m xxx")
    assert len(line) < 300


@pytest.mark.parametrize(
    ("status", "headers", "said", "worth_trying"),
    [
        (400, {}, "HTTP status 400", True),
        (401, {}, "HTTP status 401", True),
        (404, {}, "HTTP status 404", True),
        (500, {}, "HTTP status 500", True),
        (429, {"Retry_After": "31536000"}, "HTTP status 429", False),
        (503, {"Retry_After": "Fri, 31 Dec 2100 23:59:59 GMT"}, "HTTP status 503", False),
        (302, {"Location": "http://127.0.0.1:9/"}, "HTTP status 302, and redirects are not followed", True),
        (307, {"Location": "file:///etc/passwd"}, "HTTP status 307, and redirects are not followed", True),
    ],
)
def test_an_answer_that_is_no_success_is_a_failure_at_once(
    receiver: Receiver, status: int, headers: dict[str, str], said: str, *, worth_trying: bool
) -> None:
    receiver.answer = reply(status, b"<html>" + b"no " * 100_000, **headers)
    began = time.monotonic()
    assert outcome(receiver) == Outcome(False, 0, said, worth_trying)
    assert time.monotonic() - began < 3


def test_an_answer_without_end_is_read_to_a_limit(receiver: Receiver) -> None:
    sent = [0]

    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/x-protobuf")
        handler.end_headers()
        handler.close_connection = True
        while True:
            sent[0] += handler.wfile.write(b"\0" * 65536)

    receiver.answer = answer
    assert outcome(receiver).delivered
    assert sent[0] < 64_000_000


def test_an_answer_that_is_no_protobuf_is_still_a_success(receiver: Receiver) -> None:
    receiver.answer = reply(200, b"\xff" * 100)
    assert outcome(receiver) == Outcome(True)


def trickle(where: str) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    """Answer a byte at a time, each within any time-out of a single read."""

    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.close_connection = True
        last = b"Connection: close\r\n" if where == "last body" else b""
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n" + last + (b"X-A: " if where == "head" else b"\r\n")
        )
        handler.wfile.flush()
        for _second in range(300):
            time.sleep(0.1)
            handler.wfile.write(b"a")
            handler.wfile.flush()

    return answer


@pytest.mark.parametrize("where", ["head", "body", "last body"])
def test_an_answer_that_trickles_in_ends_with_the_time_out(receiver: Receiver, where: str) -> None:
    """The body of a connection's last answer used to have the time-out for each byte."""
    receiver.answer = trickle(where)
    began = time.monotonic()
    made = outcome(receiver, timeout_seconds=1.0)
    assert 0.9 < time.monotonic() - began < 3
    assert made == Outcome(False, 0, "no whole answer within the time-out", worth_trying=False)


def test_a_clock_set_back_prolongs_no_push(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reckons the time left for another attempt by the wall clock: an hour back was an hour more."""
    library, back = sys.modules["opentelemetry.exporter.otlp.common.http"], [0.0]
    monkeypatch.setattr(library, "time", SimpleNamespace(time=lambda: time.time() - back[0]))

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if back[0]:
            trickle("head")(handler, body)
        back[0], handler.close_connection = 3600.0, True  # at first the connection ends without an answer

    receiver.answer = answer
    transport, made = HttpTransport(Otlp(endpoint=receiver.url, timeout_seconds=1.0)), []
    thread = threading.Thread(target=lambda: made.append(transport.send(b"\n\0")), daemon=True)
    thread.start()
    thread.join(4.0)
    transport.abort()
    assert made == [Outcome(False, 0, "no whole answer within the time-out", worth_trying=False)]
    assert len(receiver.requests) == 2


def test_answers_of_every_kind_leave_no_descriptor(receiver: Receiver) -> None:
    def last(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")

    def rude(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.close_connection = True
        handler.wfile.write(b"nonsense\r\n\r\n")

    def sockets() -> int:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return sum(os.readlink(link).startswith("socket:") for link in links if os.path.islink(link))

    transports = [
        HttpTransport(Otlp(endpoint=receiver.url.replace("http:", scheme), timeout_seconds=0.3))
        for scheme in ("http:", "https:")
    ]
    patient = HttpTransport(Otlp(endpoint=receiver.url, timeout_seconds=1.5))
    before = sockets()
    for _ in range(3):
        for receiver.answer in (last, rude, reply(503, Retry_After="60"), reply(200, b"x" * 200_000)):
            for transport in transports:
                transport.send(b"\n\0")
    receiver.answer, tried = rude, len(receiver.requests)
    patient.send(b"\n\0")
    assert len(receiver.requests) > tried + 2, "again after a wait, for which the others have no time"
    for transport in (*transports, patient):
        transport.abort()
    until(lambda: sockets() <= before)  # the receiver's side ends a little later


def test_a_receiver_that_never_answers_ends_with_the_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        transport = HttpTransport(Otlp(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}/x", timeout_seconds=0.5))
        made = transport.send(b"")
        assert not made.delivered
        assert time.monotonic() - began < 3


def test_a_receiver_that_is_not_there_costs_one_try_and_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port(socket.SOCK_STREAM, "127.0.0.1")
    pushing = Pushing(Otlp(endpoint=f"http://127.0.0.1:{port}/v1/metrics?key=s3cr3t", timeout_seconds=0.5))
    assert not pushing.pusher.push()
    assert not pushing.pusher.push()
    assert pushing.own["push.failures"] == 2
    assert "push.timestamp" in pushing.own
    assert pushing.own["push.timestamp"] != pushing.own["push.timestamp"]  # absent
    assert capfd.readouterr().err == "OTLP push: Connection refused\n"


def test_a_receiver_that_comes_back_gets_everything_and_the_log_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port(socket.SOCK_STREAM, "127.0.0.1")
    pushing = Pushing(Otlp(endpoint=f"http://127.0.0.1:{port}/v1/metrics", timeout_seconds=0.5))
    assert not pushing.pusher.push()
    receiver = Receiver(port=port)
    assert pushing.pusher.push()
    receiver.close()
    assert receiver.problems == []
    assert receiver.sink.series["fabric_exporter_otlp_push_failures_total", ()].value == 1
    assert capfd.readouterr().err.splitlines()[-1] == "OTLP push: all is well again"


def test_a_refused_request_does_not_keep_the_others_back(receiver: Receiver) -> None:
    statuses = chain([200, 400], repeat(200))

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        reply(next(statuses))(handler, body)

    receiver.answer = answer
    pushing = Pushing(Otlp(endpoint=receiver.url, max_points=100), rows=150)
    assert not pushing.pusher.push()
    assert len(receiver.requests) == requests(rows=150)
    assert pushing.own["push.failures"] == 1


@pytest.mark.parametrize("repeated", [SECRET, SECRET.split()[1], "k3y/of-the-query"])
def test_a_secret_that_the_receiver_repeats_is_not_logged(
    receiver: Receiver, capfd: pytest.CaptureFixture[str], tmp_path: Path, repeated: str
) -> None:
    """A token without the word before it used to be; and a tenant named 1 was taken for the secret in '401'."""
    (tmp_path / "headers").write_text(f"Authorization: {SECRET}\nX-Scope-OrgID: 1\n")
    receiver.answer = lambda handler, _: accept(handler, rejected=1, message=f"1: I know you are {repeated}")
    endpoint = f"{receiver.url}?key=k3y%2Fof-the-query"
    Pushing(Otlp(endpoint=endpoint, headers_file=str(tmp_path / "headers"))).pusher.push()
    assert capfd.readouterr().err == "OTLP push: 1 points rejected: 1: I know you are ***\n"


def test_a_header_of_the_environment_that_is_none_is_not_logged() -> None:
    code = "from exporter.otlp.settings import Otlp; from exporter.otlp.transport import make_transport as m; m(Otlp())"
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization {SECRET}"}
    made = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert made.stderr == ""


def test_what_cannot_be_sent_is_said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A header with a line break failed every push without a word."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cr3t%0Ax")
    assert not Pushing(Otlp(endpoint="http://127.0.0.1:9/v1/metrics")).pusher.push()
    assert capfd.readouterr().err == "OTLP push: could not be sent\n"


def test_endings_that_a_receiver_refused_are_sent_again_though_it_took_the_rest(receiver: Receiver) -> None:
    pushing = Pushing(Otlp(endpoint=receiver.url, max_points=100), rows=150)
    assert pushing.pusher.push()
    pushing.writer.remove(pushing.rows[7])
    good, first = receiver.answer, len(receiver.requests)
    refuse = reply(500)

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if len(receiver.requests) == first + 1:
            refuse(handler, body)
        else:
            receiver.sink.take(gzip.decompress(body))
            accept(handler)

    receiver.answer = answer
    assert not pushing.pusher.push()
    receiver.answer = good
    assert receiver.sink.ended == []
    assert pushing.pusher.push()
    assert ("fabric_switch_polls_total", (("switch", "leaf-7"),)) in receiver.sink.ended


def test_a_push_that_fails_before_it_is_sent_is_not_the_last(receiver: Receiver) -> None:
    """An error in the midst of encoding used to end the thread, and with it all pushes."""
    pushing, encoded = Pushing(Otlp(endpoint=receiver.url, period_seconds=1.0)), []
    encode = pushing.pusher._encode

    def encode_at_second(last: bool) -> object:
        encoded.append(last)
        if len(encoded) == 1:
            raise MemoryError
        return encode(last)

    pushing.pusher._encode = encode_at_second  # type: ignore[assignment]
    pushing.pusher.start()
    until(lambda: receiver.requests)
    pushing.pusher.stop()
    assert pushing.own["push.failures"] == 1


def test_the_end_flushes_and_ends_every_series(receiver: Receiver) -> None:
    pushing = Pushing(Otlp(endpoint=receiver.url, period_seconds=3600.0))
    pushing.pusher.start()
    pushing.rows[0].add(1, 5.0)
    pushing.pusher.stop()
    assert ("fabric_switch_polls_total", (("switch", "leaf-0"),)) in receiver.sink.ended
    assert receiver.sink.series == {}
    assert len(receiver.requests) == 2


def test_the_end_does_not_wait_for_a_receiver_that_hangs(receiver: Receiver) -> None:
    receiver.answer = trickle("head")
    pushing = Pushing(Otlp(endpoint=receiver.url, period_seconds=1.0, timeout_seconds=60.0))
    pushing.pusher.start()
    deadline = time.monotonic() + 5
    while not receiver.requests and time.monotonic() < deadline:
        time.sleep(0.05)
    assert receiver.requests
    began = time.monotonic()
    pushing.pusher.stop()
    assert time.monotonic() - began < 5
    pushing.pusher._thread.join(2.0)
    assert not pushing.pusher._thread.is_alive()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate that is its own authority, for server and client."""
    directory = tmp_path_factory.mktemp("tls")
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1"]  # fmt: skip
    try:
        subprocess.run(argv, cwd=directory, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not on PATH, to make a certificate with")
    return directory


def test_tls_with_client_certificate(receiver: Receiver, certificates: Path) -> None:
    import ssl

    certificate, key = str(certificates / "cert.pem"), str(certificates / "key.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    receiver.http.socket = context.wrap_socket(receiver.http.socket, server_side=True)
    url = receiver.url.replace("http:", "https:")
    good = Otlp(endpoint=url, ca_file=certificate, certificate_file=certificate, key_file=key, timeout_seconds=1.0)
    assert Pushing(good).pusher.push()
    unknown = make_transport(Otlp(endpoint=url, timeout_seconds=2.0)).send(b"")
    assert not unknown.delivered
    assert "certificate verify failed" in unknown.problem
    anonymous = make_transport(Otlp(endpoint=url, ca_file=certificate, timeout_seconds=2.0)).send(b"")
    assert not anonymous.delivered
    receiver.answer = trickle("head")
    slow = make_transport(good)
    began = time.monotonic()
    assert slow.send(b"").problem == "no whole answer within the time-out"
    assert time.monotonic() - began < 5


def test_grpc_with_partial_success_and_trouble() -> None:
    grpc = pytest.importorskip("grpc", reason="the extra otlp-grpc is not installed")
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as messages
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as service

    from tests.unit.otlp_receiver import Sink

    sink, seen, statuses = Sink(), [], iter([None, None, grpc.StatusCode.INVALID_ARGUMENT])

    class Servicer(service.MetricsServiceServicer):
        def Export(self, request, context):  # type: ignore[no-untyped-def] # noqa: N802
            seen.append(dict(context.invocation_metadata()))
            status = next(statuses)
            if status is not None:
                context.abort(status, "no")
            sink.take(request.SerializeToString())
            answer = messages.ExportMetricsServiceResponse()
            answer.partial_success.rejected_data_points = 4
            return answer

    server = grpc.server(ThreadPoolExecutor(2))
    service.add_MetricsServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pushing = Pushing(Otlp(endpoint=f"http://127.0.0.1:{port}", protocol="grpc", timeout_seconds=2.0))
    assert pushing.pusher.push()
    assert pushing.pusher.push()
    assert pushing.own["points.rejected"] == 8
    assert len([name for name, _ in sink.series if name == "fabric_switch_polls_total"]) == 3
    assert pushing.transport.send(b"") == Outcome(False, 0, "gRPC status INVALID_ARGUMENT", True)
    server.stop(0).wait()
    began = time.monotonic()
    assert not pushing.transport.send(b"").worth_trying
    assert time.monotonic() - began < 4
