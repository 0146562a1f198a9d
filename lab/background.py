"""Processes that keep an effect going after the command that began it has ended: a delay, a loss that fluctuates.

A process is started inside the sandbox by one command and ended by a later one. It is known by a file in the
lab's directory; when the sandbox ends, the kernel ends it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError
from lab.netns import inside
from lab.sandbox import environment

READY = b"ready\n"


def _file(directory: Path, name: str) -> Path:
    return directory / "background" / (re.sub(r"[^A-Za-z0-9._-]+", "_", name) + ".pid")


def _started(process: int) -> str | None:
    """Start time in clock ticks since boot (proc(5), field 22); None when it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def running(directory: Path, name: str) -> int | None:
    """The identifier of the live process ``name``; None when there is none."""
    try:
        word, started = _file(directory, name).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(word) if _started(int(word)) == started else None


def start(directory: Path, name: str, module: str, words: Sequence[str], node: str | None = None) -> int:
    """Run ``python -m MODULE WORDS`` on ``node`` until ``stop``; return its identifier once it says "ready".

    An earlier process of that name is ended first. Raise LabError with its last words when it does not get ready.
    """
    stop(directory, name)
    file = _file(directory, name)
    file.parent.mkdir(exist_ok=True)
    log = file.with_suffix(".log")
    argv = [sys.executable, "-m", module, *words]

    def launch(errors: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )

    with open(log, "wb") as errors:
        if node is None:
            process = launch(errors.fileno())
        else:
            with inside(node):
                process = launch(errors.fileno())
    assert process.stdout is not None  # noqa: S101 - asked for above
    with process.stdout:
        answer = process.stdout.readline()
    if answer != READY:
        process.kill()
        process.wait()
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise LabError(f"{name} did not start: {last[0]}", f"see {log}")
    file.write_text(f"{process.pid} {_started(process.pid)}\n")
    return process.pid


def stop(directory: Path, name: str, timeout: float = 5) -> bool:
    """End the process ``name`` and return when it is gone; False when there was none."""
    process = running(directory, name)
    _file(directory, name).unlink(missing_ok=True)
    if process is None:
        return False
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while _started(process) is not None:
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.005)
        _reap(process)
    return True


def _reap(process: int) -> None:
    """Collect it if it is a child of ours; process 1 of the sandbox collects the others."""
    try:
        os.waitpid(process, os.WNOHANG)
    except ChildProcessError:
        return


def say_ready() -> None:
    """To be called by the process started, once its effect has begun."""
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
