"""The exporters of a lab: one agent on every host, and one that polls the switches."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import yaml

from exporter.contracts.codec import encode
from exporter.contracts.topology import Topology
from lab.counters import trees
from lab.counters.dialects import DEFAULT, PROFILES
from lab.errors import LabError
from lab.jobs.job import Job
from lab.network import resolver
from lab.network.design import Host, Tenant
from lab.network.fabric import Lab
from lab.network.snmp import write_private
from lab.sandbox.netns import inside

PORT = 9105
POLLER = "switch-poller"
POLLER_PORT = 9106
FIRST_RELAYED_PORT = 9300
SWITCH_PERIOD_SECONDS = 5.0
DNS_PERIOD_SECONDS = 1.0
CEILINGS = {"trace_packets_per_second_per_switch": 10}
"""A dozen hosts below switches that answer 100 a second: nobody waits for the first routes of a demo."""


@dataclass(frozen=True)
class Exporters:
    """Configuration and processes of all exporters of one lab, below ``directory``."""

    lab: Lab
    directory: Path
    counted_every: float | None = None
    """Seconds between two readings of what RNICs and resolvers tell; None for the probers alone."""
    switch_period: float = SWITCH_PERIOD_SECONDS

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
                "probing": {"key_file": "probe.key", "trace_period_seconds": 20, "ceilings": CEILINGS},
                "workloads": [
                    {"job": job.name, "container": worker.container, "rnics": [nic.name for nic in worker.nics]}
                ],
            }
            self._start(host.name, configuration | self._counted(host), node=host.name)
        for host in self.lab.design.service_hosts:
            responder = {
                "host": host.name,
                "listen": {"address": host.management, "port": PORT},
                "topology": self.topology.name,
                "probing": {"key_file": "probe.key"},
            }
            _start(self.lab, self.directory, host.name, responder, node=host.name)
        switches = [
            {
                "name": switch.name,
                "address": switch.management,
                "community_file": str(self.lab.agents.community_file),
                "profile": PROFILES[DEFAULT],  # net-snmp serves the MIBs of a vendor, and says that it is net-snmp
            }
            for switch in self.lab.design.managed
        ]
        poller = {
            "host": POLLER,
            "listen": {"address": "127.0.0.1", "port": POLLER_PORT},
            "topology": self.topology.name,
            "switches": {"period_seconds": self.switch_period, "targets": switches},
        }
        self._start(POLLER, poller, node=None)

    def _counted(self, host: Host) -> dict[str, Any]:
        """Sections of a host's exporter beside its probers: the RNICs' counters, and the resolver if there is one."""
        if self.counted_every is None:
            return {}
        sections: dict[str, Any] = {
            "sysfs": str(self.lab.directory / trees.SYSFS / host.name),
            "counters": {
                "period_seconds": max(1.0, self.counted_every),
                "ethtool": str(self.lab.directory / trees.ETHTOOL / host.name),
            },
        }
        if self.lab.design.transit is not None:
            plan = resolver.plan(self.lab.design)
            sections["dns"] = {
                "names": [f"*.{plan.store}."],  # the job's buckets in the checkpoint store; no cache holds a new one
                "resolvers": [f"{resolver.resolver_of(self.lab.design, host)}"],
                "search": [],
                "ndots": 1,
                "period_seconds": DNS_PERIOD_SECONDS,
            }
        return sections

    def _start(self, name: str, configuration: Mapping[str, Any], node: str | None) -> None:
        _start(self.lab, self.directory, name, configuration, node)

    def urls(self, page: str) -> list[str]:
        """A page of every agent."""
        return [f"http://{host.management}:{PORT}{page}" for host in self.lab.design.hosts]

    def read(self, page: str) -> dict[str, bytes]:
        """{host: a page of its agent}; agents that do not answer are left out."""
        answers = {}
        for host in self.lab.design.hosts:
            with suppress(OSError), urlopen(f"http://{host.management}:{PORT}{page}", timeout=10) as answer:
                answers[host.name] = answer.read()
        return answers


@dataclass(frozen=True)
class Sidecars:
    """An agent in each container of one tenant: it probes as the job's processes would, over the overlay.

    Its /metrics is reachable from the container only, as a sidecar's is; ``read`` goes in there.
    """

    lab: Lab
    directory: Path
    tenant: Tenant

    @property
    def plan(self) -> Path:
        return self.directory / "plan.json"

    def targets(self) -> Mapping[str, str]:
        """{instance: address:port} for Prometheus, where ``relay`` has put them."""
        return {
            container.name: f"127.0.0.1:{FIRST_RELAYED_PORT + number}"
            for number, container in enumerate(self.tenant.containers)
        }

    def relay(self) -> None:
        """Let whoever stands in the lab, as Prometheus does, read the pages of agents that only containers reach."""
        words = [
            f"{address.rpartition(':')[2]}={self.lab.design.container(name).namespace}:{PORT}"
            for name, address in self.targets().items()
        ]
        self.lab.daemon("relay", [sys.executable, "-m", "lab.scenarios.relay", *words])

    @property
    def topology(self) -> Topology:
        """The lab's topology with the overlay's addresses: what the overlay's paths are planned on."""
        address = {(c.host, i.rnic): i.address for c in self.tenant.containers for i in c.interfaces}
        topology = self.lab.design.topology()
        served = {host.name for host in self.lab.design.service_hosts}
        hosts = tuple(
            msgspec.structs.replace(
                host,
                rnics=tuple(msgspec.structs.replace(rnic, ip=address[host.name, rnic.name]) for rnic in host.rnics),
            )
            for host in topology.hosts
            if host.name in {container.host for container in self.tenant.containers}
        )
        links = tuple(
            link for link in topology.links if not served & {end.partition(":")[0] for end in (link.a, link.b)}
        )
        return msgspec.structs.replace(topology, hosts=hosts, links=links)

    def start(self, job: Job) -> None:
        self.directory.mkdir()
        (self.directory / "topology.json").write_bytes(encode(self.lab.design.topology()))
        write_private(self.directory / "probe.key", secrets.token_hex(16))
        for container in self.tenant.containers:
            rnics = [
                {"name": each.rnic, "rail": each.rail, "ip": each.address, "netdev": each.netdev}
                for each in container.interfaces
            ]
            configuration = {
                "host": container.host,
                "listen": {"address": "127.0.0.1", "port": PORT},
                "topology": "topology.json",
                "rnics": rnics,
                "plan": self.plan.name,
                "probing": {"key_file": "probe.key", "trace_period_seconds": 60, "ceilings": CEILINGS},
                "workloads": [
                    {
                        "job": job.name,
                        "container": container.name,
                        "rnics": [each.rnic for each in container.interfaces],
                    }
                ],
            }
            _start(self.lab, self.directory, container.name, configuration, container.name)

    def read(self, page: str) -> dict[str, bytes]:
        """{container: a page of its agent}; agents that do not answer, or are gone, are left out."""
        answers = {}
        for container in self.tenant.containers:
            url = f"http://127.0.0.1:{PORT}{page}"
            with suppress(OSError, LabError), inside(container.namespace), urlopen(url, timeout=10) as answer:
                answers[container.name] = answer.read()
        return answers


def _start(lab: Lab, directory: Path, name: str, configuration: Mapping[str, Any], node: str | None) -> None:
    file = directory / f"{name}.yaml"
    file.write_text(yaml.safe_dump(dict(configuration), sort_keys=False))
    argv = [sys.executable, "-m", "exporter.cli", "run", "--config", str(file)]
    lab.daemon(f"exporter-{name}", argv, node=node)
