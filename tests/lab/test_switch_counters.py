"""The lab's switches, real snmpd on real interfaces, as the poller reads them in the MIBs of two vendors."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.codec import encode
from lab import sandbox
from lab.counters import effects
from lab.counters.control import Counters
from lab.counters.dialects import ARISTA, CISCO, DEFAULT, PROFILES
from lab.counters.timeline import Event
from lab.network.design import Cable, Design, draw
from lab.network.snmp import Agents
from lab.running import Running
from skeleton_service import cli as service
from tests.lab.agent import until
from tests.lab.processes import stop_exporter

PORT = 9407
STEADY_SECONDS = 4.5
"""Longer than the agents' cache (1 s) and two polls."""
SCRIPTED = (
    "fabric_switch_port_pfc_receive_frames_total",
    "fabric_switch_port_pfc_transmit_frames_total",
    "fabric_switch_port_pfc_receive_pause_seconds_total",
    "fabric_switch_port_pfc_watchdog_dropped_packets_total",
    "fabric_switch_port_fcs_errors_total",
)
Samples = dict[str, dict[tuple[str, ...], float]]


@pytest.fixture(scope="module")
def fabric(sandbox_possible: None) -> Iterator[Running]:  # noqa: ARG001
    running = Running(f"pytest-switch-counters-{os.getpid()}")
    running.up(draw(os.getpid(), pods=1, rails=2, spines=1, hosts_per_pod=2), die_with_parent=True)
    try:
        yield running
    finally:
        running.down()


@pytest.fixture(scope="module")
def design(fabric: Running) -> Design:
    return fabric.design()


@pytest.fixture(scope="module")
def dialects(fabric: Running, design: Design) -> dict[str, str]:
    """The first leaf speaks NX-OS's MIBs, all others EOS's."""
    first = design.links[0].b.node
    Counters(fabric.directory).speak(first, CISCO)
    return {switch.name: CISCO if switch.name == first else DEFAULT for switch in design.switches}


class Poller:
    """An exporter in the lab that polls all its switches each second."""

    def __init__(self, fabric: Running, design: Design, dialects: dict[str, str], directory: Path) -> None:
        self._fabric = fabric
        community = str(Agents(fabric.directory / "snmp").community_file)
        targets = [
            {"name": switch.name, "address": switch.management, "profile": PROFILES[dialects[switch.name]]}
            for switch in design.managed
        ]
        self.config = directory / "poller.yaml"
        switches = {"period_seconds": 2, "community_file": community, "targets": targets}
        listen = {"address": "127.0.0.1", "port": PORT}
        self.config.write_text(yaml.safe_dump({"host": "poller", "listen": listen, "switches": switches}))
        argv = [sys.executable, "-m", "exporter.cli", "run", "--config", str(self.config)]
        self.process = subprocess.Popen(fabric.command(None, argv), env=sandbox.environment())

    def metrics(self) -> Samples:
        """{metric: {values of its labels: value}}; nothing before it serves."""
        program = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{PORT}/metrics').read().decode())"
        done = self._fabric.run(None, [sys.executable, "-c", program], check=False)
        samples: Samples = defaultdict(dict)
        for family in text_string_to_metric_families(done.stdout if done.returncode == 0 else ""):
            for sample in family.samples:
                samples[sample.name][tuple(sample.labels.values())] = sample.value
        return samples

    def settled(self) -> Samples:
        """The metrics once PFC stands still: what the test before has set off shows until it has been read."""
        last: list[Samples] = [self.metrics()]

        def steady() -> bool:
            time.sleep(STEADY_SECONDS)
            last.append(self.metrics())
            return all(last[-1][name] == last[-2][name] for name in SCRIPTED)

        until(steady)
        return last[-1]

    def moved(self, metric: str, before: Samples) -> dict[tuple[str, ...], float]:
        """Of a metric, whose value is another than before, and by how much."""
        now = self.metrics()[metric]
        return {labels: now[labels] - old for labels, old in before[metric].items() if now.get(labels, old) != old}


@pytest.fixture(scope="module")
def poller(
    fabric: Running, design: Design, dialects: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Poller]:
    poller = Poller(fabric, design, dialects, tmp_path_factory.mktemp("poller"))
    ports = sum(len(switch.ports) for switch in design.managed)
    try:
        until(lambda: len(poller.metrics()["fabric_switch_port_pfc_receive_frames_total"]) >= 8 * ports)
        yield poller
    finally:
        stop_exporter(poller.process, poller.config)


@pytest.fixture
def counters(fabric: Running) -> Iterator[Counters]:
    counters = Counters(fabric.directory)
    yield counters
    counters.clear()


def cables(design: Design) -> dict[str, Cable]:
    """{dialect: a host's cable to a leaf that speaks it}."""
    first = design.links[0]
    return {
        CISCO: first,
        ARISTA: next(link for link in design.links if link.a.node == first.a.node and link.b.node != first.b.node),
    }


@pytest.mark.parametrize("dialect", [ARISTA, CISCO])
def test_a_storm_shows_at_its_port_and_priority_alone(
    dialect: str, poller: Poller, design: Design, counters: Counters
) -> None:
    end = cables(design)[dialect].b
    before = poller.settled()
    counters.add(Event(end.node, end.port, "pfc_received", 3, rate=1000), fault="storm")
    received = "fabric_switch_port_pfc_receive_frames_total"
    until(lambda: poller.moved(received, before))
    assert set(poller.moved(received, before)) == {(end.node, end.port, "3")}
    assert not poller.moved("fabric_switch_port_pfc_transmit_frames_total", before)


def test_a_watchdog_and_its_drops_show_at_the_queue(poller: Poller, design: Design, counters: Counters) -> None:
    cable = cables(design)[CISCO]
    before = poller.settled()
    counters.add(*effects.pfc_storm(design, cable.a.id, dropped_per_second=500), fault="storm")
    until(lambda: poller.moved("fabric_switch_port_pfc_watchdog_stuck_total", before))
    queue = (cable.b.node, cable.b.port, "3")
    assert set(poller.moved("fabric_switch_port_pfc_watchdog_stuck_total", before)) == {queue}
    until(lambda: poller.moved("fabric_switch_port_pfc_watchdog_dropped_packets_total", before))
    assert poller.metrics()["fabric_switch_port_pfc_watchdog_shut"][queue] == 1
    assert set(poller.moved("fabric_switch_port_pfc_receive_pause_seconds_total", before)) == {queue}


def test_bit_errors_show_at_the_port_that_receives_them(poller: Poller, design: Design, counters: Counters) -> None:
    end = cables(design)[ARISTA].b
    before = poller.settled()
    counters.add(Event(end.node, end.port, "fcs_errors", rate=50), fault="cable")
    until(lambda: poller.moved("fabric_switch_port_fcs_errors_total", before))
    assert set(poller.moved("fabric_switch_port_fcs_errors_total", before)) == {(end.node, end.port)}


def test_a_switch_that_does_not_count_marks_says_so(poller: Poller, design: Design, counters: Counters) -> None:
    switch = cables(design)[ARISTA].b.node
    coverage = "fabric_switch_coverage"
    assert (switch, "ecn", "supported") in poller.metrics()[coverage]
    counters.stop_counting_ecn(switch, fault="blind")
    until(lambda: (switch, "ecn", "disabled") in poller.metrics()[coverage])
    marks = poller.metrics()["fabric_switch_port_queue_ecn_marked_packets_total"]
    assert switch not in {labels[0] for labels in marks}
    # Nexus switches tell no marks at all, whatever is turned on.
    assert (cables(design)[CISCO].b.node, "ecn", "absent") in poller.metrics()[coverage]


def test_a_real_port_that_comes_back_with_another_mtu_and_goes_down_and_up(
    fabric: Running, poller: Poller, design: Design
) -> None:
    end = cables(design)[CISCO].b
    port = (end.node, end.port)
    before = poller.settled()
    assert before["fabric_switch_port_mtu_bytes"][port] == 9000
    fabric.run(end.node, ["ip", "link", "set", end.netdev, "mtu", "1500"])
    until(lambda: poller.metrics()["fabric_switch_port_mtu_bytes"][port] == 1500)
    others = set(poller.moved("fabric_switch_port_mtu_bytes", before))
    assert others == {port}
    fabric.run(end.node, ["ip", "link", "set", end.netdev, "mtu", "9000"])
    fabric.run(end.node, ["ip", "link", "set", end.netdev, "down"])
    until(lambda: poller.metrics()["fabric_switch_port_up"][port] == 0)
    fabric.run(end.node, ["ip", "link", "set", end.netdev, "up"])
    until(lambda: poller.metrics()["fabric_switch_port_up"][port] == 1)
    assert poller.moved("fabric_switch_port_status_changes_total", before)[port] >= 2


def test_a_line_card_that_comes_back_at_1500_is_named_before_it_takes_traffic(
    fabric: Running, design: Design, dialects: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a pipeline runs after a swap: samples of the counters, the intent, one command. Agents have caches."""
    assert dialects  # the recorder reads each switch by its own
    topology = design.topology()
    spine = next(switch for switch in topology.switches if any(port.linecard for port in switch.ports))
    card = next(port.linecard for port in spine.ports if port.linecard)
    ports = {port.name for port in spine.ports if port.linecard == card}
    devices = [end.netdev for end, _ in design.peers(spine.name) if end.port in ports]
    for device in devices:
        fabric.run(spine.name, ["ip", "link", "set", device, "mtu", "1500"])
    try:
        output = fabric.directory / f"settings-{tmp_path.name}.csv"
        argv = f"-m lab.counters.record {fabric.directory} --output {output} --period 1 --seconds 4".split()
        fabric.run(None, [sys.executable, *argv])
    finally:
        for device in devices:
            fabric.run(spine.name, ["ip", "link", "set", device, "mtu", "9000"])
    (tmp_path / "topology.json").write_bytes(encode(topology))
    tiers = {switch.tier: 9000 for switch in topology.switches}
    (tmp_path / "intent.yaml").write_text(yaml.safe_dump({"version": 1, "mtu": {"tiers": tiers}}))
    files = ["--intent", tmp_path / "intent.yaml", "--topology", tmp_path / "topology.json", "--counters", output]
    assert service.main(["verify", *map(str, files)]) == 1
    said = capsys.readouterr().out.splitlines()
    count = "1 port" if len(ports) == 1 else f"{len(ports)} ports"
    assert said[0] == f"line card {card} of {spine.name}: {count} with MTU 1500, meant 9000"
