"""Simulated switches, and the exporter that polls them, as processes of their own on cores of their own."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

COMMUNITY = "public"
FIRST_PORT = 20000  # below the range that the kernel gives away, so that a row of ports is free
_POLLER = "exporter.switches.process"


def cores() -> tuple[int, int]:
    """A core for what is measured, and one for everything else; the same where there is but one."""
    ours = sorted(os.sched_getaffinity(0))
    return ours[0], ours[-1]


def pinned(core: int, argv: Sequence[str]) -> list[str]:
    """A command that runs on that core alone, with all that it starts."""
    return ["taskset", "--cpu-list", str(core), *argv]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def agents(count: int, ports: int, priorities: int, core: int) -> Iterator[subprocess.Popen[str]]:
    """So many switches from FIRST_PORT on."""
    argv = [
        sys.executable, "-m", "lab.switches.serve", "--count", str(count), "--ports", str(ports),
        "--priorities", str(priorities), "--first-port", str(FIRST_PORT),
    ]  # fmt: skip
    process = subprocess.Popen(pinned(core, argv), stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline().strip() != "ready":
            raise RuntimeError("the simulated switches do not start")
        yield process
    finally:
        process.terminate()
        process.wait(10)


@dataclass(frozen=True)
class Memory:
    """Of a process, in MB; what it shares with another counts by its share in the second."""

    resident: float
    proportional: float


def spent(pid: int) -> float:
    """Processor seconds of one process."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]  # proc_pid_stat(5)
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def busy(core: int) -> float:
    """Seconds in which a core did anything at all, for whomever."""
    line = re.search(rf"^cpu{core} (.+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    ticks = [int(number) for number in line[1].split()] if line else [0] * 8
    return (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # proc_stat(5): but idle and iowait


def memory(pid: int) -> Memory:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = {name: int(number) for name, number in re.findall(r"^(Rss|Pss):\s+(\d+) kB", text, re.MULTILINE)}
    return Memory(kilobytes["Rss"] / 1e3, kilobytes["Pss"] / 1e3)


@dataclass(frozen=True)
class Page:
    """An answer of /metrics."""

    at: float
    """Unix time of the request."""
    seconds: float
    """From the request to the last byte."""
    size: int
    series: int
    values: dict[str, dict[str, float]]
    """{metric of polls: {switch: value}}."""


_OF_POLLS = (
    "fabric_switch_polls_total",
    "fabric_switch_poll_late_total",
    "fabric_switch_poll_failures_total",
    "fabric_switch_poll_duration_seconds",
    "fabric_switch_poll_timestamp_seconds",
    "fabric_switch_poll_rows",
)


class PolledFleet:
    """``fabric-exporter run`` with targets; ``control`` and ``poller`` are its processes."""

    def __init__(self, directory: Path, switches: int, period: float, core: int) -> None:
        self.names = frozenset(f"leaf-{number}" for number in range(switches))
        self._port = free_port()
        (directory / "community").write_text(COMMUNITY)
        config = {
            "host": "poller",
            "listen": {"address": "127.0.0.1", "port": self._port},
            "switches": {
                "community_file": "community",
                "period_seconds": period,
                "targets": [
                    {"name": f"leaf-{number}", "address": "127.0.0.1", "port": FIRST_PORT + number}
                    for number in range(switches)
                ],
            },
        }
        path = directory / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        argv = pinned(core, [sys.executable, "-m", "exporter.cli", "run", "--config", str(path)])
        self._log = directory / "log"
        with open(self._log, "w") as log:
            self.control = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log)
        self.poller = 0

    def wait(self) -> None:
        ends = time.monotonic() + 30
        while time.monotonic() < ends and self.control.poll() is None:
            listing = Path(f"/proc/{self.control.pid}/task/{self.control.pid}/children").read_text().split()
            for pid in listing:
                if _POLLER in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                    self.poller = int(pid)
                    return
            time.sleep(0.1)
        raise RuntimeError(f"the exporter does not poll: {self._log.read_text()[-2000:]}")

    def page(self, compressed: bool = False) -> Page:
        """Ask as Prometheus does, which always takes gzip; what the poller says of itself only if not compressed."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        at, began = time.time(), time.monotonic()
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"} if compressed else {})
        body = connection.getresponse().read()
        seconds = time.monotonic() - began
        connection.close()
        if compressed:
            return Page(at, seconds, len(body), 0, {})
        values = {name: _by_switch(body, name.encode()) for name in _OF_POLLS}
        return Page(at, seconds, len(body), body.count(b"\n") - body.count(b"\n# ") - 1, values)

    def stop(self) -> None:
        self.control.terminate()
        try:
            self.control.wait(20)
        except subprocess.TimeoutExpired:
            self.control.kill()
            self.control.wait(10)

    def log(self) -> str:
        return self._log.read_text()


def _by_switch(body: bytes, name: bytes) -> dict[str, float]:
    """The samples of one family, without a look at the hundred megabytes of the others."""
    start = body.find(b"\n# TYPE " + name + b" ")
    if start < 0:
        return {}
    start += 1
    end = body.find(b"\n# ", start)
    lines = body[start : end if end > 0 else len(body)].decode().splitlines()[1:]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


@contextmanager
def polled_fleet(directory: Path, switches: int, period: float, core: int) -> Iterator[PolledFleet]:
    fleet = PolledFleet(directory, switches, period, core)
    try:
        fleet.wait()
        yield fleet
    finally:
        fleet.stop()
