"""OTLP says what /metrics says: the same stores rendered both ways, series by series, and how series begin and end."""

from __future__ import annotations

import os
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.catalogue import (
    CATALOGUE,
    CHILDREN,
    CONTROL,
    JOB_PATH_INFO,
    LINK_INFO,
    OTLP,
    PATH,
    PATH_LINK_INFO,
    PATH_MTU_LIMIT_INFO,
    PROBER,
    RNIC,
    RNIC_INFO,
    ROUTE,
    RTT_TABLE,
)
from exporter.contracts.metric import Table
from exporter.contracts.switch_counters import SWITCH, SWITCH_PORT
from exporter.exposition import Renderer, Series
from exporter.otlp.encode import Encoder
from exporter.selfmetrics import PROCESS_METRICS, ProcessMetrics, resource_attributes, target_info
from exporter.store import RowWriter, Store, column_count
from tests.unit.otlp_receiver import Sink

TABLES = [PATH, RTT_TABLE, RNIC, SWITCH_PORT, SWITCH, PROBER, CONTROL, CHILDREN, OTLP]
RESOURCE = {"service.name": "fabric-exporter", "service.instance.id": "host-1"}
NAN = float("nan")


class Pushing:
    """A store whose pushes reach a strict receiver, at times of one second apart."""

    def __init__(self, tables: list[Table], capacity: int = 8, max_points: int = 5000) -> None:
        self.store = Store([(table, capacity) for table in tables])
        self.encoder = Encoder(RESOURCE, max_points)
        self.sink = Sink()
        self.now = time.time_ns()

    def push(self, joined: list[Series] | None = None, *, delivered: bool = True) -> list[int]:
        """Encode and, unless the receiver is down, deliver; the points of each request."""
        self.now = max(self.now + 1, time.time_ns())
        push = self.encoder.encode([self.store], joined or [], self.now)
        if delivered:
            for request in push.requests:
                before = self.sink.points
                self.sink.take(request.body)
                assert self.sink.points - before == request.points
            self.encoder.delivered(push)
        return [request.points for request in push.requests]

    def value(self, name: str, **labels: str) -> float:
        return self.sink.series[name, tuple(sorted(labels.items()))].value

    def start(self, name: str, **labels: str) -> int:
        return self.sink.series[name, tuple(sorted(labels.items()))].start_ns


def fill(row: RowWriter, columns: int, draw: random.Random) -> None:
    row.begin()
    for column in range(columns):
        row.set(column, draw.choice([NAN, 0.0, 1.5, 3.0, 1e-9, 123456789.0, 1e17]) if columns < 17 else column)
    row.end()


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_both_renderers_have_the_same_series_values_types_units_and_help(draw: random.Random) -> None:
    pushing = Pushing([*TABLES, ROUTE], max_points=100)
    for table in TABLES:
        writer = pushing.store.writer(table)
        for number in range(3 if table.labels else 1):
            labels = [f'{label} "{number}"\\\n' if number else "" for label in (*table.labels, *table.hidden_labels)]
            if table.labels:
                labels[0] = f"é{number}"
            fill(writer.add(labels), column_count(table), draw)
    pushing.store.writer(ROUTE).add(("10.0.0.1", "49152", "10.0.0.2", "65300", "udp", "[]"))
    joined = [
        Series(metric, [([f"{label}-{number}" for label in metric.labels], 1.0) for number in range(150)])
        for metric in (PATH_LINK_INFO, PATH_MTU_LIMIT_INFO, JOB_PATH_INFO, LINK_INFO, RNIC_INFO)
    ] + ProcessMetrics().series()
    text = Renderer().render([pushing.store], joined).decode()
    assert max(pushing.push(joined)) == 100  # split over requests
    scraped = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            scraped[key] = (family.type.replace("counter", "sum"), family.documentation, sample.value)
    pushed = {key: (series.kind, series.help, series.value) for key, series in pushing.sink.series.items()}
    assert pushed == scraped
    units = {metric.name: metric.unit for metric in (*CATALOGUE, *PROCESS_METRICS)}
    for (name, _), series in pushing.sink.series.items():
        base = name if name in units else name.rpartition("_")[0]
        assert series.unit == units[base]


def test_the_resource_is_what_target_info_says() -> None:
    resource = resource_attributes("host-1")
    pushing = Pushing([SWITCH])
    pushing.encoder = Encoder(resource, 100)
    pushing.store.writer(SWITCH).add(("leaf-0",))
    pushing.push()
    (family,) = text_string_to_metric_families(target_info(resource).decode())
    assert family.samples[0].labels == {key.replace(".", "_"): value for key, value in pushing.sink.resource.items()}


def test_bytes_of_the_environment_that_are_no_text_end_no_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter used to end with a UnicodeEncodeError when it started."""
    monkeypatch.setitem(os.environb, b"OTEL_RESOURCE_ATTRIBUTES", b"rack=r\xff")
    resource = resource_attributes("host-1")
    assert b'rack="r?"' in target_info(resource)
    pushing = Pushing([SWITCH])
    pushing.encoder = Encoder(resource, 100)
    pushing.store.writer(SWITCH).add(("leaf-0",))
    pushing.push()
    assert pushing.sink.resource["rack"] == "r?"


def test_a_released_row_is_ended_once_and_then_silent() -> None:
    pushing = Pushing([SWITCH])
    writer = pushing.store.writer(SWITCH)
    stays, goes = writer.add(("stays",)), writer.add(("goes",))
    goes.set(0, 1.0)
    pushing.push()
    writer.remove(goes)
    pushing.push()
    gone = {"fabric_switch_reachable"} | {metric.name for metric in SWITCH.metrics if metric.kind == "counter"}
    assert set(pushing.sink.ended) == {(name, (("switch", "goes"),)) for name in gone}
    pushing.push()
    assert len(pushing.sink.ended) == len(gone)
    assert {labels for _, labels in pushing.sink.series} == {(("switch", "stays"),)}
    assert stays.get(1) == 0.0


def test_a_gauge_that_becomes_absent_is_ended_and_may_come_back() -> None:
    pushing = Pushing([SWITCH])
    row = pushing.store.writer(SWITCH).add(("leaf-0",))
    row.set(0, 1.0)
    pushing.push()
    row.set(0, NAN)
    pushing.push()
    assert pushing.sink.ended == [("fabric_switch_reachable", (("switch", "leaf-0"),))]
    row.set(0, 0.0)
    pushing.push()
    assert pushing.value("fabric_switch_reachable", switch="leaf-0") == 0.0


def test_a_histogram_is_ended_whole() -> None:
    pushing = Pushing([RTT_TABLE])
    writer = pushing.store.writer(RTT_TABLE)
    row = writer.add(("h", "r", "dp", "udp"))
    row.add(3)
    pushing.push()
    assert len(pushing.sink.series) == 18
    writer.remove(row)
    pushing.push()
    assert not pushing.sink.series


def test_a_joined_series_is_ended_when_its_sample_is_gone() -> None:
    pushing = Pushing([SWITCH])
    pushing.push([Series(JOB_PATH_INFO, [(("j", "a", "dp", "26"), 1.0), (("j", "b", "dp", "26"), 1.0)])])
    pushing.push([Series(JOB_PATH_INFO, [(("j", "b", "dp", "26"), 1.0)])])
    assert [dict(labels)["path"] for _, labels in pushing.sink.ended] == ["a"]
    pushing.push([])
    assert [dict(labels)["path"] for _, labels in pushing.sink.ended] == ["a", "b"]


def test_an_ending_waits_for_a_receiver_that_is_down() -> None:
    """And series that came and went meanwhile were never known, so nothing of them is kept."""
    pushing = Pushing([SWITCH])
    writer = pushing.store.writer(SWITCH)
    row = writer.add(("gone",))
    pushing.push()
    writer.remove(row)
    for number in range(3):
        short = writer.add((f"short-{number}",))
        pushing.push(delivered=False)
        writer.remove(short)
    pushing.push()
    assert {labels for _, labels in pushing.sink.ended} == {(("switch", "gone"),)}


def test_a_counter_starts_when_its_row_was_made() -> None:
    pushing = Pushing([SWITCH])
    before = time.time_ns()
    pushing.store.writer(SWITCH).add(("leaf-0",))
    after = time.time_ns()
    pushing.push()
    start = pushing.start("fabric_switch_polls_total", switch="leaf-0")
    assert before <= start <= after
    pushing.push()
    assert pushing.start("fabric_switch_polls_total", switch="leaf-0") == start


def test_a_writer_that_starts_again_has_new_start_times_and_its_series_go_on() -> None:
    pushing = Pushing([SWITCH])
    row = pushing.store.writer(SWITCH).add(("leaf-0",))
    row.add(1, 10.0)
    pushing.push()
    first = pushing.start("fabric_switch_polls_total", switch="leaf-0")
    pushing.store.clear()
    pushing.store.writer(SWITCH).add(("leaf-0",)).add(1, 2.0)
    pushing.push()  # the receiver refuses a value that falls without a new start time
    assert pushing.value("fabric_switch_polls_total", switch="leaf-0") == 2.0
    assert pushing.start("fabric_switch_polls_total", switch="leaf-0") > first
    assert pushing.sink.ended == []


def test_a_device_that_resets_after_its_first_push_has_another_start_time() -> None:
    """The push before was also the unknown start's time, so the counter fell in the middle of one stream."""
    pushing = Pushing([RNIC])
    row = pushing.store.writer(RNIC).add(("host-1", "mlx5_0"))
    name, labels = "fabric_rnic_receive_bytes_total", {"host": "host-1", "rnic": "mlx5_0"}
    row.set(0, 1e12)
    pushing.push()
    first = pushing.start(name, **labels)
    row.set(0, 5.0)
    pushing.push()
    assert first < pushing.start(name, **labels) <= pushing.now


def test_a_device_that_resets_its_counters_starts_just_after_the_push_before() -> None:
    pushing = Pushing([SWITCH_PORT])
    row = pushing.store.writer(SWITCH_PORT).add(("leaf-0", "Ethernet0"))
    name, labels = "fabric_switch_port_receive_bytes_total", {"switch": "leaf-0", "switch_port": "Ethernet0"}
    row.set(0, 1e12)
    row.set(1, 5.0)
    pushing.push()
    first = pushing.start(name, **labels)
    assert first == pushing.now  # counted since nobody knows when: a point of no duration (OTLP data model)
    row.set(0, 2e12)
    pushing.push()
    assert pushing.start(name, **labels) == first
    before = pushing.now
    row.set(0, 100.0)
    pushing.push()
    assert pushing.start(name, **labels) == before + 1
    assert pushing.start("fabric_switch_port_transmit_bytes_total", **labels) == first
    row.set(0, 200.0)
    pushing.push()
    assert pushing.start(name, **labels) == before + 1


def test_rows_that_change_places_keep_their_own_start_times() -> None:
    pushing = Pushing([SWITCH_PORT])
    writer = pushing.store.writer(SWITCH_PORT)
    rows = {name: writer.add(("leaf-0", name)) for name in ("a", "b", "c")}
    for value, row in enumerate(rows.values(), 1):
        row.set(0, value * 1000.0)
    pushing.push()
    first = pushing.now
    writer.remove(rows["a"])
    writer.add(("leaf-0", "new")).set(0, 1.0)  # in the place of a
    writer.remove(rows["c"])
    pushing.push()
    name = "fabric_switch_port_receive_bytes_total"
    assert pushing.start(name, switch="leaf-0", switch_port="b") == first
    assert pushing.start(name, switch="leaf-0", switch_port="new") == pushing.now


def test_a_clock_that_was_set_back_gives_no_start_after_its_point() -> None:
    store, sink = Store([(SWITCH, 1)]), Sink()
    store.writer(SWITCH).add(("leaf-0",))
    push = Encoder(RESOURCE, 100).encode([store], [], time.time_ns() - 10_000_000_000)
    sink.take(push.requests[0].body)
    assert all(series.start_ns <= series.time_ns for series in sink.series.values())


def test_long_labels_keep_a_request_under_the_limit_of_grpc_receivers() -> None:
    pushing = Pushing([SWITCH], capacity=4000, max_points=100_000)
    writer = pushing.store.writer(SWITCH)
    for number in range(4000):
        writer.add((f"{number}".rjust(1000, "x"),))
    push = pushing.encoder.encode([pushing.store], [], time.time_ns())
    assert sum(request.points for request in push.requests) == 4000 * sum(
        metric.kind == "counter" for metric in SWITCH.metrics
    )
    assert max(len(request.body) for request in push.requests) < 4 * 1024 * 1024


@pytest.mark.parametrize("table", TABLES)
def test_an_empty_table_makes_no_request(table: Table) -> None:
    assert Pushing([table]).push() == []


def a_sum(**changes: int) -> ExportMetricsServiceRequest:
    """A request with one point, as it should be but for ``changes`` to the point."""
    now = time.time_ns()
    point = NumberDataPoint(**{"start_time_unix_nano": now, "time_unix_nano": now, "as_double": 1.0, **changes})
    metric = Metric(name="m", description="M.", sum=Sum(data_points=[point], aggregation_temporality=2))
    metric.sum.is_monotonic = True
    request = ExportMetricsServiceRequest(resource_metrics=[ResourceMetrics(scope_metrics=[ScopeMetrics()])])
    attribute = request.resource_metrics[0].resource.attributes.add(key="service.name")
    attribute.value.string_value = "x"
    scope = request.resource_metrics[0].scope_metrics[0]
    scope.scope.name, scope.scope.version = "s", "1"
    scope.metrics.append(metric)
    return request


def test_the_receiver_of_these_tests_is_strict() -> None:
    good = a_sum().SerializeToString()
    Sink().take(good)
    with pytest.raises(AssertionError, match="unknown field"):
        Sink().take(good + bytes([15 << 3, 1]))
    with pytest.raises(AssertionError):
        Sink().take(a_sum(start_time_unix_nano=0).SerializeToString())
    with pytest.raises(AssertionError):
        Sink().take(a_sum(flags=1).SerializeToString())  # no value, and a value
    delta = a_sum()
    delta.resource_metrics[0].scope_metrics[0].metrics[0].sum.aggregation_temporality = 1
    with pytest.raises(AssertionError):
        Sink().take(delta.SerializeToString())
    fell, first = Sink(), time.time_ns()
    fell.take(a_sum(start_time_unix_nano=first).SerializeToString())
    with pytest.raises(AssertionError, match="fell"):
        fell.take(a_sum(start_time_unix_nano=first, as_double=0.5).SerializeToString())
