"""What encapsulated packets tell of an overlay's flows, and what whoever sends them cannot make of it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.probing.packet import REPLY, REQUEST, TRACE
from exporter.underlay.capture import Capture
from exporter.underlay.encapsulation import SNAP_BYTES, Outer, filter_program, may_quote, parse, trace_payload
from exporter.underlay.learning import IDLE_SECONDS, Learner
from exporter.underlay.settings import OverlayFlow
from tests.unit.encapsulated import INNER, KEY, OUTER, packet, probe, vxlan

NO_OPERATIONS = b"\x01" * 8  # IPv4 options that say nothing (RFC 791)
PORT = 14_789  # of VXLAN, for tests on loopback: 4789 may be in use


def test_a_packet_tells_both_flows_the_network_and_the_class() -> None:
    for options in (b"", NO_OPERATIONS):
        seen = parse(packet(vxlan(options=options), options=options), 4789)
        assert seen is not None
        assert (seen.outer, seen.inner, seen.vni, seen.traffic_class) == (OUTER, INNER, 5001, 106)
        assert seen.payload == probe()


REFUSED = {
    "no VXLAN network": vxlan(flags=0),
    "tagged": vxlan(ethertype=0x8100),
    "IPv6": vxlan(ethertype=0x86DD),
    "fragment": vxlan(fragment=5),
    "reply": vxlan(payload=probe(REPLY)),
    "trace": vxlan(payload=probe(TRACE)),
    "another's": vxlan(payload=b"x" * 64),
    "short": vxlan()[:40],
}


@given(st.binary(max_size=SNAP_BYTES), st.integers(0, SNAP_BYTES))
def test_no_bytes_make_the_reader_fail(noise: bytes, cut: int) -> None:
    parse(noise, 4789)
    parse(packet(vxlan())[:cut], 4789)
    parse(packet(vxlan())[:cut] + noise, 4789)


class Captured:
    """What the filter passes of loopback."""

    def __init__(self) -> None:
        self._packets: list[bytes] = []
        self.capture = Capture("lo", filter_program(PORT), self._packets.append)

    def read(self) -> list[bytes]:
        time.sleep(0.05)
        self.capture.on_input()
        return self._packets


@pytest.fixture
def captured() -> Iterator[Captured]:
    try:
        made = Captured()
    except PermissionError:
        pytest.skip("looking at packets needs CAP_NET_RAW")
    yield made
    made.capture.close()


def send(payload: bytes, port: int = PORT, options: bytes = b"") -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sender.bind(OUTER[:2])
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 106)
        if options:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        with contextlib.suppress(ConnectionRefusedError):
            sender.sendto(payload, (OUTER[2], port))


def test_the_kernel_passes_requests_that_leave_once_and_no_more_of_them_than_is_read(captured: Captured) -> None:
    for options in (b"", NO_OPERATIONS):
        send(vxlan(options=options, payload=probe() + bytes(8000)), options=options)
    packets = captured.read()
    assert [len(each) for each in packets] == [SNAP_BYTES, SNAP_BYTES]  # and not again as they come in
    for each in packets:
        seen = parse(each, PORT)
        assert seen is not None
        assert (seen.outer, seen.inner, seen.traffic_class) == (OUTER, INNER, 106)
        assert seen.payload.startswith(probe())


def test_the_kernel_keeps_all_else_to_itself(captured: Captured) -> None:
    for payload in REFUSED.values():
        send(payload)
    send(vxlan(), port=PORT + 1)
    with socket.socket() as tcp:
        tcp.connect_ex((OUTER[2], PORT))
    for size in range(len(vxlan()) - len(probe()) + 6):  # up to the byte that says that it is a request
        send(vxlan()[:size])
        send(bytes(size))
    assert captured.read() == []


class Watched:
    """A learner that looks for INNER under two plans of two tenants, and a clock."""

    def __init__(self, *tenants: tuple[int | None, bytes]) -> None:
        self.now_ns = 10**12
        self.learner = Learner(4789, tenants or ((None, KEY),), lambda: self.now_ns)
        self.flows = [OverlayFlow(plan=plan, inner=INNER, period_seconds=1.0) for plan in range(len(tenants) or 1)]
        self.learner.follow(self.flows)
        self.learner.begin_look()

    def see(self, port: int = OUTER[1], **changes: object) -> bool:
        return self.learner.on_packet(packet(vxlan(**changes), (OUTER[0], port, OUTER[2])))  # type: ignore[arg-type]

    def outer(self, plan: int = 0) -> Outer | None:
        return self.learner.flows[plan, INNER].outer


def test_a_tuple_is_known_when_two_packets_in_a_row_have_it() -> None:
    watched = Watched()
    assert watched.see()
    assert watched.outer() is None
    assert watched.see()
    assert watched.outer() == OUTER
    assert not watched.learner.awaited
    assert watched.learner.flows[0, INNER].traffic_class == 106


def test_a_flow_that_moves_to_another_port_is_known_by_that_from_its_second_packet_on() -> None:
    watched = Watched()
    for port in (1, 1, 2):
        watched.see(port)
    assert watched.outer() == (OUTER[0], 1, OUTER[2])
    watched.see(2)
    assert watched.outer() == (OUTER[0], 2, OUTER[2])


@pytest.mark.parametrize("ports", [range(100), [1, 2] * 50, [1, 1, *range(2, 50)]])
def test_a_flow_whose_port_is_always_another_has_none(ports: list[int]) -> None:
    watched = Watched()
    for port in ports:
        watched.see(port)
    assert watched.outer() is None
    assert len(watched.learner.flows) == 1


def test_tenants_with_the_same_addresses_are_told_apart_by_network_and_key() -> None:
    apart = Watched((1, KEY), (2, KEY))
    for port, vni in ((11, 1), (22, 2)):
        assert apart.see(port, vni=vni)
        assert apart.see(port, vni=vni)
    assert [apart.outer(plan)[1] for plan in (0, 1)] == [11, 22]  # type: ignore[index]
    assert not apart.see(33, vni=3)
    keyed = Watched((None, KEY), (None, b"o" * 32))
    keyed.see(11)
    keyed.see(11)
    assert (keyed.outer(0), keyed.outer(1)) == ((OUTER[0], 11, OUTER[2]), None)


def test_what_no_plan_names_or_no_key_sealed_leaves_nothing_behind() -> None:
    watched = Watched()
    assert not watched.see(inner=("10.8.0.9", *INNER[1:]))
    assert not watched.see(payload=probe(key=b"o" * 32))
    assert not watched.see(payload=probe(REPLY))
    assert not watched.see(payload=probe(REQUEST)[:-1])
    assert watched.learner.flows.keys() == {(0, INNER)}
    assert watched.learner.awaited


def test_a_flow_that_is_silent_for_long_is_forgotten_and_one_that_leaves_the_plan_at_once() -> None:
    watched = Watched()
    watched.see()
    watched.see()
    watched.learner.follow(watched.flows)
    assert watched.outer() == OUTER  # a plan that names it again changes nothing
    watched.now_ns += int(IDLE_SECONDS * 1e9)
    watched.learner.begin_look()
    assert watched.outer() == OUTER
    watched.now_ns += 1
    watched.learner.begin_look()
    assert watched.outer() is None
    watched.learner.follow([])
    assert not watched.learner.flows
    assert not watched.see()


def test_an_icmp_error_is_told_from_one_about_another_packet_if_it_quotes_enough() -> None:
    assert may_quote(trace_payload(5) + b"more", 5)
    assert may_quote(trace_payload(5)[:7], 6)
    assert not may_quote(trace_payload(5), 6)
    assert not may_quote(vxlan(), 5)
    assert trace_payload(2**32 + 1) == trace_payload(1)
    assert trace_payload(1)[0] == 0  # no I flag: no tunnel's end may take it in (RFC 7348, section 5)
