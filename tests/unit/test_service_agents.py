"""Exporters that a running service tells what to probe: from a job that begins to one that ended, and alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter.contracts.codec import encode, write
from exporter.contracts.plan import RESPONDER_PORT, read_plan
from exporter.contracts.topology import Host, Link, Port, Rnic, Switch, Topology
from tests.unit.running import HERE, THERE, RunningExporter, alive, until
from tests.unit.serving import RunningService, decoded, job

HOSTS = (f"host-{HERE}", f"host-{THERE}")
TOPOLOGY = Topology(
    version=1,
    hosts=tuple(Host(name=f"host-{ip}", rnics=(Rnic(name="r0", rail=0, ip=ip, netdev="lo"),)) for ip in (HERE, THERE)),
    switches=(Switch(name="leaf", tier="leaf", ports=(Port(name="e0"), Port(name="e1"))),),
    links=tuple(Link(a=f"{host}:r0", b=f"leaf:e{number}") for number, host in enumerate(HOSTS)),
)
PROCESS = "exporter.service.process"


class Agent(RunningExporter):
    """An exporter of one of the two hosts, which has its plans from the service."""

    def __init__(self, directory: Path, service: RunningService, address: str) -> None:
        directory.mkdir()
        (directory / "token").write_text(service.token("agent", f"host-{address}", 3600))
        write(directory / "topology.json", encode(TOPOLOGY))
        section = f"{{url: 'http://127.0.0.1:{service.port}', token_file: token, plans: plans}}"
        super().__init__(
            directory, "", address=address, plan=f"service: {section}\ntopology: topology.json",
            responder=RESPONDER_PORT,
        )  # fmt: skip

    def answered(self) -> float:
        """Probes of all paths that were answered."""
        counts = self.metrics()
        sent, lost = (
            sum(counts.get(f"fabric_path_probes_{what}_total", {}).values()) for what in ("sent", "lost")
        )  # fmt: skip
        return sent - lost


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    directory = tmp_path / "service"
    directory.mkdir()
    running = RunningService(directory, TOPOLOGY, plans={"valid_seconds": 3600})
    yield running
    assert running.stop() == 0, running.log


@pytest.fixture
def agents(tmp_path: Path, service: RunningService) -> Iterator[list[Agent]]:
    started = [Agent(tmp_path / address, service, address) for address in (HERE, THERE)]
    yield started
    for each in started:
        assert each.stop() == 0, each.log


def both(name: str = "j") -> dict[str, Any]:
    return job(name, HOSTS)


def test_a_job_is_probed_from_its_beginning_to_its_end(service: RunningService, agents: list[Agent]) -> None:
    operator = service.client("operator", "ci")
    assert operator.put("/v1/jobs/j", json=both()).status_code == 200
    until(lambda: all(agent.paths() for agent in agents), 5)
    until(lambda: all(agent.answered() > 3 for agent in agents))
    operator.put("/v1/jobs/k", json=both("k"))
    until(lambda: {dict(key)["training_job"] for key in agents[0].metrics()["fabric_job_path_info"]} == {"j", "k"})
    operator.delete("/v1/jobs/j")
    until(lambda: {dict(key)["training_job"] for key in agents[0].metrics()["fabric_job_path_info"]} == {"k"})
    operator.delete("/v1/jobs/k")
    until(lambda: not any(agent.paths() for agent in agents))
    assert not list((agents[0].directory / "plans").glob("*.json"))


def test_agents_are_known_by_what_they_registered(service: RunningService, agents: list[Agent]) -> None:
    reader = service.client("reader", "x")
    until(lambda: len(decoded(reader.get("/v1/agents"))) == 2)
    (first, _) = decoded(reader.get("/v1/agents"))
    assert first["host"] == HOSTS[0]
    until(lambda: decoded(reader.get("/v1/agents"))[0]["registration"]["endpoints"] == [{"rnic": "r0", "ready": True}])
    assert agents[0].value("fabric_exporter_service_plans") == 0


def test_agents_go_on_without_the_service_and_after_a_start_of_their_own(
    service: RunningService, agents: list[Agent]
) -> None:
    service.client("operator", "ci").put("/v1/jobs/j", json=both())
    until(lambda: all(agent.paths() for agent in agents))
    service.process.kill()
    service.process.wait()
    here = agents[0]
    until(lambda: (here.value("fabric_exporter_service_failures_total") or 0) > 0)
    os.kill(here.children()[PROCESS], signal.SIGKILL)
    until(lambda: PROCESS in here.children() and alive(here.children()[PROCESS]), 10)
    before = here.answered()
    until(lambda: here.answered() > before)
    service.start()
    operator = service.client("operator", "ci")
    operator.delete("/v1/jobs/j")
    until(lambda: not any(agent.paths() for agent in agents), 20)


def test_an_agent_whose_token_is_not_believed_says_so_once_and_keeps_its_plans(
    service: RunningService, agents: list[Agent]
) -> None:
    service.client("operator", "ci").put("/v1/jobs/j", json=both())
    here = agents[0]
    until(lambda: bool(here.paths()))
    (here.directory / "token").write_text(service.token("agent", HOSTS[1], 3600))
    service.client("operator", "ci").put("/v1/jobs/k", json=both("k"))  # ends its long poll
    until(lambda: "403" in here.log)
    until(lambda: (here.value("fabric_exporter_service_failures_total") or 0) > 1)
    assert here.log.count("plans: 403") == 1
    assert here.paths()
    (here.directory / "token").write_text(service.token("agent", HOSTS[0], 3600))
    until(lambda: "plans: well again" in here.log, 15)


def test_what_a_plan_says_is_probed_within_the_topology_alone(service: RunningService, agents: list[Agent]) -> None:
    service.client("operator", "ci").put("/v1/jobs/j", json=both())
    here = agents[0]
    until(lambda: bool(here.paths()))
    plan = read_plan(here.directory / "plans/j.json")
    elsewhere = (msgspec.structs.replace(plan.targets[0], path="elsewhere", destination_address="127.0.0.77"),)
    write(here.directory / "plans/j.json", encode(msgspec.structs.replace(plan, targets=plan.targets + elsewhere)))
    until(lambda: here.value("fabric_exporter_plan_targets_elsewhere") == 1)
    assert "elsewhere" not in here.paths()
    assert "1 targets are neither the topology's nor of probing.destinations: they are not probed" in here.log
