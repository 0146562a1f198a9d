"""Inference of many jobs on one worker of a Dask cluster and on two: ``python -m benchmarks.spread``.

Jobs of 512 RNICs with 15 minutes of traffic each, in files. Scheduler and workers are Dask's own processes, asked as
the service asks them. Fails when two workers are less than 1.7 times as fast as one, or a skeleton is not what the
service's own processes make of the same traffic, byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from benchmarks.markdown import begin, head, row, say, verdict
from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Container, Job
from exporter.contracts.skeleton import Skeleton
from exporter.contracts.topology import Topology
from lab.simulator import CASES, simulate
from skeleton_service.live.inferring import Traffic, inferred
from skeleton_service.live.settings import Dask
from skeleton_service.live.spread import Spread

STAGES = 8
HOSTS = 64
"""Of eight RNICs."""
SECONDS = 900.0
LEAST_RATIO = 1.7
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_FIRST_SEED = 60_000
_FIRST_ADDRESS = ipaddress.IPv4Address("10.0.0.1")
_MOST_HOSTS = 160
"""That a job of ``HOSTS`` is drawn with, spare ones among them."""


class Looked(NamedTuple):
    document: bytes
    traffic: Traffic


def write_jobs(count: int, directory: Path) -> tuple[Topology, list[Looked]]:
    """The fleet that all jobs are on, each on hosts of its own, and the jobs."""
    case, jobs, parts = replace(CASES["1f1b"], pipeline=(STAGES, STAGES)), [], []
    for number in range(count):
        simulated, name = simulate(case, _FIRST_SEED + number, hosts=HOSTS, seconds=SECONDS), f"job-{number}"
        parts.append(apart(simulated.topology, number))
        rows = simulated.table()
        hosts = pc.binary_join_element_wise(pa.scalar(name), rows["host"].cast(pa.string()), "-").dictionary_encode()
        rows = rows.set_column(rows.column_names.index("host"), "host", hosts)
        rows = rows.set_column(rows.column_names.index("job"), "job", pa.array([name] * len(rows)).dictionary_encode())
        file = directory / f"{name}.parquet"
        parquet.write_table(rows, file, compression="zstd")
        jobs.append(Looked(document(simulated.truth, name, name + "-{}"), Traffic((str(file),))))
    fleet = Topology(
        version=1,
        hosts=tuple(host for part in parts for host in part.hosts),
        switches=tuple(switch for part in parts for switch in part.switches),
        links=tuple(link for part in parts for link in part.links),
    )
    return fleet, jobs


def apart(topology: Topology, number: int) -> Topology:
    """The same fabric with names and addresses that no other job's has."""
    change = msgspec.structs.replace
    hosts = [
        change(
            host,
            name=f"job-{number}-{host.name}",
            rnics=tuple(
                change(rnic, ip=str(_FIRST_ADDRESS + (rail << 15 | number * _MOST_HOSTS + index)))
                for rail, rnic in enumerate(host.rnics)
            ),
        )
        for index, host in enumerate(topology.hosts)
    ]
    switches = [change(switch, name=f"job-{number}-{switch.name}") for switch in topology.switches]
    links = [change(link, a=f"job-{number}-{link.a}", b=f"job-{number}-{link.b}") for link in topology.links]
    return Topology(version=1, hosts=tuple(hosts), switches=tuple(switches), links=tuple(links))


def document(truth: Skeleton, name: str, host: str = "{}") -> bytes:
    """The job, on hosts that are named after those of the truth."""
    members: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for end in truth.endpoints:
        members[end.container, end.host].append(end.rnic)
    containers = tuple(
        Container(name=each, host=host.format(own), rnics=tuple(rnics)) for (each, own), rnics in members.items()
    )
    return msgspec.json.encode(Job(version=1, job=name, containers=containers))


class Running:
    """Dask's own processes on loopback: a scheduler, and workers of a thread each."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        self.scheduler()

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "dask", *arguments, "--host", "127.0.0.1", "--no-dashboard"]
        return subprocess.Popen(argv, env={**os.environ, **ONE_THREAD}, stderr=subprocess.DEVNULL)

    def scheduler(self) -> None:
        self._scheduler = self._start("scheduler", "--port", str(self._port))

    def worker(self) -> None:
        self._workers.append(self._start("worker", self.address, "--nthreads", "1", "--nworkers", "1", "--no-nanny"))

    def end_workers(self) -> None:
        for process in self._workers:
            process.kill()
            process.wait()
        self._workers = []

    def end(self) -> None:
        self.end_workers()
        if self._scheduler is not None:
            self._scheduler.kill()
            self._scheduler.wait()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


async def infer_all(address: str, topology: bytes, jobs: Sequence[Looked], workers: int) -> tuple[float, list[bytes]]:
    """Seconds for all, and their skeletons."""
    spread = Spread(Dask(scheduler=address), topology)
    client = await spread._connected()  # not what is measured
    await client.wait_for_workers(workers)
    await asyncio.gather(*(spread.infer(*jobs[number % len(jobs)], None) for number in range(2 * workers)))  # imports
    begun = time.monotonic()
    found = await asyncio.gather(*(spread.infer(*job, None) for job in jobs))
    seconds = time.monotonic() - begun
    await spread.close()
    return seconds, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    count = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="bench-spread-") as directory:
        topology, jobs = write_jobs(count, Path(directory))
        encoded = msgspec.msgpack.encode(topology)
        took, found = {}, {}
        for workers in (1, 2):
            with Running() as dask:
                for _ in range(workers):
                    dask.worker()
                took[workers], found[workers] = asyncio.run(infer_all(dask.address, encoded, jobs, workers))
        fabric = Fabric(topology)
        same = [inferred(fabric, *job, None) for job in jobs] == found[1] == found[2]
    ratio = took[1] / took[2]
    rnics = sum(len(host.rnics) for host in topology.hosts)
    begin(
        f"Inference of {count} jobs of {HOSTS * 8} RNICs on Dask",
        f"{SECONDS:.0f} s of traffic each, a second a row, in a fleet of {rnics:,} RNICs.",
    )
    head("workers", "seconds", "jobs a second")
    for workers, seconds in took.items():
        row(str(workers), f"{seconds:.1f}", f"{count / seconds:.2f}")
    say(
        verdict(ratio >= LEAST_RATIO, f"two workers are {ratio:.2f} times as fast as one (at least {LEAST_RATIO})"),
        verdict(same, "skeletons are those of the service's own processes, byte for byte"),
    )
    return int(ratio < LEAST_RATIO or not same)


if __name__ == "__main__":
    sys.exit(main())
