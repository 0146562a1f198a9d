"""A job's list from before its containers ran, in a real fabric: exporters come up one by one, and one goes down."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.contracts.codec import encode
from exporter.contracts.plan import read_plan
from lab.network.design import Design
from lab.running import Running
from skeleton_service.cli import main
from tests.lab.agent import LOST, SENT, Agent, until

REFUSED, WAITING, PATHS = (
    "fabric_path_probes_refused_total",
    "fabric_exporter_waiting_targets",
    "fabric_exporter_paths",
)


@pytest.fixture
def started() -> Iterator[list[Agent]]:
    agents: list[Agent] = []
    try:
        yield agents
    finally:
        for agent in agents:
            if agent.process.poll() is None:
                agent.stop()


def test_peers_that_are_not_up_are_no_loss_and_those_that_were_are(
    fabric: Running, whole: Running, design: Design, tmp_path: Path, started: list[Agent]
) -> None:
    """Nothing is lost before a peer is up, all are probed within 2 s of the last, and one that dies is loss."""
    topology, parts = tmp_path / "topology.json", tmp_path / "parts"
    topology.write_bytes(encode(design.topology()))
    hosts = sorted(design.hosts, key=lambda host: (host.pod, host.name))[::2][:4]  # of both pods
    options = ["--hosts", ",".join(host.name for host in hosts), "--split-by-host", "--output", str(parts)]
    assert main(["plan", "--phase", "preload", "--job", "j", "--topology", str(topology), *options]) == 0
    for number, host in enumerate(hosts):
        agent = Agent(fabric, host, tmp_path / host.name, topology)
        shutil.copy(parts / f"{host.name}.json", tmp_path / host.name / "plan.json")
        started.append(agent)
        until(lambda: started[-1].metrics()[PATHS])
        ready = time.monotonic()
        time.sleep(2)
        for each in started:
            planned = len(read_plan(parts / f"{each.host.name}.json").targets)
            assert each.total(PATHS) + each.total(WAITING) == planned
            assert (each.total(LOST), each.total(REFUSED)) == (0, 0), (number, each.host.name)
    waiting = [each.total(WAITING) for each in started]
    assert waiting == [0] * 4, f"{time.monotonic() - ready:.1f} s after the last one"
    until(lambda: all(each.total(SENT) > each.total(PATHS) for each in started))
    assert sum(each.total(LOST) + each.total(REFUSED) for each in started) == 0

    victim, rest = started[-1], started[:-1]
    whole.fault("agent-stop", victim.host.name)
    until(lambda: all(each.total(LOST) > 10 for each in rest))
    whole.act("heal", "all")
    os.kill(victim.prober(), signal.SIGKILL)  # started again in half a second; it must not wait for the others afresh
    until(lambda: victim.total(PATHS) > 0)
    assert victim.total(WAITING) == 0
    before = sum(each.total(REFUSED) for each in rest)
    assert victim.stop() == 0
    until(lambda: sum(each.total(REFUSED) for each in rest) > before + 10)
    assert [each.total(WAITING) for each in rest] == [0] * 3
