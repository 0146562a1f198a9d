"""The text of /metrics: one golden file, Prometheus' own linter and parser, and what a value may not become."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.catalogue import (
    CATALOGUE,
    CHILDREN,
    CONTROL,
    DNS,
    DNS_ANSWER_TABLE,
    DNS_DURATION_TABLE,
    HOST_DRAINED,
    HOST_INFO,
    JOB_LINK_PATHS,
    JOB_LINK_PATHS_VARIANCE,
    JOB_PATH_INFO,
    JOB_RNIC_PATHS,
    LINK_INFO,
    LINKS_COVERED,
    LINKS_POSSIBLE,
    OTLP,
    PATH,
    PATH_INFO,
    PATH_LINK_INFO,
    PATH_LINK_SHARE,
    PATH_MTU_LIMIT_INFO,
    PATH_ROUTE_INFO,
    PROBER,
    RDMA,
    RDMA_INFO_TABLE,
    RDMA_TRACING,
    RELIABLE,
    RELIABLE_FAILURE,
    RELIABLE_OPERATION,
    RELIABLE_SERVING,
    RNIC,
    RNIC_ATTACHMENT_INFO,
    RNIC_INFO,
    ROUTE,
    ROUTE_CHANGE_TIME,
    RTT,
    RTT_TABLE,
    SWITCH_ADDRESS_INFO,
    SWITCH_DRAINED,
    SWITCH_PORT_INFO,
    TRACE_LAST_HOP_INFO,
    UNDERLAY,
)
from exporter.contracts.metric import Metric, Table
from exporter.contracts.overlay_counters import OVERLAY, OVERLAY_DUMPS_TABLE, OVERLAY_INCONSISTENT_TABLE
from exporter.contracts.rnic_counters import (
    RNIC_COVERAGE_TABLE,
    RNIC_DEVICE_TABLE,
    RNIC_DSCP_TABLE,
    RNIC_GID_TABLE,
    RNIC_HARDWARE,
    RNIC_PRIORITY,
    RNIC_READING,
    RNIC_VLAN_TABLE,
)
from exporter.contracts.service_metrics import SERVICE
from exporter.contracts.switch_counters import SWITCH, SWITCH_TABLES
from exporter.exposition import Renderer, Series, label_text, number
from exporter.store import Store, column_count

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
DNS_TABLES = [DNS, DNS_ANSWER_TABLE, DNS_DURATION_TABLE]
RDMA_TABLES = [
    RDMA, RDMA_INFO_TABLE, RDMA_TRACING, RELIABLE, RELIABLE_OPERATION, RELIABLE_FAILURE, RELIABLE_SERVING,
]  # fmt: skip
COUNTER_TABLES = [
    RNIC_HARDWARE, RNIC_PRIORITY, RNIC_READING, RNIC_DEVICE_TABLE, RNIC_GID_TABLE, RNIC_DSCP_TABLE,
    RNIC_VLAN_TABLE, RNIC_COVERAGE_TABLE,
]  # fmt: skip
OVERLAY_TABLES = [OVERLAY, OVERLAY_INCONSISTENT_TABLE, OVERLAY_DUMPS_TABLE]
TABLES = [
    PATH, RTT_TABLE, RNIC, *COUNTER_TABLES, *OVERLAY_TABLES, *SWITCH_TABLES, *DNS_TABLES, PROBER, *RDMA_TABLES,
    UNDERLAY, CONTROL, CHILDREN, OTLP, SERVICE,
]  # fmt: skip
INFO = [
    PATH_LINK_INFO, PATH_ROUTE_INFO, PATH_LINK_SHARE, TRACE_LAST_HOP_INFO, PATH_INFO, PATH_MTU_LIMIT_INFO,
    JOB_PATH_INFO, JOB_LINK_PATHS, JOB_LINK_PATHS_VARIANCE, JOB_RNIC_PATHS, LINK_INFO,
    RNIC_ATTACHMENT_INFO, HOST_INFO, HOST_DRAINED, SWITCH_DRAINED, SWITCH_PORT_INFO, SWITCH_ADDRESS_INFO, RNIC_INFO,
    LINKS_POSSIBLE, LINKS_COVERED, ROUTE_CHANGE_TIME,
]  # fmt: skip


def rendered() -> str:
    """Every family of the catalogue, a row each, with values that depend on nothing but the column."""
    store = Store([(table, 2) for table in (*TABLES, ROUTE)])
    for table in TABLES:
        row = store.writer(table).add([f"{label}-0" for label in (*table.labels, *table.hidden_labels)])
        row.begin()
        for column in range(column_count(table)):
            row.set(column, column + 0.5 if column % 3 == 0 else column)
        row.end()
    store.writer(ROUTE).add(("10.0.0.1", "49152", "10.0.0.2", "65300", "udp", "[]"))
    joined = [Series(metric, [([f"{label}-0" for label in metric.labels], 1.0)]) for metric in INFO]
    return Renderer().render([store], joined).decode()


def test_the_text_is_the_golden_file() -> None:
    """UPDATE_GOLDEN=1 writes it afresh; read the difference before you commit it."""
    text = rendered()
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_every_metric_of_the_catalogue_is_rendered() -> None:
    families = {family.name: family for family in text_string_to_metric_families(rendered())}
    for metric in CATALOGUE:
        family = families.pop(metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name)
        assert family.type == metric.kind
        assert family.documentation == metric.help
        assert all(set(sample.labels) - {"le"} == set(metric.labels) for sample in family.samples)
    assert not families  # a table such as ROUTE is for readers inside


def test_promtool_finds_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH (apt: prometheus)")
    run = subprocess.run([promtool, "check", "metrics"], input=rendered(), text=True, capture_output=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1))
def test_any_label_value_comes_back_from_the_parser(value: str) -> None:
    text = f"m{{{label_text(('a', 'b'), (value, 'x'))}}} 1\n"
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].labels == {"a": value, "b": "x"}


def test_quotes_backslashes_and_newlines_are_escaped() -> None:
    assert label_text(("a",), ('q"b\\n\n',)) == 'a="q\\"b\\\\n\\n"'


def test_an_empty_label_is_left_out() -> None:
    assert label_text(("a", "b", "c"), ("1", "", "3")) == 'a="1",c="3"'


@given(st.floats(allow_nan=False))
def test_a_number_is_written_so_that_it_is_read_again(value: float) -> None:
    assert float(number(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0, "0"), (3.0, "3"), (2.5, "2.5"), (1e16, "1e+16"), (float("inf"), "+Inf"), (1e-9, "1e-09")],
)
def test_a_number_is_short(value: float, text: str) -> None:
    assert number(value) == text


def test_an_absent_value_has_no_series_and_no_header() -> None:
    store = Store([(SWITCH, 2)])
    store.writer(SWITCH).add(("s",))
    text = Renderer().render([store]).decode()
    assert "NaN" not in text
    assert "fabric_switch_reachable" not in text  # a gauge that nobody has set
    assert 'fabric_switch_polls_total{switch="s"} 0' in text


def test_a_released_row_is_gone_and_its_successor_has_its_own_labels() -> None:
    store, renderer = Store([(SWITCH, 1)]), Renderer()
    writer = store.writer(SWITCH)
    row = writer.add(("old",))
    assert 'switch="old"' in renderer.render([store]).decode()
    writer.remove(row)
    assert renderer.render([store]) == b""
    writer.add(("new",))
    text = renderer.render([store]).decode()
    assert 'switch="new"' in text
    assert 'switch="old"' not in text


def test_a_writer_that_starts_again_is_rendered_under_its_own_labels() -> None:
    store, renderer = Store([(SWITCH, 2)]), Renderer()
    store.writer(SWITCH).add(("old",))
    renderer.render([store])
    store.clear()
    store.writer(SWITCH).add(("new",))
    assert 'switch="old"' not in renderer.render([store]).decode()


@given(st.lists(st.integers(0, 1000), min_size=len(RTT.buckets) + 1, max_size=len(RTT.buckets) + 1))
def test_a_histogram_is_cumulative_and_ends_with_its_count(counts: list[int]) -> None:
    store = Store([(RTT_TABLE, 1)])
    row = store.writer(RTT_TABLE).add(("h", "r", "dp", "udp"))
    for column, count in enumerate(counts):
        row.set(column, count)
    row.set(len(counts), 0.25)
    (family,) = text_string_to_metric_families(Renderer().render([store]).decode())
    buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
    assert [float(sample.labels["le"]) for sample in buckets] == [*RTT.buckets, float("inf")]
    assert [sample.value for sample in buckets] == [sum(counts[: n + 1]) for n in range(len(counts))]
    rest = {sample.name: sample.value for sample in family.samples if not sample.name.endswith("_bucket")}
    assert rest == {"fabric_rtt_seconds_sum": 0.25, "fabric_rtt_seconds_count": sum(counts)}


def test_a_table_without_labels_has_bare_names() -> None:
    table = Table("bare", (), (Metric("bare.size", "histogram", "By", (), "Size.", "1", (1.0,)),))
    store = Store([(table, 1)])
    store.writer(table).add(())
    assert 'bare_size_bytes_bucket{le="1.0"} 0\n' in Renderer().render([store]).decode()
    (family,) = text_string_to_metric_families(Renderer().render([store]).decode())
    assert family.type == "histogram"


def test_values_that_change_rows_that_move_and_gauges_that_vanish_are_rendered_as_afresh() -> None:
    """The text kept between scrapes must be what a renderer without memory makes."""
    store, kept = Store([(SWITCH, 8), (RTT_TABLE, 4)]), Renderer()
    writer, draw = store.writer(SWITCH), random.Random(7)  # noqa: S311 - the same each time
    rows = [writer.add((f"leaf-{number}",)) for number in range(6)]
    histogram = store.writer(RTT_TABLE).add(("h", "r", "dp", "udp"))
    for step in range(200):
        row = draw.choice(rows)
        row.set(draw.randrange(len(SWITCH.metrics)), draw.choice([float("nan"), 0.0, -0.0, 1.0, 0.1, float("inf")]))
        histogram.add(draw.randrange(column_count(RTT_TABLE)))
        if draw.random() < 0.2:
            rows.remove(row)
            writer.remove(row)
            rows.append(writer.add((f"new-{step}",)))
        assert kept.render([store]) == Renderer().render([store])
