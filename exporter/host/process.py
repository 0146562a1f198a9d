"""The process that reads the RNICs' counters, one after the other, and goes on with the others when one hangs.

Started as ``python -m exporter.host.process STORE CONTROL``. It ends when the pipe closes. A read that hangs in the
kernel cannot be stopped: its thread is left waiting, another one takes the RNICs that are due, and the values of the
one that hangs are taken back until it returns.
"""

from __future__ import annotations

import math
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from exporter.contracts.metric import Metric
from exporter.host.dcb import Priorities, read_priorities
from exporter.host.ethtool import KernelStatistics, SavedStatistics
from exporter.host.reading import Reading, RnicReader
from exporter.host.rows import RnicRows, Tables
from exporter.host.settings import CounterSettings, RnicSettings, counter_tables
from exporter.host.vlans import Vlan, read_vlans
from exporter.inheritance import inherit
from exporter.messages import receive_message
from exporter.store import Store

_LATE_SECONDS = 0.001
"""After the instant, lest a clock that is adjusted have it come twice."""
_PATIENCE_SECONDS = 0.2
"""A reading that takes longer holds up no other: the rest is for another thread."""


def _of_nobody(_: str) -> Priorities:
    return Priorities()


class _Rnic:
    """One RNIC, and what is being read of it."""

    def __init__(self, rnic: RnicSettings, settings: CounterSettings, tables: Tables) -> None:
        saved = settings.ethtool
        statistics = KernelStatistics() if saved is None else SavedStatistics(Path(saved))
        self.name = rnic.name
        # Another host's files do not go with what this one's kernel says.
        priorities = read_priorities if saved is None else _of_nobody
        self.reader = RnicReader(rnic.name, rnic.netdev, statistics, Path(settings.sysfs), priorities)
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
        self.told = False
        """Its last whole reading was written down."""
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
        self._step = settings.step_seconds
        self._step_changed = threading.Event()
        self._known_vlans: Mapping[str, Vlan] = {}
        self._vlans_due = 0.0
        self._start_thread()

    def run(self) -> None:
        self._order(time.monotonic())
        while not self._closed:
            if self._wait_for_instant():
                self._order(time.monotonic())

    def _wait_for_instant(self) -> bool:
        """Wait for a whole multiple of the step, as all hosts do; False where the step has changed meanwhile."""
        ends = time.monotonic() + self._step - time.time() % self._step + _LATE_SECONDS
        while (left := ends - time.monotonic()) > 0 and not self._closed:
            if self._idle.wait(min(left, _PATIENCE_SECONDS)):
                if self._step_changed.wait(max(0.0, ends - time.monotonic())):
                    self._step_changed.clear()
                    return False
            else:
                self._watch(time.monotonic())
        return True

    def change_step(self, step: float | None) -> None:
        """Read bytes each so many seconds from now on; None: as the settings have it."""
        self._step = min(step or math.inf, self._settings.step_seconds)
        self._step_changed.set()

    def close(self) -> None:
        self._closed = True

    def give_up(self) -> None:
        """Take all back: nobody reads any more."""
        with self._lock:
            for each in self._rnics:
                each.rows.fail()

    def _order(self, now: float) -> None:
        with self._lock:
            for each in self._rnics:
                if each.began is not None or each.waiting:
                    continue
                each.whole = now >= each.due
                if each.whole:
                    each.due = now + self._settings.period_seconds - self._settings.step_seconds / 2
                each.waiting = True
                self._orders.put(each)
            self._idle.clear()

    def _watch(self, now: float) -> None:
        """Look for readings that take too long."""
        with self._lock:
            busy = [(each, each.began) for each in self._rnics if each.began is not None]
            own = [(each, began) for each, began in busy if not each.replaced]
            held_up = own and all(now - began > _PATIENCE_SECONDS for _, began in own)
            if held_up and any(each.waiting for each in self._rnics):
                for each, _ in own:
                    each.replaced = True
                self._start_thread()
            for each, began in busy:
                if not each.late and now - began > self._settings.deadline_seconds:
                    each.late = True
                    each.rows.fail()
                    self._say(each, f"no end within {self._settings.deadline_seconds:g} s: does its firmware hang?")

    def _start_thread(self) -> None:
        threading.Thread(target=self._read_for_ever, daemon=True).start()

    def _read_for_ever(self) -> None:
        """Read what is due, until another thread does."""
        replaced = False
        while not replaced:
            rnic = self._orders.get()
            with self._lock:
                rnic.began, rnic.waiting = time.monotonic(), False
                began, whole = rnic.began, rnic.whole
                if whole:
                    rnic.rows.begin_reading()
            reading, values, problem = None, None, ""
            try:
                if whole:
                    reading = rnic.reader.read(self._vlans())
                elif rnic.told:
                    values = rnic.reader.read_bytes()
            except (OSError, ValueError, RuntimeError) as error:
                named = getattr(error, "filename", None) or rnic.name
                problem = f"{getattr(error, 'strerror', None) or error}: {named}"
            with self._lock:
                self._write_down(rnic, reading, values, problem, time.monotonic() - began)
                replaced = rnic.replaced
                rnic.began, rnic.late, rnic.replaced = None, False, False
                if not any(each.waiting or each.began is not None for each in self._rnics):
                    self._idle.set()

    def _write_down(
        self, rnic: _Rnic, reading: Reading | None, values: dict[Metric, float] | None, problem: str, seconds: float
    ) -> None:
        if rnic.late or (problem and not rnic.whole):
            # What returns after so long is old; and of a device that goes, a whole reading says more.
            rnic.due, rnic.told = 0.0, False
        elif problem:
            rnic.told = False
            rnic.rows.fail()
            self._say(rnic, problem)
        elif reading is not None:
            rnic.told = True
            rnic.rows.put(reading, seconds, time.time())
            self._say(rnic, reading.refused)
        elif values:
            rnic.rows.put_bytes(values)

    def _vlans(self) -> Mapping[str, Vlan]:
        """Those of this namespace: once for all RNICs that are read one after the other."""
        now = time.monotonic()
        if self._settings.ethtool is None and now >= self._vlans_due:
            self._vlans_due = now + self._settings.period_seconds / 2
            try:
                self._known_vlans = read_vlans()
            except OSError:  # netlink is forbidden here: what is read next says so
                self._known_vlans = {}
        return self._known_vlans

    def _say(self, rnic: _Rnic, problem: str) -> None:
        """Each change once, not each reading."""
        if problem != rnic.problem:
            print(f"counters of {rnic.name}: {problem or 'read again'}", file=sys.stderr, flush=True)
        rnic.problem = problem


def _obey(control: socket.socket, loop: CounterLoop) -> None:
    while (message := receive_message(control)) is not None:
        loop.change_step(msgspec.msgpack.decode(message, type=float | None))
    loop.close()
    sys.stderr.flush()
    os._exit(0)  # a thread that hangs in the kernel would hold up a usual end


def main() -> None:
    given = inherit(CounterSettings)
    loop = CounterLoop(given.settings, Store(counter_tables(len(given.settings.rnics)), *given.memory))

    def end(problem: threading.ExceptHookArgs) -> None:
        """A thread that dies by a bug takes the process along: the control process starts it again."""
        threading.__excepthook__(problem)
        loop.give_up()  # with a thread in the kernel the process does not end before that returns
        sys.stderr.flush()
        os._exit(1)

    threading.excepthook = end
    threading.Thread(target=_obey, args=(given.control, loop), daemon=True).start()
    loop.run()


if __name__ == "__main__":
    main()
