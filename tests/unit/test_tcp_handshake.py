"""TCP probes on loopback: the handshake and its echo, and what hostile or merely other peers must not do to a path."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from exporter.probing.ceilings import packets_per_second
from exporter.probing.packet import ECHO, PACKET_BYTES, Codec, Packet
from exporter.probing.tcp.handshake import RESET_ON_CLOSE, Handshake
from exporter.results import ANSWERED, LOST, RESTARTED
from tests.unit.handshakes import CODEC, FAR, TIMEOUT, Probed, Serving, free_port
from tests.unit.peers import full_listener, tcp_server
from tests.unit.test_plan_contract import TARGET


@pytest.fixture
def serving() -> Iterator[Serving]:
    serving = Serving()
    yield serving
    serving.close()


def test_a_probe_is_a_handshake_and_an_echo_timed_apart(serving: Serving) -> None:
    probed = Probed(serving.port)
    for _ in range(5):
        probed.probe()
    assert probed.booked == (0, 0, 0, 0, 0)
    assert probed.outcomes == [ANSWERED] * 5, "the echo is no probe of its own"
    assert 0 < probed["rtt"] < 0.1
    assert 0 < probed["tcp.echo.rtt"] < 0.1
    assert serving.counted() == (5, 0, 0)
    assert not serving.responder._open


def test_the_echo_excludes_the_responders_delay(serving: Serving) -> None:
    """A responder that lets each request wait 50 ms in its socket says so."""
    accept = serving.responder.on_input

    def late() -> None:
        time.sleep(0.05)
        accept()

    serving.responder.on_input = late  # type: ignore[method-assign]
    probed = Probed(serving.port)
    probed.probe()
    assert 0 < probed["tcp.echo.rtt"] < 0.04


def test_a_target_without_payload_and_a_prober_without_key_send_nothing(serving: Serving) -> None:
    for probed in (Probed(serving.port, payload=0), Probed(serving.port, codec=None)):
        probed.probe()
        assert probed.booked == (0, 0, 0, 0, 0)
        assert probed["rtt"] > 0
        assert math.isnan(probed["tcp.echo.rtt"])
    assert serving.counted() == (0, 0, 0)


def test_the_packets_of_an_echo_count_towards_ceilings() -> None:
    def packets(payload: int) -> float:
        return packets_per_second(msgspec.structs.replace(TARGET, probe="tcp", payload_bytes=payload, period_seconds=1))

    assert (packets(0), packets(64)) == (3, 5)


def silence(connection: socket.socket) -> None:
    while connection.recv(100):
        pass


def half_close(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)
    silence(connection)


def reset(connection: socket.socket) -> None:
    connection.recv(100)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


def sealed(packet: bytes, **changes: int) -> bytes:
    request = CODEC.parse(packet)
    assert request is not None
    return CODEC.reply(request._replace(**changes), 0, 1, 0, 0)


def slowly(connection: socket.socket) -> None:
    for byte in sealed(connection.recv(100)):
        connection.send(bytes([byte]))
        time.sleep(0.02)


NO_ECHO: dict[str, Callable[[socket.socket], None]] = {
    "silence": silence,
    "close": lambda connection: connection.shutdown(socket.SHUT_RDWR) if connection.recv(100) else None,
    "half-close": half_close,
    "garbage": lambda connection: connection.sendall(bytes(PACKET_BYTES)),
    "giant": lambda connection: connection.sendall(sealed(connection.recv(100)) * 100_000),
    "slow": slowly,
    "cut short": lambda connection: connection.sendall(sealed(connection.recv(100))[:-1]),
    "its own request": lambda connection: connection.sendall(connection.recv(100)),
    "another sequence": lambda connection: connection.sendall(sealed(connection.recv(100), sequence=1)),
    "another path": lambda connection: connection.sendall(sealed(connection.recv(100), token=8)),
    "another key": lambda connection: connection.sendall(
        Codec(b"z" * 32).reply(Packet(ECHO, 0, 1, 7, 0, 0, 0), 0, 1, 0, 0)
    ),
}


@pytest.mark.parametrize("act", NO_ECHO.values(), ids=NO_ECHO)
def test_a_peer_that_does_not_echo_is_an_answered_handshake_and_an_absent_echo(
    act: Callable[[socket.socket], None], serving: Serving
) -> None:
    """An older responder says nothing; and whatever else is said, it ends within the timeout."""
    with tcp_server(act, FAR) as port:
        probed = Probed(serving.port)
        probed.probe()
        assert probed["tcp.echo.rtt"] > 0
        probed.path.target = msgspec.structs.replace(probed.path.target, destination_port=port)
        began = time.monotonic()
        probed.probe()
        assert time.monotonic() - began < TIMEOUT + 0.15
    assert probed.outcomes == [ANSWERED] * 2
    assert probed.booked == (0, 0, 0, 0, 0)
    assert math.isnan(probed["tcp.echo.rtt"]), "it used to be there, and is not now"


def test_a_reset_in_mid_connection_is_counted_and_no_loss() -> None:
    with tcp_server(reset, FAR) as port:
        probed = Probed(port)
        probed.probe()
    assert probed.booked == (0, 0, 1, 0, 0)
    assert probed.outcomes == [ANSWERED]
    assert math.isnan(probed["tcp.echo.rtt"])


def test_a_reset_right_after_accepting_is_counted_too() -> None:
    def at_once(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    with tcp_server(at_once, FAR) as port:
        probed = Probed(port)
        for _ in range(5):  # before the request or after it, as it comes
            probed.probe()
    assert probed.booked == (0, 0, 5, 0, 0)
    assert probed.outcomes == [ANSWERED] * 5


def test_a_closed_port_refuses() -> None:
    probed = Probed(free_port())
    probed.probe()
    assert probed.booked == (0, 1, 0, 0, 0)


def test_a_syn_that_is_answered_when_sent_again_is_no_loss_and_no_round_trip() -> None:
    with full_listener(FAR) as (port, make_room):
        probed = Probed(port, codec=None)
        probed.probe(0.5, during=lambda: threading.Timer(0.5, make_room).start() or None)
    assert probed.booked == (0, 0, 0, 1, 0)
    assert probed.outcomes == [ANSWERED]
    assert probed.results.read(0)[0][0].rtt_ns == 0
    assert math.isnan(probed["rtt"]), "which of the two was answered is not known (Karn)"
    assert probed.starved == []


def test_two_syns_without_an_answer_are_one_loss_after_their_time() -> None:
    with full_listener(FAR) as (port, _):
        probed = Probed(port)
        began = time.monotonic()
        probed.probe()
        assert 1.2 <= time.monotonic() - began < 2.5
    assert probed.booked == (1, 0, 0, 1, 0)
    assert probed.outcomes == [LOST]


def test_a_handshake_that_waited_during_a_stall_is_an_answer(serving: Serving) -> None:
    """Also when its responder has tired of waiting and reset it: the stall was ours."""
    probed = Probed(serving.port)
    probed.probe(during=lambda: time.sleep(0.5))
    assert math.isfinite(probed["tcp.echo.rtt"])
    probed.probe(during=lambda: time.sleep(2.5))
    assert probed.booked == (0, 0, 0, 0, 0)
    assert probed.outcomes == [ANSWERED] * 2
    assert probed.starved == [True] * 2


def test_another_boot_epoch_is_a_restart_and_explains_the_losses_before_it() -> None:
    first = Serving(epoch=1)
    probed = Probed(first.port)
    probed.probe()
    first.close()
    probed.path.book_loss(1, probed.loop.clock())
    second = Serving(epoch=2, port=first.port)
    try:
        probed.probe()
        probed.probe()
    finally:
        second.close()
    assert probed["responder.restarts"] == 1
    assert probed.outcomes == [ANSWERED, LOST, ANSWERED, RESTARTED, ANSWERED]


def test_the_planners_tcp_targets_ask_for_an_echo() -> None:
    from skeleton_service.planning.plan import Settings

    assert Settings().tcp_payload >= PACKET_BYTES


def test_a_handshake_without_a_descriptor_can_be_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended the prober: out of descriptors, then a new plan."""
    probed = Probed(free_port())

    def none_left(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    handshake = Handshake(probed.loop, probed.path, TIMEOUT)
    handshake.abandon()
    assert not handshake.under_way
