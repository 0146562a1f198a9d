"""What each rule costs a real Prometheus that does nothing else: one expression after another, of one moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

import yaml

from benchmarks.markdown import head, row
from benchmarks.prometheus_versions import Version
from benchmarks.rule_evaluation import Prometheus, feed
from benchmarks.switch_agents import cores

REPEATS = 3
_SHOWN = 0.005
"""Seconds; what costs less is in its group's sum alone."""


@dataclass(frozen=True)
class Profiled:
    file: str
    group: str
    interval: str
    """Of the group's evaluations; empty: Prometheus' own."""
    name: str
    """Of the record or the alert."""
    seconds: float
    """Of processor time, the least of REPEATS."""


@contextmanager
def recording(version: Version, files: Mapping[str, str], paths: int, interval: float) -> Iterator[Prometheus]:
    """A Prometheus that scrapes so many paths of one job and evaluates these rules."""
    measured, others = cores()
    with TemporaryDirectory(prefix="profile-rules-") as place:
        rules = Path(place, "rules")
        rules.mkdir()
        for name, text in files.items():
            (rules / name).write_text(text)
        with feed(paths, 1, rules, others) as fed:
            prometheus = Prometheus(version, Path(place), rules, fed, interval, measured)
            try:
                prometheus.wait()
                yield prometheus
            finally:
                prometheus.stop()


def profile(prometheus: Prometheus, files: Mapping[str, str]) -> list[Profiled]:
    """Freeze it, and evaluate each rule of these files as of now; the dearest first."""
    now = time.time()
    prometheus.freeze()
    time.sleep(2)  # what it was about ends
    return sorted(
        (
            Profiled(
                name, group["name"], group.get("interval", ""), rule.get("record") or rule["alert"],
                min(_evaluated(prometheus, rule["expr"], now) for _ in range(REPEATS)),
            )
            for name, text in files.items()
            for group in yaml.safe_load(text)["groups"]
            for rule in group["rules"]
        ),
        key=lambda each: -each.seconds,
    )  # fmt: skip


def tables(found: Sequence[Profiled]) -> None:
    groups: dict[tuple[str, str, str], float] = {}
    for each in found:
        key = (each.file, each.group, each.interval)
        groups[key] = groups.get(key, 0.0) + each.seconds
    head("file", "group", "interval", "ms")
    for (file, group, interval), seconds in sorted(groups.items(), key=lambda item: -item[1]):
        row(file, group, interval, f"{1e3 * seconds:.0f}")
    print()
    head("rule", "group", "ms")
    for each in found:
        if each.seconds >= _SHOWN:
            row(f"`{each.name}`", each.group, f"{1e3 * each.seconds:.0f}")


def _evaluated(prometheus: Prometheus, expression: str, when: float) -> float:
    # Counted, since what makes thousands of results into JSON is no part of evaluating a rule.
    query = urlencode({"query": f"count({expression}\n)", "time": f"{when:.3f}"})
    return _while(prometheus.process.pid, lambda: prometheus.ask(f"/api/v1/query?{query}"))


def _while(pid: int, does: Callable[[], object]) -> float:
    before = _on_core(pid)
    does()
    return _on_core(pid) - before


def _on_core(pid: int) -> float:
    """Seconds of a process' threads, finer than the ticks of proc_pid_stat(5)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9
