"""What the prober is measured against, on one path of a lab: fping, Debian's blackbox_exporter, an echo in C."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.agents import Enter
from lab import sandbox

BLACKBOX_PORT = 9115
ECHO_PORT = 5201


@dataclass(frozen=True)
class Ends:
    """A path: how to run a command at its source and at its destination, and their addresses."""

    near: Enter
    far: Enter
    source: str
    destination: str


@dataclass(frozen=True)
class Probed:
    """Round trips in microseconds, with when each began (Unix seconds) where that is known; processor time."""

    round_trips: list[float]
    times: list[float]
    processor_seconds: float
    sent: int


def _measured(ends: Ends, seconds: float, ending: str, command: Sequence[str], *ask: str) -> dict[str, object]:
    words = [sys.executable, "-m", "benchmarks.measured_command", *ask, str(seconds), ending, *command]
    done = subprocess.run(
        ends.near(words), env=sandbox.environment(), capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def fping(ends: Ends, period: float, seconds: float) -> Probed:
    milliseconds = str(round(period * 1000))
    command = ["fping", "-D", "-l", "-p", milliseconds, "-i", "1", "-S", ends.source, ends.destination]
    told = _measured(ends, seconds, "SIGINT", command)
    lines = re.findall(r"\[([\d.]+)\] \S+ : \[\d+\], \d+ bytes, ([\d.]+) ms", str(told["output"]))
    counts = re.search(r"xmt/rcv/%loss = (\d+)/", str(told["errors"]) + str(told["output"]))
    sent = int(counts[1]) if counts else len(lines)
    spent = float(str(told["seconds"]))
    return Probed([float(ms) * 1e3 for _, ms in lines], [float(at) for at, _ in lines], spent, sent)


def blackbox(ends: Ends, module: str, phase: str, period: float, seconds: float, directory: Path) -> Probed:
    """One of Debian's modules, asked over HTTP each period as Prometheus would; ``phase`` is its round trip's."""
    protocol = {"preferred_ip_protocol": "ip4", "source_ip_address": ends.source}
    modules = {"icmp": {"prober": "icmp", "icmp": protocol}, "tcp": {"prober": "tcp", "tcp": protocol}}
    config = directory / f"blackbox-{module}.yaml"
    config.write_text(yaml.safe_dump({"modules": modules}))
    listen = f"127.0.0.1:{BLACKBOX_PORT}"
    target = ends.destination if module == "icmp" else f"{ends.destination}:65300"
    command = [
        "prometheus-blackbox-exporter", f"--config.file={config}", f"--web.listen-address={listen}",
        "--log.level=error",
    ]  # fmt: skip
    url = f"http://{listen}/probe?target={target}&module={module}"
    told = _measured(ends, seconds, "SIGTERM", command, "--ask", url, "--period", str(period))
    answers = list(told["answers"])  # type: ignore[call-overload]
    found = [_sample(answer, phase) for answer in answers]
    round_trips = [value * 1e6 for value in found if value]
    return Probed(round_trips, [], float(str(told["seconds"])), len(answers))


def _sample(page: str, phase: str) -> float | None:
    """``probe_icmp_duration_seconds`` of a phase; for TCP, which has none, ``probe_duration_seconds``."""
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if phase and sample.labels.get("phase") == phase:
                return float(sample.value)
            if not phase and sample.name == "probe_duration_seconds":
                return float(sample.value)
    return None


class Echo:
    """The client and the server of echo.c, compiled for the occasion."""

    def __init__(self, ends: Ends, directory: Path) -> None:
        self._ends = ends
        self._program = str(directory / "echo")
        source = Path(__file__).with_name("echo.c")
        subprocess.run(["cc", "-O2", "-Wall", "-o", self._program, str(source)], check=True)
        command = ends.far([self._program, "server", ends.destination, str(ECHO_PORT)])
        self._server = subprocess.Popen(command, env=sandbox.environment())
        time.sleep(0.3)

    def probe(self, period: float, seconds: float) -> Probed:
        count = round(seconds / period)
        ends = self._ends
        addresses = [ends.source, "0", ends.destination, str(ECHO_PORT)]
        command = [self._program, "client", *addresses, str(round(period * 1e6)), str(count)]
        told = _measured(ends, seconds + 1, "SIGINT", command)
        rows = [tuple(map(int, line.split())) for line in str(told["output"]).splitlines()]
        spent = float(str(told["seconds"]))
        return Probed([row[1] / 1e3 for row in rows], [row[0] / 1e9 for row in rows], spent, count)

    def stop(self) -> None:
        subprocess.run(self._ends.far(["pkill", "-f", self._program]), env=sandbox.environment(), check=False)
        self._server.wait(10)
