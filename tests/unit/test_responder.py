"""The responder on loopback: what it answers, what it counts and how little it can be made to hold."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.contracts.catalogue import (
    PROBER,
    PROBER_ANSWERED,
    PROBER_DROPPED,
    PROBER_LIMITED,
    PROBER_REJECTED,
    PROBER_REPLAYED,
)
from exporter.probing.limits import SourceLimit
from exporter.probing.packet import REPLY, REQUEST, TRACE, Codec, Packet
from exporter.probing.responder import IDLE_SECONDS, Streams, UdpResponder
from exporter.store import RowWriter, Store

CODEC = Codec(b"k" * 16)
EPOCH = 77


class Pair:
    """A responder and a client socket that talks to it."""

    def __init__(self, capacity: int, per_second: float = 1000, codec: Codec = CODEC) -> None:
        self.counters: RowWriter = Store([(PROBER, 1)]).writer(PROBER).add(())
        self.responder = UdpResponder(
            codec, "127.0.0.3", 0, EPOCH, Streams(capacity), SourceLimit(per_second), self.counters
        )
        address = socket.socket(fileno=socket.dup(self.responder.fileno())).getsockname()
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.bind(("127.0.0.2", 0))
        self.client.connect(address)
        self.client.settimeout(0.5)

    def send(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self.client.send(datagram)
        self.responder.on_input()

    def reply(self) -> tuple[Packet, int]:
        data = self.client.recv(65536)
        packet = CODEC.parse(data)
        assert packet is not None
        return packet, len(data)

    def booked(self) -> tuple[float, float]:
        """(answered, rejected)."""
        indices = (PROBER.metrics.index(PROBER_ANSWERED), PROBER.metrics.index(PROBER_REJECTED))
        return self.counters.get(indices[0]), self.counters.get(indices[1])


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair(capacity=4)
    yield pair
    pair.responder.close()
    pair.client.close()


@pytest.mark.parametrize("padding", [0, 1, 1000, 8000, 60000])
def test_a_reply_is_64_bytes_whatever_the_size_of_its_request(pair: Pair, padding: int) -> None:
    pair.send(CODEC.request(REQUEST, 5, 9) + bytes(padding))
    packet, size = pair.reply()
    assert size == 64
    assert packet[:1] + packet[2:6] == (REPLY, 5, 9, EPOCH, 1)
    assert packet.delay < 1_000_000_000


class SlowCodec(Codec):
    """Seals a reply in 5 ms, after its delay was written into it."""

    def reply(self, request: Packet, stream: int, epoch: int, answered: int, delay: int) -> bytes:
        time.sleep(0.005)
        return super().reply(request, stream, epoch, answered, delay)


def test_the_delay_lasts_until_the_reply_leaves_as_the_kernel_told_of_one_before() -> None:
    pair = Pair(capacity=4, per_second=1e6, codec=SlowCodec(b"k" * 16))
    for sequence in range(17):
        pair.send(CODEC.request(REQUEST, sequence, 1))
    delays = [pair.reply()[0].delay for _ in range(17)]
    assert delays[0] < 5_000_000 <= delays[-1]
    # It sends at once from now on: what was learnt is given up again.
    pair.responder._codec = CODEC
    for sequence in range(17, 60):
        pair.send(CODEC.request(REQUEST, sequence, 1))
        delay = pair.reply()[0].delay
    assert delay < 1_000_000


def test_requests_are_counted_per_path_and_traces_are_not(pair: Pair) -> None:
    pair.send(*(CODEC.request(kind, n, token) for n, (kind, token) in enumerate([(1, 7), (3, 7), (1, 7), (1, 8)])))
    assert [pair.reply()[0].answered for _ in range(4)] == [1, 0, 2, 1]
    assert pair.booked() == (4, 0)


def test_the_reply_carries_the_traffic_class_of_its_request(pair: Pair) -> None:
    pair.client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 104)
    pair.client.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
    pair.send(CODEC.request(REQUEST, 1, 1))
    _, ancillary, _, _ = pair.client.recvmsg(100, 100)
    assert [value[0] for level, kind, value in ancillary if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS)] == [
        104
    ]


@pytest.mark.parametrize(
    "junk",
    [b"", b"x", bytes(63), bytes(64), bytes(9000), Codec(b"z" * 16).request(REQUEST, 1, 1)],
    ids=["empty", "one byte", "short", "zeros", "large", "another key"],
)
def test_junk_is_counted_and_not_answered(pair: Pair, junk: bytes) -> None:
    pair.send(junk)
    assert pair.booked() == (0, 1)
    with pytest.raises(TimeoutError):
        pair.reply()


def test_a_reply_sent_back_to_a_responder_ends_there(pair: Pair) -> None:
    """Two responders set on one another would otherwise answer for ever."""
    pair.send(CODEC.reply(Packet(REQUEST, 0, 1, 1, 0, 0, 0), 1, 1, 1, 1))
    assert pair.booked() == (0, 1)


def test_a_forgotten_path_counts_afresh_under_another_stream(pair: Pair) -> None:
    pair.send(CODEC.request(REQUEST, 1, 100), CODEC.request(REQUEST, 2, 100))
    first = [pair.reply()[0] for _ in range(2)]
    pair.send(*(CODEC.request(REQUEST, n, n) for n in range(4)))  # as many as are kept
    for _ in range(4):
        pair.reply()
    pair.send(CODEC.request(REQUEST, 3, 100))
    again, _ = pair.reply()
    assert [packet.answered for packet in first] == [1, 2]
    assert first[0].stream == first[1].stream
    assert again.answered == 1
    assert again.stream != first[0].stream


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=200), st.integers(1, 8))
def test_streams_count_exactly_and_are_bounded(requests: list[tuple[str, int]], capacity: int) -> None:
    streams = Streams(capacity)
    last: dict[tuple[str, int], tuple[int, int]] = {}
    for sequence, (address, token) in enumerate(requests):
        counted = streams.count(address, token, sequence)
        assert counted is not None
        count, stream = counted
        before = last.get((address, token))
        assert count == (before[0] + 1 if before and before[1] == stream else 1)
        last[address, token] = (count, stream)
        assert len(streams._counts) <= capacity


def test_a_responder_forgets_paths_that_ask_no_more() -> None:
    """An hour of churn left a count for each path there ever was, up to 65,536."""
    clock = Clock()
    streams = Streams(clock=clock)
    for token in range(50_000):
        clock.now += int(IDLE_SECONDS * 1e9 / 5_000)
        streams.count("10.0.0.1", token, token)
        streams.count("10.0.0.2", 1, token)
    assert len(streams._counts) <= 5_001
    assert (streams.count("10.0.0.2", 1, 50_000) or (0,))[0] == 50_001


def test_traces_take_no_stream(pair: Pair) -> None:
    pair.send(*(CODEC.request(TRACE, n, n) for n in range(10)))
    assert len(pair.responder._streams._counts) == 0


def test_a_request_that_comes_again_is_neither_answered_nor_counted(pair: Pair) -> None:
    """It used to raise the count, which made of a loss on the way there one on the way back."""
    requests = [CODEC.request(REQUEST, sequence, 7) for sequence in (100, 300, 200, 400, 500, 600)]
    pair.send(*requests)  # one overtakes another
    assert [pair.reply()[0].answered for _ in requests] == [1, 2, 3, 4, 5, 6]
    pair.send(*requests, CODEC.request(REQUEST, 50, 7))
    assert pair.booked() == (6, 0)
    assert pair.counters.get(PROBER.metrics.index(PROBER_REPLAYED)) == 7
    pair.send(CODEC.request(REQUEST, 700, 7))
    assert pair.reply()[0].answered == 7


def test_a_source_that_asks_too_often_is_not_answered_and_counted() -> None:
    """Nor is it counted in its stream: what was not answered must look like a loss on the way there."""
    pair = Pair(capacity=4, per_second=1)
    try:
        pair.send(*(CODEC.request(REQUEST, n, 7) for n in range(50)))
        assert pair.reply()[0].answered == 1
        assert pair.booked() == (1, 0)
        assert pair.counters.get(PROBER.metrics.index(PROBER_LIMITED)) == 49
        pair.send(b"junk")
        assert pair.booked() == (1, 1)
    finally:
        pair.responder.close()
        pair.client.close()


class Clock:
    now = 10**12

    def __call__(self) -> int:
        return self.now


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**9)), max_size=200), st.integers(1, 50))
def test_no_source_gets_more_than_its_burst_and_its_rate(packets: list[tuple[str, int]], per_second: int) -> None:
    clock = Clock()
    limit, allowed = SourceLimit(per_second, clock=clock), dict.fromkeys("abc", 0)
    begun = clock.now
    for source, pause in packets:
        clock.now += pause // len(packets)
        allowed[source] += limit.allows(source)
        assert allowed[source] <= per_second * (1 + (clock.now - begun) / 1e9) + 1e-6


def test_a_source_is_not_slowed_by_another_and_gets_its_rate_again() -> None:
    clock = Clock()
    limit = SourceLimit(10, clock=clock)
    assert sum(limit.allows("flood") for _ in range(10_000)) == 10
    assert sum(limit.allows("prober") for _ in range(10)) == 10
    clock.now += 500_000_000
    assert sum(limit.allows("flood") for _ in range(10_000)) == 5


def test_no_more_sources_are_kept_than_there_is_room_for() -> None:
    limit = SourceLimit(10, capacity=4)
    for number in range(100):
        limit.allows(str(number))
        limit.allows("busy")  # the most recently used is not the one that is forgotten
    assert len(limit) == 4
    assert sum(limit.allows("busy") for _ in range(200)) == 0


def test_what_found_the_socket_full_is_counted(pair: Pair) -> None:
    """Such a request is lost by the responder's host, not by the network; its metric says so."""
    dropped = PROBER.metrics.index(PROBER_DROPPED)
    sent = 0
    full = bytes(60_000)
    for _ in range(1000):  # of 60 kB each: more than any buffer that was asked for
        pair.client.send(full)
        sent += 1
    for _ in range(sent // 64 + 1):  # as many as are read at once
        pair.responder.on_input()
    pair.send(b"one more, that brings the count")
    assert pair.counters.get(dropped) > 0
    assert pair.booked()[1] + pair.counters.get(dropped) == sent + 1
