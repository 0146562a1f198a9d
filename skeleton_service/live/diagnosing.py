"""Jobs that something hurts are diagnosed from their probe records, for as long as it does.

Prometheus says which jobs lose probes or are slow; each has a process that asks the job's exporters for their records,
second by second (``skeleton_service.following``), and names what explains them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from exporter.contracts.codec import ContractError, read
from exporter.contracts.diagnosis import Diagnosis, lasting
from exporter.contracts.job import Job
from exporter.contracts.service_metrics import SUSPECT_SCORE
from exporter.contracts.skeleton import Skeleton
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.follower import Work
from skeleton_service.live.service import Service
from skeleton_service.live.settings import DiagnosisSettings
from skeleton_service.live.state import StoredJob

_FIRST_SECONDS = 60
"""Of records that a process begins with: a path says one a second and more, and a job has thousands of paths."""
_LAST_WORD_SECONDS = 5.0
_MOST_LINE_BYTES = 1 << 16
_ENDS = re.compile(r"(?P<source>[^:>]+):[^>]*>(?P<destination>[^:>]+):")
_log = logging.getLogger(__name__)

Hurting = Callable[[], Awaitable[Mapping[str, Sequence[str]]]]
"""{job: its paths that lose probes or are slow}; raises BrokenError where nobody knows."""


@dataclass
class _Followed:
    """A job that is diagnosed now."""

    of: tuple[bytes, bytes | None]
    """Its document and its skeleton."""
    output: Path
    hosts: int
    task: asyncio.Task[None] | None = None
    process: asyncio.subprocess.Process | None = None
    read: tuple[int, int] = (0, 0)
    """Modification time and size of the diagnosis as it was read last."""
    diagnosis: Diagnosis | None = None


class Diagnoses(Collector):
    """For one event loop."""

    def __init__(self, service: Service, settings: DiagnosisSettings, hurting: Hurting, topology: bytes) -> None:
        """``topology`` is as MessagePack."""
        self._service, self._settings, self._hurting = service, settings, hurting
        self._followed: dict[str, _Followed] = {}
        self._hurt_at: dict[str, float] = {}
        self._number = 0
        self._problem = ""
        self._directory = tempfile.TemporaryDirectory(prefix="skeleton-service-")
        self.know(topology)

    def know(self, topology: bytes) -> None:
        """Who is followed from now on is so by this topology."""
        self._number += 1
        self._known = Path(self._directory.name) / f"topology-{self._number}"
        self._known.write_bytes(topology)

    # ---- what is known

    def of(self, job: str) -> Diagnosis | None:
        """The newest of a job; None where nothing of it hurts, or nothing was found out yet."""
        followed = self._followed.get(job)
        return None if followed is None else followed.diagnosis

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What is broken now, for Prometheus."""
        family = GaugeMetricFamily(SUSPECT_SCORE.name, SUSPECT_SCORE.help, labels=SUSPECT_SCORE.labels)
        scores: dict[tuple[str, ...], float] = {}
        for job, followed in self._followed.items():
            for each in lasting(followed.diagnosis):
                key = (job, each.layer, each.component.kind, each.component.name)
                scores[key] = max(each.confidence, scores.get(key, 0.0))
        for labels, score in scores.items():
            family.add_metric(labels, score)
        yield family

    # ---- who is followed

    async def turn(self) -> None:
        now = time.monotonic()
        try:
            hurting = await self._hurting()
        except BrokenError as error:
            hurting = {}
            self._say(str(error))
        else:
            self._say("")
        self._hurt_at |= dict.fromkeys(hurting, now)
        jobs = {job.job: job for job in self._service.jobs}
        recent = now - self._settings.quiet_seconds
        self._hurt_at = {job: at for job, at in self._hurt_at.items() if job in jobs and at >= recent}
        for name, followed in list(self._followed.items()):
            changed = name in jobs and followed.of != (jobs[name].document, jobs[name].skeleton)
            if name not in self._hurt_at or changed or followed.task is None or followed.task.done():
                await self._leave(name)
        for name in hurting:
            if name in jobs and name not in self._followed and len(self._followed) < self._settings.jobs:
                self._follow(jobs[name], hurting[name])
        for followed in self._followed.values():
            self._read(followed)

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            _log.error("nobody says which jobs to diagnose: %s", problem)
        self._problem = problem

    def _follow(self, job: StoredJob, paths: Sequence[str]) -> None:
        document = msgspec.json.decode(job.document, type=Job)
        hosts = hurt_most(dict.fromkeys(each.host for each in document.containers), paths, self._settings.hosts)
        self._number += 1
        output = Path(self._directory.name) / f"diagnosis-{self._number}.json"
        followed = self._followed[job.job] = _Followed((job.document, job.skeleton), output, len(hosts))
        work = Work(
            parent=os.getpid(),
            topology=str(self._known),
            job=document,
            skeleton=None if job.skeleton is None else msgspec.json.decode(job.skeleton, type=Skeleton),
            probes=tuple(
                f"{self._settings.exporters.replace('{host}', quote(host))}/v1/probe-records" for host in hosts
            ),
            counters=(),
            output=str(output),
            interval=self._settings.every_seconds,
            first_seconds=_FIRST_SECONDS,
        )
        followed.task = asyncio.create_task(self._run(job.job, followed, work))
        _log.info("is diagnosed", extra={"job": job.job, "hosts": len(hosts)})

    async def _run(self, job: str, followed: _Followed, work: Work) -> None:
        """One process from its start to its end; what it says is logged."""
        process = followed.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "skeleton_service.live.follower",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            limit=_MOST_LINE_BYTES,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(msgspec.msgpack.encode(work))
                await process.stdin.drain()
                process.stdin.close()
            while line := await process.stdout.readline():
                _log.info("%s", line.decode(errors="replace").rstrip(), extra={"job": job})
            status = await process.wait()
            if status > 0:
                _log.error("the process that diagnosed it ended with %d; another begins", status, extra={"job": job})
        finally:
            if process.returncode is None:
                process.kill()

    async def _leave(self, name: str) -> None:
        followed = self._followed.pop(name)
        if followed.process is not None and followed.process.returncode is None:
            with suppress(ProcessLookupError):
                followed.process.terminate()
        if followed.task is not None:
            _, late = await asyncio.wait([followed.task], timeout=_LAST_WORD_SECONDS)
            for task in late:
                task.cancel()
        followed.output.unlink(missing_ok=True)
        _log.info("is diagnosed no more", extra={"job": name})

    def _read(self, followed: _Followed) -> None:
        with suppress(FileNotFoundError, ContractError):
            status = followed.output.stat()
            seen = status.st_mtime_ns, status.st_size
            if seen != followed.read:
                followed.diagnosis = read(followed.output, Diagnosis)
                followed.read = seen

    def pause(self) -> float:
        return self._settings.every_seconds

    def close(self) -> None:
        for followed in self._followed.values():
            if followed.process is not None and followed.process.returncode is None:
                with suppress(ProcessLookupError):
                    followed.process.kill()
        self._directory.cleanup()


def hurt_most(hosts: Sequence[str] | Mapping[str, object], paths: Sequence[str], most: int) -> list[str]:
    """So many of a job's hosts: those first that most of these paths begin or end at."""
    ends: Counter[str] = Counter()
    for path in paths:
        if found := _ENDS.match(path):
            ends.update(found.group("source", "destination"))
    return sorted(hosts, key=lambda host: (-ends[host], host))[:most]
