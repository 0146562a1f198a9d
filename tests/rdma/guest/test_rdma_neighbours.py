"""Neighbours that the kernel has to look for, in vain or again and again: no other path may feel that."""

from __future__ import annotations

import itertools
import socket
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack

import msgspec
import pytest

from exporter import results
from exporter.contracts.catalogue import PATH
from exporter.contracts.plan import Target
from exporter.messages import send_message
from exporter.probing.loop import Loop
from exporter.probing.settings import RESULT_CAPACITY
from exporter.rdma import rnic
from exporter.rdma.device import AH, Device
from exporter.rdma.host import RdmaHost
from exporter.rdma.settings import Orders, RdmaSettings, rdma_tables
from exporter.results import ANSWERED, Result, ResultRing
from exporter.store import Store
from lab.guest.network import Fabric, Port, addresses
from tests.rdma.guest.hosts import LOST, Host, target, until
from tests.rdma.guest.test_rdma_probes import nearest_rank

PERIOD = 0.02
SECONDS = 12.0
"""Longer than the kernel takes to give a neighbour up: 5 s of delay and 3 s of asking (arp(7))."""
NEVER = (LOST, "fabric_path_probes_unsent_total", "fabric_path_probes_refused_total")


@pytest.mark.virtual_time
@pytest.mark.timeout(300)
@pytest.mark.parametrize("network", ["10.9.0.0/24", "fd09::/64"], ids=["ipv4", "ipv6"])
def test_neighbours_that_are_cold_or_dead_stall_no_other_path(network: str) -> None:
    with ExitStack() as stack:
        fabric = stack.enter_context(Fabric(addresses(7, network), static_neighbours=False))
        near, *others = fabric.ports
        healthy, dead, (forgotten, leaving) = others[:2], others[2:4], others[4:]
        hosts = [stack.enter_context(Host(port, name=port.device)) for port in fabric.ports]
        until(lambda: all(host.up() for host in hosts))
        here = hosts[0]
        paths_to = {peer.index: target(near, peer, period=PERIOD) for peer in others}
        here.plan(paths_to.values())
        here.answers(200)
        before = Window(here)
        time.sleep(SECONDS / 2)
        before.end()
        ip("-n", "fabric", "link", "set", leaving.cable, "down")
        after = Window(here)
        for port in dead:
            ip("addr", "del", str(port.interface), "dev", port.netdev)
            ip("neigh", "del", port.address, "dev", near.netdev)
        repeat(lambda: forget(near, forgotten), SECONDS * 3 / 4)
        returned = Window(here)
        ip("-n", "fabric", "link", "set", leaving.cable, "up")
        repeat(lambda: forget(near, forgotten), SECONDS / 4)
        returned.end()
        after.end()
        paths = here.paths()
        losses = [result for result in here.results() if result.outcome == results.LOST]
    assert losses
    assert not any(result.starved for result in losses), "the network's, not ours"
    for peer in (*healthy, forgotten):
        assert {paths[paths_to[peer.index].path][metric] for metric in NEVER} == {0}, peer.device
    for peer in dead:
        assert paths[paths_to[peer.index].path][LOST] > 0.9 * SECONDS / PERIOD
        assert paths[paths_to[peer.index].path]["fabric_path_probes_unsent_total"] == 0
    name = paths_to[leaving.index].path
    assert after.answered(name) == returned.answered(name) > 0  # once it was back
    for peer in healthy:
        name = paths_to[peer.index].path
        # The hosts share one processor: which of them a slot wakes first makes some microseconds, either way. A
        # neighbour that is looked for would make a second, a queue pair that is held up three.
        print(peer.device, "p99", before.percentile(name, 99), "ns before and", after.percentile(name, 99), "after")
        assert after.percentile(name, 99) <= before.percentile(name, 99) + 20_000
        assert after.gap(name) < 2 * PERIOD * 1e9
        assert after.starved(name) == before.starved(name) == 0


def test_address_handles_are_made_for_nobody_who_has_not_just_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    answering: list[str] = []
    made: list[tuple[str, bool, float]] = []
    on_answer, make_handle = rnic._Open.on_answer, Device.make_handle

    def answer(self: rnic._Open, address: str, traffic_class: int, queue_pair: int, epoch: int) -> None:
        answering.append(address)
        on_answer(self, address, traffic_class, queue_pair, epoch)
        answering.clear()

    def make(self: Device, address: str, traffic_class: int, flow_label: int) -> AH:
        began = time.monotonic()
        handle = make_handle(self, address, traffic_class, flow_label)
        made.append((address, answering == [address], time.monotonic() - began))
        return handle

    monkeypatch.setattr(rnic._Open, "on_answer", answer)
    monkeypatch.setattr(Device, "make_handle", make)
    with Fabric(addresses(4), static_neighbours=False) as fabric:
        near, lossy, forgotten, silent = fabric.ports
        with Host(lossy, forgotten, name="there") as there, Inside(near) as here:
            until(there.up)
            targets = [target(near, peer, 50_000 + n) for peer in (lossy, forgotten, silent) for n in range(3)]
            here.plan(*targets)
            fabric.impair(lossy, "loss", "40%")
            ip("addr", "del", str(silent.interface), "dev", silent.netdev)
            repeat(lambda: forget(near, forgotten), 4.0)
    assert {address for address, _, _ in made} == {lossy.address, forgotten.address}
    assert len(made) > 6, "none was made anew"
    assert all(just_answered for _, just_answered, _ in made)
    assert max(seconds for _, _, seconds in made) < 0.5


class Inside:
    """The RDMA process' work in a thread of ours."""

    def __init__(self, port: Port) -> None:
        self._ours, theirs = socket.socketpair()
        settings = RdmaSettings(
            host="here", rnics={port.device: port.address}, key=b"k" * 32, timeout_seconds=0.3, max_paths=64
        )
        store = Store(rdma_tables(64, 1))
        self._thread = threading.Thread(
            target=RdmaHost(settings, store, ResultRing(RESULT_CAPACITY), theirs, Loop()).run
        )

    def __enter__(self) -> Inside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._thread.join(5)
        assert not self._thread.is_alive()

    def plan(self, *targets: Target) -> None:
        send_message(self._ours, msgspec.msgpack.encode(Orders(targets=targets)))


class Window:
    """What is answered from now on until ``end``, path by path."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._since = len(host.results())
        self._answers: dict[str, list[Result]] = {}

    def end(self) -> None:
        names = {row.identity: row.labels[0] for row in self._host.store.read(PATH)}
        self._answers = defaultdict(list)
        for result in self._host.results()[self._since :]:
            if result.outcome == ANSWERED:
                self._answers[names[result.path]].append(result)

    def answered(self, path: str) -> int:
        return len(self._answers.get(path, ()))

    def percentile(self, path: str, percent: int) -> int:
        """Of its round trips, ns; also of those that a busy process has spoilt."""
        return nearest_rank([result.rtt_ns for result in self._answers[path]], percent)

    def gap(self, path: str) -> int:
        """The longest time from one answered probe to the next, ns: none was late, and none missed."""
        return max(later.time_ns - earlier.time_ns for earlier, later in itertools.pairwise(self._answers[path]))

    def starved(self, path: str) -> int:
        return sum(result.starved for result in self._answers[path])


def forget(one: Port, other: Port) -> None:
    for near, far in ((one, other), (other, one)):
        ip("neigh", "del", far.address, "dev", near.netdev)


def repeat(action: Callable[[], None], seconds: float) -> None:
    for _ in range(int(seconds * 5)):
        action()
        time.sleep(0.2)


def ip(*words: str) -> None:
    """Whatever comes of it: a neighbour that is to be forgotten may not be known."""
    subprocess.run(["ip", *words], check=False, stderr=subprocess.DEVNULL)
