"""What Grafana's pages ask of a real Prometheus, and how long it takes to answer: ``make bench-dashboards``.

Prometheus scrapes a made-up fabric (``rule_fabric``) with the whole rule pack and a job's rules, on one core. When half
an hour is stored it stops to scrape, and each query of each page is asked as Grafana would, one after another, of that
half hour at the step of a wide screen (``--minutes 5``: for a look). Exit status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlencode

from benchmarks.markdown import begin, head, row, say, verdict
from benchmarks.prometheus_versions import at_hand, version
from benchmarks.rule_evaluation import Prometheus
from benchmarks.rule_fabric import PEERS, PROBES, RNICS
from benchmarks.rule_profile import recording
from benchmarks.rules import rendered
from grafana.__main__ import DIRECTORY
from grafana.asking import Asked, Shown, asked, chosen
from skeleton_service.ruleset import Thresholds

BAR_RNICS, BAR_SECONDS, MOST_SERIES = 512, 2.0, 2000
SCRAPED_SECONDS = 15
STEPS = 120
"""Points of a line: what fits on a panel of a third of a wide screen."""
REPEATS = 3
_SHOWN = 12


@dataclass(frozen=True)
class Answer:
    query: Asked
    seconds: float
    """The median of REPEATS."""
    series: int


def selected(prometheus: Prometheus, at: float) -> Mapping[str, str]:
    """What an engineer would have chosen: what hurts most."""

    def of(label: str, expression: str) -> str:
        (found, *_) = _ask(prometheus, Asked("", "", "", expression, instant=True), at, Shown())
        return found["metric"][label]

    return {
        "training_job": of("training_job", "topk(1, job_link:fabric_link_suspicion:ratio)"),
        "link": of("link", "topk(1, job_link:fabric_link_suspicion:ratio)"),
        "path": of("path", "topk(1, job_path:fabric_path_forward_loss:ratio_rate)"),
        "switch": of("switch", "topk(1, fabric_switch_reachable)"),
        "host": of("host", "topk(1, fabric_rnic_info)"),
    }


def answers(prometheus: Prometheus, at: float, shown: Shown) -> list[Answer]:
    """Of panels, of annotations, and of what pages ask before either: variables that a query finds."""
    values = selected(prometheus, at)
    found: list[Answer] = []

    def answer(query: Asked) -> list[_Series]:
        took, series = [], []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            series = _ask(prometheus, query, at, shown)
            took.append(time.perf_counter() - begun)
        found.append(Answer(query, sorted(took)[REPEATS // 2], len(series)))
        return series

    def labels(query: Asked) -> list[Mapping[str, str]]:
        return [each["metric"] for each in answer(query)]

    for path in sorted(DIRECTORY.glob("*.json")):
        board = json.loads(path.read_text())
        for query in asked(board, chosen(board, values, labels), shown):
            answer(query)
    return found


class _Series(TypedDict):
    metric: dict[str, str]


def _ask(prometheus: Prometheus, query: Asked, at: float, shown: Shown) -> list[_Series]:
    words: dict[str, object] = {"query": query.expression}
    if query.instant:
        kind, words["time"] = "query", at
    else:
        kind = "query_range"
        words |= {"start": at - shown.seconds, "end": at, "step": shown.step}
    told = json.loads(prometheus.ask(f"/api/v1/{kind}?{urlencode(words)}"))
    return list(told["data"]["result"])


def report(found: Sequence[Answer], rnics: int) -> list[str]:
    head("page", "queries", "seconds", "most series")
    for board in sorted({each.query.board for each in found}):
        own = [each for each in found if each.query.board == board]
        row(
            f"`{board}`", str(len(own)), f"{sum(each.seconds for each in own):.2f}",
            f"{max(each.series for each in own):,}",
        )  # fmt: skip
    print()
    head("page", "panel", "query", "ms", "series")
    for each in sorted(found, key=lambda one: -one.seconds)[:_SHOWN]:
        query = each.query
        row(f"`{query.board}`", query.panel, query.ref, f"{1e3 * each.seconds:.0f}", f"{each.series:,}")
    total, most = sum(each.seconds for each in found), max(each.series for each in found)
    return [
        verdict(
            total <= BAR_SECONDS,
            f"{len(found)} queries of all pages, {rnics} RNICs: {total:.2f} s (bar: {BAR_SECONDS:g} s)",
        ),
        verdict(most <= MOST_SERIES, f"the largest answer has {most:,} series (bar: {MOST_SERIES:,})"),
    ]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboards", description=__doc__)
    parser.add_argument("--rnics", type=int, default=BAR_RNICS)
    parser.add_argument("--minutes", type=float, default=30.0, help="of data, and shown (default: 30)")
    parser.add_argument("--prometheus", type=Path, metavar="PATH", help="a binary (default: the oldest at hand)")
    options = parser.parse_args(words)
    versions = [version(options.prometheus)] if options.prometheus else at_hand()
    if not versions:
        parser.error("no prometheus on PATH (apt: prometheus), nor fetched (make prometheus-versions)")
    rnics = options.rnics // RNICS * RNICS
    paths = rnics * PEERS * len(PROBES)
    seconds = int(60 * options.minutes)
    shown = Shown(seconds, max(SCRAPED_SECONDS, seconds // STEPS), SCRAPED_SECONDS)
    begin(
        "Dashboards",
        f"{rnics:,} RNICs, {paths:,} paths of one job; Prometheus {versions[0]} on one core; "
        f"{options.minutes:g} minutes, a point each {shown.step} s; each query asked {REPEATS} times, the median.",
    )
    files = rendered("pack", paths, 1, Thresholds(scrape_interval=f"{SCRAPED_SECONDS}s"))
    with recording(versions[0], files, paths, SCRAPED_SECONDS) as prometheus:
        time.sleep(seconds + 60)
        at = time.time()
        prometheus.freeze()
        time.sleep(2)  # what it was about ends
        verdicts = report(answers(prometheus, at, shown), rnics)
    say(*verdicts, f"Load {os.getloadavg()[0]:.1f}.")
    return int(any(text.startswith("MISSED") for text in verdicts))


if __name__ == "__main__":
    sys.exit(main())
