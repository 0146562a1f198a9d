"""What runs in a lab, read from /proc: ps(1) is not on every machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab.running import Running


def command_lines(fabric: Running) -> list[str]:
    """The command line of every process in the sandbox."""
    script = 'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " <"$f" 2>/dev/null; echo; done'
    return [line.strip() for line in fabric.run(None, ["sh", "-c", script]).stdout.splitlines() if line.strip()]


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return once ``condition`` holds; fail, saying ``what``, when it does not in time."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def exporter(config: Path) -> int:
    """Process identifier, out here, of the exporter with this configuration: Popen knows only the way into the lab."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_text().split("\0")
            if words[0] == sys.executable and str(config) in words:
                return int(entry.name)
    raise AssertionError(f"no exporter runs with {config}")


def stop_exporter(way_in: subprocess.Popen[bytes], config: Path) -> int:
    """End the exporter that ``way_in`` started, and return its exit code."""
    os.kill(way_in.pid, signal.SIGCONT)  # nsenter stops when what it has started is stopped
    os.kill(exporter(config), signal.SIGTERM)
    return way_in.wait(10)
