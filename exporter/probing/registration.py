"""Who is up: a target that waits is probed once its destination has answered a hello.

No controller is asked (SkeletonHunter, section 5.1). A prober greets each destination that its plan waits for, soon
after it has the plan and then ever more rarely. A responder says who has greeted it; a destination that is waited for
is greeted back at once. So whoever starts last completes its pairs, both ways, within a second.

Nothing that comes from the network registers anybody by itself, since it may be a recorded packet under a forged
address. A hello only brings forward a greeting of ours: to an address that the plan names, once a second at most. What
registers is the answer to it, under our key, with our latest sequence number, from the address and port that we asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from exporter.contracts.plan import Target
from exporter.probing.loop import LATEST_NS, Loop, Timer
from exporter.probing.packet import HELLO
from exporter.probing.sockets import send_options
from exporter.probing.udp import FlowSocket, UdpProber

FIRST_SECONDS = 0.5
"""The first greetings are spread over so long: a host may have hundreds to send."""
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
"""From one greeting of a destination to the next; drawn between one and two times a pause that doubles."""

Pair = tuple[str, str]
"""(source address, destination address)."""


class _Way(NamedTuple):
    """What a greeting looks like to ECMP: each takes the next of the pair's, so that one dead path delays no pair."""

    source_port: int
    destination_port: int
    traffic_class: int


class _Awaited:
    """A pair that waits. ``flow`` is the socket of the last greeting, held while its answer may come."""

    __slots__ = ("due_ns", "flow", "greeted_ns", "greetings", "pair", "pause", "sequence", "targets", "timer", "ways")

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.targets: list[Target] = []
        self.ways: list[_Way] = []
        self.greetings = 0
        self.greeted_ns = 0  # monotonic; 0 = never
        self.pause = SHORTEST_SECONDS
        self.sequence = 0
        self.flow: FlowSocket | None = None
        self.due_ns = 0
        self.timer: Timer | None = None


class Registration:
    """Greets what is waited for, and hands each pair's targets to ``registered`` once, when it has answered."""

    def __init__(
        self,
        loop: Loop,
        prober: UdpProber,
        registered: Callable[[Sequence[Target]], None],
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._loop = loop
        self._prober = prober
        self._registered = registered
        self._spread = spread
        self._awaited: dict[Pair, _Awaited] = {}
        self._greeted: dict[int, _Awaited] = {}
        prober.registration = self

    @property
    def waiting(self) -> int:
        """How many targets wait."""
        return sum(len(awaited.targets) for awaited in self._awaited.values())

    def expect(self, targets: Iterable[Target]) -> None:
        """Wait for the destinations of these targets, and from now on for no others."""
        wanted: dict[Pair, list[Target]] = {}
        for target in targets:
            wanted.setdefault((target.source_address, target.destination_address), []).append(target)
        for pair in self._awaited.keys() - wanted.keys():
            self._forget(self._awaited[pair])
        for pair, own in wanted.items():
            awaited = self._awaited.get(pair)
            if awaited is None:
                awaited = self._awaited[pair] = _Awaited(pair)
                self._greet_at(awaited, self._loop.clock() + int(self._spread() * FIRST_SECONDS * 1e9))
            awaited.targets = own
            awaited.ways = list(
                dict.fromkeys(_Way(each.source_ports[0], each.destination_port, each.traffic_class) for each in own)
            )

    def on_hello(self, address: str, peer: str) -> None:
        """Somebody with our key, who may be ``peer``, has greeted our ``address``."""
        awaited = self._awaited.get((address, peer))
        if awaited is None:
            return
        due = max(self._loop.clock(), awaited.greeted_ns + int(SHORTEST_SECONDS * 1e9) if awaited.greetings else 0)
        if due < awaited.due_ns:
            awaited.pause = SHORTEST_SECONDS
            self._greet_at(awaited, due)

    def on_reply(self, sequence: int, address: tuple[str, int]) -> bool:
        """Whether it answers a greeting; if so, its pair is registered."""
        awaited = self._greeted.get(sequence)
        if awaited is None or address != (awaited.pair[1], self._way(awaited).destination_port):
            return False
        self._forget(awaited)
        self._registered(awaited.targets)
        return True

    def _way(self, awaited: _Awaited) -> _Way:
        return awaited.ways[awaited.greetings % len(awaited.ways)]

    def _greet_at(self, awaited: _Awaited, due_ns: int) -> None:
        if awaited.timer is not None:
            self._loop.cancel(awaited.timer)
        awaited.due_ns = due_ns
        awaited.timer = self._loop.at(due_ns, lambda: self._greet(awaited))

    def _greet(self, awaited: _Awaited) -> None:
        if self._awaited.get(awaited.pair) is not awaited:
            return  # it answered, or was given up, earlier in this slot
        now = self._loop.clock()
        if self._loop.late_ns > LATEST_NS:  # with all the others that a stall kept waiting
            self._greet_at(awaited, now + int(self._spread() * FIRST_SECONDS * 1e9))
            return
        awaited.greeted_ns = now
        awaited.greetings += 1
        self._greet_at(awaited, now + int(awaited.pause * (1 + self._spread()) * 1e9))
        awaited.pause = min(2 * awaited.pause, LONGEST_SECONDS / 2)
        self._greeted.pop(awaited.sequence, None)
        self._release(awaited)
        source, destination = awaited.pair
        way = self._way(awaited)
        with suppress(OSError):  # no route, or a port that another program has: the next greeting takes another
            awaited.flow = self._prober.acquire(source, way.source_port)
            awaited.sequence = self._prober.next_sequence()
            self._greeted[awaited.sequence] = awaited
            hello = self._prober.codec.request(HELLO, awaited.sequence, 0)
            awaited.flow.send([hello], send_options(way.traffic_class), (destination, way.destination_port))

    def _forget(self, awaited: _Awaited) -> None:
        del self._awaited[awaited.pair]
        self._greeted.pop(awaited.sequence, None)
        if awaited.timer is not None:
            self._loop.cancel(awaited.timer)
        self._release(awaited)

    def _release(self, awaited: _Awaited) -> None:
        """Let go of the socket, though not before the next slot: it may be the one that is being read."""
        flow, awaited.flow = awaited.flow, None
        if flow is not None:
            self._loop.at(self._loop.clock(), lambda: self._prober.release(flow))
