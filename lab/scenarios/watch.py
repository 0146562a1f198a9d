"""Plays one scenario inside a sandbox while a real Prometheus and Alertmanager watch with the whole rule pack.

``python -m lab.scenarios.watch NAME --seed N --output DIRECTORY``; from outside it is ``python -m lab watch``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from exporter.contracts.codec import ContractError
from lab.errors import LabError
from lab.narrator import Narrator
from lab.scenarios import moved, verdict
from lab.scenarios.catalogue import Act, Measured, Scenario, find
from lab.scenarios.verdict import Alert, Group, Verdict
from lab.scenarios.watched import WatchedScene

QUIET_SECONDS = 20.0
RESOLVED_TIMEOUT = 60.0
Moment = Callable[[float], str]


class Watch:
    """One play of one scenario under watch."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        output: Path,
        narrator: Narrator,
        *,
        quiet: float = QUIET_SECONDS,
        during: float | None = None,
        resolved_timeout: float = RESOLVED_TIMEOUT,
        with_moved: bool = False,
    ) -> None:
        self.scenario, self.seed, self.output, self.narrator = scenario, seed, output, narrator
        self.quiet, self.during, self.resolved_timeout = quiet, during, resolved_timeout
        self.with_moved = with_moved
        self.stage = WatchedScene(scenario.lab, seed, output / "run", narrator)
        self.times: dict[str, float] = {}
        self.measured: dict[str, Measured] = {}
        self.load: dict[str, float] = {}
        self.act: Act | None = None
        self.alerts: list[Alert] = []
        self.groups: list[Group] = []
        self.healthy: list[Group] = []
        self.verdict: Verdict | None = None
        self.moved: list[str] = []

    def play(self) -> None:
        """Play it to the end and judge it; raise LabError when it cannot be, or has not the effect meant."""
        stage, scene = self.stage, self.stage.scene
        stage.begin()
        act = self.act = self.scenario.build(scene)
        with self.narrator.step("healthy") as step:
            self.times["begin"] = time.time()
            self.measured["before"] = act.measure()
            stage.wait_quiet(self.quiet)
            before = self._everything()
            since = time.time()
            self.wait_until(since + (self.quiet / 2 if self.with_moved else 0))
            step.detail = f"nothing fires, load {os.getloadavg()[0]:.1f}"
        healthy = self._everything()
        told_before = len(stage.receiver.notifications)
        with self.narrator.step("injected") as step:
            self.times["injected"] = time.time()
            self.load["injected"] = os.getloadavg()[0]
            act.inject()
            step.detail = act.description
        with self.narrator.step("watched") as step:
            self.measured["during"] = act.measure()
            self.wait_until(self.times["injected"] + (self.during or act.during))
            quiet, wrong = self.times["injected"] - since, time.time() - self.times["injected"]
            broken = self._everything()
            self.moved = list(moved.moved(before, healthy, broken, quiet, wrong))
            step.detail = (
                f"{len(stage.receiver.notifications) - told_before} alerts told, load {os.getloadavg()[0]:.1f}"
            )
        with self.narrator.step("repaired") as step:
            self.times["repaired"] = time.time()
            scene.repair()
            self._await_resolved()
            self.times["end"] = time.time()
            step.detail = f"{len(stage.firing())} alerts still fire"
        self._judge(act, told_before)
        effect = act.effect(self.measured["before"].value, self.measured["during"].value)
        if not effect:
            raise LabError(
                "the effect is not there: " + ", ".join(f"{k} {m.value:g}" for k, m in self.measured.items())
            )

    def _everything(self) -> moved.Samples:
        """Every series of the exporters, when they were asked for; none where the machine is too busy to tell them."""
        try:
            return self.stage.monitoring.query(moved.SELECTOR, timeout=60) if self.with_moved else []
        except TimeoutError:
            return []

    def wait_until(self, moment: float) -> None:
        while (left := moment - time.time()) > 0:
            self.stage.check_daemons()
            self.narrator.progress(f"{left:.0f} s to go")
            time.sleep(min(0.5, left))

    def _await_resolved(self) -> None:
        deadline = time.monotonic() + self.resolved_timeout
        while time.monotonic() < deadline:
            told = verdict.groups(self.stage.receiver.notifications)
            if told and not self.stage.firing() and all(group.resolved is not None for group in told):
                return
            if not told and time.time() > self.times["repaired"] + self.quiet:
                return
            self.narrator.progress(f"{len(self.stage.firing())} alerts fire")
            time.sleep(0.5)

    def _judge(self, act: Act, told_before: int) -> None:
        series = self.stage.monitoring.series("ALERTS", self.times["begin"], time.time())
        self.alerts = verdict.alerts(series)
        notifications = self.stage.receiver.notifications
        self.healthy = verdict.groups(notifications[:told_before])
        self.groups = verdict.groups(notifications[told_before:])
        right = {(act.truth.kind, act.truth.name), *act.truth.others}
        self.verdict = verdict.judge(self.scenario.alerts, right, self.groups, self.times["injected"])

    # ---- what it leaves

    def show(self) -> None:
        if self.verdict is None or self.act is None:
            return
        console = self.narrator.console
        moment = _moments(self.times["injected"])
        table = Table(title="alerts in Prometheus", title_justify="left", title_style="bold")
        for column in ("alert", "state", "kind", "component", "suspect", "from", "to"):
            table.add_column(column, overflow="fold")
        for alert in self.alerts:
            words = (alert.name, alert.state, *alert.component, alert.labels.get("suspect", ""))
            table.add_row(*map(escape, words), moment(alert.first), moment(alert.last))
        console.print(table)
        table = Table(title="notified", title_justify="left", title_style="bold")
        for column in ("group", "first", "messages", "alerts", "resolved"):
            table.add_column(column, overflow="fold")
        for group in (*self.healthy, *self.groups):
            names = sorted({f"{each.name} {each.component}" for each in group.firing})
            over = "" if group.resolved is None else moment(group.resolved)
            table.add_row(escape(group.key), moment(group.first), str(group.messages), escape("\n".join(names)), over)
        console.print(table)
        verdict, truth = self.verdict, self.act.truth
        seconds = "" if verdict.seconds is None else f" after {verdict.seconds:.1f} s"
        for good, text in (
            (bool(verdict.own), f"own alert: {verdict.own or 'none of ' + ', '.join(self.scenario.alerts)}{seconds}"),
            (
                verdict.right,
                f"component: {' '.join(verdict.component).strip() or 'none'}; truth: {truth.kind} {truth.name}",
            ),
            (verdict.groups == 1, f"notifications: {verdict.groups}"),
            (verdict.resolved, f"resolved: {'yes' if verdict.resolved else 'no'}"),
            (not self.healthy, f"notified while healthy: {len(self.healthy)}"),
        ):
            console.print(f"{'good' if good else 'bad'}: {text}", markup=False, soft_wrap=True)

    def report(self) -> Mapping[str, Any]:
        act = self.act
        return {
            "version": 1,
            "scenario": self.scenario.name,
            "seed": self.seed,
            "description": act.description if act else "",
            "times": self.times,
            "load": self.load,
            "measured": {name: asdict(reading) for name, reading in self.measured.items()},
            "right": [list(name) for name in ((act.truth.kind, act.truth.name), *act.truth.others)] if act else [],
            "verdict": asdict(self.verdict) if self.verdict else None,
            "alerts": [asdict(alert) for alert in self.alerts],
            "notified_while_healthy": [asdict(group) for group in self.healthy],
            "notified": [asdict(group) for group in self.groups],
        }

    def write(self) -> None:
        (self.output / "report.json").write_text(json.dumps(self.report(), indent=2) + "\n")
        if self.moved:
            (self.output / "moved.txt").write_text("".join(f"{line}\n" for line in self.moved))


def _moments(injected: float) -> Moment:
    return lambda moment: f"{moment - injected:+.1f} s"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.scenarios.watch", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--quiet", type=float, default=QUIET_SECONDS)
    parser.add_argument("--during", type=float)
    parser.add_argument("--resolved", type=float, default=RESOLVED_TIMEOUT)
    parser.add_argument("--moved", action="store_true")
    arguments = parser.parse_args(words)
    narrator = Narrator()
    scenario = find(arguments.name)
    narrator.console.print(f"[bold]{escape(scenario.name)}[/]: {escape(scenario.title)}")
    watch = Watch(
        scenario,
        arguments.seed,
        arguments.output,
        narrator,
        quiet=arguments.quiet,
        during=arguments.during,
        resolved_timeout=arguments.resolved,
        with_moved=arguments.moved,
    )
    code = 1
    try:
        watch.play()
        code = 0 if watch.verdict is not None and watch.verdict.good and not watch.healthy else 1
    except (LabError, ContractError, OSError) as error:
        narrator.console.print(f"[red]stopped:[/] {escape(str(error))}", soft_wrap=True)
    finally:
        watch.show()
        watch.write()
        watch.stage.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
