"""The running service without its HTTP: jobs come and go, plans are made of them, agents are told."""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import msgspec

from exporter.contracts.job import Job, check_job
from exporter.contracts.service_metrics import AGENTS, FIRST_EXPIRES, JOBS, PLAN_QUEUE, WAITING
from exporter.contracts.skeleton import Skeleton
from skeleton_service.live.book import Book
from skeleton_service.live.errors import BrokenError, BusyError, ForeignJobError, UnknownJobError
from skeleton_service.live.metrics import Metrics
from skeleton_service.live.state import Part, State, StoredJob

T = TypeVar("T")

FLUSH_SECONDS = 0.05
"""Registrations of so long are one transaction: a herd of 500 is a few of them, one alone hardly waits."""
MOST_PLANNING = 256
"""Plans that are made, or wait to be; whoever wants another is told to come again."""
MOST_PENDING = 10_000
"""Registrations that wait to be stored, and what waits to be read; who comes then is told to come again."""
FORGOTTEN_SECONDS = 7 * 86400.0
"""Agents that said nothing for so long are no longer known: they say what they are each quarter of an hour."""
_log = logging.getLogger(__name__)

Planning = Callable[[bytes, bytes | None, int, float], Awaitable[list[Part]]]
"""From a job's document, its skeleton, a generation and when that expires to the parts of a plan; or ContractError."""


@dataclass(slots=True)
class _Lock:
    lock: asyncio.Lock
    users: int = 0


class Service:
    """For one event loop."""

    def __init__(
        self,
        state: State,
        planning: Planning,
        *,
        metrics: Metrics,
        valid_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state, self.planning, self.metrics = state, planning, metrics
        self.valid_seconds, self._clock = valid_seconds, clock
        self._storing = ThreadPoolExecutor(1, "state")  # SQLite is for one thread at a time
        self._reading = 0
        self._jobs = {job.job: job for job in state.jobs()}
        self._agents = state.agents()
        self._stale: set[str] = set()
        self.book = Book(state.hosts(), state.identity)
        self._pending: dict[str, bytes] = {}
        self._stored: list[asyncio.Future[None]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._locks: dict[str, _Lock] = {}
        self._planning_now = 0
        self._awaited: set[str] = set()
        self.sources_looked_at = asyncio.Event()
        """Until then jobs of files and pods are what they were when the last process ended."""
        self.sources_looked_at.set()
        for declared, value in (
            (JOBS, lambda: len(self._jobs)),
            (AGENTS, lambda: len(self._agents)),
            (WAITING, lambda: self.book.waiting),
            (PLAN_QUEUE, lambda: self._planning_now),
            (FIRST_EXPIRES, lambda: min((job.expires for job in self._jobs.values()), default=math.nan)),
        ):
            metrics.gauge(declared, value)

    @property
    def not_ready(self) -> str:
        """Why nobody should ask yet; empty when there is no reason."""
        return f"jobs by {' and '.join(sorted(self._awaited))} are not known yet" if self._awaited else ""

    def awaits(self, source: str) -> None:
        """Who knows of jobs, and is not ``looked_at`` yet."""
        self._awaited.add(source)
        self.sources_looked_at.clear()

    def looked_at(self, source: str) -> None:
        self._awaited.discard(source)
        if not self._awaited:
            self.sources_looked_at.set()

    @property
    def jobs(self) -> list[StoredJob]:
        return [self._jobs[name] for name in sorted(self._jobs)]

    def job(self, name: str) -> StoredJob:
        try:
            return self._jobs[name]
        except KeyError:
            raise UnknownJobError(name) from None

    async def _store(self, action: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._storing, action)
        except sqlite3.Error as error:  # a full disk, or somebody who holds the file
            raise BrokenError(f"{self._state.path}: {error}") from error

    # ---- jobs

    async def put(self, job: Job, source: str) -> bool:
        """Take a job on, or what it has become; True when that is new.

        Raise ContractError, ForeignJobError, BusyError.
        """
        encoded = await asyncio.to_thread(_checked, job)
        async with self._alone(job.job):
            known = self._jobs.get(job.job)
            if known is not None and known.source != source:
                raise ForeignJobError(f"job {job.job} is known by its {known.source}")
            if known is not None and known.document == encoded:
                return False
            began = known.began if known is not None else self._clock()
            containers = len(job.containers)
            await self._plan(StoredJob(job.job, encoded, source, began, "", self._next(known), 0.0, None, containers))
        _log.info("job taken on", extra={"job": job.job, "containers": containers, "source": source})
        return True

    async def observe(self, name: str, skeleton: bytes, of: bytes) -> bool:
        """Plan for the pairs of this skeleton; False where they are those of before, or the job is no longer ``of``."""
        async with self._alone(name):
            known = self.job(name)
            if known.document != of or (known.skeleton is not None and _same_pairs(known.skeleton, skeleton)):
                return False
            await self._plan(replace(known, generation=self._next(known), skeleton=skeleton))
        return True

    async def renew(self, name: str) -> None:
        """The job's plan for another while; its rotated source ports are others."""
        async with self._alone(name):
            known = self._jobs.get(name)
            if known is not None:
                await self._plan(replace(known, generation=self._next(known)))

    def due(self) -> list[str]:
        """Jobs whose plans have less than half of their time left, or were made of what is known otherwise now."""
        limit = self._clock() + self.valid_seconds / 2
        return [name for name, job in self._jobs.items() if job.expires < limit or name in self._stale]

    def renew_all(self) -> None:
        """All plans are due: the topology is another one."""
        self._stale |= self._jobs.keys()

    def _next(self, known: StoredJob | None) -> int:
        """Generations grow, also over a job of the same name that ended, and over a clock that was set back."""
        return max(int(self._clock() * 1000), known.generation + 1 if known is not None else 0)

    async def _plan(self, job: StoredJob) -> None:
        expires = self._clock() + self.valid_seconds
        job = replace(job, expires=expires, phase="preload" if job.skeleton is None else "skeleton")
        made = await self._planned(job, expires)
        await self._store(lambda: self._state.put(job, made))
        self._jobs[job.job] = job
        self._stale.discard(job.job)
        self.book.change(job.job, {part.host: part.generation for part in made})

    async def _planned(self, job: StoredJob, expires: float) -> list[Part]:
        if self._planning_now >= MOST_PLANNING:
            raise BusyError(1.0)
        self._planning_now += 1
        try:
            with self.metrics.planning():
                return await self.planning(job.document, job.skeleton, job.generation, expires)
        finally:
            self._planning_now -= 1

    async def end(self, name: str, source: str) -> None:
        """Forget a job and its plans. Raise UnknownJobError, ForeignJobError."""
        async with self._alone(name):
            if self.job(name).source != source:
                raise ForeignJobError(f"job {name} is known by its {self.job(name).source}")
            await self._store(lambda: self._state.end(name))
            del self._jobs[name]
            self._stale.discard(name)
            self.book.change(name, {})
        _log.info("job has ended", extra={"job": name, "source": source})

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """One change of a job at a time, for as long as anybody wants one."""
        held = self._locks.setdefault(name, _Lock(asyncio.Lock()))
        held.users += 1
        try:
            async with held.lock:
                yield
        finally:
            held.users -= 1
            if not held.users:
                del self._locks[name]

    # ---- agents

    async def plan(self, host: str, job: str) -> Part:
        """What the host is to probe for the job; raise UnknownJobError where that is nothing, BusyError."""
        if self._reading >= MOST_PENDING:
            raise BusyError(1.0)
        self._reading += 1
        try:
            part = await self._store(lambda: self._state.part(host, job))
        finally:
            self._reading -= 1
        if part is None:
            raise UnknownJobError(job)
        return part

    async def parts(self, job: str) -> list[Part]:
        """What all hosts are to probe for the job; raise UnknownJobError where that is nothing."""
        self.job(job)
        found = await self._store(lambda: self._state.parts(job))
        if not found:
            raise UnknownJobError(f"{job} with paths")
        return found

    async def register(self, host: str, said: bytes) -> None:
        """Keep what a host's agent says of itself; it is stored when this returns. Raise BusyError."""
        if len(self._stored) >= MOST_PENDING:
            raise BusyError(1.0)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[host] = said
        self._stored.append(stored)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await stored

    async def _flush(self) -> None:
        while self._pending:
            await asyncio.sleep(FLUSH_SECONDS)
            said, self._pending, waiting, self._stored = self._pending, {}, self._stored, []
            try:
                now = self._clock()
                await self._store(partial(self._state.register, said, now))
                self._agents |= {host: (document, now) for host, document in said.items()}
            except Exception as error:  # noqa: BLE001 - told to each that waits
                _settle(waiting, error)
            else:
                _settle(waiting, None)

    async def forget_agents(self) -> None:
        """Those of hosts that are gone."""
        before = self._clock() - FORGOTTEN_SECONDS
        if any(seen < before for _, seen in self._agents.values()):
            await self._store(lambda: self._state.forget_agents(before))
            self._agents = {host: each for host, each in self._agents.items() if each[1] >= before}

    @property
    def agents(self) -> Mapping[str, tuple[bytes, float]]:
        """{host: what its agent said last, and when, Unix seconds}"""
        return self._agents

    async def close(self) -> None:
        self.book.close()
        if self._flushing is not None:
            await asyncio.gather(self._flushing, return_exceptions=True)
        self._storing.shutdown()
        self._state.close()


def _checked(job: Job) -> bytes:
    check_job(job, f"job {job.job}")
    return msgspec.json.encode(job)


def _same_pairs(one: bytes, other: bytes) -> bool:
    before, after = (msgspec.json.decode(each, type=Skeleton) for each in (one, other))
    return (before.groups, before.edges) == (after.groups, after.edges)


def _settle(waiting: Iterable[asyncio.Future[None]], error: Exception | None) -> None:
    for each in waiting:
        if each.done():
            continue
        if error is None:
            each.set_result(None)
        else:
            each.set_exception(error)
