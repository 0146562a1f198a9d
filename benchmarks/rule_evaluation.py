"""A real Prometheus on one core that scrapes a fed fabric and evaluates rules over it: what the rules cost it."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import yaml

from benchmarks.prometheus_versions import Version
from benchmarks.switch_agents import cores, free_port, memory, pinned, spent

PATHS_PER_TARGET = 1000
_OWN = re.compile(r"^(prometheus_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Timing:
    """Of a run, in seconds."""

    interval: float
    """Of scrapes and of evaluations."""
    window: float
    """The longest that the generated rules look back, which fills before they are loaded."""
    idle: int
    """Intervals of scraping alone, at the end of that, whose processor time is the rules' zero."""
    settling: int
    """Intervals after the rules are loaded that are not counted: the first evaluation makes the recorded series."""
    watched: int


@dataclass(frozen=True)
class Rule:
    name: str
    group: str
    seconds: float
    """Mean of its evaluations that were seen."""


@dataclass(frozen=True)
class Outcome:
    version: str
    paths: int
    rules: int
    interval: float
    rule_bytes: int
    groups: Mapping[str, float]
    """Mean seconds of one evaluation of each group, by ``file;group``."""
    periods: Mapping[str, float]
    """Seconds between two evaluations of each group: some are in less of a hurry than the rest."""
    longest: float
    """Of the sums over all groups, by turns."""
    processor: float
    """Seconds per interval for rules alone: the process' with rules, less those without."""
    scraping: float
    """Processor seconds per interval without rules."""
    resident: float
    """MB, at the end."""
    resident_without: float
    """MB, before the rules were loaded."""
    series: float
    recorded: float
    """Of the series those that rules made."""
    missed: float
    failures: float
    firing: Mapping[str, int]
    costs: tuple[Rule, ...]
    """The dearest first."""
    load: float
    """Mean number of processes that wanted to run (getloadavg(3), a minute) at the end."""

    @property
    def seconds(self) -> float:
        """Of one evaluation of all groups, one after another."""
        return sum(self.groups.values())

    @property
    def generated(self) -> float:
        """Of one evaluation of the groups that are made for a job."""
        return sum(seconds for name, seconds in self.groups.items() if name.startswith("fabric-job"))

    @property
    def share(self) -> float:
        """Of the time, as each group has its own interval."""
        return sum(seconds / self.periods[name] for name, seconds in self.groups.items())

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"seconds": self.seconds, "generated": self.generated, "share": self.share}


@dataclass(frozen=True)
class Feed:
    port: int
    series: int
    missing: tuple[str, ...]
    targets: int


@contextmanager
def feed(paths: int, jobs: int, rules: Path, core: int) -> Iterator[Feed]:
    targets = max(4, paths // PATHS_PER_TARGET)
    argv = [sys.executable, "-m", "benchmarks.rule_feed", "--paths", str(paths), "--jobs", str(jobs)]
    argv += ["--targets", str(targets), "--rules", str(rules)]
    process = subprocess.Popen(pinned(core, argv), stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise RuntimeError("the fed fabric does not start")
        told = json.loads(line)
        yield Feed(told["port"], told["series"], tuple(told["missing"]), targets)
    finally:
        process.terminate()
        process.wait(10)


class Prometheus:
    """Scrapes the feed with what rules are in ``rules`` when it is told to reload."""

    def __init__(self, version: Version, directory: Path, rules: Path, fed: Feed, interval: float, core: int) -> None:
        self._port = free_port()
        every = f"{interval * 1000:.0f}ms"
        self._global = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
        self._targets = [
            {"targets": [f"127.0.0.1:{fed.port}"],
             "labels": {"__metrics_path__": f"/{number}", "instance": f"exporter-{number}", "cluster": "c1"}}
            for number in range(fed.targets)
        ]  # fmt: skip
        self._rules, self._configuration = rules, directory / "prometheus.yml"
        self._configure(idle=False)
        argv = [
            str(version.prometheus), f"--config.file={self._configuration}",
            f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address=127.0.0.1:{self._port}",
            "--web.enable-lifecycle", "--log.level=warn",
        ]  # fmt: skip
        self._log = directory / "prometheus.log"
        with open(self._log, "w") as log:
            self.process = subprocess.Popen(
                pinned(core, argv), stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"}
            )

    def _configure(self, *, idle: bool) -> None:
        config: dict[str, Any] = {"global": self._global}
        if not idle:
            config["rule_files"] = [str(self._rules / "*")]
            config["scrape_configs"] = [
                # A page is of many exporters, whose own series have their instance.
                {"job_name": "fabric-exporter", "honor_labels": True, "static_configs": self._targets}
            ]
        self._configuration.write_text(yaml.safe_dump(config))

    def freeze(self) -> None:
        """Scrape and evaluate nothing more; what was stored before stays as it was."""
        self._configure(idle=True)
        self.ask("/-/reload", "POST")

    def thaw(self) -> None:
        self._configure(idle=False)
        self.ask("/-/reload", "POST")

    def ask(self, path: str, method: str = "GET") -> str:
        request = Request(f"http://127.0.0.1:{self._port}{path}", method=method)
        with urlopen(request, timeout=300) as answer:  # noqa: S310 - the same
            body: bytes = answer.read()
        return body.decode()

    def wait(self) -> None:
        ends = time.monotonic() + 60
        while time.monotonic() < ends and self.process.poll() is None:
            try:
                self.ask("/-/ready")
            except URLError:
                time.sleep(0.2)
            else:
                return
        raise RuntimeError(f"Prometheus does not start: {self._log.read_text()[-2000:]}")

    def own(self) -> dict[tuple[str, str], float]:
        """{(metric, label text): value} of what Prometheus says of itself."""
        return {(name, labels): float(value) for name, labels, value in _OWN.findall(self.ask("/metrics"))}

    def groups(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._data("rules")["groups"]
        return found

    def firing(self) -> dict[str, int]:
        counted: dict[str, int] = {}
        for alert in self._data("alerts")["alerts"]:
            if alert["state"] == "firing":
                name = alert["labels"]["alertname"]
                counted[name] = counted.get(name, 0) + 1
        return dict(sorted(counted.items()))

    def _data(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask(f"/api/v1/{path}"))["data"]
        return found

    def stop(self) -> None:
        self.process.kill()  # it has nothing to keep
        self.process.wait(30)


def _label(group: tuple[str, str]) -> str:
    return f"{Path(group[0]).name};{group[1]}"


def _total(own: Mapping[tuple[str, str], float], name: str) -> float:
    return sum(value for (metric, _), value in own.items() if metric == name)


class _Watch:
    """Evaluations as they are seen: Prometheus tells of the last of each group, and when that was."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str], dict[str, float]] = {}
        """{(file, group): {when: seconds}}."""
        self.periods: dict[tuple[str, str], float] = {}
        self.rules: dict[tuple[str, str, int, str], dict[str, float]] = {}
        """{(file, group, place, name): {when: seconds}}."""

    def look(self, prometheus: Prometheus) -> None:
        for group in prometheus.groups():
            key = (group["file"], group["name"])
            self.periods[key] = group["interval"]
            if group["lastEvaluation"].startswith("0001"):  # not yet
                continue
            self.groups.setdefault(key, {})[group["lastEvaluation"]] = group["evaluationTime"]
            for place, rule in enumerate(group["rules"]):
                own = self.rules.setdefault((*key, place, rule["name"]), {})
                own[rule["lastEvaluation"]] = rule["evaluationTime"]


def measure(
    version: Version, rule_files: Mapping[str, str], paths: int, jobs: int, timing: Timing, note: Callable[[str], None]
) -> Outcome:
    """Run it, for about ``window + (idle + settling + watched) x interval`` seconds."""
    measured, others = cores()
    place = Path(tempfile.mkdtemp(prefix="bench-rules-"))
    try:
        written, live = place / "written", place / "live"
        written.mkdir()
        live.mkdir()
        for name, text in rule_files.items():
            (written / name).write_text(text)
        with feed(paths, jobs, written, others) as fed:
            if fed.missing:
                note(f"no series are made up of {', '.join(fed.missing)}")
            prometheus = Prometheus(version, place, live, fed, timing.interval, measured)
            try:
                prometheus.wait()
                return _measured(prometheus, version, rule_files, paths, timing, written, live)
            finally:
                prometheus.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _measured(
    prometheus: Prometheus,
    version: Version,
    rule_files: Mapping[str, str],
    paths: int,
    timing: Timing,
    written: Path,
    live: Path,
) -> Outcome:
    pid, interval = prometheus.process.pid, timing.interval
    # The first scrapes make the series, which costs many times what later ones do.
    time.sleep(max(timing.window - timing.idle * interval, 3 * interval))
    idle = _processor(pid, timing.idle * interval, interval, lambda: None)
    without, series = memory(pid).resident, _total(prometheus.own(), "prometheus_tsdb_head_series")
    for name in rule_files:
        (written / name).rename(live / name)
    prometheus.ask("/-/reload", "POST")
    time.sleep(timing.settling * interval)
    before = prometheus.own()
    watch = _Watch()
    # Looking costs Prometheus the answer, of each rule with each of its alerts: as seldom as sees every evaluation.
    busy = _processor(pid, timing.watched * interval, interval, lambda: watch.look(prometheus))
    after = prometheus.own()
    lost = {key: after[key] - before.get(key, 0.0) for key in after if "missed" in key[0] or "failures" in key[0]}
    groups = {_label(key): statistics.mean(own.values()) for key, own in watch.groups.items()}
    turns = zip(*(list(own.values()) for own in watch.groups.values() if len(own) > 1), strict=False)
    costs = [Rule(name, group, statistics.mean(own.values())) for (_, group, _, name), own in watch.rules.items()]
    in_head = _total(after, "prometheus_tsdb_head_series")
    return Outcome(
        version=str(version),
        paths=paths,
        rules=len(watch.rules),
        interval=interval,
        rule_bytes=sum(len(text.encode()) for text in rule_files.values()),
        groups=groups,
        periods={_label(key): period for key, period in watch.periods.items()},
        longest=max((sum(turn) for turn in turns), default=0.0),
        processor=(busy - idle) * interval,
        scraping=idle * interval,
        resident=memory(pid).resident,
        resident_without=without,
        series=in_head,
        recorded=in_head - series,
        missed=sum(
            value for (name, _), value in lost.items() if name == "prometheus_rule_group_iterations_missed_total"
        ),
        failures=sum(value for (name, _), value in lost.items() if name == "prometheus_rule_evaluation_failures_total"),
        firing=prometheus.firing(),
        costs=tuple(sorted(costs, key=lambda rule: -rule.seconds)),
        load=os.getloadavg()[0],
    )


def _processor(pid: int, seconds: float, interval: float, look: Callable[[], None]) -> float:
    """The share of a core that a process takes for so long, while it is looked at each interval."""
    began, old = time.monotonic(), spent(pid)
    while (left := began + seconds - time.monotonic()) > 0:
        time.sleep(min(interval, left))
        look()
    return (spent(pid) - old) / (time.monotonic() - began)
