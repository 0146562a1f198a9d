"""What the service does unasked: follows who knows of jobs, renews plans, looks at jobs' traffic."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.job import Job
from skeleton_service.live.errors import BrokenError, BusyError, ForeignJobError, UnknownJobError
from skeleton_service.live.inferring import Traffic
from skeleton_service.live.problems import Problems
from skeleton_service.live.service import Service
from skeleton_service.live.settings import Inference, Prometheus
from skeleton_service.live.state import StoredJob

LOOK_SECONDS = 1.0
"""From one look at job files, keys and certificates to the next."""
_LONGEST_RENEWAL_PAUSE = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Before a job that was refused is tried again as it is."""
_UNKNOWN_SECONDS = 60.0
"""After which agents are answered though nobody says which jobs there are: with those of before."""
_EXPECTED = (ContractError, ForeignJobError, UnknownJobError, BusyError, BrokenError)
_log = logging.getLogger(__name__)


class Told(NamedTuple):
    """What somebody knows of jobs now."""

    jobs: Mapping[str, Job]
    """By name. One that did not change is the same object as before."""
    unsure: Callable[[str], bool]
    """Of a job that is not among them whether it may be there all the same: it is not ended."""
    whole: bool
    """Whether all that was there at the beginning has been told."""


Look = Callable[[], Awaitable[Told]]
Infer = Callable[[bytes, Traffic, bytes | None], Awaitable[bytes]]
"""From a job's document, what tells of its traffic, and its skeleton before, to its skeleton; or ContractError."""


async def again(turn: Callable[[], Awaitable[None]], pause: Callable[[], float]) -> None:
    """One turn after another, for ever. What goes wrong in one is said, and is no end."""
    while True:
        try:
            await turn()
        except Exception:  # noqa: BLE001 - whatever it is, what comes after it is needed
            _log.exception("what the service does unasked went wrong; it goes on")
        await asyncio.sleep(pause())


class _Refused(NamedTuple):
    """A job that was not taken on."""

    job: Job
    pause: float
    until: float
    """Monotonic seconds."""


class JobFollower:
    """Begins and ends jobs as whoever knows of them says. What could not be done is tried again at the next look."""

    def __init__(self, service: Service, source: str, look: Look, at_once: int) -> None:
        """``source``: what its jobs are known by; others' are left alone. ``at_once``: jobs planned at a time."""
        self._service, self._source, self._look = service, source, look
        self._slots = asyncio.Semaphore(at_once)
        self._taken: dict[str, Job] = {}
        self._refused: dict[str, _Refused] = {}
        self._latest = time.monotonic() + _UNKNOWN_SECONDS
        self._unsure: Callable[[str], bool] = lambda _: True
        self.problems = Problems("job refused")
        service.awaits(source)

    def unsure(self, job: str) -> bool:
        """Whether a job may be there though it is not known now."""
        return self._unsure(job)

    async def turn(self) -> None:
        jobs, self._unsure, whole = await self._look()
        service = self._service
        known = {job.job: job.source for job in service.jobs}
        gone = [job for job, source in known.items() if source == self._source and job not in jobs]
        for name in gone:
            if not self._unsure(name):
                await self._try(name, partial(service.end, name, self._source))
        self._taken = {name: job for name, job in self._taken.items() if jobs.get(name) is job and name in known}
        self.problems.forget_others(jobs)
        now = time.monotonic()
        self._refused = {name: each for name, each in self._refused.items() if jobs.get(name) is each.job}
        wanted = [job for name, job in jobs.items() if name not in self._taken and self._due(name, now)]
        await asyncio.gather(*map(self._take, wanted))
        if whole or time.monotonic() > self._latest:
            service.looked_at(self._source)

    def _due(self, name: str, now: float) -> bool:
        return name not in self._refused or self._refused[name].until <= now

    async def _take(self, job: Job) -> None:
        async with self._slots:
            if await self._try(job.job, partial(self._service.put, job, self._source)):
                self._taken[job.job] = job
                self._refused.pop(job.job, None)
            else:  # the same job is no better at once, and others wait for who plans it
                before = self._refused.get(job.job)
                pause = _FIRST_PAUSE if before is None else min(2 * before.pause, _LONGEST_PAUSE)
                self._refused[job.job] = _Refused(job, pause, time.monotonic() + pause)

    async def _try(self, name: str, action: Callable[[], Awaitable[object]]) -> bool:
        try:
            await action()
        except _EXPECTED as error:
            self.problems.of(name, error)
            return False
        self.problems.of(name, None)
        return True


class Renewal:
    """Makes plans anew before they expire, a few at a time; at a start those of a whole fleet may be due."""

    def __init__(self, service: Service, at_once: int) -> None:
        self._service = service
        self._slots = asyncio.Semaphore(at_once)
        self._problems = Problems("plan not renewed")

    async def turn(self) -> None:
        due = self._service.due()
        self._problems.forget_others(due)
        await asyncio.gather(*map(self._renew, due))

    async def _renew(self, name: str) -> None:
        async with self._slots:
            try:
                await self._service.renew(name)
            except _EXPECTED as error:
                self._problems.of(name, error)
            else:
                self._problems.of(name, None)

    def pause(self) -> float:
        return random.uniform(0.5, 1.5) * min(self._service.valid_seconds / 60, _LONGEST_RENEWAL_PAUSE)  # noqa: S311


class Observer:
    """Looks at the traffic of jobs, a few at a time, those first that have waited longest."""

    def __init__(
        self, service: Service, settings: Inference, infer: Infer, prometheus: Prometheus | None = None
    ) -> None:
        """``prometheus``: who is asked where the settings name no exporters."""
        self._service, self._settings, self.infer, self._prometheus = service, settings, infer, prometheus
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._due: dict[str, tuple[bytes, float]] = {}
        """{job: (what it was, when to look)}: a job that has changed is looked at as a new one."""
        self._problems = Problems("no skeleton")

    async def turn(self) -> None:
        now, jobs = time.monotonic(), {job.job: job for job in self._service.jobs}
        self._problems.forget_others(jobs)
        self._due = {name: each for name, each in self._due.items() if name in jobs}
        for name, job in jobs.items():
            if name not in self._due or self._due[name][0] != job.document:
                self._due[name] = job.document, now + self._settings.after_seconds
        self._looking = {name: task for name, task in self._looking.items() if not task.done()}
        for name in sorted(jobs, key=lambda each: self._due[each][1]):
            if self._due[name][1] > now or len(self._looking) >= self._settings.at_once:
                return
            if name not in self._looking:
                self._due[name] = jobs[name].document, now + self._settings.every_seconds
                self._looking[name] = asyncio.create_task(self._look_at(jobs[name]))

    def _traffic(self, job: StoredJob) -> Traffic:
        exporters = self._settings.exporters
        if exporters is None:
            assert self._prometheus is not None  # noqa: S101 - the settings were checked
            return Traffic((f"prometheus:{self._prometheus.url}",), self._prometheus.token_file)
        containers = msgspec.json.decode(job.document, type=Job).containers
        query = urlencode({"job": job.job})
        hosts = dict.fromkeys(container.host for container in containers)
        return Traffic(tuple(f"{exporters.replace('{host}', quote(host))}/v1/throughput?{query}" for host in hosts))

    async def _look_at(self, job: StoredJob) -> None:
        try:
            skeleton = await self.infer(job.document, self._traffic(job), job.skeleton)
            if await self._service.observe(job.job, skeleton, of=job.document):
                _log.info("skeleton inferred", extra={"job": job.job})
        except _EXPECTED as error:
            self._problems.of(job.job, error)
        else:
            self._problems.of(job.job, None)
