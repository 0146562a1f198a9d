"""When a host looks at what leaves it, and that nobody can make it look for long."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import ClassVar

import pytest

from exporter.contracts.catalogue import UNDERLAY, UNDERLAY_LEARNT, UNDERLAY_LOOKING, UNDERLAY_REJECTED, UNDERLAY_SEEN
from exporter.contracts.metric import Metric
from exporter.store import Store
from exporter.underlay.capture import Capture
from exporter.underlay.learning import Learner
from exporter.underlay.looks import Looks
from exporter.underlay.settings import OverlayFlow
from tests.unit.encapsulated import INNER, KEY, packet, vxlan
from tests.unit.test_walk import Clock


class Fake(Capture):
    """A capture of nothing, which packets are pushed into."""

    open: ClassVar[list[Fake]] = []
    absent: ClassVar[set[str]] = set()

    def __init__(self, device: str, program: bytes, on_packet: Callable[[bytes], None]) -> None:
        del program
        if device in self.absent:
            raise OSError(19, "No such device")
        self.on_packet = on_packet
        self._descriptor, self._other = os.pipe()
        self.open.append(self)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)
        os.close(self._other)
        self.open.remove(self)


class Host:
    """Two devices and one flow with a probe a second."""

    def __init__(self) -> None:
        Fake.open, Fake.absent = [], set()
        self.clock = Clock()
        store = Store([(UNDERLAY, 1)])
        self._row = store.writer(UNDERLAY).add(())
        loop = self.clock.loop
        self.learner = Learner(4789, ((None, KEY),), loop.clock)
        self.looks = Looks(
            loop, self.learner, self._row, devices=("d0", "d1"), port=4789, period_seconds=60.0, look_at=Fake
        )

    def follow(self, *ports: int, period: float = 1.0) -> None:
        flows = [OverlayFlow(plan=0, inner=(INNER[0], port, *INNER[2:]), period_seconds=period) for port in ports]
        self.learner.follow(flows)
        self.looks.follow(period)

    def see(self, port: int, times: int = 1) -> None:
        for _ in range(times):
            if Fake.open:
                Fake.open[0].on_packet(packet(vxlan((INNER[0], port, *INNER[2:]))))

    def value(self, metric: Metric) -> float:
        return self._row.get(UNDERLAY.metrics.index(metric))


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.follow()
    assert Fake.open == []  # nothing to look for, nobody looks


def test_a_look_ends_when_all_was_seen_and_comes_again_after_a_period(host: Host) -> None:
    host.follow(1, 2)
    assert len(Fake.open) == 2  # on every device
    host.clock.pass_by(1.0)
    host.see(1, 2)
    assert len(Fake.open) == 2
    host.see(2, 2)
    assert Fake.open == []
    assert (host.value(UNDERLAY_LOOKING), host.value(UNDERLAY_SEEN), host.value(UNDERLAY_LEARNT)) == (1.0, 4, 2)
    host.clock.pass_by(59.9)
    assert Fake.open == []
    host.clock.pass_by(0.2)
    assert len(Fake.open) == 2
    host.see(1)
    host.see(2)  # once is enough of what is known
    assert Fake.open == []


def test_a_flow_that_is_never_seen_is_looked_for_ever_more_rarely(host: Host) -> None:
    host.follow(1)
    begins, open_before = [], False
    for tenth in range(6000):
        if Fake.open and not open_before:
            begins.append(tenth / 10)
        open_before = bool(Fake.open)
        host.clock.pass_by(0.1)
    gaps = [later - sooner for sooner, later in pairwise(begins)]
    assert gaps[:6] == pytest.approx([4.5, 6.5, 10.5, 18.5, 34.5, 62.5], abs=0.2)
    assert gaps[6:] == pytest.approx([62.5] * len(gaps[6:]), abs=0.2)
    assert host.value(UNDERLAY_LOOKING) < 0.06 * 600
    host.follow(1, 2)
    assert Fake.open  # a new flow is looked for at once


def test_a_flow_that_is_rarely_sent_does_not_make_the_host_look_for_long(host: Host) -> None:
    host.follow(1, period=3600.0)
    for _ in range(3):
        host.clock.pass_by(3600, step=0.5)
        looked = host.value(UNDERLAY_LOOKING)
    host.clock.pass_by(3600, step=0.5)
    assert host.value(UNDERLAY_LOOKING) - looked == pytest.approx(0.1 * 3600, rel=0.15)


def test_whoever_forges_what_the_filter_passes_ends_a_look_and_no_more(host: Host) -> None:
    host.follow(1)
    for _ in range(60_000):
        if Fake.open:
            Fake.open[0].on_packet(b"\x45" * 200)
    assert Fake.open == []
    assert host.value(UNDERLAY_REJECTED) == 50_000


def test_a_device_that_is_not_there_is_said_once_and_looked_at_when_it_is(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    Fake.absent = {"d1"}
    host.follow(1)
    host.clock.pass_by(20)
    assert capsys.readouterr().err == "underlay: cannot look at d1: No such device\n"
    Fake.absent = set()
    host.follow(1)
    assert len(Fake.open) == 2
