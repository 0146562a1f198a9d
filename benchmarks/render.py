"""Processor seconds to render 100,000 series: /metrics and OTLP as we do it, and as the common libraries do.

``python -m benchmarks.render [--series N]``. CPU seconds of the process (time.process_time), best of several,
since others may share the machine; each row in a process of its own, for its memory. Exit status 1 when a bar
is missed.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.contracts.catalogue import PATH, PATH_LABELS
from exporter.exposition import Renderer
from exporter.otlp.encode import Encoder
from exporter.store import RowWriter, Store

ROUNDS = 5
BARS = {"/metrics, every value new": 0.15, "OTLP requests, every value new": 0.5}
"""Seconds for 100,000 series."""

Step = tuple[str, Callable[[], int], Callable[[], None]]
"""What is measured: a name, the work (returns bytes), what is done before it and not counted."""


def labels_of(number: int) -> tuple[str, ...]:
    """Labels of a path as a plan names it: 190 bytes of text a line."""
    source, destination = number % 64, number * 7 % 4096
    rnic = number % 8
    return (
        f"host-{source:04d}/mlx5_{rnic}>host-{destination:04d}/mlx5_{rnic}:{49152 + number % 16384}/udp",
        f"host-{source:04d}",
        f"mlx5_{rnic}",
        f"host-{destination:04d}",
        f"mlx5_{rnic}",
        "udp",
    )


def filled_store(series: int) -> tuple[Store, list[RowWriter]]:
    """A store of ``series`` path series with the values of a prober that has run for a while."""
    store = Store([(PATH, series // len(PATH.metrics))])
    writer = store.writer(PATH)
    rows = [writer.add((*labels_of(number), "a", "1", "b", "2", "0")) for number in range(series // len(PATH.metrics))]
    touch(rows, 1.0)
    return store, rows


def touch(rows: list[RowWriter], by: float) -> None:
    """Change every value: whole numbers in counters, fractions in round trips and timestamps."""
    gauges = [metric.kind == "gauge" for metric in PATH.metrics]
    for number, row in enumerate(rows):
        for column, gauge in enumerate(gauges):
            row.set(column, (number + by) * 1.7e-5 if gauge else number + by)


def ours(series: int) -> list[Step]:
    store, rows = filled_store(series)
    renderer, encoder = Renderer(), Encoder({"service.name": "fabric-exporter"}, 5000)
    rounds = [1.0]

    def change() -> None:
        rounds[0] += 1
        touch(rows, rounds[0])

    def nothing() -> None:
        pass

    def otlp() -> int:
        push = encoder.encode([store], [], time.time_ns())
        encoder.delivered(push)
        return sum(len(request.body) for request in push.requests)

    bodies = [request.body for request in encoder.encode([store], [], time.time_ns()).requests]
    text = renderer.render([store])
    return [
        ("/metrics, every value new", lambda: len(renderer.render([store])), change),
        ("/metrics, nothing new", lambda: len(renderer.render([store])), nothing),
        ("  its gzip, level 1", lambda: len(gzip.compress(text, 1)), nothing),
        ("OTLP requests, every value new", otlp, change),
        ("  their gzip, level 1", lambda: sum(len(gzip.compress(body, 1)) for body in bodies), nothing),
        ("  their gzip, the library's level 9", lambda: sum(len(gzip.compress(body, 9)) for body in bodies), nothing),
    ]


def client_python(series: int) -> list[Step]:
    from prometheus_client import (  # noqa: PLC0415
        CollectorRegistry,
        Counter,
        Gauge,
        disable_created_metrics,
        generate_latest,
    )

    disable_created_metrics()  # type: ignore[no-untyped-call] # a line more for each counter, which we do not have
    registry = CollectorRegistry()
    for metric in PATH.metrics:
        kind: Any = Gauge if metric.kind == "gauge" else Counter
        family = kind(metric.name, metric.help, PATH_LABELS, registry=registry)
        for number in range(series // len(PATH.metrics)):
            child = family.labels(*labels_of(number))
            child.set(number * 1.7e-5) if metric.kind == "gauge" else child.inc(number)
    return [("prometheus_client generate_latest", lambda: len(generate_latest(registry)), lambda: None)]


def opentelemetry(series: int) -> list[Step]:
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics  # noqa: PLC0415
    from opentelemetry.sdk.metrics import Counter, MeterProvider, _Gauge  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415

    limits: dict[Any, int] = dict.fromkeys((Counter, _Gauge), 10**7)
    reader = InMemoryMetricReader(cardinality_limits=limits)
    meter = MeterProvider(metric_readers=[reader]).get_meter("bench")
    labels = [dict(zip(PATH_LABELS, labels_of(number), strict=True)) for number in range(series // len(PATH.metrics))]
    for metric in PATH.metrics:
        if metric.kind == "gauge":
            gauge = meter.create_gauge(metric.otel_name, metric.unit)
            for number, attributes in enumerate(labels):
                gauge.set(number * 1.7e-5, attributes)
        else:
            counter = meter.create_counter(metric.otel_name, metric.unit)
            for number, attributes in enumerate(labels):
                counter.add(number, attributes)

    def collect() -> int:
        data = reader.get_metrics_data()
        return 0 if data is None else len(encode_metrics(data).SerializeToString())

    return [("OpenTelemetry SDK collect and encode", collect, lambda: None)]


def _resident() -> tuple[float, float]:
    """(resident, highest resident) memory of this process in MB."""
    text = Path("/proc/self/status").read_text()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.startswith("Vm")}
    return kilobytes["VmRSS"] / 1e3, kilobytes["VmHWM"] / 1e3


def _measure(make: Callable[[int], list[Step]], series: int, pipe: Any) -> None:
    before = _resident()[0]
    for name, work, prepare in make(series):
        best = float("inf")
        size = 0
        for _ in range(ROUNDS):
            prepare()
            began = time.process_time()
            size = work()
            best = min(best, time.process_time() - began)
        pipe.send((name, best, size, _resident()[1] - before))
    pipe.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    series = parser.parse_args().series
    print(f"{series} series, best of {ROUNDS}\n{'':38}{'CPU s':>8}{'us/series':>11}{'MB':>8}{'peak RSS + MB':>15}  bar")
    missed = False
    spawn = multiprocessing.get_context("spawn")
    for make in (ours, client_python, opentelemetry):
        here, there = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_measure, args=(make, series, there))
        process.start()
        there.close()
        while True:
            try:
                name, seconds, size, memory = here.recv()
            except EOFError:
                break
            bar = BARS.get(name, 0.0) * series / 100_000
            missed |= bool(bar) and seconds > bar
            verdict = f"<= {bar:g} s {'met' if seconds <= bar else 'MISSED'}" if bar else ""
            figures = f"{seconds:8.3f}{seconds / series * 1e6:11.2f}{size / 1e6:8.1f}{memory:15.0f}"
            print(f"{name:38}{figures}  {verdict}", flush=True)
        process.join()
        missed |= process.exitcode != 0
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
