"""What runs in a lab, read from /proc: ps(1) is not on every machine."""

from __future__ import annotations

import time
from collections.abc import Callable

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
