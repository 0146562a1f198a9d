"""TCP peers on loopback: one that does as it is told, and one whose queue is full."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def tcp_server(act: Callable[[socket.socket], None], address: str, port: int = 0) -> Iterator[int]:
    """The port of a server that does ``act`` with each connection, and then closes it."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(5)
                act(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@contextmanager
def full_listener(address: str) -> Iterator[tuple[int, Callable[[], None]]]:
    """A port that drops SYNs, as a network that loses them; the function makes room."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:  # what a backlog of 0 takes, and more
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        time.sleep(0.05)

        def make_room() -> None:
            for one in crowd:
                one.close()
            listener.settimeout(0.05)
            with suppress(TimeoutError):
                while True:
                    listener.accept()[0].close()

        try:
            yield listener.getsockname()[1], make_room
        finally:
            for one in crowd:
                one.close()
