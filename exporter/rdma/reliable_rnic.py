"""The reliable connections of one RNIC, from it and to it, while its device is open."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from exporter.contracts.plan import Target
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import OPEN, Codec
from exporter.rdma.connecting import Message, parse, seal
from exporter.rdma.introduction import Introductions
from exporter.rdma.ports import PortState, VerbsError
from exporter.rdma.reliable import ReliableDevice
from exporter.rdma.reliable_prober import Labels, ReliableProber, Tables
from exporter.rdma.reliable_responder import ReliableResponder
from exporter.rdma.settings import Reliable
from exporter.store import RowWriter

_SHORTEST_SECONDS, _LONGEST_SECONDS = 1.0, 60.0
"""Pauses before the device is opened again."""
_MOST_TOLD = 256


class ReliableRnic:
    """Opened with the RNIC, closed with it; in between it mends its own device and disturbs no other probes."""

    def __init__(
        self,
        name: str,
        loop: Loop,
        codec: Codec,
        limit: SourceLimit,
        settings: Reliable,
        labels: Callable[[Target], Labels],
        tables: Tables,
        counters: RowWriter,
        tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        self._name = name
        self._loop = loop
        self._codec = codec
        self._limit = limit
        self._settings = settings
        self._counters = counters
        self._tell = tell
        self._told: set[str] = set()
        self._pause = _SHORTEST_SECONDS
        self._again_ns = 0
        """Not to be opened before, monotonic."""
        self._prober = ReliableProber(loop, settings, labels, tables, self._send, self._complain)
        self._port: PortState | None = None
        self._introductions: Introductions | None = None
        self._device: ReliableDevice | None = None
        self._responder: ReliableResponder | None = None

    def follow(self, targets: Iterable[Target]) -> None:
        """Have connections to the destinations of these RDMA targets, which are active."""
        self._prober.follow(targets)

    def open(self, port: PortState, introductions: Introductions) -> None:
        """The RNIC has been opened."""
        self._port, self._introductions = port, introductions
        introductions.other = self
        self._told.clear()
        self._pause, self._again_ns = _SHORTEST_SECONDS, 0
        self.check()

    def check(self) -> None:
        """Open the device when it can be, anew when it broke. Once a second."""
        if self._device is not None and self._device.broken:
            self._tell(self._device.broken)  # each time: a device that lasted may do so again
            self._close_device()
        now = self._loop.clock()
        if self._device is not None and now >= self._again_ns:
            self._pause = _SHORTEST_SECONDS  # it has lasted
        if self._device is None and self._port is not None and now >= self._again_ns:
            self._again_ns = now + int(self._pause * 1e9)
            self._pause = min(2 * self._pause, _LONGEST_SECONDS)
            try:
                self._open_device(self._port)
            except VerbsError as error:
                self._complain(str(error))
                self._close_device()
        if self._responder is not None:
            self._responder.tidy()

    def _open_device(self, port: PortState) -> None:
        self._device = ReliableDevice(self._name, port, self._loop, self._prober.on_completion)
        self._prober.open(self._device)
        self._responder = ReliableResponder(
            self._loop, self._device, self._settings, self._send, self._counters, self._complain
        )

    def _complain(self, trouble: str) -> None:
        """Once, until the RNIC is opened again; many peers may fail in turn."""
        if trouble not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(trouble)
            self._tell(trouble)

    def on_datagram(self, data: bytes, address: str) -> None:
        message = parse(self._codec, data)
        if message is None:
            return
        if message.kind != OPEN:
            self._prober.on_answer(message, address)
        elif self._responder is not None and self._limit.allows(address):
            self._responder.on_open(message, address)

    def has_asked(self, number: int, address: str) -> bool:
        return self._prober.has_asked(number, address)

    def on_refusal(self, address: str) -> None:
        self._prober.on_refusal(address)

    def _send(self, message: Message, address: str) -> None:
        if self._introductions is not None:
            self._introductions.send(seal(self._codec, message), message.traffic_class, address)

    def close(self) -> None:
        """The RNIC is about to be closed."""
        self._close_device()
        self._port = self._introductions = None

    def _close_device(self) -> None:
        self._prober.close()
        if self._responder is not None:
            self._responder.close()
            self._responder = None
        if self._device is not None:
            self._device.close()
            self._device = None
