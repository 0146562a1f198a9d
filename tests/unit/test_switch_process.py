"""The poller as an operator runs it: simulated switches and a real agent, their metrics, and what is said of them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.switches.agent import Agent
from lab.switches.serve import serving
from lab.switches.walk import Walk
from tests.unit.polled import SYNTHETIC, put, system, with_ports
from tests.unit.running import RunningExporter, free_port, until

COMMUNITY = "s3cret-community"
PORT_METRIC = "fabric_switch_port_receive_bytes_total"


def switches(directory: Path, targets: dict[str, int], settings: str = "") -> str:
    """A configuration of switches at these ports, as one community."""
    (directory / "community").write_text(COMMUNITY + "\n")
    lines = "".join(f"  - {{name: {name}, address: 127.0.0.1, port: {port}}}\n" for name, port in targets.items())
    return (
        f"switches:\n  community_file: ../community\n  period_seconds: 1\n  timeout_seconds: 0.3\n  retries: 0\n"
        f"{settings}  targets:\n{lines}"
    )


def agent(walk: Walk) -> Agent:
    return Agent(walk, COMMUNITY.encode())


def ports_of(exporter: RunningExporter, switch: str) -> set[str]:
    keys = map(dict, exporter.metrics().get(PORT_METRIC, {}))
    return {key["switch_port"] for key in keys if key["switch"] == switch}


def closed_port() -> int:
    return free_port(socket.SOCK_DGRAM, "127.0.0.1")


def test_a_dead_and_a_slow_switch_delay_no_other_and_are_said_once(tmp_path: Path) -> None:
    sonic = Walk.from_snmprec(SYNTHETIC / "SYNTHETIC_sonic_t0.snmprec")
    good, slow, goes = agent(sonic), agent(sonic.copy()), agent(with_ports(system(), {1: "eth1", 2: "eth2"}))
    slow.delay = 30.0
    with serving([good, slow, goes]) as (first, second, third):
        targets = {"good": first, "slow": second, "goes": third, "dead": closed_port()}
        exporter = RunningExporter(tmp_path / "poller", switches(tmp_path, targets), address="")
        try:
            for name, reachable in (("good", 1), ("goes", 1), ("slow", 0), ("dead", 0)):
                until(lambda: exporter.value("fabric_switch_reachable", switch=name) == reachable)  # noqa: B023
            assert ports_of(exporter, "good") == {"etp1", "etp2", "etp3", "etp4"}
            assert ports_of(exporter, "goes") == {"eth1", "eth2"}
            assert ports_of(exporter, "slow") == ports_of(exporter, "dead") == set()
            until(lambda: (exporter.value("fabric_switch_poll_failures_total", switch="slow") or 0) >= 3)
            assert exporter.value("fabric_switch_poll_failures_total", switch="good") == 0
            assert (exporter.value("fabric_switch_poll_duration_seconds", switch="good") or 9) < 0.5
            assert exporter.value("fabric_switch_poll_late_total", switch="good") == 0
            infos = {dict(key)["switch"]: dict(key) for key in exporter.metrics()["fabric_switch_info"]}
            assert infos["good"]["profile"] == "sonic"
            assert infos["good"]["software"].startswith("SONiC Software Version")
            assert set(infos) == {"good", "goes"}
            assert exporter.value("fabric_switch_coverage", switch="good", signal="pfc", state="supported") == 1
            neighbors = exporter.metrics()["fabric_switch_neighbor_info"]
            assert {dict(key)["switch"] for key in neighbors} == {"good"}

            goes.drop = 1.0
            until(lambda: exporter.value("fabric_switch_reachable", switch="goes") == 0)
            until(lambda: ports_of(exporter, "goes") == set())
            assert ports_of(exporter, "good")
            goes.drop = 0.0
            until(lambda: ports_of(exporter, "goes") == {"eth1", "eth2"})
            until(lambda: "switch goes (127.0.0.1): answers again" in exporter.log)
            assert exporter.log.count("switch goes (127.0.0.1): no answer") == 1
            assert exporter.log.count("switch dead (127.0.0.1): nothing listens") == 1
            assert exporter.log.count("switch slow (127.0.0.1): no answer") == 1
            assert "switch good" not in exporter.log
            assert "Traceback" not in exporter.log
            assert COMMUNITY not in exporter.get("/metrics") + exporter.log
        finally:
            assert exporter.stop() == 0


def test_a_table_that_fails_is_said_once_and_again_when_it_is_read(tmp_path: Path) -> None:
    walk = put(with_ports(system(), {1: "eth1"}), "1.3.6.1.2.1.10.7.2.1.3", {"1": 5})
    pauses = bytes.fromhex("2b060102010a070a")  # dot3PauseTable

    switch = agent(walk)
    switch.drop = lambda datagram: pauses in datagram
    with serving([switch]) as (port,):
        exporter = RunningExporter(tmp_path / "poller", switches(tmp_path, {"leaf": port}), address="")
        try:
            until(lambda: "switch leaf (127.0.0.1): table pause: no answer" in exporter.log)
            until(lambda: (exporter.value("fabric_switch_table_failures_total", table="pause") or 0) >= 2)
            assert exporter.value("fabric_switch_reachable", switch="leaf") == 1
            assert exporter.value("fabric_switch_port_fcs_errors_total", switch="leaf") == 5
            switch.drop = 0.0
            until(lambda: "switch leaf (127.0.0.1): pause again" in exporter.log, 20)
            assert exporter.log.count("table pause") == 1
        finally:
            assert exporter.stop() == 0


def test_what_a_switch_calls_its_ports_and_neighbours_breaks_nothing(tmp_path: Path) -> None:
    """Labels that fitted no row of the store ended the process, and with it all switches."""
    names = {1: "口" * 64, 2: "\U0001f600" * 64, 3: '"\\\n' * 40, 4: b"\xff\x00\x1b[31m", 5: "x" * 1000}
    odd = with_ports(system("\U0001f600" * 60), names)
    for index in names:
        put(odd, f"1.3.6.1.4.1.9.9.813.1.2.1.3.{index}", {"3": 1})
    good = with_ports(system(), {1: "eth1"})
    with serving([agent(odd), agent(good)]) as ports:
        targets = dict(zip(("leaf-" + "o" * 59, "good"), ports, strict=True))
        exporter = RunningExporter(tmp_path / "poller", switches(tmp_path, targets), address="")
        try:
            until(lambda: ports_of(exporter, "good") == {"eth1"})
            until(lambda: len(ports_of(exporter, "leaf-" + "o" * 59)) == 5)
            assert "Traceback" not in exporter.log
        finally:
            assert exporter.stop() == 0


def test_a_poller_that_dies_is_started_again_on_the_same_store(tmp_path: Path) -> None:
    with serving([agent(with_ports(system(), {1: "eth1"}))]) as (port,):
        exporter = RunningExporter(tmp_path / "poller", switches(tmp_path, {"leaf": port}), address="")
        try:
            until(lambda: ports_of(exporter, "leaf") == {"eth1"})
            first = exporter.children()["exporter.switches.process"]
            until(lambda: (exporter.value("fabric_switch_polls_total", switch="leaf") or 0) >= 2)
            os.kill(first, signal.SIGKILL)
            until(lambda: "exporter.switches.process" in exporter.log)
            until(lambda: exporter.value("fabric_switch_polls_total", switch="leaf") == 1)
            until(lambda: ports_of(exporter, "leaf") == {"eth1"})
        finally:
            assert exporter.stop() == 0


@pytest.fixture
def snmpd(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """net-snmp's agent on loopback, serving this machine's interfaces."""
    program = shutil.which("snmpd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("snmpd is not on PATH (apt: snmpd)")
    port = closed_port()
    (tmp_path / "snmpd.conf").write_text(f"agentAddress udp:127.0.0.1:{port}\nrocommunity {COMMUNITY} 127.0.0.1\n")
    environment = {**os.environ, "SNMP_PERSISTENT_DIR": str(tmp_path / "state"), "MIBS": ""}
    argv = [program, "-f", "-Ln", "-C", "-c", str(tmp_path / "snmpd.conf"), "-I", "-smux"]
    process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL)
    yield process, port
    process.kill()
    process.wait()


@pytest.mark.parametrize("engine", ["fast", "pysnmp"])
def test_a_real_agent_that_stops_answering_loses_its_ports(
    snmpd: tuple[subprocess.Popen[bytes], int], tmp_path: Path, engine: str
) -> None:
    process, port = snmpd
    settings = f"  engine: {engine}\n"
    exporter = RunningExporter(tmp_path / "poller", switches(tmp_path, {"host": port}, settings), address="")
    try:
        until(lambda: exporter.value("fabric_switch_reachable", switch="host") == 1)
        until(lambda: ports_of(exporter, "host"))
        assert ports_of(exporter, "host") <= {path.name for path in Path("/sys/class/net").iterdir()} - {"lo"}
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: exporter.value("fabric_switch_reachable", switch="host") == 0)
        assert not [name for name in exporter.metrics() if name.startswith("fabric_switch_port_")]
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: exporter.value("fabric_switch_reachable", switch="host") == 1)
        until(lambda: ports_of(exporter, "host"))
        assert COMMUNITY not in exporter.get("/metrics") + exporter.log
    finally:
        assert exporter.stop() == 0
