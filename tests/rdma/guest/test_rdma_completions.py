"""Completion queues with a clock. Soft-RoCE has none: a clock of the test takes its place, all else is the device's."""

from __future__ import annotations

import time
from typing import Any

import pytest

from exporter.probing.loop import Loop
from exporter.rdma import completions, device
from exporter.rdma.completions import DeviceClock, StampedCompletions, open_completions
from exporter.rdma.device import Device, Handle
from exporter.rdma.ports import PortState, read_port
from exporter.rdma.verbs import Context, PyverbsError
from lab.guest.network import Fabric, Port

_AGE_NS = 3_000_000


class _Clock(DeviceClock):
    """Of 250 MHz, by which all completed 3 ms ago."""

    flags = 0

    def __init__(self) -> None:
        self._mask, self._kilohertz = (1 << 48) - 1, 250_000

    def now(self) -> int:
        return time.monotonic_ns() // 4

    def stamp(self, queue: Any) -> int:  # noqa: ARG002 - which is at what has no stamp
        return self.now() - _AGE_NS // 4


def opened(port: Port) -> Device:
    state = read_port(port.device, port.address)
    assert isinstance(state, PortState)
    return Device(port.device, state, Loop())


def test_a_device_without_clock_is_said_to_have_none(fabric: Fabric) -> None:
    context = Context(name=fabric.ports[0].device)
    with pytest.raises(PyverbsError, match="no clock"):
        DeviceClock(context)
    completions = open_completions(context)
    assert completions.timestamps == "software"
    completions.close()
    context.close()


def test_the_time_of_an_arrival_is_when_the_device_stamped_it(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    def stamped(context: Context) -> StampedCompletions:
        return StampedCompletions(context, _Clock())

    monkeypatch.setattr(device, "open_completions", stamped)
    monkeypatch.setattr(completions, "_TORN_NS", 1_000_000)  # to read a clock takes long here
    near, far = (opened(port) for port in fabric.ports)
    try:
        assert near.fileno() == -1  # it has to be looked at
        assert near.timestamps == "hardware"
        pair, other = near.pair(), far.pair()
        handle = Handle(near.make_handle(fabric.ports[1].address, 106, 0), other.number)
        pair.send([(handle, bytes([number]) * 64) for number in range(20)])
        time.sleep(0.01)
        before = time.monotonic_ns()
        found = far.look(before)
        after = time.monotonic_ns()
        assert [arrival.data[0] for arrival in found] == list(range(20))
        assert {arrival.source for arrival in found} == {fabric.ports[0].address}
        assert {arrival.queue_pair for arrival in found} == {pair.number}
        assert all(before - _AGE_NS <= arrival.at_ns <= after - _AGE_NS for arrival in found)
        assert not any(arrival.is_unsure for arrival in found)
        assert pair.room < near.pair().room
        assert near.look(before) == []
        assert pair.room == near.pair().room  # what was sent has completed as well
        assert far.look(before) == []
    finally:
        near.close()
        far.close()


def test_a_clock_that_serves_no_queue_pair_is_done_without(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "open_completions", lambda context: StampedCompletions(context, _Clock()))
    monkeypatch.setattr(Device, "_takes_queue_pairs", lambda _: False)
    found = opened(fabric.ports[0])
    try:
        assert (found.timestamps, found.fileno() >= 0) == ("software", True)
        found.pair()
    finally:
        found.close()


def test_what_never_completes_breaks_the_device(fabric: Fabric) -> None:
    now = 0
    state = read_port(fabric.ports[0].device, fabric.ports[0].address)
    assert isinstance(state, PortState)
    found = Device(fabric.ports[0].device, state, Loop(clock=lambda: now))
    try:
        handle = Handle(found.make_handle(fabric.ports[1].address, 106, 0), 17)
        found.pair().send([(handle, bytes(64))])
        now = device.STUCK_NS
        found.tidy()
        assert found.broken == ""
        now += 1
        found.tidy()
        assert "has not completed for 10 s" in found.broken
    finally:
        found.close()


@pytest.mark.parametrize("chains", [2, 3])  # exactly as much as a look may take, and more
def test_what_one_look_may_not_take_is_left_for_the_next(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch, chains: int
) -> None:
    monkeypatch.setattr(device, "open_completions", lambda context: StampedCompletions(context, _Clock()))
    near, far = (opened(port) for port in fabric.ports)
    try:
        pair, other = near.pair(), far.pair()
        handle = Handle(near.make_handle(fabric.ports[1].address, 106, 0), other.number)
        for _ in range(chains):
            pair.send([(handle, bytes(64))] * device.CHAIN)
        time.sleep(0.01)
        assert (len(far.look(0)), far.has_more) == (completions.MOST, True)
        assert (len(far.look(0)), far.has_more) == (chains * device.CHAIN - completions.MOST, False)
    finally:
        near.close()
        far.close()
