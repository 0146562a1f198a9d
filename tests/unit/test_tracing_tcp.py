"""TCP traces on loopback: real connection attempts, how they end, and how they share a port with handshakes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator

import pytest

from exporter.probing.loop import Loop
from exporter.probing.paths import Flow
from exporter.probing.sockets import IcmpError
from exporter.probing.tracing.tcp import TcpCarrier
from exporter.probing.tracing.walk import HOP_TIMEOUT_SECONDS, Walk
from tests.unit.peers import full_listener
from tests.unit.test_prober import FAR, SOURCE, Running, free_port, target, wait_for


def walk_of(flow: Flow, seconds: float = 3.0, during: Callable[[Loop, TcpCarrier, Walk], None] | None = None) -> Walk:
    """The walk of one trace, ended or stopped after so long."""
    loop = Loop()
    carrier = TcpCarrier(loop, flow, 0)

    def ask(hop_limit: int) -> float:
        carrier.ask(walk, hop_limit)
        return 0.0

    walk = Walk(loop, ask, lambda _: loop.stop(), max_hops=4)
    loop.after(0, walk.start)
    loop.after(seconds, loop.stop)
    if during is not None:
        loop.after(0.05, lambda: during(loop, carrier, walk))
    loop.run()
    carrier.end()
    return walk


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind((FAR, 0))
        listening.listen(8)
        yield listening


def flow_to(port: int) -> Flow:
    return Flow(SOURCE, free_port(SOURCE, socket.SOCK_STREAM), FAR, port, "tcp")


def test_it_ends_with_a_connection_whose_round_trip_the_kernel_knows(listener: socket.socket) -> None:
    walk = walk_of(flow_to(listener.getsockname()[1]))
    assert (walk.hops, walk.complete) == ([], True)
    assert 0 < (walk.rtts_ns[0] or 0) < 50_000_000


def test_it_ends_with_a_reset_from_a_closed_port() -> None:
    walk = walk_of(flow_to(free_port(FAR, socket.SOCK_STREAM)))
    assert (walk.hops, walk.complete) == ([], True)


def test_its_port_is_free_again_at_once(listener: socket.socket) -> None:
    """No TIME_WAIT: the path's next handshake needs it."""
    flow = flow_to(listener.getsockname()[1])
    for _ in range(5):
        assert walk_of(flow).complete


def test_a_destination_that_says_nothing_is_given_up() -> None:
    with full_listener(FAR) as (port, _):
        walk = walk_of(flow_to(port), 8 * HOP_TIMEOUT_SECONDS)
    assert (walk.hops, walk.reached, walk.ended) == ([None, None, None], False, True)


@pytest.mark.parametrize(
    ("kind", "offender", "hops", "unreachable_from"),
    [
        ("time_exceeded", "10.9.0.1", ["10.9.0.1"], None),
        ("unreachable", "10.9.0.1", [], "10.9.0.1"),
        ("too_big", "10.9.0.1", [], None),
    ],
)
def test_what_a_router_says_is_told_to_the_walk(
    kind: str, offender: str, hops: list[str], unreachable_from: str | None
) -> None:
    """Real routers speak in tests/lab; here the carrier is told what the kernel would have told it."""
    with full_listener(FAR) as (port, _):
        flow = flow_to(port)

        def say(loop: Loop, carrier: TcpCarrier, walk: Walk) -> None:
            carrier._on_icmp(IcmpError(kind, offender, flow.destination, 0, b""))  # type: ignore[arg-type]
            assert (walk.hops, walk.unreachable_from) == (hops, unreachable_from)
            loop.stop()

        walk_of(flow, 2.0, say)


def test_an_address_that_is_not_ours_ends_it() -> None:
    walk = walk_of(Flow("203.0.113.1", 50_000, FAR, 9, "tcp"))
    assert (walk.hops, walk.ended, walk.reached) == ([], True, False)


@pytest.mark.parametrize("period", [1.0, 0.05])
def test_no_probe_is_lost_or_unsent_for_a_trace(period: float) -> None:
    """Traced all the time: each of them takes the port that the path's handshakes use."""
    prober, there = Running(trace_period=0.1), Running(FAR, free_port(FAR, socket.SOCK_STREAM))
    try:
        port = free_port(SOURCE, socket.SOCK_STREAM)
        prober.obey(target("t", "tcp", source_ports=(port,), destination_port=there.port, period_seconds=period))
        wait_for(lambda: prober.traces >= 10 and prober.paths()["t"]["probes.sent"] >= 4, 15)
        counts = prober.paths()["t"]
        assert (counts["probes.lost"], counts["probes.unsent"], counts["probes.refused"]) == (0, 0, 0)
        assert prober.incomplete_traces == 0
    finally:
        prober.close()
        there.close()


def test_a_probe_that_is_due_takes_the_port_from_a_trace_under_way(listener: socket.socket) -> None:
    """The kernel would refuse the second connection from the same port: EADDRNOTAVAIL."""
    flow = flow_to(listener.getsockname()[1])
    loop = Loop()
    carrier = TcpCarrier(loop, flow, 0)
    walk = Walk(loop, lambda _: 0.0, lambda _: None, max_hops=4)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        carrier.ask(walk, 1)
        probe.bind(flow[:2])
        assert probe.connect_ex(flow.destination) in (errno.EADDRNOTAVAIL, errno.EADDRINUSE)
    carrier.end()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(flow[:2])
        assert probe.connect_ex(flow.destination) == 0
