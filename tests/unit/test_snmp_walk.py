"""Reading switches: a walk against devices that misbehave, and the poller against a real snmpd on loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from exporter.contracts.switch_counters import PORT_ENABLED, PORT_MTU, PORT_RECEIVE, PORT_SPEED, PORT_UP
from exporter.switches import snmp
from exporter.switches.interfaces import read_interfaces
from exporter.switches.snmp import Oid, SnmpError, Value, walk
from tests.unit.running import RunningExporter, free_port, until

COLUMN, OTHER = (1, 3, 1), (1, 3, 2)
COMMUNITY = "s3cret-community"


class Device:
    """Answers GetBulk from a table of values, as RFC 3416 says a device does."""

    def __init__(self, values: dict[Oid, Value]) -> None:
        self.values = dict(sorted(values.items()))
        self.asked = 0

    async def bulk(self, oids: Sequence[Oid], repetitions: int) -> list[tuple[Oid, Value]]:
        self.asked += 1
        position = list(oids)
        answer: list[tuple[Oid, Value]] = []
        for _ in range(repetitions):
            for number, oid in enumerate(position):
                following = next((other for other in self.values if other > oid), None)
                answer.append((oid, None) if following is None else (following, self.values[following]))
                position[number] = following or oid
        return answer


def walked(device: Device, *columns: Oid) -> dict[Oid, dict[Oid, Value]]:
    return asyncio.run(walk(device, columns or (COLUMN,)))


def test_columns_of_different_lengths_are_read_whole() -> None:
    values: dict[Oid, Value] = {(*COLUMN, n): n for n in range(1, 61)}
    values |= {(*OTHER, 7, n): b"x" for n in range(1, 4)}
    table = walked(Device(values), COLUMN, OTHER)
    assert table[COLUMN] == {(n,): n for n in range(1, 61)}
    assert table[OTHER] == {(7, n): b"x" for n in range(1, 4)}


def test_a_column_that_the_device_does_not_serve_is_empty() -> None:
    assert walked(Device({(*OTHER, 1): 5})) == {COLUMN: {}}


def test_a_device_that_goes_round_in_circles_is_left() -> None:
    class Circling(Device):
        async def bulk(self, oids: Sequence[Oid], repetitions: int) -> list[tuple[Oid, Value]]:  # noqa: ARG002
            return [((*COLUMN, 2), 1), ((*COLUMN, 1), 1)]

    with pytest.raises(SnmpError, match=r"^OIDs do not increase at 1\.3\.1\.1$"):
        walked(Circling({}))


def test_a_device_that_answers_nothing_is_left() -> None:
    class Silent(Device):
        async def bulk(self, oids: Sequence[Oid], repetitions: int) -> list[tuple[Oid, Value]]:  # noqa: ARG002
            return []

    with pytest.raises(SnmpError, match=r"^device answered an empty list$"):
        walked(Silent({}))


def test_a_device_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snmp, "MAX_ROWS", 100)
    with pytest.raises(SnmpError, match=r"^more than 100 rows in 1\.3\.1$"):
        walked(Device({(*COLUMN, n): n for n in range(1, 200)}))


IF, IF_X = (1, 3, 6, 1, 2, 1, 2, 2, 1), (1, 3, 6, 1, 2, 1, 31, 1, 1, 1)


def test_ports_carry_canonical_names_and_what_is_not_served_is_absent() -> None:
    device = Device(
        {
            (*IF_X, 1, 1): b"etp1", (*IF, 3, 1): 6, (*IF, 4, 1): 9216, (*IF, 7, 1): 1, (*IF, 8, 1): 2,
            (*IF_X, 6, 1): 2**40, (*IF_X, 15, 1): 400_000,
            (*IF_X, 1, 2): b"Ethernet4", (*IF, 3, 2): 6, (*IF_X, 15, 2): 0,
            (*IF_X, 1, 3): b"Loopback0", (*IF, 3, 3): 24,
        }
    )  # fmt: skip
    ports, values = asyncio.run(read_interfaces(device, {"etp1": "Ethernet0"}))
    assert ports["Ethernet0"] == {
        PORT_MTU: 9216.0,
        PORT_ENABLED: 1.0,
        PORT_UP: 0.0,
        PORT_RECEIVE: float(2**40),
        PORT_SPEED: 5e10,
    }
    assert ports["Ethernet4"] == {}  # a speed of 0 is unknown
    assert set(ports) == {"Ethernet0", "Ethernet4"}
    assert values == 12


@pytest.fixture
def snmpd(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """net-snmp's agent on loopback, serving this machine's interfaces."""
    program = shutil.which("snmpd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("snmpd is not on PATH (apt: snmpd)")
    port = free_port(socket.SOCK_DGRAM, "127.0.0.1")
    (tmp_path / "snmpd.conf").write_text(f"agentAddress udp:127.0.0.1:{port}\nrocommunity {COMMUNITY} 127.0.0.1\n")
    environment = {**os.environ, "SNMP_PERSISTENT_DIR": str(tmp_path / "state"), "MIBS": ""}
    argv = [program, "-f", "-Ln", "-C", "-c", str(tmp_path / "snmpd.conf"), "-I", "-smux"]
    process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL)
    yield process, port
    process.kill()
    process.wait()


def ethernet_ports() -> set[str]:
    """What snmpd serves as ethernetCsmacd: ARPHRD_ETHER (1) in sysfs."""
    return {path.name for path in Path("/sys/class/net").iterdir() if (path / "type").read_text().strip() == "1"}


def test_a_switch_that_stops_answering_loses_its_ports_and_delays_no_other(
    snmpd: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, port = snmpd
    (tmp_path / "community").write_text(COMMUNITY + "\n")
    targets = "".join(
        f"    - {{name: {name}, address: 127.0.0.1, port: {where}, community_file: ../community}}\n"
        for name, where in (("good", port), ("dead", free_port(socket.SOCK_DGRAM, "127.0.0.1")))
    )
    switches = f"switches:\n  period_seconds: 1\n  timeout_seconds: 0.5\n  retries: 0\n  targets:\n{targets}"
    poller = RunningExporter(tmp_path / "poller", switches, address="")
    try:
        until(lambda: poller.value("fabric_switch_reachable", switch="good") == 1)
        until(lambda: poller.value("fabric_switch_reachable", switch="dead") == 0)
        until(lambda: (poller.value("fabric_switch_poll_failures_total", switch="dead") or 0) >= 2)
        assert (poller.value("fabric_switch_poll_duration_seconds", switch="good") or 9) < 0.5
        assert poller.value("fabric_switch_poll_failures_total", switch="good") == 0
        served = {dict(key)["switch_port"] for key in poller.metrics().get("fabric_switch_port_mtu_bytes", {})}
        assert served == ethernet_ports()
        assert COMMUNITY not in poller.get("/metrics") + poller.log
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: poller.value("fabric_switch_reachable", switch="good") == 0)
        assert "fabric_switch_port_mtu_bytes" not in poller.metrics()
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: poller.value("fabric_switch_reachable", switch="good") == 1)
        assert poller.log.count("switch dead (127.0.0.1): ") == 1  # once, not at every poll
    finally:
        assert poller.stop() == 0


def test_a_port_with_a_name_without_end_is_left_out_and_the_others_stay() -> None:
    """Its labels fitted no row, and the switch lost all its ports."""
    names = {1: b"Ethernet0", 2: b"x" * 65, 3: b"y" * 64}
    values: dict[Oid, Value] = {(*IF_X, 1, n): name for n, name in names.items()}
    values |= {(*IF, 3, n): 6 for n in names} | {(*IF, 4, n): 9216 for n in names}
    ports, _ = asyncio.run(read_interfaces(Device(values), {}))
    assert ports == {"Ethernet0": {PORT_MTU: 9216.0}, "y" * 64: {PORT_MTU: 9216.0}}
