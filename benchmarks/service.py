"""The live service under load: ``make bench-service``.

Simulated exporters of 5,000 hosts of eight RNICs hold a connection each, with TLS, to a real service that is pinned to
one core with all of its processes; they and what starts jobs are on another. First they come, then 500 more register
within a second, then 2,000 containers are created a minute for ten minutes, in jobs of 20, half of them in one pod.
Then a service is killed a hundred times while as many exporters are connected, and while jobs begin, change and end
(``--sections kills``). Exit status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import heapq
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvloop
import yaml

from benchmarks import service_kills
from benchmarks.markdown import begin, head, row, say, verdict
from benchmarks.service_load import Connection, Herd, agent, allow_many_connections, trusting
from benchmarks.simulated_fleet import CREATIONS_PER_MINUTE, host_name, topology
from exporter.contracts.codec import encode, write
from skeleton_service.live.identity import Identity, Keys, Role

HOSTS, HERD, JOB_CONTAINERS = 5000, 500, 20
POLL_P99, MOST_MIB, HERD_SECONDS, ACTIVATION_SECONDS = 0.25, 400.0, 5.0, 5.0
_MEAN_LIFETIME = 100.0
"""Seconds: the longest that so many hosts allow at so many creations, nearly."""
_SERVICE_CORE, _LOAD_CORE = "0", "1"
_PORT = 19_106


@dataclass
class Service:
    """A running one, and what it takes."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]

    def pids(self) -> list[int]:
        return _with_children(self.process.pid)

    def mebibytes(self) -> float:
        """Of all of its processes, what is shared counted once for each that shares it (proportional set size)."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    def processor_seconds(self) -> float:
        ticks = 0
        for pid in self.pids():
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")


def _with_children(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += _with_children(int(child))
    return found


def certificate(directory: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=service", "-keyout", str(directory / "key.pem"), "-out", str(directory / "certificate.pem")],
        check=True, capture_output=True,
    )  # fmt: skip


def configure(directory: Path, port: int, hosts: int, *, tls: bool, rules: bool = False) -> Keys:
    write(directory / "topology.json", encode(topology(hosts)))
    (directory / "keys").write_bytes(base64.b64encode(os.urandom(32)))
    settings: dict[str, object] = {
        "topology": "topology.json", "state": "state.db", "keys": "keys",
        "listen": {"address": "127.0.0.1", "port": port},
    }  # fmt: skip
    if tls:
        certificate(directory)
        settings["tls"] = {"certificate": "certificate.pem", "key": "key.pem"}
    if rules:
        settings["rules"] = {"directory": "rules", "after_seconds": 0}
    (directory / "service.yaml").write_text(yaml.safe_dump(settings))
    return Keys(directory / "keys")


def serving(directory: Path) -> list[str]:
    """The command of a service that is pinned to its core."""
    argv = ["taskset", "--cpu-list", _SERVICE_CORE, sys.executable, "-m", "skeleton_service.cli", "serve"]
    return [*argv, "--config", str(directory / "service.yaml")]


@contextmanager
def running(directory: Path, port: int) -> Iterator[Service]:
    with open(directory / "log", "ab") as log:
        process = subprocess.Popen(serving(directory), stdout=log, stderr=log)
        try:
            yield Service(directory, port, process)
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


@dataclass
class Figures:
    mebibytes: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)
    created: int = 0
    activations: list[float] = field(default_factory=list)
    late: int = 0
    refused: int = 0


async def watch(service: Service, figures: Figures) -> None:
    used, at = service.processor_seconds(), time.monotonic()
    while True:
        await asyncio.sleep(5)
        now, then = service.processor_seconds(), time.monotonic()
        figures.cores.append((now - used) / (then - at))
        figures.mebibytes.append(service.mebibytes())
        used, at = now, then


class Churn:
    """Jobs that begin and end; each takes its hosts whole."""

    def __init__(self, hosts: int, herd: Herd, operators: Sequence[Connection], figures: Figures) -> None:
        self._herd, self._figures = herd, figures
        self._operators: asyncio.Queue[Connection] = asyncio.Queue()
        for each in operators:
            self._operators.put_nowait(each)
        self._free = list(range(hosts))
        self._dice = random.Random(12)
        self._ends: list[tuple[float, str, list[int]]] = []
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float, creations_per_minute: float) -> None:
        begun, due = time.monotonic(), 0.0
        while (passed := time.monotonic() - begun) < seconds:
            while self._ends and self._ends[0][0] < passed:
                _, job, hosts = heapq.heappop(self._ends)
                self._spawn(self._end(job, hosts))
            if passed >= due and len(self._free) >= JOB_CONTAINERS:
                due += 60 * JOB_CONTAINERS / creations_per_minute
                self._spawn(self._create(passed))
            await asyncio.sleep(0.01)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hosts(self) -> list[int]:
        """Half of the jobs are in neighbouring hosts, half anywhere."""
        if self._number % 2:
            self._free.sort()
            first = self._dice.randrange(len(self._free) - JOB_CONTAINERS + 1)
            taken = self._free[first : first + JOB_CONTAINERS]
        else:
            taken = self._dice.sample(self._free, JOB_CONTAINERS)
        gone = set(taken)
        self._free = [host for host in self._free if host not in gone]
        return taken

    async def _create(self, now: float) -> None:
        self._number += 1
        name, hosts = f"job-{self._number:05d}", self._hosts()
        containers = [{"name": f"{name}-{host}", "host": host_name(host)} for host in hosts]
        body = msgspec.json.encode({"version": 1, "job": name, "containers": containers})
        begun = time.monotonic()
        operator = await self._operators.get()
        try:
            answer = await operator.ask("PUT", f"/v1/jobs/{name}", body)
        finally:
            self._operators.put_nowait(operator)
        if answer.status != 200:
            self._figures.refused += 1
            self._free += hosts
            return
        there = await self._herd.until_all_have(name, {host_name(host): None for host in hosts}, 30)
        took = time.monotonic() - begun
        self._figures.created += len(hosts)
        self._figures.activations.append(took)
        self._figures.late += not there or took > ACTIVATION_SECONDS
        lifetime = min(5 + self._dice.expovariate(1 / (_MEAN_LIFETIME - 5)), 10 * _MEAN_LIFETIME)
        heapq.heappush(self._ends, (now + lifetime, name, hosts))

    async def _end(self, job: str, hosts: list[int]) -> None:
        operator = await self._operators.get()
        try:
            await operator.ask("DELETE", f"/v1/jobs/{job}")
        finally:
            self._operators.put_nowait(operator)
        self._free += hosts


async def ready(connection: Connection) -> None:
    for _ in range(600):
        try:
            if (await connection.ask("GET", "/readyz")).status == 200:
                return
        except (OSError, EOFError):
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the service did not become ready within a minute")


async def load(service: Service, keys: Keys, options: argparse.Namespace) -> list[str]:
    context = None
    if not options.plain:
        context = trusting(service.directory / "certificate.pem")

    def connection(role: Role, name: str) -> Connection:
        return Connection(service.port, keys.sign(Identity(role, name), 7200), context)

    await ready(connection(Role.READER, "ready"))
    herd, figures = Herd(), Figures()
    first = options.agents - HERD
    agents = [
        asyncio.create_task(agent(host_name(n), connection(Role.AGENT, host_name(n)), herd, options.ramp * n / first))
        for n in range(first)
    ]
    while len(herd.registered) < first:
        await asyncio.sleep(0.1)
    watching = asyncio.create_task(watch(service, figures))
    await asyncio.sleep(10)

    begun = time.monotonic()
    agents += [
        asyncio.create_task(agent(host_name(n), connection(Role.AGENT, host_name(n)), herd, (n - first) / HERD))
        for n in range(first, options.agents)
    ]
    while len(herd.registered) < options.agents and time.monotonic() < begun + 60:
        await asyncio.sleep(0.02)
    herd_took = time.monotonic() - begun
    reader = connection(Role.READER, "grafana")
    kept = {each["host"] for each in msgspec.json.decode((await reader.ask("GET", "/v1/agents")).body)}
    lost = options.agents - len(kept)

    operators = [connection(Role.OPERATOR, "ci") for _ in range(16)]
    await Churn(options.agents, herd, operators, figures).run(options.minutes * 60, options.creations)
    for task in (*agents, watching):
        task.cancel()
    await asyncio.gather(*agents, watching, return_exceptions=True)
    return report(herd, figures, herd_took, lost, options)


def report(herd: Herd, figures: Figures, herd_took: float, lost: int, options: argparse.Namespace) -> list[str]:
    polls, activations = sorted(herd.answers), sorted(figures.activations)
    head("", "p50", "p99", "max")
    for name, values in (("plan polls", polls), ("activations", activations)):
        row(f"{name} ({len(values):,}), s", *(f"{value:.3f}" for value in _quantiles(values)))
    row("processor, cores", *(f"{value:.2f}" for value in _quantiles(sorted(figures.cores))))
    row("memory, MiB", *(f"{value:.0f}" for value in _quantiles(sorted(figures.mebibytes))))
    say(
        f"{herd.waited_out:,} polls were waited out, {herd.plan_bytes / 1e6:.0f} MB of plans were fetched; "
        f"{herd.failures} connections failed, {herd.refusals} requests were refused."
    )
    rate = figures.created / options.minutes if options.minutes else 0.0
    return [
        verdict(_quantiles(polls)[1] <= POLL_P99, f"plan polls of {options.agents:,} exporters: p99 "
                f"{1e3 * _quantiles(polls)[1]:.0f} ms (bar: {1e3 * POLL_P99:.0f} ms)"),
        verdict(statistics.fmean(figures.cores) <= 1.0, f"{statistics.fmean(figures.cores):.2f} cores (bar: 1)"),
        verdict(max(figures.mebibytes) <= MOST_MIB, f"{max(figures.mebibytes):.0f} MiB (bar: {MOST_MIB:.0f})"),
        verdict(herd_took <= HERD_SECONDS and not lost, f"{HERD} registrations within a second: all stored after "
                f"{herd_took:.1f} s, {lost} lost (bars: {HERD_SECONDS:.0f} s, none)"),
        verdict(rate >= 0.98 * options.creations and not figures.late and not figures.refused,
                f"{rate:,.0f} containers created a minute for {options.minutes:g} minutes: {figures.late} of "
                f"{len(activations):,} jobs at their hosts later than {ACTIVATION_SECONDS:.0f} s, {figures.refused} "
                "refused (bars: none)"),
    ]  # fmt: skip


def _quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 99 in 100 and the largest; NaN of none."""
    if not values:
        return (float("nan"),) * 3
    return values[len(values) // 2], values[min(int(0.99 * len(values)), len(values) - 1)], values[-1]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--agents", type=int, default=HOSTS)
    parser.add_argument("--minutes", type=float, default=10.0, help="of containers that are created")
    parser.add_argument("--creations", type=float, default=CREATIONS_PER_MINUTE, help="containers a minute")
    parser.add_argument("--ramp", type=float, default=30.0, help="seconds within which the first exporters come")
    parser.add_argument("--sections", nargs="+", choices=("load", "kills"), default=["load", "kills"])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="of when it is killed (default: another each time)"
    )
    parser.add_argument("--plain", action="store_true", help="without TLS")
    options = parser.parse_args(words)
    allow_many_connections()
    verdicts: list[str] = []
    for section in options.sections:
        verdicts += {"load": under_load, "kills": killed}[section](options)
    say(*verdicts, f"Load {os.getloadavg()[0]:.1f}.")
    return int(any(text.startswith("MISSED") for text in verdicts))


def killed(options: argparse.Namespace) -> list[str]:
    begin(
        "The service, killed",
        f"{options.kills} times at random moments, while jobs begin, change and end, and {options.agents:,} simulated "
        "exporters come back over TLS. The service and its planner on one core, all else on another.",
    )
    os.sched_setaffinity(0, {int(_LOAD_CORE)})
    with tempfile.TemporaryDirectory(prefix="bench-service-") as name:
        directory = Path(name)
        keys = configure(directory, _PORT, options.agents, tls=True, rules=True)
        trusted = directory / "certificate.pem"
        site = service_kills.Site(_PORT, keys, trusting(trusted), directory, options.agents)
        words = [str(_PORT), str(directory / "keys"), str(trusted), str(options.agents)]
        with (
            open(directory / "log", "ab") as log,
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.service_load", *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            ) as herd,
        ):  # fmt: skip

            def start() -> subprocess.Popen[bytes]:
                return subprocess.Popen(serving(directory), stdout=log, stderr=log)

            try:
                ledger, starts = service_kills.kill_again_and_again(options.kills, site, start, herd, options.seed)
            finally:
                herd.kill()
        problems = [line for line in (directory / "log").read_text().splitlines() if "Traceback" in line]
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    for line in ledger.lost[:20]:
        say(line)
    head("", "p50", "max")
    row("from a start to being ready, s", f"{statistics.median(starts):.2f}", f"{max(starts):.2f}")
    say(f"{60 * ledger.created / max(ledger.lived, 1e-9):,.0f} containers were created a minute.")
    text = (
        f"{options.kills} kills, {ledger.answered:,} changes of jobs that were answered: {len(ledger.lost)} jobs, "
        f"plans, rule files or exporters are not as was answered, {len(problems)} tracebacks (bars: none)"
    )
    return [verdict(not ledger.lost and not problems, text)]


def under_load(options: argparse.Namespace) -> list[str]:
    os.sched_setaffinity(0, {int(_LOAD_CORE)})
    begin(
        "The service",
        f"{options.agents:,} simulated exporters{'' if options.plain else ' over TLS'}; the service and its planner "
        f"on one core, they on another. {options.creations:,.0f} containers a minute, in jobs of {JOB_CONTAINERS}.",
    )
    with tempfile.TemporaryDirectory(prefix="bench-service-") as name:
        keys = configure(Path(name), _PORT, options.agents, tls=not options.plain)
        with running(Path(name), _PORT) as service:
            verdicts: list[str] = uvloop.run(load(service, keys, options))
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
