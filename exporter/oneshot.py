"""Work that a process of its own does and ends with: what it takes of memory, nobody keeps."""

from __future__ import annotations

import subprocess
import sys
import threading

from exporter.child import child_environment

TIMEOUT_SECONDS = 20.0


class OneShotError(RuntimeError):
    """Nothing came of it; the message is a line for the client."""


class OneShot:
    """``python -m module``, at most one at a time; ``what`` it does, in words for who waits."""

    def __init__(self, module: str, what: str) -> None:
        self._module, self._what = module, what
        self._one = threading.Lock()  # its memory once, however many ask; and who waits holds up other answers

    def run(self, standard_input: bytes) -> bytes:
        """What it wrote; raise OneShotError."""
        if not self._one.acquire(blocking=False):
            raise OneShotError(f"another answer is being made: ask again in a few seconds ({self._what})")
        try:
            done = subprocess.run(
                [sys.executable, "-m", self._module],
                input=standard_input,
                capture_output=True,
                check=False,
                timeout=TIMEOUT_SECONDS,
                cwd="/",
                env=child_environment(),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OneShotError(f"cannot {self._what}: {error}") from error
        finally:
            self._one.release()
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise OneShotError(f"cannot {self._what}: {reason or f'exit code {done.returncode}'}")
        return done.stdout
