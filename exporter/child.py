"""A process of the exporter, kept alive: started with shared memory and a pipe, started again when it dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from exporter.messages import send_message

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_STABLE_SECONDS = 60.0
_SETTLED_SECONDS = 2.0
_SEND_TIMEOUT = 10.0


class Child:
    """``python -m module DESCRIPTORS... PIPE``, told ``settings`` first and ``state`` after each start.

    The memory outlives the process, so readers keep what the last one wrote until the next one clears it.
    """

    def __init__(self, module: str, descriptors: Sequence[int], settings: bytes) -> None:
        self.module = module
        self.restarts = 0
        self._descriptors = tuple(descriptors)
        self._settings = settings
        self._state: bytes | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: socket.socket | None = None
        self._started = 0.0
        self._delay = _FIRST_DELAY
        self._start_at = 0.0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def settled(self) -> bool:
        """Running for long enough to have all that it needs: what it lacks it ends of at once."""
        return self.running and time.monotonic() - self._started > _SETTLED_SECONDS

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def tick(self, now: float) -> None:
        """Start the process when it is due. ``now`` is monotonic seconds; call about once a second."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                if now - self._started > _STABLE_SECONDS:
                    self._delay = _FIRST_DELAY
                return
            print(f"{self.module} ended with {code}; again in {self._delay:g} s", file=sys.stderr, flush=True)
            self._forget()
            self.restarts += 1
            self._start_at = now + self._delay
            self._delay = min(self._delay * 2, _LONGEST_DELAY)
        if now >= self._start_at:
            self._start(now)

    def _start(self, now: float) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(_SEND_TIMEOUT)
        with theirs:
            descriptors = (*self._descriptors, theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                cwd="/",
                env=child_environment(),
            )
        self._pipe, self._started = ours, now
        self._send(self._settings)
        if self._state is not None:
            self._send(self._state)

    def tell(self, state: bytes) -> None:
        """Send the process its state, now and after every later start."""
        self._state = state
        if self._pipe is not None:
            self._send(state)

    def _send(self, message: bytes) -> None:
        if self._pipe is None:
            return
        try:
            send_message(self._pipe, message)
        except OSError:
            # It died, or hangs: either way the next tick starts it again with the same state.
            if self._process is not None:
                self._process.kill()

    def _forget(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def stop(self) -> None:
        """Close the pipe, which ends the process; kill it when it does not end."""
        process = self._process
        self._forget()
        if process is not None:
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                with suppress(subprocess.TimeoutExpired):  # one that waits in the kernel ends when that lets it
                    process.wait(2.0)


def child_environment() -> dict[str, str]:
    """The child runs in /, so a checkout that is on our path only by the working directory is named."""
    package_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{package_root}{os.pathsep}{path}" if path else package_root}
