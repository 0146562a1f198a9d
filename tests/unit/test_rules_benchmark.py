"""The rules benchmark's own parts: its pages are those of real exporters, and it runs with a real Prometheus."""

from __future__ import annotations

import re
from functools import cache

import pytest

from benchmarks.prometheus_versions import at_hand
from benchmarks.rule_evaluation import Timing, measure
from benchmarks.rule_fabric import fabric
from benchmarks.rule_series import PageOf, names_in, pages
from benchmarks.rules import rendered
from exporter.contracts.catalogue import CATALOGUE
from skeleton_service.ruleset import Thresholds

SAMPLE = re.compile(r'^(\w+)(?:\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)$')
PATHS = 50


@cache
def every_page() -> list[PageOf]:
    return pages(fabric(PATHS), {metric.name for metric in CATALOGUE}, 4)[0]


def samples(elapsed: float) -> dict[tuple[str, str], float]:
    """{(name, label text): value} of all pages; each series of a component stands on one of them."""
    found: dict[tuple[str, str], float] = {}
    for page in every_page():
        lines = [line for line in page.render(1e9 + elapsed, elapsed).decode().splitlines() if line[0] != "#"]
        assert len(lines) == page.series
        for line in lines:
            match = SAMPLE.match(line)
            assert match is not None, line
            key = (match[1], match[2] or "")
            assert key not in found or not match[2] or match[2].startswith("process="), line
            found[key] = float(match[3])
    return found


def test_pages_hold_metrics_of_the_catalogue_with_exactly_their_labels() -> None:
    metrics = {metric.name: set(metric.labels) for metric in CATALOGUE if metric.kind != "histogram"}
    for metric in CATALOGUE:
        if metric.kind == "histogram":
            metrics[f"{metric.name}_bucket"] = {*metric.labels, "le"}
            metrics |= {f"{metric.name}_{part}": set(metric.labels) for part in ("sum", "count")}
    empty = {"breakout_group", "lag", "bond", "vlan", "address"}  # an empty label is left out, as exporters do
    for name, text in samples(100.0):
        labels = set(re.findall(r'(\w+)="', text))
        assert labels <= metrics[name] | {"instance"}, name
        assert metrics[name] - labels <= empty, name


def test_every_metric_that_shipped_rules_name_has_series() -> None:
    named = names_in(rendered("pack", PATHS, 1, Thresholds()).values())
    assert "fabric_path_probes_lost_total" in named
    made, missing = pages(fabric(PATHS), named, 4)
    assert missing == []
    assert sum(page.series for page in made) > PATHS * 10


def test_counters_go_on_and_paths_over_the_broken_link_lose() -> None:
    before, after = samples(100.0), samples(200.0)
    assert all(after[key] >= value for key, value in before.items() if key[0].endswith("_total"))
    of = fabric(PATHS)
    for path in of.paths:
        key = f'path="{path.path}",'
        gained = {
            name: after[name, text] - before[name, text]
            for name, text in before
            if text.startswith(key) and name.startswith("fabric_path_probes_")
        }
        assert gained["fabric_path_probes_sent_total"] == pytest.approx(100)
        assert (gained["fabric_path_probes_lost_total"] > 0) == (path.fault != "")
        assert (path.fault == "link") == (of.broken_link in path.links)


@pytest.mark.parametrize(("paths", "jobs"), [(50, 1), (1000, 4), (3000, 1)])
def test_a_fabric_has_as_many_paths_of_four_links_as_asked_for(paths: int, jobs: int) -> None:
    of = fabric(paths, jobs)
    assert len({path.path for path in of.paths}) == paths
    assert len({path.job for path in of.paths}) == jobs
    assert all(len(set(path.links)) == 4 for path in of.paths)
    ends = {f"{port.switch}:{port.port}" for port in of.ports}
    assert all(any(end in ends for end in link.split(" -- ")) for path in of.paths for link in path.links)


@pytest.mark.skipif(not at_hand(), reason="prometheus is not on PATH (apt: prometheus)")
@pytest.mark.parametrize("what", ["pack", "generated", "literal"])
def test_it_runs_with_a_real_prometheus(what: str) -> None:
    notes: list[str] = []
    files = rendered(what, PATHS, 1, Thresholds(scrape_interval="1s"))
    outcome = measure(at_hand()[0], files, PATHS, 1, Timing(1.0, 3.0, idle=1, settling=2, watched=3), notes.append)
    assert notes == []
    assert outcome.failures == 0  # a busy machine may miss some
    assert outcome.seconds > 0
    assert outcome.rules >= (2 * PATHS if what == "literal" else 20)
    assert outcome.recorded > (0 if what == "literal" else PATHS)  # ALERTS of literal rules are series as well
    assert outcome.resident > 10
    assert outcome.costs[0].seconds >= outcome.costs[-1].seconds > 0
