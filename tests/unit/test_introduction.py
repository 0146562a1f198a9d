"""Introductions over real sockets: one end that asks itself, over IPv4 and IPv6."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import ASK, Codec
from exporter.rdma.introduction import NO_RESPONDER, Introductions

EPOCH, QUEUE_PAIR, TRAFFIC_CLASS = 77, 0x1234, 26 << 2 | 2
BOTH = pytest.mark.parametrize("address", ["127.0.0.1", "::1"])


class Heard:
    """One address of a host, with what it was told."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.loop = Loop()
        self.codec = Codec(b"k" * 32)
        self.asked: list[tuple[tuple[str, int], int]] = []
        self.answers: list[tuple[str, int, int, int]] = []
        self.refusals: list[str] = []
        with family_socket(address) as free:
            free.bind((address, 0))
            self.port = free.getsockname()[1]
        self.introductions = Introductions(
            self.loop,
            self.codec,
            address,
            "lo",
            EPOCH,
            SourceLimit(1e6),
            lambda peer, traffic_class: self.asked.append((peer, traffic_class)),
            self.port,
        )
        self.introductions.queue_pair = QUEUE_PAIR
        self.introductions.asking = self

    def on_answer(self, address: str, traffic_class: int, queue_pair: int, epoch: int) -> None:
        self.answers.append((address, traffic_class, queue_pair, epoch))

    def on_refusal(self, address: str) -> None:
        self.refusals.append(address)

    def run(self, seconds: float = 0.1) -> None:
        self.loop.after(seconds, self.loop.stop)
        self.loop.run()
        self.loop._running = True


def family_socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


@pytest.fixture
def heard(address: str) -> Iterator[Heard]:
    made = Heard(address)
    yield made
    made.introductions.close()


@BOTH
def test_a_question_says_who_answers_and_in_which_class_it_came(heard: Heard, address: str) -> None:
    assert heard.introductions.ask(address, TRAFFIC_CLASS)
    heard.run()
    assert heard.asked == [((address, heard.port), TRAFFIC_CLASS)]
    assert heard.answers == [(address, TRAFFIC_CLASS, QUEUE_PAIR, EPOCH)]


@BOTH
def test_where_nobody_listens_is_a_refusal(heard: Heard, address: str) -> None:
    with family_socket(address) as closed:
        closed.bind((address, 0))
        heard.introductions._port = closed.getsockname()[1]
    heard.introductions.ask(address, TRAFFIC_CLASS)
    heard.run()
    assert heard.refusals == [address]
    assert heard.answers == []


@BOTH
def test_nobody_is_answered_without_the_key_or_a_queue_pair(heard: Heard, address: str) -> None:
    with family_socket(address) as stranger:
        stranger.settimeout(0.2)
        stranger.sendto(Codec(b"x" * 32).request(ASK, 1, 0), (address, heard.port))
        heard.run()
        heard.introductions.queue_pair = None
        stranger.sendto(heard.codec.request(ASK, 2, 0), (address, heard.port))
        heard.run()
        with pytest.raises(TimeoutError):
            stranger.recv(100)
    assert heard.asked == []


@BOTH
def test_an_answer_that_is_late_counts_for_nothing(address: str) -> None:
    """Its next hop may be cold by then, and an address handle would have to wait for it."""
    late = Heard(address)
    try:
        late.introductions.ask(address, TRAFFIC_CLASS)
        clock = late.loop.clock
        late.loop.clock = lambda: clock() + 6_000_000_000
        late.run()
        assert late.asked
        assert late.answers == []
    finally:
        late.introductions.close()


@BOTH
def test_no_time_of_what_is_sent_comes_back(heard: Heard, address: str) -> None:
    """Each would wake the process that times RDMA probes."""
    heard.introductions.ask(address, TRAFFIC_CLASS)
    with pytest.raises(BlockingIOError):
        heard.introductions._socket.recvmsg(100, 512, socket.MSG_ERRQUEUE)


@BOTH
def test_who_only_probes_asks_from_a_port_of_its_own_and_is_asked_back_there(heard: Heard, address: str) -> None:
    prober = Introductions(
        heard.loop, heard.codec, address, "lo", EPOCH + 1, SourceLimit(1e6), lambda *_: None, heard.port, own_port=0
    )
    try:
        prober.queue_pair = NO_RESPONDER
        prober.ask(address, TRAFFIC_CLASS)
        heard.run()
        (((_, port), traffic_class),) = heard.asked
        assert port != heard.port
        heard.introductions.ask(address, traffic_class, port)
        heard.run()
    finally:
        prober.close()
    assert heard.answers == [(address, TRAFFIC_CLASS, NO_RESPONDER, EPOCH + 1)]
    heard.introductions.ask(address, TRAFFIC_CLASS, port)
    heard.run()
    assert heard.refusals == [], "it has ended, which says nothing of the exporter at its address"
