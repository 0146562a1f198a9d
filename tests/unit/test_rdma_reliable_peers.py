"""Reliable connections without a device: when another is made, who is blamed, and what one peer can take.

Prober and responder are real, and so are their messages; queue pairs are not, and the network is what a test says.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from exporter.contracts.catalogue import (
    RELIABLE,
    RELIABLE_CONNECTED,
    RELIABLE_CONNECTIONS,
    RELIABLE_FAILURES,
    RELIABLE_MISMATCHES,
    RELIABLE_REFUSED,
    RELIABLE_SERVED,
    RELIABLE_STARTED,
)
from exporter.contracts.metric import Metric
from exporter.contracts.plan import Target
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import CHALLENGE, OPEN, Codec
from exporter.probing.settings import RESULT_CAPACITY
from exporter.rdma.connecting import NO_CHALLENGE, NOT_YET, End, Message, parse, seal
from exporter.rdma.ports import PortState, VerbsError, gid_of
from exporter.rdma.settings import Orders, RdmaSettings, Reliable, rdma_tables
from exporter.results import ResultRing
from exporter.store import Store
from tests.rdma.guest.hosts import total
from tests.unit.test_plan_contract import TARGET
from tests.unit.test_walk import Clock

pytest.importorskip("pyverbs.device", reason="pyverbs is not installed, or for another Python")

from exporter.rdma import reliable, reliable_rnic
from exporter.rdma.host import RdmaHost
from exporter.rdma.reliable import ReliableDevice
from exporter.rdma.reliable_prober import SMALL_BYTES, ReliableProber, Tables
from exporter.rdma.reliable_responder import MOST_OF_ONE, ReliableResponder
from exporter.rdma.reliable_rnic import ReliableRnic
from exporter.rdma.verbs import PyverbsError, constants

HERE, THERE = "10.0.0.1", "10.0.0.2"
PORT = PortState(gid_index=1, gid=gid_of("10.0.0.1"), netdev="", active=True, mtu=1024)
SUCCESS, EXHAUSTED = constants.IBV_WC_SUCCESS, constants.IBV_WC_RETRY_EXC_ERR
SECONDS_OF_RETRIES = 0.5
CONNECTIONS = RELIABLE.metrics.index(RELIABLE_CONNECTIONS)


def target(traffic_class: int = 106, destination: str = THERE) -> Target:
    return msgspec.structs.replace(
        TARGET,
        path=f"{destination}/{traffic_class}",
        probe="rdma",
        source_address=HERE,
        destination_address=destination,
        traffic_class=traffic_class,
    )


class Network:
    """What two hosts share: a prober at one and a responder at the other."""

    def __init__(self, here: Reliable | None = None, there: Reliable | None = None) -> None:
        self.clock = Clock()
        self.clock.now_ns = 10**12
        self.loop = self.clock.loop
        self.passes: Callable[[int], bool] = lambda _: True
        """Whether an operation of so many bytes does."""
        self.post_fails: Callable[[], bool] = lambda: False
        self.is_cut = False
        """For the messages before a connection."""
        self.memory = b""
        """That of the responder, as written last."""
        self.pairs_made = 0
        self.told: list[str] = []
        self.there = there or Reliable()
        self.store = Store(rdma_tables(64, 1, reliable=True))
        tables = Tables(self.store)
        self._counters = tables.serving.add(("there", "rxe1"))
        self.restart_responder()
        self.prober = ReliableProber(
            self.loop, here or Reliable(), _labels, tables, self._ask, self.told.append, spread=lambda: 0.0
        )
        self.prober.open(FakeDevice(self))

    def restart_responder(self) -> None:
        device: Any = FakeDevice(self)
        self.responder = ReliableResponder(
            self.loop, device, self.there, self._answer, self._counters, self.told.append
        )

    def _ask(self, message: Message, _: str) -> None:
        if not self.is_cut:
            self.loop.after(0, lambda: self.responder.on_open(message, HERE))

    def _answer(self, message: Message, _: str) -> None:
        self.loop.after(0, lambda: self.prober.on_answer(message, THERE))

    def post(self, identifier: int, length: int) -> None:
        if self.post_fails():
            raise PyverbsError("no room")
        passes = self.passes(length)
        seconds, status = (0.0, SUCCESS) if passes else (SECONDS_OF_RETRIES, EXHAUSTED)
        self.loop.after(seconds, lambda: self.prober.on_completion(identifier, status))

    def of(self, metric: Metric, *labels: str) -> float:
        return total(self.store, metric, *labels) or 0


def _labels(each: Target) -> tuple[str, ...]:
    return ("here", "rxe0", "there", "rxe1", each.destination_address, str(each.traffic_class >> 2))


class FakeDevice:
    broken = ""

    def __init__(self, network: Network) -> None:
        self.name = "rxe0"
        self._network = network
        self._numbers = itertools.count(1)

    def memory(self, length: int) -> SimpleNamespace:
        return SimpleNamespace(bytes=bytearray(length))

    def mtu(self) -> int:
        return 1024

    def pair(self, length: int, *, serves: bool) -> FakePair:
        self._network.pairs_made += not serves
        return FakePair(self._network, next(self._numbers), length)

    def retire(self, pair: FakePair) -> None:
        """Nothing is under way."""


class FakePair:
    def __init__(self, network: Network, number: int, length: int) -> None:
        self._network = network
        self._number = number
        self.memory = SimpleNamespace(bytes=bytearray(length))

    def end(self, mtu: int) -> End:
        return End(self._number, 1, mtu, len(self.memory.bytes), 1, 1)

    def connect(self, *_: object) -> None:
        """At once."""

    def write(self, identifier: int, source: SimpleNamespace, offset: int, length: int, other: End) -> None:
        assert length <= other.length
        self._network.memory = bytes(source.bytes[offset : offset + length])
        self._network.post(identifier, length)

    def read(self, identifier: int, other: End) -> None:
        self.memory.bytes[: len(self._network.memory)] = self._network.memory
        self._network.post(identifier, other.length)


@pytest.fixture
def network() -> Network:
    """With one connection that stands."""
    made = Network()
    made.prober.follow([target()])
    made.clock.pass_by(12)
    assert made.of(RELIABLE_CONNECTED) == 1
    assert made.of(RELIABLE_STARTED, "read") > 0
    return made


def test_a_path_that_fails_large_writes_is_tried_after_pauses_though_the_responder_answers_at_once() -> None:
    network = Network()
    network.passes = lambda length: length <= SMALL_BYTES
    network.prober.follow([target()])
    network.clock.pass_by(30)
    failures = network.of(RELIABLE_FAILURES)
    assert 2 <= failures <= 4
    assert network.of(RELIABLE_FAILURES, "write", "retry_exceeded") == failures
    assert network.pairs_made <= failures + 1
    network.clock.pass_by(270)
    assert 10 < network.of(RELIABLE_FAILURES) < 25, "a fault that lasts goes on to show"


def test_a_flap_of_seconds_is_one_failure(network: Network) -> None:
    network.passes = lambda _: False
    started = network.of(RELIABLE_STARTED)
    while network.of(RELIABLE_STARTED) == started:
        network.clock.pass_by(0.1)
    network.clock.pass_by(3)
    network.passes = lambda _: True
    network.clock.pass_by(60)
    assert network.of(RELIABLE_FAILURES, "retry_exceeded") == network.of(RELIABLE_FAILURES) == 1
    assert network.of(RELIABLE_CONNECTED) == 1


def test_a_process_that_stood_still_asks_again_before_it_judges(network: Network) -> None:
    network.restart_responder()
    network.passes, network.is_cut = lambda _: False, True
    while network.of(RELIABLE_CONNECTED):
        network.clock.pass_by(0.1)
    network.clock.pass_by(0.1)  # the question is out
    network.is_cut = False
    network.clock.pass_by(3, step=3)
    network.clock.pass_by(2)
    assert network.of(RELIABLE_FAILURES, "no_responder") == network.of(RELIABLE_FAILURES) == 1


def test_a_device_that_is_closed_blames_no_path(network: Network) -> None:
    network.passes, network.is_cut = lambda _: False, True
    while network.of(RELIABLE_CONNECTED):
        network.clock.pass_by(0.1)
    network.prober.close()
    assert network.of(RELIABLE_FAILURES, "other") == network.of(RELIABLE_FAILURES) == 1


def test_an_operation_that_cannot_be_posted_ends_its_own_connection_alone(network: Network) -> None:
    fail = iter([True])
    network.post_fails = lambda: next(fail, False)
    network.prober.follow([target(), target(2)])
    network.clock.pass_by(60)
    assert network.of(RELIABLE_FAILURES, "other") == network.of(RELIABLE_FAILURES) == 1
    assert network.of(RELIABLE_CONNECTIONS) == 3
    assert network.of(RELIABLE_CONNECTED) == 2
    assert len(network.told) == 1


def test_of_two_hosts_the_one_that_offers_less_memory_says_how_much() -> None:
    network = Network(here=Reliable(bytes=262_144), there=Reliable(bytes=4096))
    network.prober.follow([target()])
    network.clock.pass_by(30)
    assert len(network.memory) == 4096
    assert network.of(RELIABLE_STARTED, "read") > 1
    assert network.of(RELIABLE_FAILURES) == network.of(RELIABLE_MISMATCHES) == 0


def test_one_address_takes_no_more_than_its_share(network: Network) -> None:
    network.prober.follow([target(4 * dscp) for dscp in range(MOST_OF_ONE + 1)])
    network.clock.pass_by(12)
    assert network.of(RELIABLE_SERVED) == MOST_OF_ONE
    assert network.of(RELIABLE_REFUSED) > 0
    assert f"RDMA device rxe0 serves {MOST_OF_ONE} reliable connections of {HERE}" in network.told

    def ask(message: Message, _: str) -> None:
        answers.append(message)

    answers: list[Message] = []
    network.responder._send = ask
    network.responder.on_open(Message(OPEN, 2, 1, NO_CHALLENGE, NOT_YET), "10.0.0.3")
    end = End(1, 1, 1024, 256, 1, 1)
    network.responder.on_open(Message(OPEN, 2, 1, answers[-1].challenge, end), "10.0.0.3")
    network.clock.pass_by(0.1)
    assert network.of(RELIABLE_SERVED) == MOST_OF_ONE + 1, "another address has its own"


class Introductions:
    """Of an RNIC whose peers all answer with a challenge."""

    other: Any = None

    def __init__(self, loop: Loop, codec: Codec) -> None:
        self._loop = loop
        self._codec = codec

    def send(self, packet: bytes, _: int, address: str) -> None:
        message = parse(self._codec, packet)
        assert message is not None
        answer = seal(self._codec, message._replace(kind=CHALLENGE, challenge=b"x" * 16))
        self._loop.after(0, lambda: self.other.on_datagram(answer, address))


class Rnic:
    """A ReliableRnic, looked after once a second."""

    def __init__(self, device: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reliable_rnic, "ReliableDevice", device)
        self.clock = Clock()
        self.clock.now_ns = 10**12
        self.loop = self.clock.loop
        self.told: list[str] = []
        codec, limit = Codec(b"k" * 16), SourceLimit(1e6)
        tables = Tables(Store(rdma_tables(64, 1, reliable=True)))
        counters = tables.serving.add(("here", "rxe0"))
        self.rnic = ReliableRnic(
            "rxe0", self.loop, codec, limit, Reliable(), _labels, tables, counters, self.told.append
        )
        self.introductions: Any = Introductions(self.loop, codec)

    def run(self, seconds: int) -> None:
        self.rnic.open(PORT, self.introductions)
        for _ in range(seconds):
            self.clock.pass_by(1)
            self.rnic.check()


def test_a_device_that_cannot_be_opened_is_tried_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[float] = []

    def device(*_: object) -> None:
        opened.append(made.clock.now_ns / 1e9 - 1000)
        raise VerbsError("RDMA device rxe0: no memory may be pinned")

    made = Rnic(device, monkeypatch)
    made.run(185)
    assert opened == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert made.told == ["RDMA device rxe0: no memory may be pinned"]
    made.rnic.close()
    made.run(0)
    assert len(opened) == 10, "an RNIC that was opened again is tried at once"


def test_a_device_that_lasted_is_opened_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device(FakeDevice):
        def __init__(self, *_: object) -> None:
            self.name = "rxe0"
            opened.append(self)

        def close(self) -> None:
            """Has nothing."""

    opened: list[Device] = []
    made = Rnic(Device, monkeypatch)
    made.run(5)
    for count in (2, 3):
        opened[-1].broken = "RDMA device rxe0: broken"
        made.rnic.check()
        assert len(opened) == count
        assert made.told == ["RDMA device rxe0: broken"] * (count - 1)
        for _ in range(5):
            made.clock.pass_by(1)
            made.rnic.check()


def test_two_peers_that_fail_in_turn_are_told_of_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device(FakeDevice):
        def __init__(self, *_: object) -> None:
            self.name = "rxe0"

        def pair(self, *_: object, **__: object) -> FakePair:
            raise VerbsError("RDMA device rxe0: no memory may be pinned")

    made = Rnic(Device, monkeypatch)
    made.rnic.follow([target(), target(destination="10.0.0.3")])
    made.run(200)
    assert sorted(made.told) == [
        f"no reliable connection to {each}: RDMA device rxe0: no memory may be pinned" for each in (THERE, "10.0.0.3")
    ]


class Completions:
    """A completion queue that has something, and cannot be asked what."""

    def __init__(self) -> None:
        self._here, there = socket.socketpair()
        there.send(b"x")
        self._there = there

    def fileno(self) -> int:
        return self._here.fileno()

    def rearm(self) -> None:
        raise PyverbsError("device fatal")


class Opened(ReliableDevice):
    """One whose device is not there."""

    def _open(self) -> None:
        self.context = self.domain = self.queue = None
        self._completions: Any = Completions()


def test_a_device_that_failed_wakes_nobody_any_more() -> None:
    loop = Loop()
    device = Opened("rxe0", PORT, loop, lambda *_: None)
    woken = []
    watched, device.on_input = device.on_input, lambda: woken.append(watched())
    loop.after(0.1, loop.stop)
    loop.run()
    assert "device fatal" in device.broken
    assert len(woken) == 1


def test_a_host_without_memory_is_told_of_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    device = Opened("rxe0", PORT, Loop(), lambda *_: None)
    monkeypatch.setattr(mmap, "mmap", full)
    assert reliable.mmap is mmap
    with pytest.raises(VerbsError, match="no memory may be pinned"):
        device.memory(4096)
    with pytest.raises(VerbsError, match="no memory may be pinned"):
        device.pair(4096, serves=False)


def test_a_plan_that_probes_otherwise_keeps_its_connections() -> None:
    store = Store(rdma_tables(8, 1, reliable=True))
    control, ours = socket.socketpair()
    settings = RdmaSettings(
        host="here", rnics={"rxe9": HERE}, key=b"k" * 16, timeout_seconds=1, max_paths=8, reliable=Reliable()
    )
    host = RdmaHost(settings, store, ResultRing(RESULT_CAPACITY), ours, Loop())

    def obey(period_seconds: float) -> None:
        active = msgspec.structs.replace(target(), period_seconds=period_seconds, active=True)
        host._obey(msgspec.msgpack.encode(Orders(targets=(active,))))

    obey(1.0)
    assert total(store, RELIABLE_CONNECTIONS) == 0
    for connection in host._rnics[HERE]._reliable._prober._connections.values():
        connection.rows.connection.add(CONNECTIONS)
    obey(2.0)
    assert total(store, RELIABLE_CONNECTIONS) == 1
    control.close()
    ours.close()
