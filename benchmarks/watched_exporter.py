"""The control process of a watched host: the exporter itself, ticked and scraped when the benchmark says so.

``python -m benchmarks.watched_exporter CONFIG`` reads one command a line and answers each with a line of JSON:
``tick`` looks at the plan file and hands it on until the prober probes just these paths, ``scrape`` compares the
page with the catalogue, ``records`` asks for the probe records, ``measure`` adds sizes and memory, ``kill`` kills the
prober and waits for the next one.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.series import bounds, count_series, terms_of
from benchmarks.simulated_fleet import MOST_LINKS
from benchmarks.watched_prober import SIZES
from exporter.child import Child
from exporter.config import read_config
from exporter.contracts.catalogue import PATH, ROUTE, RTT_TABLE
from exporter.control import Exporter
from exporter.server import Query

_PATIENCE = 30.0


class Memory(msgspec.Struct):
    """Of one process: resident set in bytes, and open descriptors."""

    resident: int
    descriptors: int


class Scrape(msgspec.Struct):
    seconds: float
    """Of the processor."""
    page_bytes: int
    series: dict[str, int]
    bounds: dict[str, int]


class Measurement(msgspec.Struct):
    scrape: Scrape
    terms: dict[str, int]
    control: Memory
    prober: Memory
    rows: dict[str, int]
    """Rows in use, by table."""
    control_sizes: dict[str, int]
    prober_sizes: dict[str, int]
    restarts: int


def memory_of(pid: int) -> Memory:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Memory(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd")))


def trim_memory() -> None:
    """Give back what is free: what is held is measured, not what the last answer has just let go of."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


class WatchedExporter:
    def __init__(self, config: str) -> None:
        self._exporter = Exporter(read_config(config))
        prober = self._exporter._prober
        if prober is None:
            raise SystemExit(f"{config}: has no section 'probing'")
        self._prober: Child = prober
        self._prober.module = "benchmarks.watched_prober"
        self._sizes = Path(config).with_name("sizes.json")
        os.environ[SIZES] = str(self._sizes)

    def _obeyed(self) -> bool:
        """Whether paths and histograms are those of the plan; in the midst of a change there are old and new."""
        exporter = self._exporter
        targets = exporter._work.targets
        paths = {row.labels[0] for row in exporter._probed.read(PATH)}
        histograms = {row.labels[1:] for row in exporter._probed.read(RTT_TABLE)}
        return (
            self._prober.running
            and paths == {target.path for target in targets}
            and histograms == {(target.source_rnic, target.role, target.probe) for target in targets}
        )

    def tick(self) -> None:
        ends = time.monotonic() + _PATIENCE
        while True:
            self._exporter._tick()
            for _ in range(100):
                if self._obeyed():
                    return
                time.sleep(0.0005)
            if time.monotonic() > ends:
                raise SystemExit("the prober does not probe the paths of its plan")

    def scrape(self) -> Scrape:
        exporter = self._exporter
        began = time.process_time()
        page = exporter._metrics(Query()).body
        seconds = time.process_time() - began
        terms = terms_of(exporter._work.targets, len(exporter._config.rnics), MOST_LINKS, len(exporter._children))
        return Scrape(seconds, len(page), dict(count_series(page.decode())), bounds(terms))

    def measure(self) -> Measurement:
        exporter = self._exporter
        pid = self._prober.pid
        if pid is None:
            raise SystemExit("the prober is not running")
        scrape = self.scrape()
        trim_memory()
        self._sizes.unlink(missing_ok=True)
        ends = time.monotonic() + _PATIENCE
        while not self._sizes.exists():
            if time.monotonic() > ends:
                raise SystemExit("the prober does not say what it holds")
            os.kill(pid, signal.SIGUSR1)  # again, while it is starting and ignores it
            time.sleep(0.05)
        renderer, links = exporter._renderer, exporter._links
        return Measurement(
            scrape,
            terms_of(exporter._work.targets, len(exporter._config.rnics), MOST_LINKS, len(exporter._children)),
            memory_of(os.getpid()),
            memory_of(pid),
            {table.name: len(list(exporter._probed.read(table))) for table in (PATH, RTT_TABLE, ROUTE)},
            {
                "label texts": sum(len(texts) for _, texts in renderer._labels.values()),
                "line pieces": sum(len(lines.pieces) for lines in renderer._lines.values()),
                "routes resolved": len(links._known) if links is not None else 0,
                "records' paths": len(exporter._records._labels),
            },
            json.loads(self._sizes.read_text()),
            self._prober.restarts,
        )

    def kill(self) -> None:
        pid = self._prober.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            while self._prober.running:
                time.sleep(0.01)
        self.tick()

    def records(self) -> int:
        return len(self._exporter._probe_records(Query()).body)

    def stop(self) -> None:
        for child in self._exporter._children:
            child.stop()


def main() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited by the prober, which it would end before it listens
    watched = WatchedExporter(sys.argv[1])
    commands = {
        "tick": watched.tick,
        "scrape": watched.scrape,
        "measure": watched.measure,
        "kill": watched.kill,
        "records": watched.records,
    }
    try:
        for line in sys.stdin:
            sys.stdout.buffer.write(msgspec.json.encode(commands[line.strip()]()) + b"\n")
            sys.stdout.flush()
    finally:
        watched.stop()


if __name__ == "__main__":
    main()
