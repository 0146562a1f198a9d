"""The programs that live as long as a lab, known by a file each to every process that enters it.

So a fault can end those of one node and start them again with the same command line, and a daemon that was
ended on purpose is not mistaken for one that died.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lab.sandbox import environment, processes
from lab.sandbox.processes import Process

END_SECONDS = 20.0


class Daemon(msgspec.Struct, frozen=True):
    """One program: how it was started, and which process it is now. ``node`` None is the sandbox itself."""

    name: str
    argv: tuple[str, ...]
    node: str | None
    environ: dict[str, str]
    process: Process
    off: bool = False
    """Ended on purpose, to be started again."""


class Daemons:
    """The daemons of one lab; ``directory`` is the lab's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "daemons"
        self._logs = directory / "logs"

    def start(
        self, name: str, argv: Sequence[str], node: str | None = None, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program on ``node``, its output appended to ``logs/<name>.log``; the process is ``argv`` itself."""
        with open(self.log(name), "ab") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            # Its own session: a fault's healing starts it again, and Ctrl-C there shall not be for it.
            options |= {"env": environment(environ), "start_new_session": True}
            # Not by setns alone: only ``ip netns exec`` gives the program the /sys of its namespace as well.
            entered = list(argv) if node is None else ["ip", "netns", "exec", node, *argv]
            process = subprocess.Popen(entered, **options)
        self._write(Daemon(name, tuple(argv), node, dict(environ or {}), Process.of(process.pid)))
        return process

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def on(self, node: str) -> tuple[Daemon, ...]:
        """The daemons of one node, also those that are off, in the order of their names."""
        return tuple(daemon for daemon in self._all() if daemon.node == node)

    def end(self, *daemons: Daemon) -> None:
        """Kill daemons on purpose and return when they are gone; harmless for those that are."""
        for daemon in daemons:
            self._write(msgspec.structs.replace(daemon, off=True))  # first: nobody shall think that it died
        for daemon in daemons:
            daemon.process.send(signal.SIGKILL)
        processes.wait([daemon.process for daemon in daemons], END_SECONDS)

    def restart(self, daemon: Daemon) -> None:
        """Start a daemon again, as it was started before; harmless for one that runs."""
        if not daemon.process.runs():
            self.start(daemon.name, daemon.argv, daemon.node, daemon.environ)

    def is_fine(self, name: str) -> bool:
        """Whether a daemon runs, as whatever process, or was ended on purpose."""
        try:
            daemon = self._read(self._directory / f"{name}.json")
        except FileNotFoundError:
            return False
        return daemon.off or daemon.process.runs()

    def end_all(self) -> None:
        self.end(*self._all())

    def _all(self) -> list[Daemon]:
        return [self._read(file) for file in sorted(self._directory.glob("*.json"))]

    def _read(self, file: Path) -> Daemon:
        return msgspec.json.decode(file.read_bytes(), type=Daemon)

    def _write(self, daemon: Daemon) -> None:
        self._directory.mkdir(exist_ok=True)
        new = self._directory / f"{daemon.name}.new"
        new.write_bytes(msgspec.json.encode(daemon))
        new.replace(new.with_suffix(".json"))
