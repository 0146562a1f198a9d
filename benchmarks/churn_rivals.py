"""The same hour of one host, recorded through libraries whose instruments never forget a label set."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from benchmarks.simulated_fleet import Fleet
from benchmarks.watched_exporter import memory_of, trim_memory
from exporter.contracts.catalogue import PATH, PATH_LABELS
from exporter.contracts.plan import Target

_CONTAINERS = ("training_job", "src_container", "dst_container")


class RivalHour(NamedTuple):
    name: str
    series: list[int]
    """At each checkpoint."""
    resident_growth: int
    """Bytes, over the hour."""
    scrape_seconds: float
    """Of the processor, for the last page."""


def _labels(target: Target) -> tuple[str, ...]:
    return (
        target.path,
        target.source_host or "",
        target.source_rnic or "",
        target.destination_host or "",
        target.destination_rnic or "",
        target.probe,
    )


def _container_labels(target: Target) -> tuple[str, ...]:
    source, destination = (name.rpartition("/")[0] for name in (target.source, target.destination))
    return (source.rpartition("-worker")[0], source, destination)


def _client_python(by_container: bool) -> tuple[Callable[[Target], None], Callable[[], int]]:
    """Return (record a path's ten metrics, make the page and return its series)."""
    registry = CollectorRegistry()
    names = (*PATH_LABELS, *(_CONTAINERS if by_container else ()))
    gauges = [Gauge(metric.name, metric.help, names, registry=registry) for metric in PATH.metrics]

    def record(target: Target) -> None:
        labels = _labels(target) + (_container_labels(target) if by_container else ())
        for gauge in gauges:
            gauge.labels(*labels).set(1)

    def scrape() -> int:
        return sum(not line.startswith(b"#") for line in generate_latest(registry).splitlines())

    return record, scrape


def _otel_sdk(_: bool) -> tuple[Callable[[Target], None], Callable[[], int]]:
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - only this rival needs it
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415

    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("churn")
    counters = [meter.create_counter(metric.otel_name) for metric in PATH.metrics]

    def record(target: Target) -> None:
        attributes = dict(zip(PATH_LABELS, _labels(target), strict=True))
        for counter in counters:
            counter.add(1, attributes)

    def scrape() -> int:
        data = reader.get_metrics_data()
        resources = data.resource_metrics if data is not None else []
        return sum(
            len(metric.data.data_points)
            for resource in resources
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )

    return record, scrape


_RIVALS = {
    "prometheus_client, labels of physical RNICs": (_client_python, False),
    "prometheus_client, labels of job and containers": (_client_python, True),
    "opentelemetry-sdk counters, labels of physical RNICs": (_otel_sdk, False),
}


def _hour(name: str, hosts: int, seed: int, checkpoints: list[int]) -> RivalHour:
    make, by_container = _RIVALS[name]
    record, scrape = make(by_container)
    fleet, generation, host = Fleet(hosts, seed), ("", 0, False), 0
    series, seconds = [], 0.0
    trim_memory()
    before = memory_of(os.getpid()).resident
    for second in range(1, max(checkpoints) + 1):
        fleet.step()
        if fleet.generation(host) != generation:
            generation = fleet.generation(host)
            for target in fleet.plan(host, second).targets:
                if target.source_host == "host-0000":
                    record(target)
        if second in checkpoints:
            began = time.process_time()
            series.append(scrape())
            seconds = time.process_time() - began
    trim_memory()  # the same as for ours: the page itself is not held
    return RivalHour(name, series, memory_of(os.getpid()).resident - before, seconds)


def rival_hours(hosts: int, seed: int, checkpoints: list[int]) -> list[RivalHour]:
    """Host 0's paths as each rival holds them, in a process each."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return [pool.apply(_hour, (name, hosts, seed, checkpoints)) for name in _RIVALS]
