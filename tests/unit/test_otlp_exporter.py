"""The exporter as a process that pushes: what arrives is what /metrics says, and its end is orderly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.unit.otlp_receiver import Receiver
from tests.unit.running import RunningExporter, until

Start = Callable[[str], RunningExporter]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts an exporter with more in its configuration; it ends with the test, whatever becomes of that."""
    started: list[RunningExporter] = []

    def begin(extra: str) -> RunningExporter:
        started.append(RunningExporter(tmp_path / "here", extra))
        return started[-1]

    yield begin
    for exporter in started:
        exporter.stop()


def test_the_exporter_pushes_what_it_shows_and_ends_its_series_on_sigterm(receiver: Receiver, start: Start) -> None:
    exporter = start(f"otlp: {{endpoint: '{receiver.url}', period_seconds: 1}}\n")
    exporter.plan(exporter.target("p", port=exporter.responder, destination_address=exporter.address))
    sent = "fabric_path_probes_sent_total"
    until(lambda: any(name == sent for name, _ in list(receiver.sink.series)))
    metrics = exporter.metrics()
    shown = {(name, labels) for name, samples in metrics.items() for labels in samples if name != "target_info"}
    until(lambda: shown <= set(receiver.sink.series))  # what /metrics showed first may take a push to arrive
    pushed = {name for name, _ in receiver.sink.series}
    assert pushed - exporter.metrics().keys() <= {  # asked for again: a trace may have ended meanwhile
        "fabric_exporter_otlp_push_timestamp_seconds", "fabric_exporter_otlp_push_duration_seconds"
    }  # fmt: skip
    until(lambda: (exporter.value("fabric_exporter_otlp_pushes_total") or 0) > 1)
    assert exporter.value("fabric_exporter_otlp_push_failures_total") == 0
    began = time.monotonic()
    assert exporter.stop() == 0
    assert time.monotonic() - began < 6
    assert sent in {name for name, _ in receiver.sink.ended}
    assert receiver.sink.series == {}
    assert receiver.problems == []
    assert "Traceback" not in exporter.log


def test_a_receiver_that_hangs_holds_up_neither_scrapes_nor_the_end(receiver: Receiver, start: Start) -> None:
    def hang(_: BaseHTTPRequestHandler, __: bytes) -> None:
        time.sleep(60)

    receiver.answer = hang
    exporter = start(f"otlp: {{endpoint: '{receiver.url}', period_seconds: 1, timeout_seconds: 60}}\n")
    until(lambda: receiver.requests)
    slowest = 0.0
    for _ in range(20):
        began = time.monotonic()
        exporter.get("/metrics")
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 2
    began = time.monotonic()
    assert exporter.stop() == 0
    assert time.monotonic() - began < 8


def test_an_exporter_that_does_not_push_says_nothing_of_pushes(start: Start) -> None:
    exporter = start("")
    assert "_otlp_" not in exporter.get("/metrics")
    loaded = Path(f"/proc/{exporter.process.pid}/maps").read_text()
    assert "/google/_upb/" not in loaded  # nor does it carry the libraries for it
