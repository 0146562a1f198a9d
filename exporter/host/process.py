"""The process that reads the RNICs' counters, one after the other, and goes on with the others when one hangs.

Started as ``python -m exporter.host.process STORE CONTROL``. It ends when the pipe closes. A read that hangs in the
kernel cannot be stopped: its thread is left waiting, another one takes the RNICs that are due, and the values of the
one that hangs are taken back until it returns.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import msgspec

from exporter.contracts.rnic_counters import RDMA_BYTES_TIME
from exporter.host.device import read_vlans
from exporter.host.ethtool import KernelStatistics, SavedStatistics
from exporter.host.reading import RnicReader
from exporter.host.rows import RnicRows, Tables
from exporter.host.settings import CounterSettings, RnicSettings, counter_tables
from exporter.messages import receive_message
from exporter.store import Store

_LATE_SECONDS = 0.001
"""After the instant, lest a clock that is adjusted have it come twice."""
_PATIENCE_SECONDS = 0.2
"""A reading that takes longer holds up no other: the rest is for another thread."""


class _Rnic:
    """One RNIC, and what is being read of it."""

    def __init__(self, rnic: RnicSettings, settings: CounterSettings, tables: Tables) -> None:
        saved = settings.ethtool
        statistics = KernelStatistics() if saved is None else SavedStatistics(Path(saved))
        self.name = rnic.name
        self.reader = RnicReader(rnic.name, rnic.netdev, statistics, Path(settings.sysfs))
        self.rows = RnicRows(tables, settings.host, rnic.name)
        self.due = 0.0
        """Monotonic time from which on all of it is to be read again, not bytes alone."""
        self.whole = True
        self.waiting = False
        """Ordered, and nobody has begun."""
        self.began: float | None = None
        """Monotonic time at which the reading in progress began."""
        self.late = False
        self.replaced = False
        """Another thread reads what is due: the one that reads this is one too many when it returns."""
        self.problem = ""


class CounterLoop:
    """Has the RNICs read in time, and notices which reading has no end.

    One thread reads all that is due and writes it down; this one watches it. Rows are changed under the lock, which
    nobody holds while reading.
    """

    def __init__(self, settings: CounterSettings, store: Store) -> None:
        store.clear()
        tables = Tables(store)
        self._settings = settings
        self._rnics = [_Rnic(rnic, settings, tables) for rnic in settings.rnics]
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[_Rnic] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._closed = False
        self._start_thread()

    def run(self) -> None:
        step = self._settings.step_seconds
        while not self._closed:
            self._order(time.monotonic())
            # All hosts at the same instants, as the control process samples.
            ends = time.monotonic() + step - time.time() % step + _LATE_SECONDS
            while (left := ends - time.monotonic()) > 0 and not self._closed:
                if self._idle.wait(min(left, _PATIENCE_SECONDS)):
                    time.sleep(max(0.0, ends - time.monotonic()))
                else:
                    self._watch(time.monotonic())

    def close(self) -> None:
        self._closed = True

    def _order(self, now: float) -> None:
        due = [each for each in self._rnics if each.began is None and not each.waiting]
        if due:
            self._idle.clear()
        for each in due:
            each.whole = now >= each.due
            if each.whole:
                each.due = now + self._settings.period_seconds - self._settings.step_seconds / 2
            each.waiting = True
            self._orders.put(each)

    def _watch(self, now: float) -> None:
        """Look for readings that take too long."""
        busy = [each for each in self._rnics if each.began is not None]
        waiting = any(each.waiting for each in self._rnics)
        if waiting and busy and all(now - (each.began or now) > _PATIENCE_SECONDS for each in busy):
            for each in busy:
                each.replaced = True
            self._start_thread()
        for each in busy:
            began = each.began
            if began is None or each.late or now - began <= self._settings.deadline_seconds:
                continue
            with self._lock:
                each.late = True
                each.rows.fail()
                self._say(each, f"no end within {self._settings.deadline_seconds:g} s: does its firmware hang?")

    def _start_thread(self) -> None:
        threading.Thread(target=self._read_for_ever, daemon=True).start()

    def _read_for_ever(self) -> None:
        """Read what is due, until another thread does."""
        vlans = read_vlans()
        while True:
            rnic = self._orders.get()
            rnic.began, rnic.waiting = time.monotonic(), False
            try:
                if rnic.whole:
                    with self._lock:
                        rnic.rows.begin_reading()
                    reading = rnic.reader.read(vlans)
                    with self._lock:
                        rnic.rows.put(reading, time.monotonic() - rnic.began, time.time())
                        self._say(rnic, "")
                elif not rnic.problem and (values := rnic.reader.read_bytes()):
                    with self._lock:
                        rnic.rows.put_bytes({**values, RDMA_BYTES_TIME: time.time()})
            except OSError as error:
                with self._lock:
                    if not rnic.late:
                        rnic.rows.fail()
                    self._say(rnic, f"{error.strerror or error}: {error.filename or rnic.name}")
            replaced = rnic.replaced
            rnic.began, rnic.late, rnic.replaced = None, False, False
            if not any(each.waiting or each.began is not None for each in self._rnics):
                self._idle.set()
                vlans = read_vlans()
            if replaced:
                return

    def _say(self, rnic: _Rnic, problem: str) -> None:
        """Each change once, not each reading."""
        if problem != rnic.problem:
            print(f"counters of {rnic.name}: {problem or 'read again'}", file=sys.stderr, flush=True)
        rnic.problem = problem


def _end_with(problem: threading.ExceptHookArgs) -> None:
    """A thread that dies by a bug takes the process along: the control process starts it again."""
    threading.__excepthook__(problem)
    sys.stderr.flush()
    os._exit(1)


def _close_with(control: socket.socket, loop: CounterLoop) -> None:
    while control.recv(4096):
        pass
    loop.close()
    sys.stderr.flush()
    os._exit(0)  # a thread that hangs in the kernel would hold up a usual end


def main() -> None:
    store_descriptor, control_descriptor = map(int, sys.argv[1:3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=control_descriptor)
    first = receive_message(control)
    if first is None:
        return
    settings = msgspec.msgpack.decode(first, type=CounterSettings)
    threading.excepthook = _end_with
    loop = CounterLoop(settings, Store(counter_tables(len(settings.rnics)), store_descriptor))
    threading.Thread(target=_close_with, args=(control, loop), daemon=True).start()
    loop.run()


if __name__ == "__main__":
    main()
