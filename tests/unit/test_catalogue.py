"""One catalogue: its names are good Prometheus, and rules speak of nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from exporter.contracts import rnic_counters
from exporter.contracts.catalogue import CATALOGUE, RECORDED, SERIES_TERMS
from exporter.contracts.label_values import LABEL_VALUES
from exporter.contracts.plan import ProbeType
from exporter.contracts.service_metrics import SERVED
from exporter.host import device, reading
from exporter.metricspage import as_json, markdown
from exporter.probing.mtu import search
from skeleton_service.lint.series import KUBERNETES_LABELS, Metrics
from skeleton_service.ruleset import Thresholds, job_rules, static_rules

ROOT = Path(__file__).parents[2]
STATIC = sorted((ROOT / "rules/static").glob("*.yaml"))
TESTS = sorted((ROOT / "rules/tests").glob("*.yaml"))

# What Prometheus and its scrape add to every series, and what a rule's own labels hold.
SCRAPE_LABELS = {"instance", "cluster", "__name__", "alertname", "job"}
SUFFIXES = ("_bucket", "_sum", "_count")

_STRING = re.compile(r'"(?:\\.|[^"\\])*"' + r"|'(?:\\.|[^'\\])*'")
# Ours, and those of exporters whose names rules read as well: skeleton_service/lint/dialects.yaml.
_PREFIX = r"(?:fabric|node_infiniband|rdma|coredns|node_local_dns|kube|container)_"
_SELECTOR = re.compile(rf"(?<![\w:])({_PREFIX}\w+|[a-z_]+:{_PREFIX}[\w:]+)\s*(\{{[^{{}}]*\}})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_LABEL_LIST = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")

LABELS = {metric.name: set(metric.labels) | ({"le"} if metric.kind == "histogram" else set()) for metric in CATALOGUE}
LABELS |= {name + suffix: LABELS[name] for name in list(LABELS) for suffix in SUFFIXES if "le" in LABELS[name]}
DIALECTS = Metrics()


def labels_of(metric: str) -> set[str] | None:
    """Labels of a metric of the catalogue or of another exporter, what scraping adds included; None of none."""
    if metric in LABELS:
        return LABELS[metric] | SCRAPE_LABELS
    info = DIALECTS.get(metric)
    return None if info is None else set(info.labels or ()) | SCRAPE_LABELS | KUBERNETES_LABELS


def rule_files() -> list[tuple[str, str]]:
    """The static rules and a generated pack, as (name, text)."""
    return [(path.name, path.read_text()) for path in STATIC] + list(job_rules("job-1", Thresholds()).items())


def expressions(text: str) -> list[str]:
    """All PromQL of a rule file: expressions, and the queries that templates of annotations make."""
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    templates = [value for rule in rules for value in rule.get("annotations", {}).values()]
    queries = [
        bytes(match[1:-1], "utf-8").decode("unicode_escape").replace("%q", '"x"')
        for template in templates
        for match in _STRING.findall(template)
        if "{" in match and re.search(rf"\b{_PREFIX}", match)
    ]
    return [rule["expr"] for rule in rules] + queries


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Each metric selector as (name, labels its matchers name)."""
    text = _STRING.sub('""', expression)
    return [(name, set(_MATCHER.findall(matchers or ""))) for name, matchers in _SELECTOR.findall(text)]


def recorded(text: str) -> set[str]:
    return {rule["record"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "record" in rule}


@pytest.mark.parametrize(("name", "text"), rule_files(), ids=lambda value: value if "\n" not in value else "")
def test_rules_name_only_metrics_of_the_catalogue_with_their_labels(name: str, text: str) -> None:
    known = set().union(*(recorded(text) for _, text in rule_files()))
    found = [(selector, labels) for expression in expressions(text) for selector, labels in selectors(expression)]
    assert found, name
    for metric, labels in found:
        if metric in known:
            continue
        there = labels_of(metric)
        assert there is not None, f"{name} names {metric}"
        assert labels <= there, f"{name} matches {labels} on {metric}"


def test_rules_group_and_join_by_labels_that_exist() -> None:
    every = set().union(*LABELS.values()) | SCRAPE_LABELS | KUBERNETES_LABELS | {"component", "suspect", "counter"}
    # Of other exporters; made by rules.
    every |= {"device", "port", "uid", "signal", "setting", "one_end", "other_end", "collector"}
    every |= set().union(*(metric.labels for metric in SERVED))
    for name, text in rule_files():
        for expression in expressions(text):
            for labels in _LABEL_LIST.findall(_STRING.sub('""', expression)):
                named = {label.strip() for label in labels.split(",") if label.strip()}
                assert named <= every, f"{name}: {named - every}"


def test_the_committed_static_rules_are_what_is_rendered_now() -> None:
    """Write them anew with: skeleton-service rules --static --output rules/static"""
    assert {path.name: path.read_text() for path in STATIC} == static_rules(Thresholds())


def test_other_exporters_names_are_held_to_the_list_of_them() -> None:
    assert labels_of("node_infiniband_np_cnp_sent_total") is None
    there = labels_of("coredns_cache_hits_total")
    assert there is not None
    assert "zones" in there
    assert "rcode" not in there


def test_the_selector_search_finds_what_it_should() -> None:
    expression = 'sum by (a) (rate(fabric_x_total{probe="fabric_no", path!~"x{}"}[5m])) / job_link:fabric_y:count'
    assert selectors(expression) == [("fabric_x_total", {"probe", "path"}), ("job_link:fabric_y:count", set())]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_rule_tests_feed_series_that_the_exporter_emits(path: Path) -> None:
    recorded_ones = set().union(*(recorded(text) for _, text in rule_files()))
    for test in yaml.safe_load(path.read_text())["tests"]:
        for series in test.get("input_series", []):
            if series["series"].startswith("ALERTS{"):  # Prometheus' own
                continue
            ((metric, labels),) = selectors(series["series"])
            if metric in recorded_ones:
                continue
            there = labels_of(metric)
            assert there is not None, f"{path.name} feeds {metric}"
            assert labels <= there, f"{path.name} feeds {labels - there} on {metric}"


def test_names_are_unique_and_made_as_prometheus_makes_them() -> None:
    names = [metric.name for metric in CATALOGUE]
    assert len(names) == len(set(names))
    for metric in CATALOGUE:
        assert re.fullmatch(r"fabric_[a-z0-9_]+", metric.name), metric.name
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert not re.search(r"_(ms|milliseconds|percent|kbps|mbps)(_|$)", metric.name), metric.name
        assert metric.unit != "1", metric.name


def test_no_label_collides_with_what_scraping_adds() -> None:
    reserved = {"job", "instance", "pod", "namespace", "container", "node", "endpoint", "service", "le", "quantile"}
    for metric in CATALOGUE:
        assert not reserved & set(metric.labels), metric.name


def test_every_metric_has_a_sentence_and_a_formula() -> None:
    for metric in CATALOGUE:
        assert metric.help.endswith("."), metric.name
        assert "\n" not in metric.help
        assert metric.series
        assert (metric.buckets != ()) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(metric.buckets)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_every_formula_can_be_worked_out(metric: object) -> None:
    assert metric.series_bound(dict.fromkeys(SERIES_TERMS, 1)) >= 1  # type: ignore[attr-defined]


def test_the_reference_page_has_a_row_for_every_metric() -> None:
    page = markdown()
    assert all(f"| `{metric.name}` | `{metric.otel_name}` |" in page for metric in CATALOGUE)
    assert as_json().count('"name":') == len(CATALOGUE)


def test_the_values_of_labels_are_those_that_are_served() -> None:
    """As far as whoever serves them has them in one place."""
    values = {(metric, label): said for metric, labels in LABEL_VALUES.items() for label, said in labels.items()}
    assert values["fabric_path_mtu_limit_info", "kind"] == get_args(search.Kind)
    assert values["fabric_rnic_device_info", "function"] == get_args(device.Function)
    assert values["fabric_rnic_coverage", "signal"] == tuple(reading.SIGNALS) == rnic_counters.SIGNALS
    assert values["fabric_rnic_coverage", "state"] == get_args(reading.State)
    assert set(values["fabric_path_probes_sent_total", "probe"]) == {*get_args(ProbeType)} - {"dns", "trace"}
    assert all(len(said) == len(set(said)) and "" not in said for said in values.values())


def test_the_reference_page_has_the_values_of_labels() -> None:
    page = markdown()
    assert "| `kind` | `fabric_path_mtu_limit_info` | `black_hole`, `frag_needed`, `local` |" in page
    assert "| `probe` | all | `rdma`, `udp`, `tcp`, `mtu` |" in page
    assert "| `dscp` | all | `0` to `63` |" in page
    (limit,) = (each for each in json.loads(as_json()) if each["name"] == "fabric_path_mtu_limit_info")
    assert limit["label_values"] == {"kind": ["black_hole", "frag_needed", "local"]}


def test_what_the_catalogue_lists_as_recorded_is_recorded() -> None:
    (text,) = job_rules("job-1", Thresholds()).values()
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    assert {name for name in recorded if ":" not in name} == {metric.name for metric in RECORDED}
    assert not {metric.name for metric in RECORDED} & {metric.name for metric in CATALOGUE}


def test_the_contracts_load_no_heavy_library() -> None:
    program = (
        "import sys, exporter.contracts.catalogue, exporter.contracts.schemas, exporter.contracts.fabric\n"
        "print(sorted({'numpy', 'scipy', 'pyarrow', 'opentelemetry', 'prometheus_client', 'pysnmp', 'jinja2'} "
        "& set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"
