"""Reliable connections over real RoCEv2: what is sent again, what fails, what does not pass, and who comes back."""

from __future__ import annotations

import subprocess
import time

import pytest

from exporter.contracts.catalogue import (
    MOST_CONNECTIONS,
    RELIABLE_CONNECTED,
    RELIABLE_CONNECTIONS,
    RELIABLE_DURATION,
    RELIABLE_FAILURES,
    RELIABLE_MISMATCHES,
    RELIABLE_MTU,
    RELIABLE_REFUSED,
    RELIABLE_RETRANSMITTED,
    RELIABLE_SERVED,
    RELIABLE_SERVING,
    RELIABLE_STARTED,
)
from exporter.contracts.metric import Metric
from exporter.contracts.plan import Target
from exporter.probing.loop import Loop
from exporter.probing.packet import ACCEPT, CHALLENGE, OPEN
from exporter.rdma.connecting import NO_CHALLENGE, NOT_YET, End, Message
from exporter.rdma.ports import PortState, read_port
from exporter.rdma.reliable import ReliableDevice
from exporter.rdma.reliable_prober import ReliableProber, Tables
from exporter.rdma.reliable_responder import ReliableResponder
from exporter.rdma.settings import Reliable, rdma_tables
from exporter.store import Store
from lab.guest.network import FABRIC, Fabric, Port, addresses
from tests.rdma.guest.hosts import TRAFFIC_CLASS, Host, target, total, until

QUICK = Reliable(period_seconds=0.2, bytes=16_384, ack_timeout_seconds=0.02, retries=2)


def rounds(host: Host) -> float:
    return host.connection(RELIABLE_STARTED, "read") or 0


def more_rounds(host: Host, count: int = 5, seconds: float = 10.0) -> None:
    before = rounds(host)
    until(lambda: rounds(host) >= before + count, seconds)


def pairs_of(port: Port) -> int:
    """Queue pairs of reliable connections that a device has, of whatever process."""
    show = ["rdma", "resource", "show", "qp", "link", f"{port.device}/1"]
    shown = subprocess.run(show, check=True, capture_output=True)
    return shown.stdout.decode().count("type RC")


@pytest.mark.virtual_time  # on one processor two processes spoil each other's times
def test_a_connection_writes_and_reads_back(fabric: Fabric) -> None:
    near, far = fabric.ports
    with Host(near, reliable=QUICK) as here, Host(far, reliable=QUICK) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far), target(near, far, 50_001)])  # two paths, one connection
        more_rounds(here, 10)
        assert here.connection(RELIABLE_CONNECTED, far.address, str(TRAFFIC_CLASS >> 2)) == 1
        assert here.connection(RELIABLE_CONNECTIONS) == 1
        assert here.connection(RELIABLE_MTU) == 1024
        assert here.connection(RELIABLE_FAILURES) == 0
        assert here.connection(RELIABLE_MISMATCHES) == 0
        assert here.connection(RELIABLE_STARTED, "write_small") == pytest.approx(rounds(here), abs=1)
        until(
            lambda: all(0 < (here.connection(RELIABLE_DURATION, each) or 0) < 0.2 for each in ("write_small", "write"))
        )
        until(lambda: there.connection(RELIABLE_SERVED) == 1)
        here.plan([])
        until(lambda: here.connection(RELIABLE_CONNECTED) is None)
        until(lambda: pairs_of(near) == 0)


def test_over_ipv6() -> None:
    with Fabric(["fd09::1/64", "fd09::2/64"]) as fabric:
        near, far = fabric.ports
        with Host(near, reliable=QUICK) as here, Host(far, reliable=QUICK) as there:
            until(lambda: here.up() and there.up())
            here.plan([target(near, far)])
            more_rounds(here, 10)
            assert here.connection(RELIABLE_CONNECTED, "fd09::2") == 1
            assert here.connection(RELIABLE_FAILURES) == 0


def test_what_was_lost_is_sent_again_and_counted_not_failed(fabric: Fabric) -> None:
    near, far = fabric.ports
    patient = Reliable(period_seconds=0.3, bytes=2048, ack_timeout_seconds=0.01, retries=6)
    with Host(near, reliable=patient) as here, Host(far, reliable=patient) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far, period=1.0)])
        more_rounds(here)
        assert here.connection(RELIABLE_RETRANSMITTED) == 0
        fabric.impair(far, "loss", "20%")
        more_rounds(here, 30, 30)
        assert (here.connection(RELIABLE_RETRANSMITTED) or 0) > 3
        assert here.connection(RELIABLE_FAILURES) == 0
        assert here.connection(RELIABLE_CONNECTIONS) == 1


def test_a_black_hole_exhausts_the_retries_in_time_and_is_left_behind(fabric: Fabric) -> None:
    near, far = fabric.ports
    with Host(near, reliable=QUICK) as here, Host(far, reliable=QUICK) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far, period=1.0)])
        more_rounds(here)
        fabric.impair(far, "loss", "100%")
        until(lambda: here.connection(RELIABLE_FAILURES, "retry_exceeded") == 1, QUICK.longest_seconds + 1.5)
        assert here.connection(RELIABLE_FAILURES) == 1
        assert here.connection(RELIABLE_CONNECTED) == 0
        time.sleep(1.5)
        assert here.connection(RELIABLE_CONNECTED) == 0
        fabric.heal(far)
        until(lambda: here.connection(RELIABLE_CONNECTED) == 1)
        more_rounds(here)
        assert here.connection(RELIABLE_FAILURES) == 1
        assert here.connection(RELIABLE_CONNECTIONS) == 2
        until(lambda: pairs_of(near) == pairs_of(far) == 1)


def test_a_path_that_carries_less_than_its_ports_fails_large_operations_alone() -> None:
    with Fabric(addresses(2), mtu=4200) as fabric:
        near, far = fabric.ports
        with Host(near, reliable=QUICK) as here, Host(far, reliable=QUICK) as there:
            until(lambda: here.up() and there.up())
            here.plan([target(near, far, period=1.0)])
            more_rounds(here)
            assert here.connection(RELIABLE_MTU) == 4096
            subprocess.run(["ip", "-n", FABRIC, "link", "set", far.cable, "mtu", "1500"], check=True)
            until(lambda: (here.connection(RELIABLE_FAILURES) or 0) >= 3, 15)
            assert here.connection(RELIABLE_FAILURES, "write", "retry_exceeded") == here.connection(RELIABLE_FAILURES)
            subprocess.run(["ip", "-n", FABRIC, "link", "set", far.cable, "mtu", "4200"], check=True)
            more_rounds(here, 5, 20)


def test_a_responder_that_dies_and_returns_is_connected_to_again(fabric: Fabric) -> None:
    near, far = fabric.ports
    with Host(near, reliable=QUICK) as here:
        with Host(far, reliable=QUICK) as there:
            until(lambda: here.up() and there.up())
            here.plan([target(near, far, period=1.0)])
            more_rounds(here)
        until(lambda: here.connection(RELIABLE_CONNECTED) == 0)
        with Host(far):  # answers datagrams, and serves no connections
            time.sleep(2.5)
            assert here.connection(RELIABLE_CONNECTED) == 0
        with Host(far, reliable=QUICK):
            more_rounds(here, 5, 20)
            assert here.connection(RELIABLE_FAILURES, "no_responder") == here.connection(RELIABLE_FAILURES) == 1
            assert here.connection(RELIABLE_CONNECTIONS) == 2


def test_a_device_that_vanishes_and_returns_is_connected_from_again(fabric: Fabric) -> None:
    near, far = fabric.ports
    with Host(near, reliable=QUICK) as here, Host(far, reliable=QUICK) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far, period=1.0)])
        there.plan([target(far, near, period=1.0)])
        more_rounds(here)
        more_rounds(there)
        fabric.remove_device(near)
        until(lambda: not here.up())
        assert here.connection(RELIABLE_CONNECTED) == 0 == here.connection(RELIABLE_SERVED)
        fabric.add_device(near)
        until(here.up)
        more_rounds(here)
        more_rounds(there, 5, 20)
        assert here.connection(RELIABLE_FAILURES) == 0


class Ends:
    """A prober at one port and a responder at the other, in this process, whose messages are handed over by hand."""

    def __init__(self, near: Port, far: Port) -> None:
        self.ahead_ns = 0
        """Of the real clock."""
        self.near, self.far = near, far
        self.loop = Loop(clock=lambda: time.monotonic_ns() + self.ahead_ns)
        self.store = Store(rdma_tables(8, 1, reliable=True))
        self.answers: dict[int, Message] = {}
        """The last to each traffic class."""
        self.tables = Tables(self.store)
        self._counters = self.tables.serving.add(("host", far.device))
        self.there = ReliableDevice(far.device, port_of(far), self.loop, lambda *_: None)
        self.responder = ReliableResponder(self.loop, self.there, QUICK, self._answer, self._counters, print)
        self.prober = ReliableProber(self.loop, QUICK, self._labels, self.tables, self._ask, print)
        self.here = ReliableDevice(near.device, port_of(near), self.loop, self.on_completion)
        self.prober.open(self.here)

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        self.here.close()
        self.there.close()

    def _labels(self, each: Target) -> tuple[str, ...]:
        return ("a", self.near.device, "b", self.far.device, each.destination_address, str(each.traffic_class >> 2))

    def _ask(self, message: Message, _: str) -> None:
        self.responder.on_open(message, self.near.address)

    def _answer(self, message: Message, _: str) -> None:
        self.answers[message.traffic_class] = message
        self.on_answer(message)

    def on_answer(self, message: Message) -> None:
        self.prober.on_answer(message, self.far.address)

    def on_completion(self, identifier: int, status: int) -> None:
        self.prober.on_completion(identifier, status)

    def run_for(self, seconds: float) -> None:
        self.loop.after(seconds, self.loop.stop)
        self.loop._running = True  # a process runs its loop once
        self.loop.run()
        self.responder.tidy()

    def served(self) -> float:
        return self._counters.get(RELIABLE_SERVING.metrics.index(RELIABLE_SERVED))

    def refused(self) -> float:
        return self._counters.get(RELIABLE_SERVING.metrics.index(RELIABLE_REFUSED))

    def total(self, metric: Metric, *labels: str) -> float:
        return total(self.store, metric, *labels) or 0


def test_a_responder_serves_no_more_than_it_may_and_closes_what_nobody_uses(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = fabric.ports
    monkeypatch.setattr("exporter.rdma.reliable_responder.MOST_OF_ONE", MOST_CONNECTIONS)  # one does for many here
    with Ends(near, far) as ends:
        opened: dict[int, Message] = {}

        def ask(traffic_class: int, address: str = near.address) -> None:
            """As another prober would; of queue pairs nobody knows, so that they may all be the same."""
            ends.responder.on_open(Message(OPEN, traffic_class, 1, NO_CHALLENGE, NOT_YET), address)
            end = End(queue_pair=4711, first_packet=1, mtu=1024, length=256)
            opened[traffic_class] = Message(OPEN, traffic_class, 1, ends.answers[traffic_class].challenge, end)
            ends.responder.on_open(opened[traffic_class], address)

        ends.prober.follow([target(near, far)])
        ends.run_for(0.5)
        assert ends.served() == 1
        others = [each for each in range(256) if each != TRAFFIC_CLASS]
        for traffic_class in others:
            ask(traffic_class)
        ends.run_for(4)  # one in each slot
        assert ends.served() == MOST_CONNECTIONS == 256
        ask(0, "10.9.0.77")
        ends.run_for(0.1)
        assert ends.served() == MOST_CONNECTIONS
        assert ends.answers[0].kind == CHALLENGE
        assert ends.refused() == 1
        ask(1)  # the same prober again, in place of its old connection
        ends.run_for(0.1)
        assert ends.served() == MOST_CONNECTIONS
        assert ends.answers[1].kind == ACCEPT
        ends.answers.clear()
        for traffic_class in others:  # recorded ones, played again
            ends.responder.on_open(opened[traffic_class], near.address)
        ends.run_for(0.2)
        assert not ends.answers
        ends.ahead_ns += 100_000_000_000
        ends.run_for(1)
        ends.ahead_ns += 60_000_000_000
        ends.run_for(0.5)
        assert ends.served() == 1  # that of the prober, which has been written to
        ends.run_for(3)
        assert pairs_of(far) == 1
        ends.responder.on_open(opened[2], near.address)
        ends.run_for(0.1)
        assert ends.served() == 1
        assert ends.total(RELIABLE_FAILURES) == 0
    assert pairs_of(near) == pairs_of(far) == 0


def test_a_key_that_is_anothers_opens_nothing_and_breaks_that_connection_alone(fabric: Fabric) -> None:
    near, far = fabric.ports
    good, bad = TRAFFIC_CLASS, 2

    class Confused(Ends):
        def on_answer(self, message: Message) -> None:
            other = self.answers.get(good)
            if message.traffic_class == bad and message.kind == ACCEPT and other and bad not in mended:
                end = message.end._replace(key=other.end.key, address=other.end.address)
                message = message._replace(end=end)
                mended.add(bad)
            super().on_answer(message)

    mended: set[int] = set()
    with Confused(near, far) as ends:
        ends.prober.follow([target(near, far)])
        ends.run_for(0.5)
        ends.prober.follow([target(near, far), target(near, far, traffic_class=bad)])
        ends.run_for(2)
        assert ends.total(RELIABLE_FAILURES, "0", "write_small", "remote_access") == ends.total(RELIABLE_FAILURES) == 1
        assert ends.total(RELIABLE_CONNECTIONS, "26") == 1
        assert ends.total(RELIABLE_CONNECTIONS, "0") == 2
        assert ends.total(RELIABLE_STARTED, "0", "read") > 1


def test_data_that_came_back_changed_are_counted(fabric: Fabric) -> None:
    class Altering(Ends):
        altered = False

        def on_completion(self, identifier: int, status: int) -> None:
            super().on_completion(identifier, status)
            if not self.altered and self.total(RELIABLE_STARTED, "read") == 2 and self.prober._source is not None:
                self.altered = True
                self.prober._source.bytes[QUICK.bytes] ^= 1  # of what has been written, and is being read

    with Altering(*fabric.ports) as ends:
        ends.prober.follow([target(*fabric.ports)])
        ends.run_for(6 * QUICK.period_seconds)
        assert ends.total(RELIABLE_STARTED, "read") > 3
        assert ends.total(RELIABLE_MISMATCHES) == 1
        assert ends.total(RELIABLE_FAILURES) == 0


def port_of(port: Port) -> PortState:
    state = read_port(port.device, port.address)
    assert isinstance(state, PortState)
    return state


@pytest.mark.virtual_time  # a busy machine leaves probes unsent as well
def test_cold_neighbours_hold_up_nothing() -> None:
    with Fabric(addresses(2), static_neighbours=False) as fabric:
        near, far = fabric.ports
        with Host(near, reliable=QUICK) as here:
            until(here.up)
            with Host(far, reliable=QUICK):
                here.plan([target(near, far)])
                more_rounds(here)
            until(lambda: here.connection(RELIABLE_CONNECTED) == 0)
            unsent = here.total("fabric_path_probes_unsent_total")
            for port in (near, far):
                subprocess.run(["ip", "neigh", "flush", "dev", port.netdev], check=True)
            with Host(far, reliable=QUICK):
                more_rounds(here, 5, 20)
            # To stand still for a second leaves a hundred unsent; that two processes start at once some.
            assert here.total("fabric_path_probes_unsent_total") < unsent + 90
