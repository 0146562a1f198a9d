"""TCP probes on loopback: the handshake and its echo, and what hostile or merely other peers must not do to a path."""

from __future__ import annotations

import errno
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.contracts.catalogue import PATH as PATH_TABLE
from exporter.contracts.catalogue import PROBER, PROBER_ANSWERED, PROBER_LIMITED, PROBER_REJECTED, RTT_TABLE
from exporter.probing.ceilings import packets_per_second
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import ECHO, PACKET_BYTES, REPLY, REQUEST, Codec, Packet
from exporter.probing.paths import Path
from exporter.probing.tcp.handshake import RESET_ON_CLOSE, Handshake
from exporter.probing.tcp.responder import HOLD_SECONDS, MAX_CONNECTIONS, TcpResponder
from exporter.results import ANSWERED, LOST, RESTARTED, ResultRing
from exporter.store import RowWriter, Store
from tests.unit.test_plan_contract import TARGET

SOURCE, FAR = "127.0.0.2", "127.0.0.3"
CODEC = Codec(b"k" * 32)
TIMEOUT = 0.2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((SOURCE, 0))
        return int(probe.getsockname()[1])


class Probed:
    """A TCP path, probed one handshake at a time."""

    def __init__(self, port: int, payload: int = PACKET_BYTES, codec: Codec | None = CODEC) -> None:
        store = Store([(PATH_TABLE, 1), (RTT_TABLE, 1)])
        self.loop = Loop()
        self.row, histogram = store.writer(PATH_TABLE).add(("p",)), store.writer(RTT_TABLE).add(("h",))
        self.results = ResultRing(64)
        target = msgspec.structs.replace(
            TARGET,
            probe="tcp",
            source_address=SOURCE,
            destination_address=FAR,
            destination_port=port,
            source_ports=(free_port(),),
            payload_bytes=payload,
            traffic_class=104,
        )
        self.path = Path(target, 7, self.row, histogram, self.results)
        self.starved: list[bool] = []
        self._codec = codec

    def probe(self, timeout: float = TIMEOUT, during: Callable[[], None] = lambda: None) -> None:
        """Send one probe and run the loop until it has ended."""
        handshake = Handshake(self.loop, self.path, timeout, self.starved.append, self._codec)

        def look() -> None:
            if handshake.under_way:
                self.loop.after(0.01, look)
            else:
                self.loop.stop()

        during()
        look()
        self.loop._running = True
        self.loop.run()
        handshake.abandon()
        assert not self.loop._watched, "nothing is left behind"

    def __getitem__(self, name: str) -> float:
        names = [metric.otel_name.removeprefix("fabric.path.") for metric in PATH_TABLE.metrics]
        return self.row.get(names.index(name))

    @property
    def outcomes(self) -> list[int]:
        return [result.outcome for result in self.results.read(0)[0]]

    @property
    def booked(self) -> tuple[float, ...]:
        """(lost, refused, resets, SYNs sent again, segments sent again)."""
        names = ("probes.lost", "probes.refused", "tcp.resets", "tcp.syn.retransmits", "tcp.retransmits")
        return tuple(self[name] for name in names)


class Serving:
    """A responder of ours in a thread."""

    def __init__(self, epoch: int = 1, per_second: float = 1000, port: int = 0) -> None:
        self.counters: RowWriter = Store([(PROBER, 1)]).writer(PROBER).add(())
        self.loop = Loop()
        self.responder = TcpResponder(self.loop, CODEC, FAR, port, epoch, SourceLimit(per_second), self.counters)
        with socket.socket(fileno=socket.dup(self.responder.fileno())) as bound:
            self.port: int = bound.getsockname()[1]
        self.loop.watch(self.responder)
        self._tick()
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        self.loop.after(0.02, self._tick)

    def close(self) -> None:
        self.loop.stop()
        self._thread.join(5)
        self.responder.close()

    def counted(self) -> tuple[float, ...]:
        """(answered, rejected, limited)."""
        metrics = (PROBER_ANSWERED, PROBER_REJECTED, PROBER_LIMITED)
        return tuple(self.counters.get(PROBER.metrics.index(metric)) for metric in metrics)


@pytest.fixture
def serving() -> Iterator[Serving]:
    serving = Serving()
    yield serving
    serving.close()


@contextmanager
def peer(act: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that does ``act`` with each connection, and then closes it."""
    listener = socket.socket()
    listener.bind((FAR, 0))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(5)
                act(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


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
    with peer(act) as port:
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
    with peer(reset) as port:
        probed = Probed(port)
        probed.probe()
    assert probed.booked == (0, 0, 1, 0, 0)
    assert probed.outcomes == [ANSWERED]
    assert math.isnan(probed["tcp.echo.rtt"])


def test_a_reset_right_after_accepting_is_counted_too() -> None:
    def at_once(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    with peer(at_once) as port:
        probed = Probed(port)
        for _ in range(5):  # before the request or after it, as it comes
            probed.probe()
    assert probed.booked == (0, 0, 5, 0, 0)
    assert probed.outcomes == [ANSWERED] * 5


def test_a_closed_port_refuses() -> None:
    probed = Probed(free_port())
    probed.probe()
    assert probed.booked == (0, 1, 0, 0, 0)


@contextmanager
def full() -> Iterator[tuple[int, Callable[[], None]]]:
    """A port that drops SYNs, as a network that loses them; the function makes room."""
    with socket.socket() as listener:
        listener.bind((FAR, 0))
        listener.listen(0)
        crowd = [socket.socket() for _ in range(2)]
        for one in crowd:  # what a backlog of 0 takes, and more
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        time.sleep(0.05)

        def make_room() -> None:
            for one in crowd:
                one.close()
            listener.settimeout(0.05)
            with suppress(TimeoutError):
                while True:
                    listener.accept()[0].close()

        try:
            yield listener.getsockname()[1], make_room
        finally:
            for one in crowd:
                one.close()


def test_a_syn_that_is_answered_when_sent_again_is_no_loss_and_no_round_trip() -> None:
    with full() as (port, make_room):
        probed = Probed(port, codec=None)
        probed.probe(0.5, during=lambda: threading.Timer(0.5, make_room).start() or None)
    assert probed.booked == (0, 0, 0, 1, 0)
    assert probed.outcomes == [ANSWERED]
    assert probed.results.read(0)[0][0].rtt_ns == 0
    assert math.isnan(probed["rtt"]), "which of the two was answered is not known (Karn)"
    assert probed.starved == []


def test_two_syns_without_an_answer_are_one_loss_after_their_time() -> None:
    with full() as (port, _):
        probed = Probed(port)
        began = time.monotonic()
        probed.probe()
        assert 1.2 <= time.monotonic() - began < 1.5
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


def test_the_planners_tcp_targets_ask_for_an_echo() -> None:
    from skeleton_service.planning import Settings

    assert Settings().tcp_payload >= PACKET_BYTES
