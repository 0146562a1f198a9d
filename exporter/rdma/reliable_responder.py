"""Serves reliable connections: a queue pair and some memory for whoever shows our key and is where it says it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exporter.contracts.catalogue import MOST_CONNECTIONS, RELIABLE_REFUSED, RELIABLE_SERVED, RELIABLE_SERVING
from exporter.probing.loop import Loop
from exporter.probing.packet import ACCEPT, CHALLENGE
from exporter.rdma.connecting import NO_CHALLENGE, NOT_YET, Challenges, End, Message
from exporter.rdma.ports import VerbsError
from exporter.rdma.reliable import ReliableDevice, ReliablePair, Way
from exporter.rdma.settings import Reliable
from exporter.rdma.verbs import PyverbsError
from exporter.store import RowWriter

IDLE_NS = 150_000_000_000
"""What was not written to for so long is closed: twice the longest period, and a pause."""
MOST_OF_ONE = 8
"""Connections of one address: a class for each priority that a port tells apart (IEEE 802.1Q)."""
_SIGN = 16
"""Bytes at the start of the memory: those written are others each time, and who serves learns of nothing else."""
_SERVED = RELIABLE_SERVING.metrics.index(RELIABLE_SERVED)
_REFUSED = RELIABLE_SERVING.metrics.index(RELIABLE_REFUSED)

Key = tuple[str, int]
"""Address and traffic class: a prober has one connection of each to us."""


@dataclass(eq=False, slots=True)
class _Served:
    pair: ReliablePair
    end: End
    challenged_ns: int
    sign: bytes
    used_ns: int


class ReliableResponder:
    """Of one device. ``send`` is given a message and an address."""

    def __init__(
        self,
        loop: Loop,
        device: ReliableDevice,
        settings: Reliable,
        send: Callable[[Message, str], None],
        counters: RowWriter,
        tell: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._device = device
        self._settings = settings
        self._send = send
        self._counters = counters
        self._tell = tell
        self._challenges = Challenges(loop.clock)
        self._served: dict[Key, _Served] = {}
        self._waiting: dict[Key, tuple[int, Message]] = {}  # with when it was challenged
        self._closed = False
        counters.set(_SERVED, 0)

    def on_open(self, message: Message, address: str) -> None:
        """Somebody asks for a connection; a challenge first."""
        key = (address, message.traffic_class)
        known = self._served.get(key)
        if message.challenge == NO_CHALLENGE:
            challenge = self._challenges.make(*key, message.number)
            end = End(known.end.queue_pair, known.end.first_packet) if known else NOT_YET
            self._send(message._replace(kind=CHALLENGE, challenge=challenge, end=end), address)
            return
        challenged_ns = self._challenges.made(message.challenge, *key, message.number)
        if challenged_ns is None or not message.end.is_sound():
            return
        before_ns = max(known.challenged_ns if known else 0, self._waiting.get(key, (0, message))[0])
        if challenged_ns <= before_ns or len(self._waiting) >= MOST_CONNECTIONS:
            return  # a recorded one; or a crowd, of which this one will ask again
        if not self._waiting:
            self._loop.after(0, self._serve_one)
        self._waiting[key] = (challenged_ns, message)

    def _serve_one(self) -> None:
        """One in each slot: to make a queue pair takes time in which replies wait."""
        if self._closed or not self._waiting:
            return
        key, (challenged_ns, message) = next(iter(self._waiting.items()))
        del self._waiting[key]
        if self._waiting:
            self._loop.after(0, self._serve_one)
        known = self._served.get(key)
        if known is None and len(self._served) >= MOST_CONNECTIONS:
            self._refuse(f"RDMA device {self._device.name} serves {MOST_CONNECTIONS} reliable connections, all in use")
            return
        if known is None and sum(address == key[0] for address, _ in self._served) >= MOST_OF_ONE:
            self._refuse(f"RDMA device {self._device.name} serves {MOST_OF_ONE} reliable connections of {key[0]}")
            return
        if known is not None:
            self._drop(key)
        try:
            end = self._make(key, challenged_ns, message)
        except VerbsError as error:
            self._refuse(str(error))
            return
        self._counters.set(_SERVED, len(self._served))
        self._send(message._replace(kind=ACCEPT, challenge=NO_CHALLENGE, end=end), key[0])

    def _make(self, key: Key, challenged_ns: int, message: Message) -> End:
        """The queue pair for a request; raise VerbsError."""
        device = self._device
        pair = device.pair(min(message.end.length, self._settings.bytes), serves=True)
        try:
            mtu = min(message.end.mtu, device.mtu())
            pair.connect(message.end, Way(*key, 0), mtu, self._settings)
        except PyverbsError as error:
            device.retire(pair)
            raise VerbsError(f"RDMA device {device.name}: no reliable connection from {key[0]} ({error})") from error
        end = pair.end(mtu)
        self._served[key] = _Served(pair, end, challenged_ns, pair.memory.bytes[:_SIGN], self._loop.clock())
        return end

    def _refuse(self, why: str) -> None:
        self._tell(why)
        self._counters.begin()
        self._counters.add(_REFUSED)
        self._counters.end()

    def tidy(self) -> None:
        """Close what nobody uses any more. Once a second."""
        now = self._loop.clock()
        for key, served in list(self._served.items()):
            sign = served.pair.memory.bytes[:_SIGN]
            if sign != served.sign:
                served.sign, served.used_ns = sign, now
            elif now - served.used_ns > IDLE_NS:
                self._drop(key)
        self._counters.set(_SERVED, len(self._served))

    def _drop(self, key: Key) -> None:
        self._device.retire(self._served.pop(key).pair)

    def close(self) -> None:
        """The device is about to be closed, and all queue pairs with it."""
        self._closed = True
        self._served.clear()
        self._counters.set(_SERVED, 0)
