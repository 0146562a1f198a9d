"""A network on loopback that takes packets up to an MTU: a black hole, or a router that says frag needed."""

from __future__ import annotations

import random
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from exporter.contracts.catalogue import PROBER
from exporter.contracts.plan import UDP_HEADERS
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import Codec
from exporter.probing.responder import Streams, UdpResponder
from exporter.probing.settings import prober_tables
from exporter.store import Store
from tests.unit.test_prober import FAR, KEY, forge_icmp

HIDDEN, ROUTER = "127.0.0.4", "127.0.0.9"
"""Where the responder really is, and who sends ICMP errors."""


class Network:
    """What lies between the prober and a responder: it takes packets up to an MTU, loses some, and may say so."""

    def __init__(self, answering: Loop) -> None:
        self.mtu = 65535
        self.loss = 0.0  # each way
        self.says: int | None = None
        """The MTU that a router names of what is larger than ``mtu``; None: it vanishes without a word."""
        self.quotes = 64
        """How many bytes of a packet a router quotes."""
        self.seen: list[tuple[float, int, int]] = []
        """(monotonic time, IP bytes, kind) of every packet that came in."""
        self._random = random.Random(1)  # noqa: S311 - repeatable
        self._sockets = selectors.DefaultSelector()
        self._own = self._socket(FAR)
        self.port = int(self._own.getsockname()[1])
        store = Store(prober_tables(1))
        responder = UdpResponder(Codec(KEY), HIDDEN, 0, 1, Streams(), SourceLimit(1e6), store.writer(PROBER).add(()))
        answering.watch(responder)
        with socket.socket(fileno=socket.dup(responder.fileno())) as bound:
            self._responder = bound.getsockname()
        self._upstream: dict[tuple[str, int], socket.socket] = {}
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _socket(self, address: str, client: tuple[str, int] | None = None) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, 0))
        self._sockets.register(made, selectors.EVENT_READ, client)
        return made

    def _run(self) -> None:
        while self._running:
            for key, _ in self._sockets.select(0.05):
                data, address = key.fileobj.recvfrom(65535)  # type: ignore[union-attr]
                if key.data is not None:
                    if self._random.random() >= self.loss:
                        self._own.sendto(data, key.data)
                else:
                    self._forward(data, address)

    def _forward(self, data: bytes, client: tuple[str, int]) -> None:
        size = len(data) + UDP_HEADERS
        self.seen.append((time.monotonic(), size, data[5]))
        if size > self.mtu:
            if self.says is not None:
                quoted = data[: self.quotes]
                forge_icmp(3, 4, client, (FAR, self.port), self.says, payload=quoted, router=ROUTER)
        elif self._random.random() >= self.loss:
            if client not in self._upstream:
                self._upstream[client] = self._socket(HIDDEN, client)
            self._upstream[client].sendto(data, self._responder)

    def close(self) -> None:
        self._running = False
        self._thread.join(2)
        for key in list(self._sockets.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]


@contextmanager
def running() -> Iterator[Network]:
    answering = Loop()

    def tick() -> None:  # it looks whether it should stop whenever it wakes
        answering.after(0.05, tick)

    tick()
    made = Network(answering)
    thread = threading.Thread(target=answering.run, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        answering.stop()
        thread.join(2)
