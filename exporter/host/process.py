"""The process that reads the RNICs' counters: one thread an RNIC, so that firmware that hangs delays no other.

Started as ``python -m exporter.host.process STORE CONTROL``. It ends when the pipe closes. A read that hangs in the
kernel cannot be stopped: its thread is left waiting, and the RNIC's values are taken back until it returns.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from exporter.contracts.metric import Metric
from exporter.contracts.rnic_counters import RDMA_BYTES_TIME
from exporter.host.device import read_vlans
from exporter.host.ethtool import KernelStatistics, SavedStatistics
from exporter.host.reading import Reading, RnicReader
from exporter.host.rows import RnicRows, Tables
from exporter.host.settings import CounterSettings, RnicSettings, counter_tables
from exporter.messages import receive_message
from exporter.store import Store

_LOOK_SECONDS = 0.1
"""How often a reading in progress is held against its deadline."""


class _Answer(msgspec.Struct, frozen=True):
    rnic: str
    seconds: float
    reading: Reading | None = None
    bytes: Mapping[Metric, float] | None = None
    error: str = ""


class _Worker(threading.Thread):
    """Reads one RNIC when it is asked to."""

    def __init__(self, rnic: RnicSettings, settings: CounterSettings, answers: queue.SimpleQueue[_Answer]) -> None:
        super().__init__(name=rnic.name, daemon=True)
        self.rnic = rnic.name
        self.began: float | None = None
        """Monotonic time at which what is being read now was asked for; None while idle."""
        self.late = False
        self._answers = answers
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        saved = settings.ethtool
        statistics = KernelStatistics() if saved is None else SavedStatistics(Path(saved))
        self._reader = RnicReader(rnic.name, rnic.netdev, statistics, Path(settings.sysfs))

    def ask(self, now: float, *, whole: bool) -> None:
        self.began, self.late = now, False
        self._orders.put(whole)

    def run(self) -> None:
        while True:
            whole = self._orders.get()
            began = time.monotonic()
            try:
                if whole:
                    answer = _Answer(self.rnic, 0.0, reading=self._reader.read(read_vlans()))
                else:
                    answer = _Answer(self.rnic, 0.0, bytes=self._reader.read_bytes())
            except OSError as error:
                answer = _Answer(self.rnic, 0.0, error=f"{error.strerror or error}: {error.filename or self.rnic}")
            self._answers.put(msgspec.structs.replace(answer, seconds=time.monotonic() - began))


class CounterLoop:
    """Asks the workers in time, writes down what they answer, and notices who does not."""

    def __init__(self, settings: CounterSettings, store: Store) -> None:
        store.clear()
        tables = Tables(store)
        self._settings = settings
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._workers = [_Worker(rnic, settings, self._answers) for rnic in settings.rnics]
        self._rows = {rnic.name: RnicRows(tables, settings.host, rnic.name) for rnic in settings.rnics}
        self._told: dict[str, str] = {}
        self._whole_due = dict.fromkeys(self._rows, 0.0)
        for worker in self._workers:
            worker.start()

    def run(self, closed: threading.Event) -> None:
        step, sampled = self._settings.step_seconds, 0
        while not closed.is_set():
            now = time.time()
            if int(now / step) != sampled:  # all hosts at the same instants, as the control process samples
                sampled = int(now / step)
                self._ask(time.monotonic())
            self._look(time.monotonic())
            wait = min(_LOOK_SECONDS, step - time.time() % step)
            try:
                self._take(self._answers.get(timeout=wait))
                while True:
                    self._take(self._answers.get_nowait())
            except queue.Empty:
                continue

    def _ask(self, now: float) -> None:
        for worker in self._workers:
            if worker.began is not None:
                continue
            whole = now >= self._whole_due[worker.rnic]
            if whole:
                self._whole_due[worker.rnic] = now + self._settings.period_seconds - self._settings.step_seconds / 2
                self._rows[worker.rnic].begin_reading()
            worker.ask(now, whole=whole)

    def _look(self, now: float) -> None:
        for worker in self._workers:
            if worker.began is None or worker.late or now - worker.began <= self._settings.deadline_seconds:
                continue
            worker.late = True
            self._rows[worker.rnic].fail()
            self._say(worker.rnic, f"no end within {self._settings.deadline_seconds:g} s: does its firmware hang?")

    def _take(self, answer: _Answer) -> None:
        worker = next(worker for worker in self._workers if worker.rnic == answer.rnic)
        late, worker.began = worker.late, None
        rows = self._rows[answer.rnic]
        if answer.error:
            if not late:
                rows.fail()
            self._say(answer.rnic, answer.error)
        elif answer.reading is not None:
            rows.put(answer.reading, answer.seconds, time.time())
            self._say(answer.rnic, "")
        elif answer.bytes and not self._told.get(answer.rnic):
            rows.put_bytes({**answer.bytes, RDMA_BYTES_TIME: time.time()})

    def _say(self, rnic: str, problem: str) -> None:
        """Each change once, not each reading."""
        if problem != self._told.get(rnic, ""):
            print(f"counters of {rnic}: {problem or 'read again'}", file=sys.stderr, flush=True)
        self._told[rnic] = problem


def _close_with(control: socket.socket, closed: threading.Event) -> None:
    while control.recv(4096):
        pass
    closed.set()


def main() -> None:
    store_descriptor, control_descriptor = map(int, sys.argv[1:3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=control_descriptor)
    first = receive_message(control)
    if first is None:
        return
    settings = msgspec.msgpack.decode(first, type=CounterSettings)
    closed = threading.Event()
    threading.Thread(target=_close_with, args=(control, closed), daemon=True).start()
    loop = CounterLoop(settings, Store(counter_tables(len(settings.rnics)), store_descriptor))
    loop.run(closed)
    sys.stderr.flush()
    os._exit(0)  # a thread that hangs in the kernel would hold up a usual end


if __name__ == "__main__":
    main()
