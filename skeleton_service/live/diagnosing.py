"""Jobs that something hurts are diagnosed from their probe records, for as long as it does.

Prometheus says which jobs lose probes or are slow; each has a process that asks the job's exporters for their records,
second by second (``skeleton_service.live.follower``), and names what explains them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import msgspec
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from exporter.contracts.diagnosis import Diagnosis, lasting
from exporter.contracts.job import Job
from exporter.contracts.service_metrics import SUSPECT_SCORE
from exporter.contracts.skeleton import Skeleton
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.follower import HEAD_BYTES, MOST_BYTES, Work
from skeleton_service.live.service import Service
from skeleton_service.live.settings import DiagnosisSettings
from skeleton_service.live.state import StoredJob

_FIRST_SECONDS = 60
"""Of records that a process begins with: a path says one a second and more, and a job has thousands of paths."""
_LATE_SECONDS = 60.0
"""A diagnosis that is older than a few rounds and this is told to nobody: what it names may be well again."""
_LAST_WORD_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
"""Before a process that ended by itself is started again."""
_STAYS = 2.0
"""How many times as many paths another job must hurt on to take the place of one that is diagnosed."""
_MOST_LINE = 2000
_ENDS = re.compile(r"(?P<source>[^:>]+):[^>]*>(?P<destination>[^:>]+):")
_log = logging.getLogger(__name__)


class Asked(Protocol):
    """Who says what hurts. Both raise BrokenError where nobody knows."""

    async def hurting(self) -> Mapping[str, int]:
        """{job: how many of its paths lose probes or are slow}"""
        raise NotImplementedError

    async def hurting_paths(self, job: str) -> Sequence[str]:
        """Those of one job; of many some."""
        raise NotImplementedError


@dataclass
class _Followed:
    """A job that is diagnosed now."""

    of: tuple[bytes, bytes | None, int]
    """Its document, its skeleton, and which topology."""
    began: float
    task: asyncio.Task[None] | None = None
    process: asyncio.subprocess.Process | None = None
    left: bool = False

    def end(self) -> None:
        self.left = True
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.terminate()


class Diagnoses(Collector):
    """For one event loop."""

    def __init__(self, service: Service, settings: DiagnosisSettings, asked: Asked, topology: bytes) -> None:
        """``topology`` is as MessagePack."""
        self._service, self._settings, self._asked = service, settings, asked
        self._topology, self._number = topology, 0
        self._followed: dict[str, _Followed] = {}
        self._hurt: dict[str, tuple[int, float]] = {}
        """{job: (paths, monotonic seconds when that was last so)}"""
        self._found: dict[str, tuple[float, Diagnosis]] = {}
        """{job: (monotonic seconds, what was found)}: also while one process follows another."""
        self._pauses: dict[str, tuple[float, float]] = {}
        """{job: (seconds, until when)} of those whose process ended by itself."""
        self.problem = ""
        """Why nobody knows what hurts; empty when somebody does."""
        self._left_out = 0

    def know(self, topology: bytes) -> None:
        """All are followed anew, by this topology."""
        self._topology, self._number = topology, self._number + 1

    # ---- what is known

    def of(self, job: str) -> Diagnosis | None:
        """The newest of a job; None where nobody makes one, or nothing was found out yet."""
        oldest = time.monotonic() - _LATE_SECONDS - 3 * self._settings.every_seconds
        at, found = self._found.get(job, (oldest, None))
        return found if at > oldest else None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What is broken now, for Prometheus."""
        family = GaugeMetricFamily(SUSPECT_SCORE.name, SUSPECT_SCORE.help, labels=SUSPECT_SCORE.labels)
        scores: dict[tuple[str, ...], float] = {}
        for job in self._found:
            for each in lasting(self.of(job)):
                key = (job, each.layer, each.component.kind, each.component.name)
                scores[key] = max(each.confidence, scores.get(key, 0.0))
        for labels, score in scores.items():
            family.add_metric(labels, score)
        yield family

    # ---- who is followed

    async def turn(self) -> None:
        hurting = await self._hurting()
        now = time.monotonic()
        self._hurt |= {job: (paths, now) for job, paths in hurting.items()}
        jobs = {job.job: job for job in self._service.jobs}
        recent = now - self._settings.quiet_seconds
        self._hurt = {job: each for job, each in self._hurt.items() if job in jobs and each[1] >= recent}
        wanted = self._wanted()
        self._pauses = {job: each for job, each in self._pauses.items() if job in self._hurt}
        for name, followed in list(self._followed.items()):
            ended = followed.task is not None and followed.task.done()
            if ended:
                self._pause(name, now - followed.began)
            if ended or name not in wanted or followed.of != self._of(jobs[name]):
                await self._leave(name)
        # After these have left: each may find a last thing while it does.
        self._found = {job: each for job, each in self._found.items() if job in wanted}
        for name in wanted:
            if name not in self._followed and self._pauses.get(name, (0.0, now))[1] <= now:
                await self._follow(jobs[name])

    async def _hurting(self) -> Mapping[str, int]:
        """Where nobody says, whoever was hurt is so still."""
        try:
            found = await self._asked.hurting()
        except BrokenError as error:
            if str(error) != self.problem:
                _log.error("nobody says which jobs to diagnose: %s", error)
            self.problem = str(error)
            return {job: paths for job, (paths, _) in self._hurt.items()}
        self.problem = ""
        return found

    def _wanted(self) -> list[str]:
        """Jobs to diagnose, the one that hurts most first."""

        def weight(job: str) -> tuple[float, str]:
            paths, _ = self._hurt[job]
            return -paths * (_STAYS if job in self._followed else 1.0), job

        ranked = sorted(self._hurt, key=weight)
        left_out = max(len(ranked) - self._settings.jobs, 0)
        if left_out and not self._left_out:
            _log.warning("%d jobs are hurt and not diagnosed: 'diagnosis.jobs' is %d", left_out, self._settings.jobs)
        self._left_out = left_out
        return ranked[: self._settings.jobs]

    def _of(self, job: StoredJob) -> tuple[bytes, bytes | None, int]:
        return job.document, job.skeleton, self._number

    def _pause(self, job: str, lived: float) -> None:
        before, _ = self._pauses.get(job, (0.0, 0.0))
        pause = _FIRST_PAUSE if lived > 2 * _LONGEST_PAUSE else min(max(2 * before, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._pauses[job] = pause, time.monotonic() + pause

    async def _follow(self, job: StoredJob) -> None:
        document = msgspec.json.decode(job.document, type=Job)
        hosts: Iterable[str] = dict.fromkeys(each.host for each in document.containers)
        try:
            paths = await self._asked.hurting_paths(job.job) if len(list(hosts)) > self._settings.hosts else ()
        except BrokenError:
            paths = ()
        hosts = hurt_most(hosts, paths, self._settings.hosts)
        exporter = self._settings.exporters
        work = Work(
            parent=os.getpid(),
            topology=msgspec.Raw(self._topology),
            job=document,
            skeleton=None if job.skeleton is None else msgspec.json.decode(job.skeleton, type=Skeleton),
            probes={f"{exporter.replace('{host}', quote(host))}/v1/probe-records": host for host in hosts},
            interval=self._settings.every_seconds,
            first_seconds=_FIRST_SECONDS,
        )
        followed = self._followed[job.job] = _Followed(self._of(job), time.monotonic())
        followed.task = asyncio.create_task(self._run(job.job, followed, work))
        _log.info("is diagnosed", extra={"job": job.job, "hosts": len(hosts)})

    async def _run(self, job: str, followed: _Followed, work: Work) -> None:
        """One process from its start to its end; what it says is logged."""
        try:
            process = followed.process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "skeleton_service.live.follower",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            _log.error("cannot be diagnosed: %s", error, extra={"job": job})
            return
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: S101, PT018
        try:
            await asyncio.gather(
                _give(process.stdin, work), self._take(job, process.stdout), _retell(job, process.stderr)
            )
            status = await process.wait()
            if not followed.left:
                _log.error("the process that diagnosed it ended with %d; another begins", status, extra={"job": job})
        except (ValueError, msgspec.DecodeError) as error:
            _log.error("the process that diagnosed it sent what nobody can read: %s", error, extra={"job": job})
        finally:
            if process.returncode is None:
                process.kill()

    async def _take(self, job: str, answers: asyncio.StreamReader) -> None:
        """What the process finds, as it finds it. Raise ValueError of what is none."""
        with suppress(asyncio.IncompleteReadError):
            while True:
                size = int.from_bytes(await answers.readexactly(HEAD_BYTES), "big")
                if size > MOST_BYTES:
                    raise ValueError(f"{size} bytes")
                found = msgspec.msgpack.decode(await answers.readexactly(size), type=Diagnosis)
                self._found[job] = time.monotonic(), found

    async def _leave(self, name: str) -> None:
        followed = self._followed[name]
        followed.end()
        if followed.task is not None:
            _, late = await asyncio.wait([followed.task], timeout=_LAST_WORD_SECONDS)
            for task in late:
                task.cancel()
        del self._followed[name]
        _log.info("is diagnosed no more", extra={"job": name})

    def pause(self) -> float:
        return self._settings.every_seconds

    def close(self) -> None:
        for followed in self._followed.values():
            followed.end()


async def _give(to: asyncio.StreamWriter, work: Work) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it has ended already
        to.write(msgspec.msgpack.encode(work))
        await to.drain()
    to.close()


async def _retell(job: str, lines: asyncio.StreamReader) -> None:
    """In the log, a line each, however long they are."""
    rest = b""
    while piece := await lines.read(1 << 12):
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > _MOST_LINE:
            whole, rest = [*whole, rest], b""
        for line in whole:
            _log.info("%s", line[:_MOST_LINE].decode(errors="replace").rstrip(), extra={"job": job})


def hurt_most(hosts: Iterable[str], paths: Sequence[str], most: int) -> list[str]:
    """So many of a job's hosts: those first that most of these paths begin or end at."""
    ends: Counter[str] = Counter()
    for path in paths:
        if found := _ENDS.match(path):
            ends.update(found.group("source", "destination"))
    return sorted(hosts, key=lambda host: (-ends[host], host))[:most]
