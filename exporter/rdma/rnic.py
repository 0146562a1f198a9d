"""One RNIC through all that happens to it: opened, changed, gone, back; its paths live through that."""

from __future__ import annotations

import itertools
import secrets
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from exporter.contracts.catalogue import (
    RDMA,
    RDMA_DEVICE_LOSSES,
    RDMA_FAILURES,
    RDMA_GID_CHANGES,
    RDMA_MTU,
    RDMA_MTU_CHANGES,
    RDMA_PORT_CHANGES,
    RDMA_STARVED,
    RDMA_UP,
)
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import Codec
from exporter.probing.paths import Path
from exporter.probing.phase import next_due
from exporter.probing.responder import Streams
from exporter.rdma.device import Device
from exporter.rdma.introduction import Introductions
from exporter.rdma.ports import SYSFS, PortState, VerbsError, read_port
from exporter.rdma.prober import Probing, RdmaProber
from exporter.rdma.responder import RdmaResponder
from exporter.rdma.settings import INTRODUCTION_PORT
from exporter.rdma.verbs import PyverbsError
from exporter.store import RowWriter

_UP, _MTU = RDMA.metrics.index(RDMA_UP), RDMA.metrics.index(RDMA_MTU)
_GID_CHANGES, _MTU_CHANGES = RDMA.metrics.index(RDMA_GID_CHANGES), RDMA.metrics.index(RDMA_MTU_CHANGES)
_PORT_CHANGES, _LOSSES = RDMA.metrics.index(RDMA_PORT_CHANGES), RDMA.metrics.index(RDMA_DEVICE_LOSSES)
_FAILURES, _STARVED = RDMA.metrics.index(RDMA_FAILURES), RDMA.metrics.index(RDMA_STARVED)


@dataclass(frozen=True)
class Shared:
    """What all RNICs of the process have in common."""

    loop: Loop
    codec: Codec
    epoch: int
    """When the process started, Unix ns."""
    streams: Streams
    limit: SourceLimit
    timeout_seconds: float
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(secrets.randbits(48)))
    """Of probes; they only grow, also when a device is opened again."""
    port: int = INTRODUCTION_PORT
    sysfs: FilePath = SYSFS


class _Open:
    """What there is while the device is open. Raises VerbsError or OSError when it cannot be."""

    def __init__(self, name: str, address: str, state: PortState, shared: Shared, row: RowWriter) -> None:
        self._shared = shared
        self._row = row
        loop = shared.loop
        self.device = Device(name, state)
        try:
            self.responder = RdmaResponder(
                loop, shared.codec, self.device, shared.epoch, shared.streams, shared.limit, row
            )
            self.introductions = Introductions(
                loop,
                shared.codec,
                address,
                state.netdev,
                shared.epoch,
                shared.limit,
                self.responder.introduce,
                shared.port,
            )
        except BaseException:
            self.device.close()
            raise
        self.introductions.queue_pair = self.responder.queue_pair
        self.prober = RdmaProber(
            loop,
            shared.codec,
            self.device,
            self.introductions,
            shared.timeout_seconds,
            shared.numbers,
            self._on_starved,
        )
        self.introductions.asking = self.prober
        self._failures = 0
        loop.watch(self)

    def fileno(self) -> int:
        return self.device.fileno()

    def on_input(self) -> None:
        found = self.device.arrivals()
        while True:
            arrived_ns = self._shared.loop.clock()
            own = self.responder.queue_pair
            if requests := [arrival for arrival in found if arrival.pair == own]:
                self.responder.answer(requests, arrived_ns)
            if len(found) > len(requests):
                self.prober.take([arrival for arrival in found if arrival.pair != own], arrived_ns)
            if not self.device.has_more:
                break
            found = self.device.look()
        if self.device.failures != self._failures:
            self._book(_FAILURES, self.device.failures - self._failures)
            self._failures = self.device.failures

    on_error = on_input

    def on_output(self) -> None:
        """Never asked for."""

    def _on_starved(self) -> None:
        self._book(_STARVED, 1)

    def _book(self, column: int, times: int) -> None:
        self._row.begin()
        self._row.add(column, times)
        self._row.end()

    def close(self) -> None:
        self._shared.loop.forget(self)
        self.prober.close()
        self.introductions.close()
        self.device.close()


class RdmaRnic:
    """Paths keep their rows and their state while the device is closed; nothing is sent on them then."""

    def __init__(
        self,
        name: str,
        address: str,
        shared: Shared,
        row: RowWriter,
        tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        self.name = name
        self.address = address
        self._shared = shared
        self._row = row
        self._tell = tell
        self._open: _Open | None = None
        self._state: PortState | None = None  # the last known
        self._trouble = ""
        self._paths: dict[Path, float] = {}  # path -> phase
        self._probing: dict[Path, Probing] = {}
        row.set(_UP, 0)

    def follow(self, paths: Mapping[Path, float]) -> None:
        """Probe these from now on, each at its phase (0 to below 1) of its period."""
        gone = [path for path in self._paths if path not in paths]
        self._paths = dict(paths)
        if self._open is not None:
            self._open.prober.remove({self._probing.pop(path) for path in gone if path in self._probing})
            self._start()

    def _start(self) -> None:
        clock = self._shared.loop.clock
        for path, phase in self._paths.items():
            if self._open is not None and path not in self._probing:
                period_ns = int(path.target.period_seconds * 1e9)
                due_ns = next_due(phase, period_ns, clock(), zlib.crc32(self.address.encode()))
                self._probing[path] = self._open.prober.add(path, due_ns)

    def check(self) -> None:
        """Look at the device: open it when it can be, anew when it is no longer what was opened. Once a second."""
        state = read_port(self.name, self.address, self._shared.sysfs)
        if isinstance(state, str):
            if self._open is not None:
                self._book(_LOSSES)
            self._close(state)
            return
        self._note(state)
        if not state.active:
            self._close(f"the port of RDMA device {self.name} is not active")
            return
        if self._open is not None and self._open.device.port != state:
            self._close("")
        if self._open is None:
            self._try_to_open(state)

    def close(self) -> None:
        """For good."""
        self._close("")

    def _try_to_open(self, state: PortState) -> None:
        try:
            self._open = _Open(self.name, self.address, state, self._shared, self._row)
            self._start()
        except (VerbsError, PyverbsError) as error:
            self._close(str(error))
        except OSError as error:
            self._close(f"{self.address} port {self._shared.port}/udp, for introductions: {error.strerror or error}")
        else:
            if self._trouble:
                self._tell(f"RDMA device {self.name} is probed again")
            self._trouble = ""
            self._row.set(_UP, 1)

    def _note(self, state: PortState) -> None:
        before, self._state = self._state, state
        if state.mtu:
            self._row.set(_MTU, state.mtu)
        if before is None:
            return
        for column, changed in (
            (_GID_CHANGES, before.gid_index != state.gid_index),
            (_MTU_CHANGES, before.mtu != state.mtu),
            (_PORT_CHANGES, before.active != state.active),
        ):
            if changed:
                self._book(column)

    def _book(self, column: int) -> None:
        self._row.begin()
        self._row.add(column)
        self._row.end()

    def _close(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            self._trouble = trouble
            self._tell(trouble)
        if self._open is not None:
            self._open.close()
            self._open = None
        self._probing.clear()
        self._row.set(_UP, 0)
