"""The TCP responder on loopback: what it answers, whom it resets and how little it can be made to hold."""

from __future__ import annotations

import errno
import math
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.contracts.catalogue import PROBER
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import ECHO, REPLY, REQUEST, Codec, Packet
from exporter.probing.tcp.responder import HOLD_SECONDS, MAX_CONNECTIONS, TcpResponder
from exporter.store import Store
from tests.unit.handshakes import CODEC, FAR, SOURCE, Probed, Serving


@pytest.fixture
def serving() -> Iterator[Serving]:
    serving = Serving()
    yield serving
    serving.close()


class Client:
    """A connection to a responder, with a word for what came back."""

    def __init__(self, serving: Serving) -> None:
        self.socket = socket.create_connection((FAR, serving.port), 3, (SOURCE, 0))

    def heard(self) -> bytes | None:
        """All that is sent until the end; None for a reset."""
        data = b""
        try:
            while more := self.socket.recv(4096):
                data += more
        except ConnectionResetError:
            return data or None
        finally:
            self.socket.close()
        return data


def request(sequence: int = 5, kind: int = ECHO) -> bytes:
    return CODEC.request(kind, sequence, 9)


def test_the_reply_is_as_large_as_the_request_and_of_its_class(serving: Serving) -> None:
    client = Client(serving)
    client.socket.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
    client.socket.close()
    connection = socket.socket()
    connection.settimeout(3)
    connection.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 104)
    connection.connect((FAR, serving.port))
    connection.sendall(request())
    time.sleep(0.1)
    (accepted,) = serving.responder._open
    assert accepted.socket.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 104
    with connection:
        data = connection.recv(4096)
    packet = CODEC.parse(data)
    assert packet is not None
    assert (len(data), packet.kind, packet.sequence, packet.token, packet.epoch) == (64, REPLY, 5, 9, 1)
    assert packet.delay < 1_000_000_000


HOSTILE = {
    "junk": bytes(64),
    "more than a request": request() + b"x",
    "two requests": request() * 2,
    "a UDP request": request(kind=REQUEST),
    "a reply": CODEC.reply(Packet(ECHO, 0, 5, 9, 0, 0, 0), 0, 1, 0, 0),
    "another key": Codec(b"z" * 32).request(ECHO, 5, 9),
    "a megabyte": bytes(1 << 20),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_request_is_reset_and_counted(data: bytes, serving: Serving) -> None:
    client = Client(serving)
    try:
        client.socket.sendall(data)
    except ConnectionError:  # a reset is told once
        client.socket.close()
    else:
        assert client.heard() is None
    assert serving.counted() == (0, 1, 0)


def test_a_connection_is_answered_once(serving: Serving) -> None:
    client = Client(serving)
    client.socket.sendall(request())
    assert len(client.socket.recv(4096)) == 64
    client.socket.sendall(request(6))
    assert client.heard() is None
    assert serving.counted() == (1, 1, 0)


def test_a_request_may_come_in_pieces_but_not_for_ever(serving: Serving) -> None:
    client = Client(serving)
    for at in range(0, 64, 16):
        client.socket.sendall(request()[at : at + 16])
        time.sleep(0.02)
    assert len(client.socket.recv(4096)) == 64
    client.socket.close()
    slow, began = Client(serving), time.monotonic()
    slow.socket.sendall(request()[:10])
    assert slow.heard() is None
    assert 0.9 < time.monotonic() - began < 2.5
    assert serving.counted() == (1, 0, 0)


def test_a_source_that_asks_too_often_has_handshakes_and_no_echo() -> None:
    serving = Serving(per_second=2)
    try:
        probed = Probed(serving.port)
        for _ in range(4):
            probed.probe()
        assert serving.counted() == (2, 0, 2)
        assert probed.booked == (0, 0, 0, 0, 0)
        assert math.isnan(probed["tcp.echo.rtt"])
    finally:
        serving.close()


def test_nobody_holds_more_than_so_many_connections_and_probers_are_served_meanwhile(serving: Serving) -> None:
    idle = [Client(serving) for _ in range(MAX_CONNECTIONS + 20)]
    probed = Probed(serving.port)
    probed.probe()
    assert len(serving.responder._open) <= MAX_CONNECTIONS
    assert probed["tcp.echo.rtt"] > 0
    assert probed.booked == (0, 0, 0, 0, 0)
    assert all(client.heard() is None for client in idle)
    time.sleep(0.1)
    assert not serving.responder._open


def test_connections_that_come_and_go_leave_one_timer(serving: Serving) -> None:
    """Each that came while there was no other would have left one, and each of these another."""
    probed = Probed(serving.port)
    for _ in range(30):
        probed.probe()
    assert sum(map(len, serving.loop._slots.values())) <= 2, "that, and the test's own"


def test_a_responder_out_of_descriptors_rests_before_it_accepts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it cannot accept goes on waiting: it was told so 200,000 times a second."""
    loop, counters = Loop(), Store([(PROBER, 1)]).writer(PROBER).add(())
    responder = TcpResponder(loop, CODEC, FAR, 0, 1, SourceLimit(1000), counters)
    tries: list[float] = []

    class Full:
        def __init__(self, listener: socket.socket) -> None:
            self.fileno, self.close = listener.fileno, listener.close

        def accept(self) -> None:
            tries.append(time.monotonic())
            raise OSError(errno.EMFILE, "Too many open files")

    with socket.socket() as client:
        client.connect(responder._socket.getsockname())
        monkeypatch.setattr(responder, "_socket", Full(responder._socket))
        loop.watch(responder)
        loop.after(1.5 * HOLD_SECONDS, loop.stop)
        loop.run()
        loop.forget(responder)
        responder.close()
    assert len(tries) == 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_input_stops_the_responder(pieces: list[bytes]) -> None:
    loop = Loop()
    counters = Store([(PROBER, 1)]).writer(PROBER).add(())
    responder = TcpResponder(loop, CODEC, FAR, 0, 1, SourceLimit(1000), counters)
    with socket.socket(fileno=socket.dup(responder.fileno())) as bound, socket.socket() as client:
        client.connect(bound.getsockname())
        responder.on_input()
        for piece in pieces:
            with suppress(ConnectionError):
                client.sendall(piece)
            for connection in list(responder._open):
                connection.on_input()
    responder.close()
    assert not loop._watched
