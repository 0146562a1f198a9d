"""Exporters as operators run them, here or on a host of a lab, and what their processes cost."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.codec import encode, write
from exporter.contracts.plan import Plan, Target
from lab import sandbox

Enter = Callable[[Sequence[str]], list[str]]
"""Turns a command line into the one, for out here, that runs it where it belongs."""

_READ = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=60).read().decode())"


@dataclass(frozen=True)
class Cost:
    """Of one process since it started: processor seconds (scheduler's count); and its memory now."""

    seconds: float
    pss_mib: float

    @classmethod
    def of(cls, pid: int) -> Cost:
        spent = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return cls(spent, next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024)


class Agent:
    """``fabric-exporter run`` with ``configuration`` in ``directory``, where ``enter`` leads to."""

    def __init__(self, enter: Enter, directory: Path, configuration: Mapping[str, Any]) -> None:
        self._enter = enter
        self._config = directory / "config.yaml"
        self._plan = directory / "plan.json"
        directory.mkdir()
        (directory / "key").write_bytes(b"k" * 32)
        listen = configuration["listen"]
        self._url = f"http://{listen['address']}:{listen['port']}"
        self._config.write_text(yaml.safe_dump({"plan": self._plan.name, **configuration}))
        argv = [sys.executable, "-m", "exporter.cli", "run", "--config", str(self._config)]
        with open(directory / "log", "wb") as log:
            self._process = subprocess.Popen(enter(argv), env=sandbox.environment(), stderr=log)
        self._generation = 0
        deadline = time.monotonic() + 20
        while not self.read("/metrics"):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"the exporter does not answer: {(directory / 'log').read_text()}")
            time.sleep(0.1)

    def plan(self, targets: Sequence[Target]) -> None:
        self._generation += 1
        plan = Plan(
            version=1, job="bench", job_uid=None, phase="skeleton", generation=self._generation, expires=9e9,
            targets=tuple(targets),
        )  # fmt: skip
        write(self._plan, encode(plan))

    def read(self, page: str) -> str:
        """A page; empty when there is no answer."""
        done = subprocess.run(
            self._enter([sys.executable, "-c", _READ, self._url + page]),
            env=sandbox.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout if done.returncode == 0 else ""

    def totals(self) -> Counter[str]:
        """{sample name: sum over its series}."""
        sums: Counter[str] = Counter()
        for family in text_string_to_metric_families(self.read("/metrics")):
            for sample in family.samples:
                sums[sample.name] += sample.value  # type: ignore[assignment]
        return sums

    def records(self, since: float) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.read(f"/v1/probe-records?since={since:.3f}"))))

    def processes(self) -> dict[str, int]:
        """{name: process identifier}: the control process and its children."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if words[0] == sys.executable and str(self._config) in words:
                children = (entry / "task" / entry.name / "children").read_text().split()
                found = {"control": int(entry.name)}
                for child in children:
                    modules = Path(f"/proc/{child}/cmdline").read_text().split("\0")
                    found[modules[2].removeprefix("exporter.").removesuffix(".process")] = int(child)
                return found
        raise RuntimeError(f"the exporter of {self._config} does not run")

    def cost(self) -> dict[str, Cost]:
        return {name: Cost.of(pid) for name, pid in self.processes().items()}

    def stop(self) -> None:
        os.kill(self.processes()["control"], signal.SIGTERM)
        self._process.wait(20)
