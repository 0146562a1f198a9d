"""The exporter as an operator runs it: a process of its own on loopback, asked over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.codec import encode, write
from exporter.contracts.plan import RESPONDER_PORT, Plan, Target
from tests.unit.test_plan_contract import TARGET

HERE, THERE = "127.0.0.2", "127.0.0.3"


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM, address: str = HERE) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    """Wait for a condition; ``AssertionError`` when it does not come about."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class RunningExporter:
    """``fabric-exporter run`` with the configuration ``extra`` in ``directory``; give it a plan with ``plan``."""

    def __init__(
        self, directory: Path, extra: str, *, address: str = HERE, probing: str = "", key: bytes = b"k" * 32,
        plan: str = "plan: plan.json", responder: int | None = None,
    ):  # fmt: skip
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.address = address
        self.http = free_port(socket.SOCK_STREAM, "127.0.0.1")
        self.responder = responder or free_port(socket.SOCK_STREAM, address)
        (directory / "key").write_bytes(key)
        self.config = directory / "config.yaml"
        self.config.write_text(
            f"host: host-{address}\n{plan}\nlisten: {{address: 127.0.0.1, port: {self.http}}}\n"
            + ("" if "throughput:" in extra else "throughput: {step_seconds: 0.1}\n")
            + (
                f"rnics: [{{name: r0, ip: {address}, netdev: lo}}]\n"
                f"probing: {{key_file: key, responder_port: {self.responder}, timeout_seconds: 0.3{probing}}}\n"
                if address
                else ""
            )
            + extra
        )
        self._log = open(directory / "log", "w")  # noqa: SIM115 - closed by stop
        argv = [sys.executable, "-m", "exporter.cli", "run", "--config", str(self.config)]
        self.process = subprocess.Popen(argv, stderr=self._log, stdin=subprocess.DEVNULL)
        until(self._ready)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.get("/readyz").startswith("ready")
        except (URLError, HTTPError, ConnectionError):
            return False

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def get(self, page: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.http}{page}", timeout=5) as answer:
            return str(answer.read().decode())

    def metrics(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """Every sample, by name and sorted labels."""
        samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                assert labels not in samples.get(sample.name, {}), f"{sample.name}{labels} appears twice"
                samples.setdefault(sample.name, {})[labels] = sample.value
        return samples

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample with these labels among its own; None when there is none."""
        found = [v for key, v in self.metrics().get(name, {}).items() if set(labels.items()) <= set(key)]
        assert len(found) < 2, f"{name} {labels}: {found}"
        return found[0] if found else None

    def paths(self) -> set[str]:
        return {dict(labels)["path"] for labels in self.metrics().get("fabric_path_probes_sent_total", {})}

    def plan(self, *targets: Target, generation: int = 1, expires: float = 9e9) -> None:
        plan = Plan(
            version=1, job="job-1", job_uid=None, phase="skeleton", generation=generation, expires=expires,
            targets=targets,
        )  # fmt: skip
        write(self.directory / "plan.json", encode(plan))

    def target(self, path: str, probe: str = "udp", port: int = RESPONDER_PORT, **changes: object) -> Target:
        basis = {
            "path": path,
            "probe": probe,
            "source_address": HERE,
            "destination_address": THERE,
            "destination_host": "there",
            "source_ports": (free_port(),),
            "destination_port": port,
            "period_seconds": 0.05,
        }
        return msgspec.structs.replace(TARGET, **{**basis, **changes})

    def children(self) -> dict[str, int]:
        """Process identifiers by module."""
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in listing}
        return {line[2]: pid for pid, line in lines.items() if len(line) > 2}  # not those that are about to be one

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        code = self.process.wait(10)
        self._log.close()
        return code
