"""Plays one scenario inside a sandbox: ``python -m lab.scenarios.runner NAME --seed N --output DIRECTORY``."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
from rich.markup import escape

from exporter.contracts.codec import ContractError, encode
from exporter.contracts.diagnosis import Alternative, Diagnosis, Failure
from exporter.contracts.skeleton import Window
from lab.errors import LabError
from lab.narrator import Narrator
from lab.network import design as drawn
from lab.network import overlay, transit
from lab.scenarios.catalogue import Act, Measured, Scenario, find
from lab.scenarios.scene import Scene

LOOKUPS = "probes-dns.csv"
QUIET_SECONDS = 10.0
AFTER_SECONDS = 6.0
COUNTER_PERIOD = 2.0
TRACED_TIMEOUT = 40.0
RECOVERY_SECONDS = 15.0
_TRACED = re.compile(rb'^fabric_path_link_info\{path="([^"]*)"', re.MULTILINE)


class Run:
    """One play of one scenario, and the files it leaves."""

    def __init__(self, scenario: Scenario, seed: int, output: Path, narrator: Narrator) -> None:
        self.scenario, self.seed, self.output, self.narrator = scenario, seed, output, narrator
        options = dict(scenario.lab)
        with_transit = options.pop("transit", False)
        design = drawn.draw(seed, **options)
        self.scene = Scene(output / "run", seed, transit.add(design) if with_transit else design)
        self.times: dict[str, float] = {}
        self.measured: dict[str, Measured] = {}
        self.act: Act | None = None
        self.with_lookups = False

    def play(self) -> None:
        """Play it to the end and write its files; raise LabError when it cannot be, or has not the effect meant."""
        scene = self.scene
        with self.narrator.step("fabric up") as step:
            scene.raise_lab()
            step.detail = f"{len(scene.design.hosts)} hosts, {len(scene.design.switches)} switches, seed {self.seed}"
        with self.narrator.step("measuring") as step:
            scene.start()
            scene.record_counters(self.output / "counters.csv", COUNTER_PERIOD)
            wanted = {
                (t.source_address, t.source_ports[0]) for t in scene.plans["underlay"].targets if t.probe != "tcp"
            }
            self.with_lookups = scene.record_lookups(self.output / LOOKUPS)
            self._await_traces(len(wanted))
            step.detail = " and ".join(f"{len(plan.targets)} {name} paths" for name, plan in scene.plans.items())
        act = self.act = self.scenario.build(scene)
        with self.narrator.step("healthy") as step:
            self.times["begin"] = time.time()
            self._write_overlay("overlay-before.json")
            before = self.measured["before"] = act.measure()
            self._wait_until(self.times["begin"] + QUIET_SECONDS)
            step.detail = _shown(before)
        with self.narrator.step("injected") as step:
            self.times["injected"] = time.time()
            act.inject()
            step.detail = act.description
        with self.narrator.step("measured") as step:
            during = self.measured["during"] = act.measure()
            step.detail = _shown(during)
            if not act.effect(before.value, during.value):
                raise LabError(f"the effect is not there: {_shown(before)} before, {_shown(during)} during")
            self._wait_until(self.times["injected"] + act.during)
            self._write_overlay("overlay.json")
        with self.narrator.step("repaired") as step:
            self.times["repaired"] = time.time()
            scene.repair()
            after = self._measure_again(act, before, during)
            step.detail = _shown(after)
            self._wait_until(self.times["repaired"] + AFTER_SECONDS)
            self.times["end"] = time.time()
        with self.narrator.step("recorded") as step:
            self._write(act)
            step.detail = f"{sum(1 for file in self.output.iterdir() if file.is_file())} files"

    def _measure_again(self, act: Act, before: Measured, during: Measured) -> Measured:
        """Measure until what was wrong is at most a tenth of what it had been."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while True:
            after = self.measured["after"] = act.measure()
            if not act.recovers or abs(after.value - before.value) <= abs(during.value - before.value) / 10:
                return after
            if time.monotonic() > deadline:
                raise LabError(f"not whole {RECOVERY_SECONDS:g} s after the repair: {_shown(after)}")

    def _wait_until(self, moment: float) -> None:
        while (left := moment - time.time()) > 0:
            self.narrator.progress(f"{left:.0f} s to go")
            time.sleep(min(0.5, left))

    def _await_traces(self, wanted: int) -> None:
        """Until agents know the way of nine flows in ten: the rest is policed away and comes later."""
        deadline = time.monotonic() + TRACED_TIMEOUT
        while True:
            pages = self.scene.exporters.read("/metrics").values()
            lines = [line for page in pages for line in page.decode().splitlines()]
            paths = {
                line.split('path="')[1].split('"')[0] for line in lines if line.startswith("fabric_path_link_info")
            }
            if len(paths) >= 0.9 * wanted:
                return
            if time.monotonic() > deadline:
                raise LabError(f"only {len(paths)} of {wanted} paths are traced after {TRACED_TIMEOUT:g} s")
            time.sleep(0.5)

    # ---- files

    def _write_overlay(self, name: str) -> None:
        state = overlay.state(self.scene.design, self.scene.lab.directory, time.time())
        (self.output / name).write_bytes(encode(state))

    def _write(self, act: Act) -> None:
        scene, since = self.scene, self.times["begin"]
        window = Window(start=since, end=self.times["end"], step_seconds=1.0)
        (self.output / "topology.json").write_bytes(encode(scene.topology))
        (self.output / "skeleton.json").write_bytes(encode(msgspec.structs.replace(scene.skeleton, window=window)))
        for name, plan in scene.plans.items():
            (self.output / f"plan-{name}.json").write_bytes(encode(plan))
        query = f"since={since:.3f}"
        self._join("probes-underlay.csv.gz", scene.exporters.read(f"/v1/probe-records?{query}"))
        self._join("probes-overlay.csv.gz", scene.sidecars.read(f"/v1/probe-records?{query}"))
        self._join("throughput.csv.gz", scene.exporters.read(f"/v1/throughput?{query}"))
        self._compress("counters.csv")
        if self.with_lookups:
            self._compress(LOOKUPS)
        (self.output / "truth.json").write_bytes(encode(self._truth(act)))
        document = {
            "version": 1,
            "scenario": self.scenario.name,
            "title": self.scenario.title,
            "table_1_row": self.scenario.row,
            "seed": self.seed,
            "description": act.description,
            "times": self.times,
            "measured": {name: asdict(reading) for name, reading in self.measured.items()},
            "others_right": [{"kind": kind, "name": name} for kind, name in act.truth.others],
        }
        (self.output / "scenario.json").write_text(json.dumps(document, indent=2) + "\n")

    def _truth(self, act: Act) -> Diagnosis:
        measured = [f"{when}: {_shown(reading)}, {reading.command}" for when, reading in self.measured.items()]
        failure = Failure(
            id=f"{self.scenario.name}-{self.seed}",
            job=self.scene.job.name,
            start=self.times["injected"],
            detected_at=self.times["injected"],
            end=self.times["repaired"],
            symptom=act.truth.symptom,
            layer=act.truth.layer,
            component=act.truth.component,
            alternatives=tuple(Alternative(kind=kind, name=name, score=1.0) for kind, name in act.truth.others),
            confidence=1.0,
            paths=(),
            evidence=(act.description, *measured),
        )
        return Diagnosis(version=1, failures=(failure,))

    def _join(self, name: str, pages: Mapping[str, bytes]) -> None:
        """One table of many agents' pages, by time."""
        rows: list[dict[str, str]] = []
        columns: list[str] = []
        for page in pages.values():
            reader = csv.DictReader(page.decode().splitlines())
            columns = columns or list(reader.fieldnames or ())
            rows += reader
        time_column = "ping_time" if "ping_time" in columns else "time"
        rows.sort(key=lambda row: float(row[time_column]))
        with gzip.open(self.output / name, "wt", newline="", compresslevel=6) as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def _compress(self, name: str) -> None:
        plain = self.output / name
        (self.output / f"{name}.gz").write_bytes(gzip.compress(plain.read_bytes(), 6))
        plain.unlink()


def _shown(measured: Measured) -> str:
    return f"{measured.tool} {measured.value:g} {measured.unit}".rstrip()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.scenarios.runner", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(words)
    narrator = Narrator()
    scenario = find(arguments.name)
    narrator.console.print(f"[bold]{escape(scenario.name)}[/]: {escape(scenario.title)}")
    run = Run(scenario, arguments.seed, arguments.output, narrator)
    try:
        run.play()
    except (LabError, ContractError, OSError) as error:
        narrator.console.print(f"[red]stopped:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    finally:
        run.scene.lab.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
