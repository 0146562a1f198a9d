"""The pipe from the control process, for a process that runs a loop."""

from __future__ import annotations

import socket
from collections.abc import Callable

from exporter.messages import receive_message
from exporter.probing.loop import Loop


class ControlPipe:
    """What ``loop`` watches: each message is for ``obey``; once the control process is gone, the loop stops."""

    def __init__(self, loop: Loop, control: socket.socket, obey: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._control = control
        self._obey = obey

    def fileno(self) -> int:
        return self._control.fileno()

    def on_input(self) -> None:
        message = receive_message(self._control)
        if message is None:
            self._loop.stop()
        else:
            self._obey(message)

    def on_error(self) -> None:
        self._loop.stop()

    def on_output(self) -> None:
        """Never asked for."""
