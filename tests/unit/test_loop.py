"""The prober's event loop: when it wakes, what it reads then, and how few times a busy one wakes."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from exporter.probing.loop import FEW, SLOT_NS, Loop

FAR = "127.0.0.3"


class Reader:
    """A socket that notes how late each packet was read, in ns, and how many times its handler was called."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((FAR, 0))
        self._socket.setblocking(False)
        self.address = self._socket.getsockname()
        self.late: list[int] = []
        self.calls = 0
        self.last_late_ns = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def on_input(self) -> None:
        self.calls += 1
        self.last_late_ns = self._loop.late_ns
        while True:
            try:
                sent = int(self._socket.recv(64))
            except BlockingIOError:
                return
            self.late.append(time.monotonic_ns() - sent)

    on_error = on_output = on_input


class Ending:
    """Ends a loop when its socket is closed at the other end; told to stop, it would see that up to a second later."""

    def __init__(self, loop: Loop, socket: socket.socket) -> None:
        self.on_input = self.on_error = self.on_output = loop.stop
        self.fileno = socket.fileno


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def reader(loop: Loop) -> Iterator[Reader]:
    made = Reader(loop)
    yield made
    made.close()


@pytest.fixture
def running(loop: Loop) -> Iterator[Callable[[], None]]:
    """Starts the loop in a thread; it is stopped in the end."""
    thread = threading.Thread(target=loop.run)
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            loop.watch(Ending(loop, theirs))
            yield thread.start
        thread.join(5)
    assert not thread.is_alive()


def send(reader: Reader, count: int, period: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(str(time.monotonic_ns()).encode(), reader.address)
            time.sleep(period)


def test_a_request_now_and_then_is_read_at_once(loop: Loop, reader: Reader, running: Callable[[], None]) -> None:
    loop.watch_for_requests(reader)
    running()
    send(reader, 5, 0.2)
    assert len(reader.late) == 5
    assert sorted(reader.late)[2] < 5_000_000


def test_many_requests_are_read_together_and_none_waits_long(
    loop: Loop, reader: Reader, running: Callable[[], None]
) -> None:
    loop.watch_for_requests(reader)
    running()
    send(reader, 500, 0.002)
    time.sleep(0.2)
    assert len(reader.late) == 500
    assert reader.calls < 120  # of 500 wakes; it looks ten times a second
    assert sorted(reader.late)[490] < 130_000_000


def test_a_loop_that_was_busy_listens_again(loop: Loop, reader: Reader, running: Callable[[], None]) -> None:
    loop.watch_for_requests(reader)
    running()
    send(reader, 100, 0.002)
    time.sleep(0.5)
    reader.late.clear()
    send(reader, 5, 0.2)
    assert sorted(reader.late)[2] < 5_000_000


def test_answers_wait_for_the_slot_that_was_asked_for(loop: Loop, reader: Reader, running: Callable[[], None]) -> None:
    loop.watch_for_answers(reader)
    loop.look_by(loop.clock() + 300_000_000)
    running()
    send(reader, 5, 0.02)
    assert reader.late == []
    time.sleep(0.3 + FEW * SLOT_NS / 1e9)
    assert len(reader.late) == 5
    assert reader.calls == 1


def test_what_need_not_be_exact_shares_slots(loop: Loop, running: Callable[[], None]) -> None:
    slots: list[int] = []
    now = loop.clock()
    for number in range(40):
        loop.at(now + number * 5_000_000, lambda: slots.append(loop.clock() // SLOT_NS), every=FEW)
    running()
    time.sleep(0.4)
    assert len(slots) == 40
    assert len(set(slots)) <= 200 // (FEW * 10) + 2


def test_what_is_forgotten_is_not_read(loop: Loop, reader: Reader, running: Callable[[], None]) -> None:
    loop.watch_for_answers(reader)
    loop.forget(reader)
    loop.forget(reader)
    loop.look_by(loop.clock())
    running()
    send(reader, 1, 0.1)
    assert reader.calls == 0


def test_a_look_says_how_late_it_is(loop: Loop, reader: Reader, running: Callable[[], None]) -> None:
    loop.watch_for_answers(reader)
    loop.at(loop.clock() + 50_000_000, lambda: time.sleep(0.3))
    loop.look_by(loop.clock() + 60_000_000)  # at 160 ms at the latest
    running()
    time.sleep(0.08)
    send(reader, 1, 0.5)
    assert reader.calls == 1
    assert reader.last_late_ns > 20_000_000


class Reopening:
    """Opens another socket, which gets the same descriptor, when its connection is refused."""

    def __init__(self, loop: Loop, refusing: tuple[str, int]) -> None:
        self._loop = loop
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.connect_ex(refusing)
        self.descriptors = [self._socket.fileno()]
        self.calls: list[str] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def on_error(self) -> None:
        self.calls.append("error")
        self._loop.forget(self)
        self._socket.close()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.descriptors.append(self._socket.fileno())
        self._loop.watch(self)

    def on_input(self) -> None:
        self.calls.append("input")

    def on_output(self) -> None:
        self.calls.append("output")


def test_what_happened_to_a_socket_is_not_told_to_the_next_one_with_its_descriptor(loop: Loop) -> None:
    with socket.socket() as nobody:  # bound, not listening: it refuses
        nobody.bind((FAR, 0))
        item = Reopening(loop, nobody.getsockname())
        loop.watch(item, output=True)
        loop.after(0.1, loop.stop)
        loop.run()
        item.close()
    assert item.descriptors[0] == item.descriptors[1]
    assert item.calls == ["error"]


class Woken:
    """A descriptor that notes how long ago the loop says that it was woken, and ends it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK)
        self.awake_ns = 0

    def fileno(self) -> int:
        return self.descriptor

    def on_input(self) -> None:
        self.awake_ns = self._loop.woken_ns - self._loop.awake_since_ns
        self._loop.stop()

    on_error = on_output = on_input


def woken(loop: Loop, before: Callable[[], None] = lambda: None) -> int:
    """Wake ``loop`` after 50 ms; how long before its handler it says it was woken, ns."""
    item = Woken(loop)
    loop.watch(item)

    def wake() -> None:
        time.sleep(0.05)
        before()
        os.eventfd_write(item.descriptor, 1)

    thread = threading.Thread(target=wake)
    thread.start()
    loop.run()
    thread.join()
    os.close(item.descriptor)
    return item.awake_ns


def test_what_is_handled_has_come_since_the_loop_was_woken() -> None:
    assert woken(Loop()) == 0


def test_a_loop_kept_from_its_processor_was_woken_before_it_ran() -> None:
    delays = iter((1_000_000, 8_000_000))
    assert woken(Loop(run_delay=lambda: next(delays))) == 7_000_000


def test_what_is_there_after_a_stop_may_have_come_long_ago() -> None:
    loop = Loop()
    assert woken(loop, before=loop.on_continued) > 1_000_000_000_000  # it says that it was never woken
