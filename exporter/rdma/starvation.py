"""When this process was kept from running though it could have run: by others, by its CPU quota, or by a stop.

What arrives in the meantime waits, and looks as if the network had been slow.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from exporter.probing.loop import Loop

_BYTES = 96


def run_delay(path: Path = Path("/proc/thread-self/schedstat")) -> Callable[[], int]:
    """What tells how many ns the thread that calls this has waited for a processor; 0 where the kernel does not say.

    Source: Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat; of kernels with CONFIG_SCHED_INFO, as
    those of distributions are.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return lambda: 0
    return lambda: int(os.pread(descriptor, _BYTES, 0).split()[1])


class Continuations:
    """Tells ``loop`` when the process runs again after a stop (SIGCONT), which wakes the loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCONT, lambda *_: loop.on_continued())

    def fileno(self) -> int:
        return self._read

    def on_input(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._read, 4096)

    def on_error(self) -> None:
        """Never: the other end is ours."""

    def on_output(self) -> None:
        """Never asked for."""
