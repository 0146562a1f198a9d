"""Processes that are known by number and start time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from lab.sandbox import processes
from lab.sandbox.processes import Process

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def test_a_number_that_is_anothers_by_now_is_not_signalled() -> None:
    other = Process(os.getpid(), "1")
    assert not other.runs()
    other.send(signal.SIGKILL)
    processes.end([other])


def test_who_ignores_sigterm_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        process = Process.of(stubborn.pid)
        assert process.runs()
        processes.end([process], patience=0.1)
        assert not process.runs()


def test_a_zombie_has_ended() -> None:
    ended = subprocess.Popen(["true"])
    process = Process.of(ended.pid)
    assert processes.wait([process], 5)
    ended.wait()


def test_waiting_has_an_end() -> None:
    begin = time.monotonic()
    assert not processes.wait([Process.of(os.getpid())], 0.05)
    assert time.monotonic() - begin < 5
