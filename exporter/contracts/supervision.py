"""What a process tells systemd: that it is ready, that it lives, how it is (sd_notify(3)). Without systemd, nothing."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


class Supervisor:
    """Whoever started this process, if it wants to know."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address[:1] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        own = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 if own else 0.0
        self.pause: float | None = seconds / 3 if seconds else None
        """Seconds from one ``alive`` to the next; None where nobody watches."""
        self._next = 0.0

    def _tell(self, text: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # whoever listened is gone, or is slow
                self._socket.sendto(text.encode(), self._address)

    def ready(self, status: str = "") -> None:
        self._tell(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Say so when it is due: call at least each ``pause``."""
        now = time.monotonic()
        if self.pause is not None and now >= self._next:
            self._next = now + self.pause
            self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")
