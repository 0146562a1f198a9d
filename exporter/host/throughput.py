"""Throughput rings of all RNICs of a host, always and on request, and their rows."""

from __future__ import annotations

import csv
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.config import Workload
from exporter.contracts.request import ThroughputRequest
from exporter.contracts.tables import ThroughputRow
from exporter.host.ring import Rate, Sample, ThroughputRing
from exporter.stopping import Stopping

_COLUMNS = ThroughputRow.__struct_fields__
_AHEAD_SECONDS = 2.0
"""Before its start whoever reads counters is told of a request."""


@dataclass(frozen=True, slots=True)
class Read:
    """The byte counters of one RNIC, from one of two sources."""

    sample: Sample
    by_rnic: bool
    """By the RNIC's own counters, with RDMA; else by the network device, whose counters RDMA passes by."""


class Rings:
    """One ring for each RNIC, of samples from one source at a time."""

    def __init__(self, rnics: Sequence[str], step: float, capacity: int) -> None:
        self._step = step
        self._lock = threading.Lock()
        self._rings = {name: ThroughputRing(capacity) for name in rnics}
        self._by_rnic: set[str] = set()
        self._last: dict[str, int] = {}
        """Number of the step of the last sample."""

    def add(self, read: Mapping[str, Read]) -> None:
        """Take what was read, of each step the first: it may be read more often, or the last be read again."""
        with self._lock:
            for name, one in read.items():
                if one.by_rnic and name not in self._by_rnic:
                    self._by_rnic.add(name)
                    self._rings[name].clear()
                if one.by_rnic != (name in self._by_rnic):
                    continue  # bytes without RDMA's would look like a counter that was reset
                number = int(one.sample.time / self._step)
                # What was read of the step before may be told once more; what is older, a clock was set back.
                if number - self._last.get(name, number - 2) not in (0, -1):
                    self._last[name] = number
                    self._rings[name].append(one.sample)

    def rates(self, rnic: str, since: float, until: float) -> Iterator[Rate]:
        """Rates of intervals that end after ``since`` and not after ``until``."""
        if rnic in self._rings:
            yield from (rate for rate in self._rings[rnic].rates(since) if rate.time <= until)


class Capture:
    """Samples at the step of a request while it lasts, in a thread; keeps what it took until the next one begins.

    ``read`` reads all RNICs once: network devices at once, and what the RNICs themselves have counted after a pause in
    seconds, in which the process that reads them does. ``order`` has that do so at a step, None for the usual.
    """

    def __init__(
        self, rnics: Sequence[str], read: Callable[[float], Mapping[str, Read]], order: Callable[[float | None], None]
    ) -> None:
        self._rnics, self._read, self._order = rnics, read, order
        self._request: ThroughputRequest | None = None
        self._begun: ThroughputRequest | None = None
        self._stopping = Stopping()
        self._thread: threading.Thread | None = None
        self.rings: Rings | None = None
        self.step_seconds = 0.0

    def obey(self, request: ThroughputRequest | None) -> None:
        """From the next tick on; None ends what is being sampled."""
        self._request = request

    def tick(self, now: float) -> None:
        """Begin what is due at Unix time ``now``, and end what is over; call about once a second."""
        request = self._request
        if self._thread is not None and request != self._begun:
            self.stop()
        elif self._thread is not None and not self._thread.is_alive():
            self._thread = None
            self._order(None)
        if request is None or request == self._begun or not request.start - _AHEAD_SECONDS <= now < request.end:
            return
        self._begun, self.step_seconds = request, request.step_seconds
        self.rings = Rings(
            self._rnics, request.step_seconds, int((request.end - request.start) / request.step_seconds) + 2
        )
        self._stopping = Stopping()
        self._order(request.step_seconds)
        self._thread = threading.Thread(
            target=self._sample, args=(request, self.rings, self._stopping), name="capture", daemon=True
        )
        self._thread.start()
        print(
            f"throughput is sampled each {request.step_seconds:g} s from {request.start:.3f} to {request.end:.3f}",
            file=sys.stderr,
            flush=True,
        )

    def _sample(self, request: ThroughputRequest, rings: Rings, stopping: Stopping) -> None:
        step = request.step_seconds
        ends = time.monotonic() + request.end - time.time()  # a clock that is set back makes it no longer
        # On whole multiples of the step, as all hosts do; that at the end ends the last interval.
        while (now := time.time()) < request.end and time.monotonic() < ends:
            if stopping.wait(step - now % step):
                return
            if time.time() >= request.start - step / 2:
                rings.add(self._read(step / 4))

    def stop(self) -> None:
        """End what is being sampled, if anything is."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = self._begun = None  # the same may be asked for again while it lasts
            self._order(None)


def throughput_csv(rings: Rings, host: str, workloads: Sequence[Workload], since: float, until: float) -> bytes:
    """The rings as the throughput contract; RNICs that no workload names are nobody's traffic."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for workload in workloads:
        rank = "" if workload.rank is None else workload.rank
        for name in workload.rnics:
            for rate in rings.rates(name, since, until):
                writer.writerow(
                    (
                        f"{rate.time:.6f}",
                        workload.job,
                        host,
                        workload.container,
                        name,
                        f"{rate.transmit_bytes_per_second:.1f}",
                        f"{rate.receive_bytes_per_second:.1f}",
                        rank,
                    )
                )
    return text.getvalue().encode()
