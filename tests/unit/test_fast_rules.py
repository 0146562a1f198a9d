"""In the fast profile a resolver that fails is told within seconds; real promtool, rules rendered for a 1 s scrape."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from skeleton_service.ruleset import Thresholds, static_rules

FAST = Thresholds(scrape_interval="1s")
HOSTS = [f"h{number}" for number in range(8)]


def _counters(host: str, **values: str) -> list[dict[str, str]]:
    labels = f'host="{host}", resolver="192.0.2.53", name="a"'
    counted = {"queries": "0+1x90", "timeouts": "0x90", "unreachable": "0x90"} | values
    series = [
        {"series": f"fabric_dns_{name}_total{{{labels}}}", "values": progress} for name, progress in counted.items()
    ]
    answers = {"series": f'fabric_dns_answers_total{{{labels}, rcode="servfail"}}', "values": "0x90"}
    return [*series, answers]


def _firing(directory: Path, series: list[dict[str, str]], expected: Mapping[str, Mapping[str, bool]]) -> str:
    """Run promtool on alerts by time; return what it has to say of those that fire and should not, or do not."""
    rules = directory / "fabric-dns.yaml"
    rules.write_text(static_rules(FAST)["fabric-dns.yaml"])
    checks = [
        {
            "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
            "eval_time": time,
            "exp_samples": [{"labels": "{}", "value": float(fires)}],
        }
        for alert, times in expected.items()
        for time, fires in times.items()
    ]
    test = {
        "rule_files": [rules.name],
        "evaluation_interval": "1s",
        "tests": [{"interval": "1s", "input_series": series, "promql_expr_test": checks}],
    }
    (directory / "test.yaml").write_text(yaml.safe_dump(test))
    run = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=directory, capture_output=True, text=True, check=False
    )
    return "" if run.returncode == 0 else run.stdout + run.stderr


@pytest.mark.parametrize("failure", ["timeouts", "unreachable"])
def test_a_resolver_that_fails_is_told_within_ten_seconds(failure: str, tmp_path: Path) -> None:
    """From the 30th second on it answers no query of any host."""
    series = [each for host in HOSTS for each in _counters(host, **{failure: "0x30 1+1x58"})]
    assert not _firing(tmp_path, series, {"FabricResolverFailing": {"30s": False, "40s": True}})


def test_a_resolver_that_drops_a_third_is_told_within_ten_seconds(tmp_path: Path) -> None:
    series = [each for host in HOSTS for each in _counters(host, timeouts="0x30 0.34+0.34x58")]
    assert not _firing(tmp_path, series, {"FabricResolverFailing": {"30s": False, "40s": True}})


def test_a_healthy_resolver_that_loses_two_queries_is_not(tmp_path: Path) -> None:
    series = [each for host in HOSTS for each in _counters(host, timeouts="0x30 1x59" if host < "h2" else "0x90")]
    quiet = {f"{second}s": False for second in (35, 40, 50, 60, 80)}
    assert not _firing(tmp_path, series, {"FabricResolverFailing": quiet, "FabricHostResolutionFailing": quiet})


def test_one_deaf_host_is_told_and_the_resolver_is_not(tmp_path: Path) -> None:
    """Of two hosts that ask, one: the mean over both would accuse the resolver."""
    series = [*_counters("h0", timeouts="0x30 1+1x58"), *_counters("h1")]
    quiet = {f"{second}s": False for second in (30, 35, 40, 60)}
    expected = {"FabricHostResolutionFailing": {"30s": False, "50s": True}, "FabricResolverFailing": quiet}
    assert not _firing(tmp_path, series, expected)


def test_an_exporter_that_asks_alone_and_seldom_is_listened_to(tmp_path: Path) -> None:
    """One query in five seconds: three in the window, so five minutes are looked at."""
    queries = " ".join(str(second // 5) for second in range(90))
    lost = " ".join(str(max(0, second - 30) // 5) for second in range(90))
    series = _counters("h0", queries=queries, timeouts=lost)
    assert not _firing(tmp_path, series, {"FabricResolverFailing": {"35s": False, "75s": True}})
