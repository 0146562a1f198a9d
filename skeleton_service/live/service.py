"""The running service without its HTTP: jobs come and go, plans are made of them, agents are told."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import msgspec

from exporter.contracts.job import Job, check_job
from exporter.contracts.service_metrics import AGENTS, FIRST_EXPIRES, JOBS, PLAN_QUEUE, WAITING
from exporter.contracts.skeleton import Skeleton
from skeleton_service.live.book import Book
from skeleton_service.live.metrics import Metrics
from skeleton_service.live.state import Part, State, StoredJob

T = TypeVar("T")

FLUSH_SECONDS = 0.05
"""Registrations of so long are one transaction: a herd of 500 is a few of them, one alone hardly waits."""
MOST_PLANNING = 256
"""Plans that are made, or wait to be; whoever wants another is told to come again."""
MOST_PENDING = 10_000
"""Registrations that wait to be stored; who comes then is told to come again."""


class BusyError(Exception):
    """More is asked than can be queued; ``seconds`` later there may be room."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too much at once: again in {seconds:g} s")
        self.seconds = seconds


class UnknownJobError(KeyError):
    """No job of this name runs."""


class ForeignJobError(Exception):
    """The job's file says what it is, so nobody else does."""


Planning = Callable[[bytes, bytes | None, int, float], Awaitable[list[Part]]]
"""From a job's document, its skeleton, a generation and when that expires to the parts of a plan; or ContractError."""


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
        self._valid_seconds, self._clock = valid_seconds, clock
        self._storing = ThreadPoolExecutor(1, "state")  # SQLite is for one thread at a time
        self._jobs = {job.job: job for job in state.jobs()}
        self._agents = state.agents()
        self.book = Book(state.hosts())
        self._pending: dict[str, tuple[bytes, list[asyncio.Future[None]]]] = {}
        self._flushing: asyncio.Task[None] | None = None
        self._locks: dict[str, asyncio.Lock] = {}
        self._planning_now = 0
        self.files_looked_at = asyncio.Event()
        """Until then jobs of files are what they were when the last process ended."""
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
        return "" if self.files_looked_at.is_set() else "job files have not been looked at"

    @property
    def jobs(self) -> list[StoredJob]:
        return [self._jobs[name] for name in sorted(self._jobs)]

    def job(self, name: str) -> StoredJob:
        try:
            return self._jobs[name]
        except KeyError:
            raise UnknownJobError(name) from None

    async def _store(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._storing, action)

    # ---- jobs

    async def put(self, job: Job, source: str) -> bool:
        """Take a job on, or what it has become; True when that is new. Raise ContractError, ForeignJobError."""
        check_job(job, f"job {job.job}")
        encoded = msgspec.json.encode(job)
        async with self._lock(job.job):
            known = self._jobs.get(job.job)
            if known is not None and known.source != source:
                raise ForeignJobError(f"job {job.job} is known by its {known.source}")
            if known is not None and known.document == encoded:
                return False
            now = self._clock()
            began = known.began if known is not None else now
            await self._plan(StoredJob(job.job, encoded, source, began, "", self._next(known), 0.0, None))
        return True

    async def observe(self, name: str, skeleton: bytes, of: bytes) -> bool:
        """Plan for the pairs of this skeleton; False where they are those of before, or the job is no longer ``of``."""
        async with self._lock(name):
            known = self.job(name)
            if known.document != of or (known.skeleton is not None and _same_pairs(known.skeleton, skeleton)):
                return False
            await self._plan(replace(known, generation=self._next(known), skeleton=skeleton))
        return True

    async def renew(self, name: str) -> None:
        """The job's plan for another while; its rotated source ports are others."""
        async with self._lock(name):
            known = self._jobs.get(name)
            if known is not None:
                await self._plan(replace(known, generation=self._next(known)))

    def due(self) -> list[str]:
        """Jobs whose plans have less than half of their time left."""
        limit = self._clock() + self._valid_seconds / 2
        return [job.job for job in self._jobs.values() if job.expires < limit]

    def _next(self, known: StoredJob | None) -> int:
        """Generations grow, also over a job of the same name that ended, and over a clock that was set back."""
        return max(int(self._clock() * 1000), known.generation + 1 if known is not None else 0)

    async def _plan(self, job: StoredJob) -> None:
        expires = self._clock() + self._valid_seconds
        job = replace(job, expires=expires, phase="preload" if job.skeleton is None else "skeleton")
        made = await self._planned(job, expires)
        await self._store(lambda: self._state.put(job, made))
        self._jobs[job.job] = job
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
        async with self._lock(name):
            if self.job(name).source != source:
                raise ForeignJobError(f"job {name} is known by its {self.job(name).source}")
            await self._store(lambda: self._state.end(name))
            del self._jobs[name]
            self.book.change(name, {})
        self._locks.pop(name, None)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    # ---- agents

    async def plan(self, host: str, job: str) -> Part:
        """What the host is to probe for the job; raise UnknownJobError where that is nothing."""
        part = await self._store(lambda: self._state.part(host, job))
        if part is None:
            raise UnknownJobError(job)
        return part

    async def register(self, host: str, said: bytes) -> None:
        """Keep what a host's agent says of itself; it is stored when this returns. Raise BusyError."""
        if host not in self._pending and len(self._pending) >= MOST_PENDING:
            raise BusyError(1.0)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        _, waiting = self._pending.get(host, (b"", []))
        self._pending[host] = said, [*waiting, stored]
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await stored

    async def _flush(self) -> None:
        while self._pending:
            await asyncio.sleep(FLUSH_SECONDS)
            batch, self._pending = self._pending, {}
            waiting = [each for _, futures in batch.values() for each in futures]
            try:
                await self._keep({host: said for host, (said, _) in batch.items()}, self._clock())
            except Exception as error:  # noqa: BLE001 - told to each that waits
                _settle(waiting, error)
            else:
                _settle(waiting, None)

    async def _keep(self, said: dict[str, bytes], now: float) -> None:
        await self._store(lambda: self._state.register(said, now))
        self._agents |= {host: (document, now) for host, document in said.items()}

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
