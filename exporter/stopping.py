"""The wish to stop, as a signal handler may express it."""

from __future__ import annotations

import os
import select


class Stopping:
    """A flag that may be waited for, and that a signal handler may set.

    A handler runs between two instructions of the main thread, and so perhaps inside its wait. There
    ``threading.Event.set`` waits for a lock that its own thread holds, for ever, and ``queue.SimpleQueue`` can
    hang too; a write to a descriptor cannot.
    """

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Not select(2): it takes no descriptor above 1023, and a poller of many devices holds more files than that.
        self._ready = select.poll()
        self._ready.register(self._descriptor, select.POLLIN)

    def set(self) -> None:
        os.eventfd_write(self._descriptor, 1)

    def wait(self, seconds: float) -> bool:
        """Wait at most so long, and say whether to stop."""
        return bool(self._ready.poll(max(seconds, 0.0) * 1000))

    def __del__(self) -> None:
        os.close(self._descriptor)
