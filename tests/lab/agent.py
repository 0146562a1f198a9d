"""An exporter that runs on a host of the lab, for tests that look at what it measures."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.codec import encode, write
from exporter.contracts.names import path_id
from exporter.contracts.plan import Plan, ProbeType, Target
from lab import sandbox
from lab.network.design import Host, Rnic
from lab.running import Running
from tests.lab.processes import exporter, stop_exporter

PORT, PORTS = 9405, range(50_000, 50_016)
SENT, LOST = "fabric_path_probes_sent_total", "fabric_path_probes_lost_total"

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.1)


class Agent:
    """An exporter on a host of the lab."""

    def __init__(
        self,
        fabric: Running,
        host: Host,
        directory: Path,
        topology: Path,
        *,
        sections: Mapping[str, object] | None = None,
        **probing: object,
    ) -> None:
        """``sections`` are beside those that every agent has."""
        self.host, self.rnic, self._fabric = host, host.rnics[0], fabric
        directory.mkdir()
        self.key = directory / "key"
        self.key.write_bytes(b"k" * 32)
        configuration = {
            "host": host.name,
            "listen": {"address": host.management, "port": PORT},
            "topology": str(topology),
            "plan": "plan.json",
            # Each flow is traced once, soon after it is planned: trace packets are not in any path's counts.
            "probing": {
                "key_file": "key",
                "trace_period_seconds": 3600,
                "timeout_seconds": 0.5,
                "ceilings": {"trace_packets_per_second_per_switch": 20},
                **probing,
            },
            "throughput": {"step_seconds": 0.2},
            **(sections or {}),
        }
        self._config = directory / "config.yaml"
        self._config.write_text(yaml.safe_dump(configuration))
        self._plan = directory / "plan.json"
        argv = [sys.executable, "-m", "exporter.cli", "run", "--config", str(self._config)]
        self.process = subprocess.Popen(fabric.command(host.name, argv), env=sandbox.environment())

    def get(self, path: str) -> str:
        """What it serves there; nothing before it serves."""
        url = f"http://{self.host.management}:{PORT}{path}"
        program = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
        done = self._fabric.run(None, [sys.executable, "-c", program], check=False)
        return done.stdout if done.returncode == 0 else ""

    def metrics(self) -> Samples:
        samples: Samples = defaultdict(dict)
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                samples[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
        return samples

    def total(self, name: str) -> float:
        return sum(self.metrics()[name].values())

    def target(
        self,
        destination: Host,
        rnic: Rnic,
        port: int,
        probe: ProbeType = "udp",
        period_seconds: float = 0.05,
        *,
        payload_bytes: int = 64,
        traffic_class: int = 0,
    ) -> Target:
        """A path to one RNIC from one source port."""
        return Target(
            path=path_id(self.host.name, self.rnic.name, destination.name, rnic.name, probe, traffic_class, port),
            source="a/0",
            destination="b/0",
            probe=probe,
            source_address=self.rnic.address,
            destination_address=rnic.address,
            source_ports=(port,),
            traffic_class=traffic_class,
            payload_bytes=payload_bytes,
            period_seconds=period_seconds,
            active=True,
            destination_host=destination.name,
            destination_rnic=rnic.name,
        )

    def follow(self, targets: Iterable[Target], generation: int) -> None:
        """Probe these and no others from now on."""
        plan = Plan(
            version=1,
            job="j",
            job_uid=None,
            phase="skeleton",
            generation=generation,
            expires=9e9,
            targets=tuple(targets),
        )
        self.obey(plan)

    def obey(self, plan: Plan) -> None:
        write(self._plan, encode(plan))

    def probe(
        self,
        destination: Host,
        rnic: Rnic,
        generation: int,
        probe: ProbeType = "udp",
        period_seconds: float = 0.05,
        *,
        payload_bytes: int = 64,
    ) -> None:
        """Probe one RNIC from sixteen source ports, twenty times a second each."""
        ways = (
            self.target(destination, rnic, port, probe, period_seconds, payload_bytes=payload_bytes) for port in PORTS
        )
        self.follow(ways, generation)

    def links(self) -> dict[str, set[str]]:
        """{path: links} as ``fabric_path_link_info`` has them."""
        found: dict[str, set[str]] = defaultdict(set)
        for labels in self.metrics()["fabric_path_link_info"]:
            found[dict(labels)["path"]].add(dict(labels)["link"])
        return found

    def prober(self) -> int:
        """Process identifier of its prober, from out here."""
        control = exporter(self._config)
        children = Path(f"/proc/{control}/task/{control}/children").read_text().split()
        return next(int(pid) for pid in children if "probing" in Path(f"/proc/{pid}/cmdline").read_text())

    def stop(self) -> int:
        """End the exporter and return its exit code."""
        return stop_exporter(self.process, self._config)


def stop(agents: Iterable[Agent]) -> list[int]:
    """End them side by side, and return their exit codes."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(Agent.stop, agents))
