"""The exporters of a lab: one agent on every host, and one that polls the switches."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from exporter.contracts.codec import encode
from lab.fabric import Lab
from lab.job import Job
from lab.snmp import write_private

PORT = 9105
POLLER = "switch-poller"
POLLER_PORT = 9106
SWITCH_PERIOD_SECONDS = 5.0


@dataclass(frozen=True)
class Exporters:
    """Configuration and processes of all exporters of one lab, below ``directory``."""

    lab: Lab
    directory: Path

    @property
    def topology(self) -> Path:
        return self.directory / "topology.json"

    @property
    def plan(self) -> Path:
        """Every agent watches this file; it need not exist yet."""
        return self.directory / "plan.json"

    def targets(self) -> Mapping[str, str]:
        """{instance: address:port} for Prometheus."""
        agents = {host.name: f"{host.management}:{PORT}" for host in self.lab.design.hosts}
        return {**agents, POLLER: f"127.0.0.1:{POLLER_PORT}"}

    def start(self, job: Job) -> None:
        self.directory.mkdir()
        self.topology.write_bytes(encode(self.lab.design.topology()))
        write_private(self.directory / "probe.key", secrets.token_hex(16))
        workers = {worker.host: worker for worker in job.workers}
        for host in self.lab.design.hosts:
            worker = workers[host.name]
            configuration = {
                "host": host.name,
                "listen": {"address": host.management, "port": PORT},
                "topology": self.topology.name,
                "plan": self.plan.name,
                "probing": {"key_file": "probe.key", "trace_period_seconds": 20},
                "workloads": [
                    {"job": job.name, "container": worker.container, "rnics": [nic.name for nic in worker.nics]}
                ],
            }
            self._start(host.name, configuration, node=host.name)
        switches = [
            {"name": switch.name, "address": switch.management, "community_file": str(self.lab.agents.community_file)}
            for switch in self.lab.design.managed
        ]
        poller = {
            "host": POLLER,
            "listen": {"address": "127.0.0.1", "port": POLLER_PORT},
            "topology": self.topology.name,
            "switches": {"period_seconds": SWITCH_PERIOD_SECONDS, "targets": switches},
        }
        self._start(POLLER, poller, node=None)

    def _start(self, name: str, configuration: Mapping[str, Any], node: str | None) -> None:
        file = self.directory / f"{name}.yaml"
        file.write_text(yaml.safe_dump(dict(configuration), sort_keys=False))
        argv = [sys.executable, "-m", "exporter.cli", "run", "--config", str(file)]
        self.lab.daemon(f"exporter-{name}", argv, node=node)

    def urls(self, page: str) -> list[str]:
        """A page of every agent."""
        return [f"http://{host.management}:{PORT}{page}" for host in self.lab.design.hosts]
