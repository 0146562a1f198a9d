"""The prober on loopback, in this process: what its neighbours on a socket and in the store must not do to a path."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from exporter.contracts.catalogue import (
    PATH,
    PROBER,
    PROBER_ANSWERED,
    PROBER_OVER_CEILING,
    PROBER_TRACES,
    PROBER_TRACES_INCOMPLETE,
    PROBER_UNSUPPORTED,
    PROBER_WAITING,
    RTT_TABLE,
)
from exporter.contracts.metric import Metric
from exporter.contracts.plan import Target
from exporter.messages import send_message
from exporter.probing import sockets
from exporter.probing.ceilings import Ceilings
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import REQUEST, Codec
from exporter.probing.paths import LOSSES, SENT, UNSENT, Path
from exporter.probing.process import Prober
from exporter.probing.responder import Streams, UdpResponder
from exporter.probing.settings import RESULT_CAPACITY, ProberSettings, prober_tables
from exporter.probing.sockets import open_flow, receive, send_options
from exporter.probing.udp import UdpProber
from exporter.results import ResultRing
from exporter.store import Row, Store
from tests.unit.peers import full_listener
from tests.unit.test_plan_contract import TARGET

SOURCE, FAR = "127.0.0.2", "127.0.0.3"
KEY = b"k" * 32


def free_port(address: str, kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


def target(path: str, probe: str = "udp", **changes: object) -> Target:
    """A path from SOURCE to FAR, ten times a second."""
    basis = {
        "path": path,
        "probe": probe,
        "source_address": SOURCE,
        "destination_address": FAR,
        "source_ports": (free_port(SOURCE),),
        "period_seconds": 0.1,
    }
    return msgspec.structs.replace(TARGET, **{**basis, **changes})


class Running:
    """A prober in a thread, told what a control process would tell it; with ``port``, one that answers others."""

    def __init__(
        self,
        address: str = SOURCE,
        port: int = 0,
        store: Store | None = None,
        ceilings: Ceilings | None = None,
        trace_period: float = 60.0,
    ) -> None:
        self.store = store or Store(prober_tables(64))
        self.port = port or free_port(address)
        ours, theirs = socket.socketpair()
        self._pipe = ours
        settings = ProberSettings(
            host="h1",
            addresses={address: "r0"},
            key=KEY,
            timeout_seconds=0.3,
            max_paths=64,
            responder=port != 0,
            responder_port=self.port,
            trace_period_seconds=trace_period,
            trace_max_hops=4,
            ceilings=ceilings or Ceilings(),
        )
        prober = Prober(settings, self.store, ResultRing(RESULT_CAPACITY), theirs)
        self.thread = threading.Thread(target=prober.run, daemon=True)
        self.thread.start()

    def obey(self, *targets: Target) -> None:
        send_message(self._pipe, msgspec.msgpack.encode(targets))

    def paths(self) -> dict[str, dict[str, float]]:
        return {row.labels[0]: self._values(row) for row in self.store.read(PATH)}

    def _values(self, row: Row) -> dict[str, float]:
        return {m.otel_name.removeprefix("fabric.path."): v for m, v in zip(PATH.metrics, row.values, strict=True)}

    @property
    def unsupported(self) -> float:
        return self._own(PROBER_UNSUPPORTED)

    @property
    def waiting(self) -> float:
        return self._own(PROBER_WAITING)

    def _own(self, metric: Metric) -> float:
        (row,) = self.store.read(PROBER)
        return row.values[PROBER.metrics.index(metric)]

    @property
    def traces(self) -> float:
        return self._own(PROBER_TRACES)

    @property
    def incomplete_traces(self) -> float:
        return self._own(PROBER_TRACES_INCOMPLETE)

    @property
    def over_ceiling(self) -> float:
        return self._own(PROBER_OVER_CEILING)

    def close(self) -> None:
        self._pipe.close()
        self.thread.join(5)


@pytest.fixture
def prober() -> Iterator[Running]:
    running = Running()
    yield running
    running.close()
    assert not running.thread.is_alive()


def test_a_path_with_labels_too_long_is_unsupported_and_hurts_no_other(prober: Running) -> None:
    """It used to end the prober, which then died again at each start."""
    prober.obey(target("long", source_host="h" * 2000), target("é" * 300, source_host="h" * 500), target("short"))
    wait_for(lambda: prober.paths().get("short", {}).get("probes.sent", 0) > 0)
    assert list(prober.paths()) == ["short"]
    assert prober.unsupported == 2


def test_a_source_port_taken_by_another_program_is_unsupported(prober: Running) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((SOURCE, 0))
        prober.obey(target("taken", source_ports=(other.getsockname()[1],)), target("free"))
        wait_for(lambda: "free" in prober.paths())
        assert list(prober.paths()) == ["free"]


def test_targets_that_are_not_supported_are_counted_and_each_reason_is_said(
    prober: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    prober.obey(
        target("ipv6", source_address="fd00::1", destination_address="fd00::2"),
        target("mixed", destination_address="fd00::2"),
        target("rdma", probe="rdma"),
        target("dns", probe="dns"),
        target("fine"),
    )
    wait_for(lambda: "fine" in prober.paths())
    assert list(prober.paths()) == ["fine"]
    assert prober.unsupported == 4
    said = capfd.readouterr().err
    assert "cannot probe ipv6 and 1 more: UDP, TCP and MTU probes speak IPv4 only" in said
    assert "cannot probe rdma: RDMA probes need" in said
    assert "cannot probe dns: this release has no probes of type dns" in said


def test_what_exceeds_a_ceiling_is_not_sent_but_counted_and_no_path_starves() -> None:
    """Ten paths of 50 probes a second to a destination that may get 100; one of them alone is sent as planned."""
    limited = Running(ceilings=Ceilings(packets_per_second_per_destination=100))
    try:
        targets = [target(f"p{number}", period_seconds=0.02) for number in range(10)]
        limited.obey(*targets)
        wait_for(lambda: len(limited.paths()) == 10)
        time.sleep(2)
        paths, over = limited.paths(), limited.over_ceiling
        sent = [path["probes.sent"] for path in paths.values()]
        assert 100 <= sum(sent) <= 230
        assert min(sent) >= max(sent) / 2
        assert over >= 3 * sum(sent)
        limited.obey(targets[0])
        wait_for(lambda: list(limited.paths()) == ["p0"])
        before = limited.paths()["p0"]["probes.sent"]
        assert before >= min(sent)  # the path that stays goes on counting
        time.sleep(1)
        assert limited.paths()["p0"]["probes.sent"] - before >= 30
    finally:
        limited.close()


def test_a_handshake_under_way_books_nothing_on_the_row_of_a_later_path(prober: Running) -> None:
    """Its loss used to be counted on whichever path had taken over the removed path's row."""
    with full_listener(FAR) as (port, _):
        # One handshake in ten seconds: the one that is under way when the path is removed.
        slow = target("slow", "tcp", destination_port=port, period_seconds=0.5)
        prober.obey(slow)
        wait_for(lambda: prober.paths()["slow"]["probes.sent"] == 1 if "slow" in prober.paths() else False)
        later = target("later", "tcp", destination_port=port, period_seconds=3600)
        prober.obey(later)
        wait_for(lambda: list(prober.paths()) == ["later"])
        time.sleep(0.5)
        assert prober.paths()["later"]["probes.lost"] == 0


def forge_icmp(
    kind: int,
    code: int,
    source: tuple[str, int],
    destination: tuple[str, int],
    mtu: int = 0,
    *,
    payload: bytes = bytes(64),
    router: str | None = None,
) -> None:
    """Send the kernel an ICMP error that quotes a datagram of ours, as a router on the way would."""
    udp = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0) + payload
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0x4000, 64, 17, 0,
        socket.inet_aton(source[0]), socket.inet_aton(destination[0]),
    )  # fmt: skip
    body = struct.pack("!BBHHH", kind, code, 0, 0, mtu) + ip + udp
    words = struct.unpack(f"!{len(body) // 2}H", body)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError:
        pytest.skip("forging an ICMP error needs CAP_NET_RAW")
    with raw:
        raw.bind((router or destination[0], 0))
        raw.sendto(body, (source[0], 0))


@pytest.mark.parametrize(("kind", "code"), [(3, code) for code in range(16) if code != 3] + [(11, 0), (12, 0)], ids=str)
def test_no_icmp_error_from_a_router_stops_the_prober(kind: int, code: int) -> None:
    """One that came between two reads of a socket (protocol unreachable, host isolated, ...) ended the process."""
    with open_flow(SOURCE, 0) as flow, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        forge_icmp(kind, code, flow.getsockname(), (FAR, 65300), mtu=1400)
        far.bind((FAR, 0))
        far.sendto(b"after", flow.getsockname())
        time.sleep(0.02)
        assert [datagram.data for datagram in receive(flow, 4)] == [b"after"]


@pytest.mark.parametrize(("code", "error"), [(4, errno.EMSGSIZE), (0, errno.ENETUNREACH), (2, errno.ENOPROTOOPT)])
def test_an_icmp_error_earned_by_one_destination_is_not_booked_on_another(code: int, error: int) -> None:
    """A path's 'frag needed' used to be booked as the loss of whichever path shared its source port and sent next."""
    prober = UdpProber(Loop(), Codec(KEY), 0.5)
    flow = prober.acquire(SOURCE, free_port(SOURCE))
    forge_icmp(3, code, (SOURCE, flow.port), ("127.0.0.9", 65300), mtu=1400)
    time.sleep(0.02)
    assert flow._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == error  # reading it clears it
    forge_icmp(3, code, (SOURCE, flow.port), ("127.0.0.9", 65300), mtu=1400)
    time.sleep(0.02)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind((FAR, 0))
        far.settimeout(2)
        flow.send([Codec(KEY).request(REQUEST, 7, 1)], send_options(0), far.getsockname())
        assert len(far.recv(2000)) == 64
    prober.release(flow)


def test_no_probe_is_given_the_transmit_time_of_another() -> None:
    """Many kernels number packets that they did not send too: round trips were longer by the time between two."""
    store, udp = Store(prober_tables(4)), UdpProber(Loop(), Codec(KEY), 0.5)
    row, histogram = store.writer(PATH).add(("p",)), store.writer(RTT_TABLE).add(("h",))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind((FAR, 0))
        own = target("p", destination_port=far.getsockname()[1])
        path, flow = Path(own, 1, row, histogram, ResultRing(64)), udp.acquire(SOURCE, own.source_ports[0])
        try:
            flow._socket.sendto(b"", far.getsockname())  # numbered by the kernel and not by us, as if it had failed
            for _ in range(4):
                udp.send(path, flow)
                time.sleep(0.002)
            flow.on_error()
            probes = list(udp._outstanding.values())
            assert all(not probe.kernel_ns or probe.kernel_ns >= probe.unix_ns for probe in probes)
            flow._socket.sendto(b"", (FAR, free_port(FAR)))  # its ICMP error makes the next sending fail at first
            time.sleep(0.02)
            udp.send(path, flow)
            time.sleep(0.02)
            flow.drain()
            probe = list(udp._outstanding.values())[-1]
            assert probe.unix_ns <= probe.kernel_ns < probe.unix_ns + 20_000_000
        finally:
            udp.release(flow)


def test_full_size_requests_find_room_in_a_socket_with_the_default_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds 25, and was looked at each 100 ms: of a thousand a second every other one was lost."""

    def enlarge_as_anybody(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 212_992)

    monkeypatch.setattr(sockets, "_enlarge", enlarge_as_anybody)
    prober = Running(FAR, free_port(FAR))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.bind((SOURCE, 0))
            for sequence in range(600):
                asking.sendto(Codec(KEY).request(REQUEST, sequence, 1) + bytes(8908), (FAR, prober.port))
                time.sleep(0.001)
        wait_for(lambda: prober._own(PROBER_ANSWERED) > 550)  # a busy machine may lose a few
    finally:
        prober.close()


def test_replies_that_waited_in_the_socket_during_a_stall_are_answers_and_no_losses() -> None:
    """More of them than are read at once: the rest used to be booked as lost when the process came back."""
    store = Store([*prober_tables(4)])
    answering, loop = Loop(), Loop()
    responder = UdpResponder(Codec(KEY), FAR, 0, 1, Streams(), SourceLimit(1000), store.writer(PROBER).add(()))
    answering.watch(responder)
    thread = threading.Thread(target=answering.run, daemon=True)
    thread.start()
    judged: list[bool] = []
    results = ResultRing(1024)
    udp = UdpProber(loop, Codec(KEY), 0.2, judged.append)
    with socket.socket(fileno=socket.dup(responder.fileno())) as bound:
        stalled = target("stalled", destination_port=bound.getsockname()[1])
    row, histogram = store.writer(PATH).add(("stalled",)), store.writer(RTT_TABLE).add(("h1",))
    path = Path(stalled, 1, row, histogram, results)
    flow = udp.acquire(SOURCE, stalled.source_ports[0])
    try:
        for _ in range(150):
            udp.send(path, flow)
        time.sleep(0.5)  # stalled, far longer than the timeout
        loop.after(0.1, loop.stop)
        loop.run()
        assert (row.get(SENT), row.get(LOSSES), row.get(UNSENT)) == (150, 0, 0)
        # Timed as they arrived, by the kernel, and marked: the wait in the socket is no round trip.
        samples = results.read(0)[0]
        assert all(sample.starved and sample.rtt_ns < 100_000_000 for sample in samples)
        assert (len(samples), judged) == (150, [True] * 150)
    finally:
        udp.release(flow)
        answering.stop()
        thread.join(5)
        responder.close()
