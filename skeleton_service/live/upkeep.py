"""What the service does unasked: follows who knows of jobs, renews plans, looks at jobs' traffic."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import quote, urlencode

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.job import Job
from skeleton_service.live.errors import BrokenError, BusyError, ForeignJobError, UnknownJobError
from skeleton_service.live.problems import Problems
from skeleton_service.live.service import Service
from skeleton_service.live.settings import Inference
from skeleton_service.live.state import StoredJob

LOOK_SECONDS = 1.0
"""From one look at job files, keys and certificates to the next."""
_LONGEST_RENEWAL_PAUSE = 60.0
_UNKNOWN_SECONDS = 60.0
"""After which agents are answered though nobody says which jobs there are: with those of before."""
_EXPECTED = (ContractError, ForeignJobError, UnknownJobError, BusyError, BrokenError)
_log = logging.getLogger(__name__)

Look = Callable[[], Awaitable[Mapping[str, Job] | None]]
"""Jobs by name; None while nobody knows, which ends none. A job that did not change is the same object."""
Infer = Callable[[bytes, list[str], bytes | None], Awaitable[bytes]]
"""From a job's document, what tells of its traffic, and its skeleton before, to its skeleton; or ContractError."""


async def again(turn: Callable[[], Awaitable[None]], pause: Callable[[], float]) -> None:
    """One turn after another, for ever. What goes wrong in one is said, and is no end."""
    while True:
        try:
            await turn()
        except Exception:  # noqa: BLE001 - whatever it is, what comes after it is needed
            _log.exception("what the service does unasked went wrong; it goes on")
        await asyncio.sleep(pause())


class JobFollower:
    """Begins and ends jobs as whoever knows of them says. What could not be done is tried again at the next look."""

    def __init__(self, service: Service, source: str, look: Look, at_once: int) -> None:
        """``source``: what its jobs are known by; others' are left alone. ``at_once``: jobs planned at a time."""
        self._service, self._source, self._look = service, source, look
        self._slots = asyncio.Semaphore(at_once)
        self._taken: dict[str, Job] = {}
        self._latest = time.monotonic() + _UNKNOWN_SECONDS
        self.problems = Problems("job refused")
        service.awaits(source)

    async def turn(self) -> None:
        jobs = await self._look()
        service = self._service
        if jobs is None:
            if time.monotonic() > self._latest:
                service.looked_at(self._source)
            return
        known = {job.job: job.source for job in service.jobs}
        for name in [job for job, source in known.items() if source == self._source and job not in jobs]:
            await self._try(name, partial(service.end, name, self._source))
        self._taken = {name: job for name, job in self._taken.items() if jobs.get(name) is job and name in known}
        self.problems.forget_others(jobs)
        await asyncio.gather(*(self._take(job) for name, job in jobs.items() if name not in self._taken))
        service.looked_at(self._source)

    async def _take(self, job: Job) -> None:
        async with self._slots:
            if await self._try(job.job, partial(self._service.put, job, self._source)):
                self._taken[job.job] = job

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
    """Looks at the traffic of one job after another, those first that have waited longest."""

    def __init__(self, service: Service, settings: Inference, infer: Infer) -> None:
        self._service, self._settings, self.infer = service, settings, infer
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
        for name in sorted(jobs, key=lambda each: self._due[each][1]):
            if self._due[name][1] > now:
                return
            self._due[name] = jobs[name].document, now + self._settings.every_seconds
            await self._look_at(jobs[name])

    async def _look_at(self, job: StoredJob) -> None:
        containers = msgspec.json.decode(job.document, type=Job).containers
        query = urlencode({"job": job.job})
        urls = [
            f"{self._settings.exporters.replace('{host}', quote(host))}/v1/throughput?{query}"
            for host in dict.fromkeys(container.host for container in containers)
        ]
        try:
            skeleton = await self.infer(job.document, urls, job.skeleton)
            if await self._service.observe(job.job, skeleton, of=job.document):
                _log.info("skeleton inferred", extra={"job": job.job})
        except _EXPECTED as error:
            self._problems.of(job.job, error)
        else:
            self._problems.of(job.job, None)
