"""The RDMA device of a run: queue pairs of its own, and an introduction from a port of its own.

So an exporter that runs here keeps its port and its sequence numbers. The far one asks back where it was asked from,
learns that nobody answers here, and can reply from then on (exporter.rdma.introduction).
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable
from functools import partial

from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import Codec
from exporter.probing.paths import Path
from exporter.rdma.device import Device
from exporter.rdma.inbox import Inbox
from exporter.rdma.introduction import NO_RESPONDER, Introductions, explain
from exporter.rdma.ports import VerbsError, read_port
from exporter.rdma.prober import RdmaProber

_QUESTIONS_PER_SECOND = 100


class Rnic:
    """A device that probes from one of its addresses."""

    def __init__(self, loop: Loop, codec: Codec, name: str, address: str, port: int, timeout_seconds: float) -> None:
        """``port``: where others are asked. Raise VerbsError."""
        state = read_port(name, address)
        if isinstance(state, str):
            raise VerbsError(state)
        if not state.active:
            raise VerbsError(f"the port of RDMA device {name} is not active")
        self.name = name
        self._address = address
        self._loop = loop
        self._device = Device(name, state, loop)
        limit = SourceLimit(_QUESTIONS_PER_SECOND)
        try:
            self._introductions = Introductions(
                loop, codec, address, state.netdev, time.time_ns(), limit, lambda *_: None, port, own_port=0
            )
        except OSError as error:
            self._device.close()
            raise VerbsError(explain(address, port, error)) from error
        self._introductions.queue_pair = NO_RESPONDER
        numbers = itertools.count(secrets.randbits(48))
        self._prober = RdmaProber(loop, codec, self._device, self._introductions, timeout_seconds, numbers, self._look)
        self._introductions.asking = self._prober
        self._inbox = Inbox(loop, self._device, self._prober.take)

    @property
    def timestamps(self) -> str:
        """Who knows when a reply came: ``hardware``, the device, or ``software``, this process."""
        return self._device.timestamps

    def add(self, path: Path) -> Callable[[], None]:
        """What sends a probe on ``path``, to be called in a slot; raise VerbsError."""
        return partial(self._prober.probe, self._prober.add(path, None))

    def _look(self) -> None:
        self._inbox.look(self._loop.clock())

    def check(self) -> None:
        """Raise VerbsError when the device cannot be used any more. Once a second."""
        state = read_port(self.name, self._address)
        if self._device.broken or isinstance(state, str):
            raise VerbsError(self._device.broken or str(state))
        if state.gid_index != self._device.port.gid_index:
            raise VerbsError(f"RDMA device {self.name}: the GID of {self._address} has moved")
        self._device.tidy()

    def close(self) -> None:
        self._inbox.close()
        self._prober.close()
        self._introductions.close()
        self._device.close()
