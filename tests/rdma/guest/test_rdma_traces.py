"""Traces of RoCE flows through two equal-cost spines: they go where the device's own packets go."""

from __future__ import annotations

import math
import socket
from contextlib import ExitStack

import pytest

from exporter.contracts.catalogue import PATH, PATH_LINK_INFO, RDMA_TRACING
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import link_id
from exporter.joins import LinkJoin, failing_traces, flow_of_labels, routes
from lab.guest import network
from tests.rdma.guest.hosts import Host, target, until
from tests.rdma.guest.spines import SPINES, topology

FIRST_PORT = 49153


def route_of(host: Host, source_port: int) -> list[str] | None:
    """Hops of the traced flow, None where there is none."""
    return next((hops for flow, hops in routes(host.store).items() if flow[1] == str(source_port)), None)


def links_of(host: Host, fabric: Fabric, path: str) -> set[str]:
    """As on the page of the exporter."""
    series = next(each for each in LinkJoin(fabric).series(host.store) if each.metric is PATH_LINK_INFO)
    return {labels[1] for labels, value in series.samples if labels[0] == path and value == 1}


def traces(host: Host) -> tuple[float, float]:
    """Traces that came to an end, and those of them that are incomplete."""
    ((ended, incomplete, *_),) = (row.values for row in host.store.read(RDMA_TRACING))
    return ended, incomplete


@pytest.mark.virtual_time
@pytest.mark.timeout(85)
def test_a_trace_takes_the_spine_that_the_devices_packets_take(spined: network.Fabric) -> None:
    near, far = spined.ports
    fabric = Fabric(topology(spined))
    taken = []
    with Host(near, name="h0", fabric=fabric) as here, Host(far, name="h1") as there:
        until(lambda: here.up() and there.up())
        for source_port in range(FIRST_PORT, FIRST_PORT + 8):
            planned = target(near, far, source_port)
            here.plan([planned])
            until(lambda: route_of(here, source_port) is not None)  # noqa: B023 - waited for at once
            before = [spined.received(spine, 0) for spine in range(SPINES)]
            here.answers(100)
            packets = [spined.received(spine, 0) - start for spine, start in enumerate(before)]
            busy = packets.index(max(packets))
            assert packets[busy] >= 100, "its probes cross a spine"
            assert packets[1 - busy] < 10, "only traces and introductions cross the other"
            assert route_of(here, source_port) == ["10.9.1.254", f"10.8.{busy}.1", f"10.8.{busy}.2"]
            assert links_of(here, fabric, planned.path) == {
                link_id("h0:rxe0", "leaf0:down"),
                link_id(f"leaf0:s{busy}", f"spine{busy}:l0"),
                link_id(f"leaf1:s{busy}", f"spine{busy}:l1"),
                link_id("h1:rxe1", "leaf1:down"),
            }
            (row,) = here.store.read(PATH)
            assert flow_of_labels(row.labels)[3] == "4791"
            taken.append(busy)
        assert here.total("fabric_path_probes_lost_total") == 0
        traced, incomplete = traces(here)
        assert traced >= 8
        assert incomplete == 0
    assert set(taken) == {0, 1}, "eight flows that all take one spine show nothing: once in 128 times, run it again"


@pytest.mark.virtual_time
def test_a_dead_path_keeps_its_route_and_says_how_far_its_trace_comes(spined: network.Fabric) -> None:
    near, far = spined.ports
    fabric = Fabric(topology(spined))
    with Host(near, name="h0", fabric=fabric) as here, Host(far, name="h1") as there:
        until(lambda: here.up() and there.up())
        planned = target(near, far, FIRST_PORT, period=0.05)
        here.plan([planned])
        until(lambda: route_of(here, FIRST_PORT) is not None)
        whole = route_of(here, FIRST_PORT)
        packets = far.counter("rcvd_pkts")
        spined.impair(far, "loss", "100%")
        until(lambda: here.total("fabric_path_probes_lost_total") > 3)
        until(lambda: failing_traces(here.store))
        (trace,) = failing_traces(here.store).values()
        assert trace.hops == whole
        assert (trace.last_hop, trace.outcome) == (whole[-1] if whole else "", "reached"), "the last switch answers"
        assert route_of(here, FIRST_PORT) == whole
        assert math.isclose(far.counter("rcvd_pkts"), packets, abs_tol=4)
        spined.heal(far)
        here.answers(5)


@pytest.mark.virtual_time
def test_a_trace_leaves_as_the_devices_packets_do_and_never_comes_to_the_far_device(spined: network.Fabric) -> None:
    """What is no RDMA would count there as damaged packets, on all hosts, for ever."""
    near, far = spined.ports
    fabric = Fabric(topology(spined))
    with Host(near, name="h0", fabric=fabric) as here, Host(far, name="h1") as there, ExitStack() as stack:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far, FIRST_PORT, period=0.2)])
        until(lambda: route_of(here, FIRST_PORT) is not None)
        leaving, coming = (stack.enter_context(capture(port)) for port in (near, far))
        before = traces(here)[0]
        until(lambda: traces(here)[0] >= before + 5)
        left, came = roce_packets(leaving, far), roce_packets(coming, far)
    probes = {flow for flow, opcode in left if opcode == SEND}
    assert len(probes) == 1, "one queue pair, one port"
    assert {flow for flow, opcode in left if opcode != SEND} == probes
    assert len([opcode for _, opcode in came if opcode == SEND]) > 10
    assert {opcode for _, opcode in came} == {SEND}


SEND = 0x64
"""Operation code of a UD SEND Only (InfiniBand Architecture, table 38)."""


def capture(port: network.Port) -> socket.socket:
    """What leaves a port and comes to it, without the Ethernet header."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    made.bind((port.netdev, 0x0003))  # ETH_P_ALL: no other hears what leaves
    made.setblocking(False)
    return made


def roce_packets(source: socket.socket, to: network.Port) -> list[tuple[bytes, int]]:
    """(traffic class and source port, operation code) of the packets to UDP port 4791 of a port."""
    found = []
    while True:
        try:
            packet = source.recv(256)
        except BlockingIOError:
            return found
        if (
            packet[:1] == b"\x45"
            and packet[9] == 17
            and packet[16:20] == to.interface.ip.packed
            and packet[22:24] == (4791).to_bytes(2, "big")
        ):
            found.append((packet[1:2] + packet[20:22], packet[28]))
