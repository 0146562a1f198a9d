"""What systemd is told: by a process on a real datagram socket, and by the units that are shipped."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.contracts.supervision import Supervisor
from tests.unit.running import RunningExporter, until
from tests.unit.serving import RunningService

UNITS = Path(__file__).parents[2] / "packaging/systemd"


class Manager:
    """The socket on which a service manager listens."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.messages: list[str] = []

    def told(self) -> list[str]:
        while True:
            try:
                self.messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return self.messages


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "900000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield made
    made.socket.close()


def test_a_supervisor_is_told_at_its_pace(manager: Manager) -> None:
    supervisor = Supervisor()
    assert supervisor.pause == pytest.approx(0.3)
    supervisor.ready("well")
    for _ in range(10):
        supervisor.alive()
    assert manager.told() == ["READY=1\nSTATUS=well", "WATCHDOG=1"]
    time.sleep(0.35)
    supervisor.alive()
    assert len(manager.told()) == 3


def test_nobody_is_told_where_nobody_listens(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Supervisor().pause is None, "another process is watched"
    monkeypatch.delenv("NOTIFY_SOCKET")
    Supervisor().ready()
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    Supervisor().ready()
    assert manager.told() == []


def test_the_exporter_says_that_it_lives_and_is_silent_when_it_hangs(manager: Manager, tmp_path: Path) -> None:
    exporter = RunningExporter(tmp_path / "exporter", "", address="")
    until(lambda: manager.told().count("WATCHDOG=1") >= 3)
    assert manager.messages[0].startswith("READY=1\nSTATUS=serves 127.0.0.1:")
    os.kill(exporter.process.pid, signal.SIGSTOP)
    manager.told()
    time.sleep(1.5)
    before = len(manager.messages)
    assert len(manager.told()) == before
    os.kill(exporter.process.pid, signal.SIGCONT)
    assert exporter.stop() == 0
    assert manager.told()[-1] == "STOPPING=1"


def test_the_service_says_that_it_is_ready_and_lives(manager: Manager, tmp_path: Path) -> None:
    service = RunningService(tmp_path)
    until(lambda: manager.told().count("WATCHDOG=1") >= 3)
    assert "READY=1\nSTATUS=0 jobs" in manager.messages
    assert service.stop() == 0, service.log
    assert manager.told()[-1] == "STOPPING=1"


def _unit(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read_string((UNITS / name).read_text())
    return parser["Service"]


@pytest.mark.parametrize("name", ["fabric-exporter.service", "skeleton-service.service"])
def test_units_start_what_there_is_bounded_and_without_privileges(name: str) -> None:
    from exporter.cli import _parser as exporter
    from skeleton_service.cli import _parser as service

    unit = _unit(name)
    for key in ("ExecStart", "ExecStartPre"):
        command, *arguments = shlex.split(unit[key])
        parser = {"fabric-exporter": exporter, "skeleton-service": service}[Path(command).name]()
        parser.parse_args(arguments)
    assert unit["Type"] == "notify"
    assert (unit["Restart"], unit["WatchdogSec"]) == ("always", "30")
    assert (unit["CapabilityBoundingSet"], unit["NoNewPrivileges"]) == ("", "yes")
    assert {"MemoryMax", "TasksMax", "LimitNOFILE"} <= set(unit)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on PATH")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in UNITS.glob("*.service"):
        text = unit.read_text().replace("/opt/fabric-skeleton/bin", str(Path(sys.executable).parent))
        (tmp_path / unit.name).write_text(text)
    names = sorted(str(unit) for unit in tmp_path.glob("*.service"))
    assert len(names) == 2
    verified = subprocess.run(["systemd-analyze", "verify", *names], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
