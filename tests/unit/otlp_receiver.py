"""A strict OTLP receiver: a real HTTP server that parses with the official messages and refuses what they do not say.

And Prometheus' mapping of OTLP names, written from its documentation and not from our catalogue
(https://prometheus.io/docs/guides/opentelemetry/, github.com/prometheus/otlptranslator).
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, DataPointFlags, Metric

Labels = tuple[tuple[str, str], ...]
SUFFIX = {"s": "seconds", "By": "bytes", "By/s": "bytes_per_second", "1": "ratio", "%": "percent"}


def prometheus_name(metric: Metric) -> str:
    """The name Prometheus' receiver gives a metric: dots to underscores, unit, ``_total`` on monotonic sums."""
    name = metric.name.replace(".", "_")
    unit = "" if metric.unit.startswith("{") else SUFFIX.get(metric.unit, metric.unit)
    if unit == "ratio" and metric.WhichOneof("data") != "gauge":
        unit = ""
    if unit and unit not in name:
        name += f"_{unit}"
    return name + "_total" if metric.WhichOneof("data") == "sum" and not name.endswith("_total") else name


def walk(message: Message) -> Iterator[Message]:
    """The message and all messages within."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for each in value if descriptor.is_repeated else (value,):
                yield from walk(each)


@dataclass
class Series:
    """What the receiver keeps of one series."""

    kind: str
    unit: str
    help: str
    value: float
    time_ns: int
    start_ns: int


@dataclass
class Sink:
    """Takes requests, refuses what breaks the protocol, and keeps series as Prometheus would name them."""

    series: dict[tuple[str, Labels], Series] = field(default_factory=dict)
    ended: list[tuple[str, Labels]] = field(default_factory=list)
    """Series that a point without a value has ended, in their order."""
    resource: dict[str, str] = field(default_factory=dict)
    points: int = 0

    def take(self, body: bytes) -> None:
        """Raise AssertionError for whatever a strict receiver would refuse."""
        request = ExportMetricsServiceRequest.FromString(body)
        for message in walk(request):
            assert not len(UnknownFieldSet(message)), f"unknown field in {message.DESCRIPTOR.name}"
        assert len(request.resource_metrics) == 1
        (of_resource,) = request.resource_metrics
        self.resource = {each.key: each.value.string_value for each in of_resource.resource.attributes}
        assert self.resource["service.name"]
        (of_scope,) = of_resource.scope_metrics
        assert of_scope.scope.name
        assert of_scope.scope.version
        assert of_scope.metrics
        for metric in of_scope.metrics:
            self._take_metric(metric)

    def _take_metric(self, metric: Metric) -> None:
        kind = metric.WhichOneof("data")
        assert kind in ("gauge", "sum", "histogram"), metric
        data = getattr(metric, kind)
        if kind != "gauge":
            assert data.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        if kind == "sum":
            assert data.is_monotonic
        assert metric.name
        assert metric.description
        assert len(data.data_points)
        seen: set[Labels] = set()
        for point in data.data_points:
            self.points += 1
            labels = tuple(sorted((each.key, each.value.string_value) for each in point.attributes))
            assert len({key for key, _ in labels}) == len(labels), f"an attribute twice: {labels}"
            assert all(value for _, value in labels), f"an empty attribute: {labels}"
            assert labels not in seen, f"{metric.name}{labels} twice in a request"
            seen.add(labels)
            assert abs(point.time_unix_nano / 1e9 - time.time()) < 60
            if kind != "gauge":
                assert 0 < point.start_time_unix_nano <= point.time_unix_nano, (metric.name, point)
            self._take_point(prometheus_name(metric), metric, kind, labels, point)

    def _take_point(self, name: str, metric: Metric, kind: str, labels: Labels, point: Any) -> None:
        start = 0 if kind == "gauge" else point.start_time_unix_nano
        if point.flags & DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK:
            values: dict[tuple[str, Labels], float] = {}
            if kind != "histogram":
                assert point.WhichOneof("value") is None
            gone = [key for key in self.series if key[1] == labels and key[0] == name] or [
                key
                for key in self.series
                if key[0] in (f"{name}_bucket", f"{name}_sum", f"{name}_count")
                and tuple(pair for pair in key[1] if pair[0] != "le") == labels
            ]
            assert gone, f"{name}{labels} ended and was not known"
            for key in gone:
                assert self.series[key].time_ns < point.time_unix_nano
                del self.series[key]
            self.ended.append((name, labels))
            return
        assert point.flags == 0
        if kind == "histogram":
            assert point.count == sum(point.bucket_counts)
            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
            assert list(point.explicit_bounds) == sorted(set(point.explicit_bounds))
            assert point.HasField("sum")
            total = 0
            values = {(f"{name}_sum", labels): point.sum, (f"{name}_count", labels): float(point.count)}
            for bound, count in zip([*point.explicit_bounds, float("inf")], point.bucket_counts, strict=True):
                total += count
                text = "+Inf" if bound == float("inf") else repr(bound)
                values[f"{name}_bucket", tuple(sorted((*labels, ("le", text))))] = float(total)
        else:
            assert point.WhichOneof("value") == "as_double"
            assert point.as_double == point.as_double, "NaN is no value"
            values = {(name, labels): point.as_double}
        for key, value in values.items():
            before = self.series.get(key)
            if before is not None:
                assert before.kind == kind, f"{name} was a {before.kind}"
                assert point.time_unix_nano > before.time_ns
                if kind != "gauge":
                    assert start >= before.start_ns, "start time went back"
                    if start == before.start_ns:
                        assert value >= before.value, f"{key} fell from {before.value} to {value} without a reset"
            self.series[key] = Series(kind, metric.unit, metric.description, value, point.time_unix_nano, start)


Answer = Callable[[BaseHTTPRequestHandler, bytes], None]
"""Answers a request whose body, as it came, is given."""


def accept(handler: BaseHTTPRequestHandler, rejected: int = 0, message: str = "") -> None:
    answer = ExportMetricsServiceResponse()
    if rejected or message:
        answer.partial_success.rejected_data_points = rejected
        answer.partial_success.error_message = message
    body = answer.SerializeToString()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/x-protobuf")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class Receiver:
    """An OTLP/HTTP receiver on loopback. ``answer`` replaces its good behaviour; ``problems`` must stay empty."""

    def __init__(self, answer: Answer | None = None, port: int = 0) -> None:
        self.sink = Sink()
        self.problems: list[str] = []
        self.requests: list[tuple[str, dict[str, str], int]] = []
        self.answer = answer
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {key.lower(): value for key, value in self.headers.items()}
                receiver.requests.append((self.path, headers, len(body)))
                if receiver.answer is not None:
                    receiver.answer(self, body)
                    return
                try:
                    assert headers["content-type"] == "application/x-protobuf"
                    receiver.sink.take(gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body)
                except Exception as error:  # noqa: BLE001 - told to the test
                    receiver.problems.append(f"{type(error).__name__}: {error}")
                    self.send_error(400)
                    return
                accept(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Http(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that gives up on a hostile answer is what is wanted."""

        self.http = Http(("127.0.0.1", port), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        return self.http.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/metrics"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
