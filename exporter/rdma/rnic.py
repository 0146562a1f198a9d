"""One RNIC through all that happens to it: opened, changed, gone, back; its paths live through that."""

from __future__ import annotations

import itertools
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
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
from exporter.contracts.plan import INTRODUCTION_PORT, Target
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import Codec
from exporter.probing.paths import Path
from exporter.probing.phase import next_due
from exporter.probing.responder import Streams
from exporter.rdma.device import Arrival, Device
from exporter.rdma.inbox import Inbox
from exporter.rdma.introduction import NO_RESPONDER, Introductions, explain
from exporter.rdma.ports import SYSFS, PortState, VerbsError, read_port
from exporter.rdma.prober import Probing, RdmaProber
from exporter.rdma.reliable_rnic import ReliableRnic
from exporter.rdma.responder import RdmaResponder
from exporter.rdma.tracing import RoceTraces
from exporter.rdma.verbs import PyverbsError
from exporter.store import RowWriter

_UP, _MTU = RDMA.metrics.index(RDMA_UP), RDMA.metrics.index(RDMA_MTU)
_GID_CHANGES, _MTU_CHANGES = RDMA.metrics.index(RDMA_GID_CHANGES), RDMA.metrics.index(RDMA_MTU_CHANGES)
_PORT_CHANGES, _LOSSES = RDMA.metrics.index(RDMA_PORT_CHANGES), RDMA.metrics.index(RDMA_DEVICE_LOSSES)
_FAILURES, _STARVED = RDMA.metrics.index(RDMA_FAILURES), RDMA.metrics.index(RDMA_STARVED)
_LOOK_NS = 2_000_000
_SHORTEST_PAUSE_NS, _LONGEST_PAUSE_NS = 1_000_000_000, 32_000_000_000
"""Before a device is opened again that could not be, or broke soon: what that takes, others wait."""
_SOON_NS = 60_000_000_000


@dataclass(frozen=True)
class Shared:
    """What all RNICs of the process have in common."""

    loop: Loop
    codec: Codec
    streams: Streams
    limit: SourceLimit
    timeout_seconds: float
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(secrets.randbits(48)))
    """Of probes; they only grow, also when a device is opened again."""
    port: int = INTRODUCTION_PORT
    sysfs: FilePath = SYSFS
    traces: RoceTraces | None = None
    looks: set[Callable[[int], bool]] = field(default_factory=set)
    """Of the RNICs that are open, at what has arrived."""

    def look(self) -> None:
        """Deal with what has arrived anywhere. What is answered at one may be a reply at the next at once."""
        asked_ns = self.loop.clock()
        ends_ns = asked_ns + _LOOK_NS  # a flood is for the next slots
        while True:
            found = [look(asked_ns) for look in tuple(self.looks)]
            if not any(found):
                return
            asked_ns = self.loop.clock()
            if asked_ns > ends_ns:
                return


class _Open:
    """What there is while the device is open. Raises VerbsError or OSError when it cannot be."""

    def __init__(
        self,
        name: str,
        address: str,
        state: PortState,
        shared: Shared,
        row: RowWriter,
        on_answer: Callable[[str], None],
        on_asked: Callable[[str], None],
        on_broken: Callable[[], None],
    ) -> None:
        """``on_broken`` is called once, in a slot, when the device has to be opened again."""
        self.opened_ns = shared.loop.clock()
        self._shared = shared
        self._on_answer, self._on_asked = on_answer, on_asked
        self._row = row
        loop = shared.loop
        self.device = Device(name, state, loop)
        epoch = time.time_ns()  # a device that is opened again may give the same numbers to other queue pairs
        try:
            self.responder = RdmaResponder(loop, shared.codec, self.device, epoch, shared.streams, shared.limit, row)
            self.introductions = Introductions(
                loop,
                shared.codec,
                address,
                state.netdev,
                epoch,
                shared.limit,
                self._introduce,
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
            shared.look,
            self._on_starved,
        )
        self.introductions.asking = self
        self._inbox = Inbox(loop, self.device, self._take, on_broken)
        shared.looks.add(self._inbox.look)

    def _introduce(self, peer: tuple[str, int], traffic_class: int) -> None:
        """Somebody with our key, who may be ``peer``, has asked for us: if it answers, it is, and can be replied to."""
        address, port = peer
        if not self.responder.knows(address, traffic_class):
            self.introductions.ask(address, traffic_class, port)
        self._on_asked(address)

    def on_answer(self, address: str, traffic_class: int, queue_pair: int, epoch: int) -> None:
        if queue_pair != NO_RESPONDER:
            self.prober.on_answer(address, traffic_class, queue_pair, epoch)
        if not self.responder.knows(address, traffic_class):
            self.responder.introduce(address, traffic_class)
        if queue_pair != NO_RESPONDER:
            self._on_answer(address)

    def on_refusal(self, address: str) -> None:
        self.prober.on_refusal(address)

    def _take(self, found: list[Arrival]) -> None:
        own = self.responder.queue_pair
        if requests := [arrival for arrival in found if arrival.pair == own]:
            self.responder.answer(requests)
        if len(found) > len(requests):
            self.prober.take([arrival for arrival in found if arrival.pair != own])

    def _on_starved(self) -> None:
        self._row.begin()
        self._row.add(_STARVED)
        self._row.end()

    def close(self) -> None:
        self._shared.looks.discard(self._inbox.look)
        self._inbox.close()
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
        inform: Callable[[str], None],
        on_answer: Callable[[str, str], None] = lambda _, __: None,
        on_asked: Callable[[str, str], None] = lambda _, __: None,
        tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
        reliable: ReliableRnic | None = None,
    ) -> None:
        """``inform`` is told who stamps what arrives, ``hardware`` or ``software``, each time the device is opened.
        ``on_answer`` and ``on_asked`` get our address and that of who answered an introduction, or asked for one.
        """
        self.name = name
        self.address = address
        self._on_answer = partial(on_answer, address)
        self._on_asked = partial(on_asked, address)
        self._shared = shared
        self._row = row
        self._inform = inform
        self._tell = tell
        self._reliable = reliable
        self._open: _Open | None = None
        self._pause_ns = 0
        self._not_before_ns = 0
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
            self._leave(gone)
            self._open.prober.remove({self._probing.pop(path) for path in gone if path in self._probing})
            self._start()

    def connect(self, targets: Iterable[Target]) -> None:
        """Have reliable connections to the destinations of these, if any are wanted."""
        if self._reliable is not None:
            self._reliable.follow(targets)

    def _start(self) -> None:
        clock = self._shared.loop.clock
        for path, phase in self._paths.items():
            if self._open is None or path in self._probing:
                continue
            period_ns = int(path.target.period_seconds * 1e9)
            try:
                due_ns = next_due(phase, period_ns, clock(), time.time_ns())
                probing = self._probing[path] = self._open.prober.add(path, due_ns)
                if self._shared.traces is not None:
                    self._shared.traces.add(path, self.name, self._open.device.port.netdev, probing.pair.number)
            except VerbsError as error:  # no queue pair: the others go on, and this is tried again with each check
                path.book_unsent(max(1, round(1 / path.target.period_seconds)))
                self._complain(str(error))

    def _leave(self, paths: Iterable[Path]) -> None:
        """Trace these no more: another queue pair may send from another port."""
        if self._shared.traces is not None:
            for path in paths:
                self._shared.traces.remove(path)

    def _complain(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            self._trouble = trouble
            self._tell(trouble)

    def ask(self, peer: str, traffic_class: int) -> None:
        """Ask a peer that is not probed yet who it is, if we can."""
        if self._open is not None:
            self._open.introductions.ask(peer, traffic_class)

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
        if self._open is not None:
            self._open.device.tidy()
            if self._open.device.broken:
                self._book(_FAILURES)
                if self._shared.loop.clock() - self._open.opened_ns < _SOON_NS:
                    self._wait()
                self._close(self._open.device.broken)
            elif self._open.device.port != state:
                self._close("")
            elif len(self._probing) < len(self._paths):
                self._start()
            elif self._reliable is not None:
                self._reliable.check()
        if self._open is None and self._shared.loop.clock() >= self._not_before_ns:
            self._try_to_open(state)

    def _wait(self) -> None:
        """Longer each time: to open a device takes long, and the other RNICs wait meanwhile."""
        self._pause_ns = min(max(2 * self._pause_ns, _SHORTEST_PAUSE_NS), _LONGEST_PAUSE_NS)
        self._not_before_ns = self._shared.loop.clock() + self._pause_ns

    def close(self) -> None:
        """For good."""
        self._close("")

    def _try_to_open(self, state: PortState) -> None:
        try:
            self._open = _Open(
                self.name,
                self.address,
                state,
                self._shared,
                self._row,
                self._on_answer,
                self._on_asked,
                self.check,
            )
            self._start()
        except (VerbsError, PyverbsError) as error:
            self._wait()
            self._close(str(error))
        except OSError as error:
            self._wait()
            self._close(explain(self.address, self._shared.port, error))
        else:
            if self._trouble:
                self._tell(f"RDMA device {self.name} is probed again")
            self._trouble = ""
            self._row.set(_UP, 1)
            self._inform(self._open.device.timestamps)
            if self._reliable is not None:
                self._reliable.open(state, self._open.introductions)

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
        self._complain(trouble)
        if self._reliable is not None:
            self._reliable.close()
        if self._open is not None:
            self._open.close()
            self._open = None
        self._leave(self._probing)
        self._probing.clear()
        self._row.set(_UP, 0)
