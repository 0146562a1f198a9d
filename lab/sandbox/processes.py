"""Processes known by number and start time: a number that is another's by now is neither waited for nor signalled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec


class Process(msgspec.Struct, frozen=True):
    """One process, as every other process of its PID namespace may know it; written into the lab's files."""

    pid: int
    started: str
    """Clock ticks since boot (proc(5), field 22); empty when it had ended before it could be looked at."""

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, started(pid) or "")

    def runs(self) -> bool:
        return started(self.pid) == self.started

    def send(self, number: int) -> None:
        """Signal the process; harmless when it has ended."""
        if self.runs():
            with suppress(ProcessLookupError):  # it has ended since we looked
                os.kill(self.pid, number)


def started(pid: int) -> str | None:
    """Start time of a live process; None when it is gone, or a zombie that only waits for its parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def end(processes: Sequence[Process], patience: float = 2.0) -> None:
    """SIGTERM, after ``patience`` seconds SIGKILL; return when the processes are gone, at most as long again after."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            process.send(number)
        if wait(processes, patience):
            return


def wait(processes: Sequence[Process], patience: float) -> bool:
    """Return when the processes are gone, or False after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while any(process.runs() for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
