"""One hour of 2,000 container creations a minute, as fast as the code takes it: are series and memory bounded?

``python -m benchmarks.churn`` runs the exporters of two hosts of a simulated fleet: the real control process with its
plan file, renderer and joins, and the real prober process with its sockets on loopback, on a clock that runs faster.
A third process probes and answers for all other hosts. Every scrape is compared with the catalogue's formulas for the
plan of that moment. The prober of the second host is killed twice. Exit status 1 when a bound is broken.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from benchmarks.churn_rivals import RivalHour, rival_hours
from benchmarks.churn_verdict import FLOWS, Hour, verdicts
from benchmarks.scales import Scale, count_scale
from benchmarks.simulated_fleet import (
    CREATIONS_PER_MINUTE,
    RNICS,
    SOURCE_PORTS,
    Fleet,
    address,
    host_name,
    plan_of,
    rnic_name,
    topology,
)
from benchmarks.watched_exporter import Measurement, Scrape, memory_of
from benchmarks.watched_prober import SIZES, SPEED
from exporter.child import Child
from exporter.contracts.codec import encode, write
from exporter.contracts.plan import RESPONDER_PORT, Target
from exporter.probing.responder import IDLE_SECONDS
from exporter.probing.settings import RESULT_CAPACITY, ProberSettings, prober_tables
from exporter.results import ResultRing
from exporter.store import Store

_KEY = b"churn" * 5
_WATCHED = 2
_SCRAPE_SECONDS = 15
_GRACE_SECONDS = 60  # a checkpoint waits that long for both hosts to have containers
_TIMEOUT_SECONDS = 15.0  # on the fast clock: half a real second
_CONFIG = """host: {host}
topology: ../topology.json
plan: plan.json
listen: {{address: 127.0.0.1}}
probing: {{key_file: ../key, timeout_seconds: {timeout}, max_paths: 4096}}
"""


class WatchedHost:
    """The process of ``benchmarks.watched_exporter`` for one host, and its plan file."""

    def __init__(self, directory: Path, host: int) -> None:
        self.host = host
        self.generations = 0
        self.most_streams = 0
        """The most paths towards this host that began within the responder's memory."""
        self._inbound: set[str] = set()
        self._began: deque[tuple[float, int]] = deque()
        self._generation = ("", -1, False)
        self._directory = directory
        directory.mkdir()
        config = directory / "config.yaml"
        config.write_text(_CONFIG.format(host=host_name(host), timeout=_TIMEOUT_SECONDS))
        argv = [sys.executable, "-m", "benchmarks.watched_exporter", str(config)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def follow(self, fleet: Fleet) -> bool:
        """Write the plan file when it is another; return whether it was."""
        generation = fleet.generation(self.host)
        if generation == self._generation:
            return False
        self._generation = generation
        self.generations += 1
        plan = fleet.plan(self.host, self.generations)
        write(self._directory / "plan.json", encode(plan))
        self._count_inbound(fleet.now, {t.path for t in plan.targets if t.destination_host == host_name(self.host)})
        return True

    def _count_inbound(self, now: float, paths: set[str]) -> None:
        """A responder may hold those that began lately and those that go on; handshakes it does not count."""
        counted = {path for path in paths if "/tcp/" not in path}
        self._began.append((now, len(counted - self._inbound)))
        self._inbound = counted
        while self._began[0][0] < now - IDLE_SECONDS:
            self._began.popleft()
        self.most_streams = max(self.most_streams, len(counted) + sum(count for _, count in self._began))

    @property
    def busy(self) -> bool:
        """Whether it has a container with peers just now."""
        return bool(self._inbound)

    def begin(self, command: str) -> None:
        stdin: IO[bytes] | None = self._process.stdin
        if stdin is not None:
            stdin.write(command.encode() + b"\n")
            stdin.flush()

    def end(self) -> bytes:
        line = self._process.stdout.readline() if self._process.stdout is not None else b""
        if not line:
            raise SystemExit(f"the exporter of {host_name(self.host)} ended with {self._process.wait()}")
        return line

    def measure(self) -> Measurement:
        self.begin("measure")
        return msgspec.json.decode(self.end(), type=Measurement)

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)


@contextmanager
def rest_of_fleet(hosts: int) -> Iterator[Child]:
    """One prober process for all hosts that are not watched: it answers, and probes towards those that are."""
    store, results = Store(prober_tables(4096)), ResultRing(RESULT_CAPACITY)
    settings = ProberSettings(
        host="rest",
        addresses={address(host, rail): rnic_name(rail) for host in range(_WATCHED, hosts) for rail in range(RNICS)},
        key=_KEY,
        timeout_seconds=_TIMEOUT_SECONDS,
        max_paths=4096,
        responder=True,
        responder_port=RESPONDER_PORT,
        trace_period_seconds=60.0,
        trace_max_hops=8,
    )
    child = Child("benchmarks.watched_prober", (store.descriptor, results.descriptor), msgspec.msgpack.encode(settings))
    child.tick(time.monotonic())
    try:
        yield child
    finally:
        child.stop()


def inbound(fleet: Fleet) -> list[Target]:
    """What the rest of the fleet probes: the paths of other hosts towards those that are watched."""
    names = {host_name(host) for host in range(_WATCHED)}
    plans = [fleet.plan(host, 1) for host in range(_WATCHED)]
    return [target for plan in plans for target in plan.targets if target.source_host not in names]


def run_hour(hosts: int, minutes: int, speed: float, seed: int) -> Hour:
    fleet = Fleet(hosts, seed)
    hour = Hour(minutes=minutes, watched=[host_name(host) for host in range(_WATCHED)])
    os.environ[SPEED] = str(speed)
    checkpoints = [minutes * 15 * part for part in range(1, 5)]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "key").write_bytes(_KEY)
        write(root / "topology.json", encode(topology(hosts)))
        os.environ[SIZES] = str(root / "sizes.json")
        with rest_of_fleet(hosts) as rest:
            watched = [WatchedHost(root / host_name(host), host) for host in range(_WATCHED)]
            try:
                _command(watched, "tick")
                hour.measured[0] = [host.measure() for host in watched]
                began, due = time.monotonic(), list(checkpoints)
                for second in range(1, minutes * 60 + _GRACE_SECONDS + 1):
                    fleet.step()
                    changed = [host for host in watched if host.follow(fleet)]
                    if changed:
                        rest.tell(msgspec.msgpack.encode(plan_of(inbound(fleet), "rest", second)))
                        _command(changed, "tick")
                    if second % _SCRAPE_SECONDS == 0:
                        for answer in _command(watched, "scrape"):
                            hour.scrapes.append(msgspec.json.decode(answer, type=Scrape))
                    if second % 60 == 0:
                        _command(watched, "records")
                    if second in (checkpoints[0], checkpoints[2]):
                        _command(watched[1:], "kill")
                    if (
                        due
                        and second >= due[0]
                        and (all(host.busy for host in watched) or second >= due[0] + _GRACE_SECONDS)
                    ):
                        hour.measured[due.pop(0)] = [host.measure() for host in watched]
                        print(
                            f"  {second} simulated seconds in {time.monotonic() - began:.0f}",
                            file=sys.stderr,
                            flush=True,
                        )
                    if not due:
                        break
                    time.sleep(max(0.0, began + second / speed - time.monotonic()))
                hour.seconds = time.monotonic() - began
            finally:
                for host in watched:
                    host.stop()
    hour.simulated = fleet.now
    hour.created, hour.ended, hour.jobs = fleet.created, fleet.ended, fleet.jobs
    hour.generations = [host.generations for host in watched]
    # A prober that starts again, as that of the second host does twice, has new tokens for its paths.
    hour.streams_bound = [host.most_streams + 2 * FLOWS * 2 for host in watched]
    return hour


def _command(hosts: Sequence[WatchedHost], command: str) -> list[bytes]:
    for host in hosts:
        host.begin(command)
    return [host.end() for host in hosts]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join((first, *others)).rstrip())


def report(hour: Hour, rivals: Sequence[RivalHour], scales: Sequence[Scale]) -> bool:
    """Print everything; return whether every bound held."""
    print(
        f"{hour.minutes} simulated minutes in {hour.seconds:.0f} s: {hour.created:,} containers created "
        f"({hour.created * 60 / hour.simulated:,.0f} a minute of {CREATIONS_PER_MINUTE:,} wanted), "
        f"{hour.ended:,} ended, {hour.jobs:,} jobs; plan files obeyed by the two watched hosts: "
        f"{' and '.join(f'{count:,}' for count in hour.generations)}; {len(hour.scrapes):,} pages compared."
    )
    times = [f"{second // 60} min" for second in hour.measured]
    held = True
    for number, host in enumerate(hour.watched):
        rows = verdicts(hour, number)
        held = held and all(row.held for row in rows)
        lines = [(row.name, *row.values, row.bound, "ok" if row.held else "BROKEN") for row in rows]
        killed = ", prober killed twice" if number else ""
        _table(f"{host}{killed}", ("", *times, "bound", ""), lines)
    ours = max(scrape.seconds for scrape in hour.scrapes[-_WATCHED:])
    last = hour.measured[max(hour.measured)][0].scrape
    most = max(sum(scrape.series.values()) for scrape in hour.scrapes)
    _table(
        f"Path series of host-0000 recorded by others, which forget none (ours: at most {most:,} series of all "
        f"families, {last.page_bytes:,} bytes, {ours * 1e3:.1f} ms of the processor a page)",
        ("", *times[1:], "times ours", "memory", "last page"),
        [
            (
                rival.name, *rival.series, f"{rival.series[-1] / most:.0f} x",
                f"+{rival.resident_growth / 1e6:.0f} MB", f"{rival.scrape_seconds * 1e3:.0f} ms",
            )
            for rival in rivals
        ],
    )  # fmt: skip
    _table(
        "Whole fleets, every path answered and traced, counted on every host's page",
        ("RNICs", "paths", "formula", "counted", "counted an RNIC", ""),
        [
            (f"{scale.rnics:,}", scale.paths, scale.formula, scale.counted, f"{scale.counted / scale.rnics:.0f}",
             "ok" if scale.counted <= scale.formula else "BROKEN")
            for scale in scales
        ],
    )  # fmt: skip
    return held and all(scale.counted <= scale.formula for scale in scales)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.churn", description="An hour of container churn, in minutes.")
    parser.add_argument("--hosts", type=int, default=512, help="hosts of the fleet, 8 RNICs each (512)")
    parser.add_argument("--minutes", type=int, default=60, help="simulated minutes (60)")
    parser.add_argument("--speed", type=float, default=30.0, help="simulated seconds a second at most (30)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--scales", default="8,64,512", help="hosts of the fleets to count ('' for none)")
    parser.add_argument("--no-rivals", action="store_true", help="leave out the libraries compared with")
    options = parser.parse_args()
    needed = 2 * options.hosts * RNICS + len(SOURCE_PORTS) * options.hosts * RNICS // 8 + 1000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < needed:
        parser.error(f"{needed} descriptors are needed: raise 'ulimit -Hn' or lower --hosts")
    print(f"start: {memory_of(os.getpid()).resident / 1e6:.0f} MB, {options.hosts} hosts", file=sys.stderr)
    hour = run_hour(options.hosts, options.minutes, options.speed, options.seed)
    checkpoints = [second for second in hour.measured if second]
    rivals = [] if options.no_rivals else rival_hours(options.hosts, options.seed, checkpoints)
    scales = [count_scale(int(hosts)) for hosts in options.scales.split(",") if hosts]
    return 0 if report(hour, rivals, scales) else 1


if __name__ == "__main__":
    sys.exit(main())
