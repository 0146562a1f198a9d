"""OTLP through a real OpenTelemetry Collector: what it hands on is, point by point, what was pushed to it.

``OTELCOL`` names the collector's binary; without it ``otelcol`` or ``otelcol-contrib`` is looked for on PATH and in
``.cache/otelcol``. Where there is none these tests are skipped.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.catalogue import RTT_TABLE
from exporter.otlp.push import Outcome
from exporter.otlp.settings import Otlp
from exporter.store import Store
from tests.unit.otlp_receiver import Labels, Receiver, Sink, accept
from tests.unit.running import RunningExporter, free_port, until
from tests.unit.test_otlp_push import Pushing

CACHED = Path(__file__).parents[2] / ".cache/otelcol"
LIVELY = ("fabric_exporter_otlp_", "process_")
"""Prefixes of what a push or a scrape itself changes."""


def find_collector() -> str | None:
    """Path of a collector; None when there is none. One that OTELCOL names must be there."""
    if named := os.environ.get("OTELCOL"):
        found = shutil.which(named)
        assert found, f"OTELCOL={named} is no program"
        return found
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(CACHED)])
    return shutil.which("otelcol", path=path) or shutil.which("otelcol-contrib", path=path)


class Recording(Sink):
    """A strict sink that also keeps the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[ExportMetricsServiceRequest] = []

    def take(self, body: bytes) -> None:
        self.requests.append(ExportMetricsServiceRequest.FromString(body))
        super().take(body)


class Collector:
    """A collector that hands on each request before it answers, and on another port batches them."""

    def __init__(self, binary: str, directory: Path) -> None:
        self.behind = Receiver()
        self.http, self.grpc, self.batched = (free_port(socket.SOCK_STREAM, "127.0.0.1") for _ in range(3))
        known = subprocess.run([binary, "components"], capture_output=True, text=True, check=True).stdout
        kind = "otlp_http" if re.search(r"\botlp_http\b", known) else "otlphttp"  # its name until 0.143

        def receive(**ports: int) -> dict[str, object]:
            return {"protocols": {name: {"endpoint": f"127.0.0.1:{port}"} for name, port in ports.items()}}

        forward = {
            "metrics_endpoint": self.behind.url,
            "compression": "gzip",
            "sending_queue": {"enabled": False},
            "retry_on_failure": {"enabled": False},
        }
        config = {
            "receivers": {"otlp": receive(http=self.http, grpc=self.grpc), "otlp/batched": receive(http=self.batched)},
            "processors": {"batch": {"timeout": "300ms"}},
            "exporters": {kind: forward},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {
                    "metrics": {"receivers": ["otlp"], "exporters": [kind]},
                    "metrics/batched": {"receivers": ["otlp/batched"], "processors": ["batch"], "exporters": [kind]},
                },
            },
        }
        (directory / "config.yaml").write_text(json.dumps(config))
        self.log = directory / "log"
        with open(self.log, "w") as log:
            argv = [binary, f"--config={directory / 'config.yaml'}"]
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        until(lambda: all(map(self._listens, (self.http, self.grpc, self.batched))), seconds=20)

    def _listens(self, port: int) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    def begin(self) -> Recording:
        """An empty sink behind the collector, for one test."""
        sink = Recording()
        self.behind.sink, self.behind.answer = sink, None
        self.behind.problems.clear()
        self.behind.requests.clear()
        return sink

    def settings(self, protocol: str, **more: object) -> Otlp:
        """How to push to it, by ``http/protobuf`` or ``grpc``."""
        if protocol == "grpc":
            pytest.importorskip("grpc", reason="the extra otlp-grpc is not installed")
        endpoint = f"http://127.0.0.1:{self.grpc if protocol == 'grpc' else f'{self.http}/v1/metrics'}"
        return Otlp(endpoint=endpoint, protocol=protocol, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    binary = find_collector()
    if binary is None:
        pytest.skip("no OpenTelemetry Collector: set OTELCOL to the path of one (docs/otlp.md says where to get it)")
    started = Collector(binary, tmp_path_factory.mktemp("collector"))
    yield started
    started.process.terminate()
    started.process.wait(10)
    started.behind.close()


class RecordedPushing(Pushing):
    """Pushes switches and histograms, and keeps the requests as they were sent."""

    def __init__(self, settings: Otlp, rows: int) -> None:
        super().__init__(settings, rows)
        self.histograms = Store([(RTT_TABLE, 2)])
        self.histogram = self.histograms.writer(RTT_TABLE).add(("h", "r", "dp", "udp"))
        self.histogram.add(3, 5)
        for number, row in enumerate(self.rows):
            row.set(0, float(number % 2))
            row.add(1, 10.0 * number + 0.5)
        self.sent: list[ExportMetricsServiceRequest] = []
        self.pusher._encode = lambda last: self.encoder.encode(
            [] if last else [self.store, self.histograms], [], time.time_ns()
        )
        send = self.transport.send

        def recording(body: bytes) -> Outcome:
            self.sent.append(ExportMetricsServiceRequest.FromString(body))
            return send(body)

        self.transport.send = recording  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("protocol", "compression"), [("http/protobuf", "gzip"), ("http/protobuf", "none"), ("grpc", "gzip")]
)
def test_a_collector_hands_on_what_was_pushed(collector: Collector, protocol: str, compression: str) -> None:
    sink = collector.begin()
    pushing = RecordedPushing(collector.settings(protocol, compression=compression, max_points=100), rows=150)
    assert pushing.pusher.push()
    assert len(pushing.sent) > 3
    assert sink.requests == pushing.sent
    polls, reachable = "fabric_switch_polls_total", "fabric_switch_reachable"
    leaf = {number: (("switch", f"leaf-{number}"),) for number in range(4)}
    gone = {key for key in sink.series if key[1] == leaf[0]}
    assert {(polls, leaf[0]), (reachable, leaf[0])} <= gone
    first = sink.series[polls, leaf[2]]
    assert (first.kind, first.value) == ("sum", 20.5)

    pushing.writer.remove(pushing.rows[0])  # a row vanishes, a gauge becomes absent, a counter falls
    pushing.rows[1].set(0, float("nan"))
    pushing.rows[2].set(1, 3.0)
    pushing.histogram.add(16, 0.25)
    assert pushing.pusher.push()
    assert sink.requests == pushing.sent
    assert set(sink.ended) == {*gone, (reachable, leaf[1])}
    assert sink.series[polls, leaf[2]].value == 3.0
    assert sink.series[polls, leaf[2]].start_ns > first.time_ns
    assert sink.series[polls, leaf[3]].start_ns < first.time_ns

    assert pushing.own == {**pushing.own, "pushes": 2, "push.failures": 0, "points.rejected": 0}
    assert abs(pushing.own["push.timestamp"] - time.time()) < 10
    assert pushing.pusher.push(last=True)
    assert sink.requests == pushing.sent
    assert sink.series == {}
    assert collector.behind.problems == []


def test_a_collector_that_batches_loses_nothing(collector: Collector) -> None:
    collector.begin()
    arrived: list[ExportMetricsServiceRequest] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        arrived.append(ExportMetricsServiceRequest.FromString(gzip.decompress(body)))
        accept(handler)

    collector.behind.answer = answer
    pushing = RecordedPushing(Otlp(endpoint=f"http://127.0.0.1:{collector.batched}/v1/metrics", max_points=100), 150)
    assert pushing.pusher.push()
    pushing.writer.remove(pushing.rows[0])
    assert pushing.pusher.push()

    def points(requests: list[ExportMetricsServiceRequest]) -> Counter[tuple[str, str, bytes]]:
        return Counter(
            (metric.name, metric.unit, point.SerializeToString(deterministic=True))
            for request in requests
            for of_resource in request.resource_metrics
            for of_scope in of_resource.scope_metrics
            for metric in of_scope.metrics
            for point in getattr(metric, str(metric.WhichOneof("data"))).data_points
        )

    until(lambda: points(arrived) == points(pushing.sent))
    assert len(arrived) < len(pushing.sent)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_takes_the_largest_requests(collector: Collector, protocol: str) -> None:
    collector.begin()
    collector.behind.answer = lambda handler, _: accept(handler)
    pushing = RecordedPushing(collector.settings(protocol, max_points=100_000), rows=30_000)
    assert pushing.pusher.push()
    assert [request.ByteSize() > 3_000_000 for request in pushing.sent] == [True, False]  # of 4 MiB that gRPC takes
    assert len(collector.behind.requests) == 2


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("status", [400, 503])
def test_what_is_behind_the_collector_refuses_and_comes_back(
    collector: Collector, protocol: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    sink = collector.begin()
    pushing = RecordedPushing(collector.settings(protocol, timeout_seconds=1.0), rows=3)
    assert pushing.pusher.push()
    gone = {key for key in sink.series if key[1] == (("switch", "leaf-0"),)}
    assert gone
    pushing.writer.remove(pushing.rows[0])
    collector.behind.answer = lambda handler, _: handler.send_error(status)
    assert not pushing.pusher.push()
    assert pushing.own["push.failures"] == 1
    collector.behind.answer = None
    assert pushing.pusher.push()
    assert pushing.own["push.failures"] == 1
    assert set(sink.ended) == gone
    trouble = {
        "http/protobuf": f"HTTP status {status}",
        "grpc": f"gRPC status {'UNAVAILABLE' if status == 503 else 'INVALID_ARGUMENT'}",
    }[protocol]
    assert capfd.readouterr().err.splitlines() == [f"OTLP push: {trouble}", "OTLP push: all is well again"]
    assert collector.behind.problems == []


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_exporter_pushes_what_it_shows_through_a_collector(
    collector: Collector, protocol: str, tmp_path: Path
) -> None:
    sink = collector.begin()
    to = f"endpoint: '{collector.settings(protocol).endpoint}', protocol: {protocol}"
    exporter = RunningExporter(tmp_path / "here", f"otlp: {{{to}, period_seconds: 1, max_points: 100}}\n")
    try:
        see_what_it_pushes(exporter, sink)
        assert exporter.stop() == 0
    finally:
        exporter.stop(signal.SIGKILL)  # or it would push into the next test
    assert sink.series == {}
    assert collector.behind.problems == []
    assert "OTLP push:" not in exporter.log


def see_what_it_pushes(exporter: RunningExporter, sink: Recording) -> None:
    targets = [exporter.target(f"p{number}", port=exporter.responder, period_seconds=0.2) for number in range(40)]
    exporter.plan(*targets)
    until(lambda: len(exporter.paths()) == 40)

    def shown() -> dict[tuple[str, Labels], float]:
        return {(name, labels): value for name, samples in exporter.metrics().items()
                for labels, value in samples.items() if name != "target_info"}  # fmt: skip

    def pushes() -> float:
        return exporter.value("fabric_exporter_otlp_pushes_total") or 0

    until(lambda: set(shown()) == set(sink.series))
    first, began = shown(), pushes()
    until(lambda: pushes() > began + 2)
    second = shown()
    same = {key: value for key, value in first.items() if second.get(key) == value and not key[0].startswith(LIVELY)}
    assert len(same) > 50
    assert {key: sink.series[key].value for key in same} == same
    kinds = {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}
    for family in text_string_to_metric_families(exporter.get("/metrics")):
        for sample in family.samples:
            if family.name != "target_info":
                series = sink.series[sample.name, tuple(sorted(sample.labels.items()))]
                assert (series.kind, series.help) == (kinds[family.type], family.documentation)
    (resource,) = exporter.metrics()["target_info"]
    assert {key.replace(".", "_"): value for key, value in sink.resource.items()} == dict(resource)
    assert len(sink.requests) > 2 * pushes()  # more points than go into one request
    assert exporter.value("fabric_exporter_otlp_push_failures_total") == 0
    assert exporter.value("fabric_exporter_otlp_points_rejected_total") == 0

    exporter.plan(*targets[:30], generation=2)
    gone = {f"p{number}" for number in range(30, 40)}
    until(
        lambda: gone <= {dict(labels).get("path") for name, labels in list(sink.ended) if name.endswith("sent_total")}
    )
    until(lambda: set(shown()) == set(sink.series))
