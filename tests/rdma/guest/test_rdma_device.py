"""What a device says of the messages that arrive, over IPv4 and IPv6."""

from __future__ import annotations

import select
import time

import pytest

from exporter.probing.loop import Loop
from exporter.rdma.device import HOP_LIMIT, MESSAGE_BYTES, QKEY, Arrival, Device, Handle
from exporter.rdma.ports import PortState, read_port
from exporter.rdma.verbs import SGE, SendWR, constants
from lab.guest.network import Fabric, Port

TRAFFIC_CLASS = 26 << 2 | 2


def opened(port: Port) -> Device:
    state = read_port(port.device, port.address)
    assert isinstance(state, PortState), state
    return Device(port.device, state, Loop())


def arrived(device: Device) -> list[Arrival]:
    ready, _, _ = select.select([device], [], [], 5)
    assert ready, "nothing arrived"
    return device.look(time.monotonic_ns())


@pytest.mark.parametrize(
    ("first", "second"),
    [("10.9.1.1/24", "10.9.2.1/24"), ("fd09:0:0:1::1/64", "fd09:0:0:2::1/64")],
    ids=["ipv4", "ipv6"],
)
def test_the_headers_of_what_crossed_a_router_are_read(first: str, second: str) -> None:
    with Fabric([first, second]) as fabric:
        near, far = fabric.ports
        fabric.impair(far, "loss", "100%", "ecn")  # marks them all
        sender, receiver = opened(near), opened(far)
        try:
            ours, theirs = sender.pair(), receiver.pair()
            handle = sender.make_handle(far.address, TRAFFIC_CLASS, 0x155)
            sent_ns = ours.send([(Handle(handle, theirs.number), bytes(range(MESSAGE_BYTES)))])
            (message,) = arrived(receiver)
            found_ns = time.monotonic_ns()
        finally:
            sender.close()
            receiver.close()
    assert message[:6] == (
        theirs.number, bytes(range(MESSAGE_BYTES)), near.address, ours.number, TRAFFIC_CLASS | 1, HOP_LIMIT - 1
    )  # fmt: skip
    assert sent_ns < message.at_ns < found_ns


def test_a_message_that_is_too_long_is_nobodys_and_breaks_nothing(fabric: Fabric) -> None:
    near, far = fabric.ports
    sender, receiver = opened(near), opened(far)
    try:
        ours, theirs = sender.pair(), receiver.pair()
        handle = Handle(sender.make_handle(far.address, TRAFFIC_CLASS, 0), theirs.number)
        piece = SGE(ours._region.buf, 1000, ours._region.lkey)
        long = SendWR(wr_id=1 << 20, opcode=constants.IBV_WR_SEND, num_sge=1, sg=[piece])
        long.set_wr_ud(handle.address, theirs.number, QKEY)
        ours._pair.post_send(long)
        ours.send([(handle, bytes(MESSAGE_BYTES))])
        time.sleep(0.05)
        (message,) = receiver.look(time.monotonic_ns())
        assert message.data == bytes(MESSAGE_BYTES)
        assert receiver.broken == ""
        assert sender.look(time.monotonic_ns()) == []
        assert sender.broken == ""
    finally:
        long.close()
        piece.close()
        sender.close()
        receiver.close()
