"""What the exporter says of itself beside its tables: its resource, and its process as client_python reads it."""

from __future__ import annotations

import re

from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, ProcessCollector

from exporter import __version__
from exporter.contracts.metric import Kind, Metric
from exporter.exposition import Series, label_text


def _process(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"process.{name}", kind, unit, (), text, "1")


PROCESS_METRICS = (
    _process("virtual_memory", "gauge", "By", "Virtual memory size in bytes."),
    _process("resident_memory", "gauge", "By", "Resident memory size in bytes."),
    _process("start_time", "gauge", "s", "Start time of the process since unix epoch in seconds."),
    _process("cpu", "counter", "s", "Total user and system CPU time spent in seconds."),
    _process("open_fds", "gauge", "{file_descriptor}", "Number of open file descriptors."),
    _process("max_fds", "gauge", "{file_descriptor}", "Maximum number of open file descriptors."),
)
"""Named so that both renderers arrive at the names that every Prometheus client library gives them."""

_START_TIME = PROCESS_METRICS[2].name


class ProcessMetrics:
    """Reads the control process' own figures."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=CollectorRegistry())

    def series(self) -> list[Series]:
        """A family each; one that the system does not serve is left out."""
        values = {sample.name: sample.value for family in self._collector.collect() for sample in family.samples}
        started_ns = int(values.get(_START_TIME, 0.0) * 1e9)
        return [
            Series(metric, [((), values[metric.name])], started_ns)
            for metric in PROCESS_METRICS
            if metric.name in values
        ]


def resource_attributes(host: str) -> dict[str, str]:
    """The OpenTelemetry resource of the exporter on ``host``, with what OTEL_RESOURCE_ATTRIBUTES adds."""
    resource = Resource.create(
        {
            "service.name": "fabric-exporter",
            "service.version": __version__,
            "service.instance.id": host,
            "host.name": host,
        }
    )
    # The environment may hold bytes that are no UTF-8, which nobody could send on.
    return {_sound(key): _sound(str(value)) for key, value in resource.attributes.items()}


def _sound(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def target_info(resource: dict[str, str]) -> bytes:
    """A resource as OpenTelemetry's Prometheus mapping has it: one ``target_info``."""
    # OTEL_RESOURCE_ATTRIBUTES may hold any name; of two that become one label, the first stands.
    attributes: dict[str, str] = {}
    for key, value in resource.items():
        attributes.setdefault(re.sub(r"^(?=[0-9])|[^a-zA-Z0-9_]", "_", key), value)
    labels = label_text(list(attributes), list(attributes.values()))
    return f"# HELP target_info Target metadata\n# TYPE target_info gauge\ntarget_info{{{labels}}} 1\n".encode()
