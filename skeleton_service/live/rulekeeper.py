"""Rules of jobs that have run for a while: made, kept, and taken away, wherever Prometheus reads them from."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from exporter.contracts.codec import ContractError
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.kubernetes import RefusedError
from skeleton_service.live.problems import Problems
from skeleton_service.live.service import Service

Rendering = Callable[[str, bytes | None], Awaitable[Mapping[str, str]]]
"""From a job's name and its skeleton, if there is one, to {file name: content}; or ContractError."""
_SWEEP_SECONDS = 60.0
"""From one look at what lies there to the next: others have hands too."""
_log = logging.getLogger(__name__)


class RuleStore(Protocol):
    """Where rules lie. OSError and BrokenError say that nothing can be done there, others are of one job alone."""

    def belongs(self, job: str) -> object:
        """What beside its skeleton a job's rules hang on: they are put anew when it is another."""
        raise NotImplementedError

    async def put(self, job: str, files: Mapping[str, str]) -> Sequence[str]:
        """Names of what holds the rules now. Raise ContractError, RefusedError."""
        raise NotImplementedError

    async def remove(self, names: Sequence[str]) -> None:
        """Also what is gone already. Raise RefusedError."""
        raise NotImplementedError

    async def sweep(self, names: Collection[str]) -> Collection[str]:
        """Take away what an earlier process left beside ``names``; return those of them that are not there."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Have what changed since read."""
        raise NotImplementedError

    async def text(self, names: Sequence[str]) -> str:
        raise NotImplementedError


class RuleKeeper:
    """For one event loop."""

    def __init__(self, service: Service, store: RuleStore, rendering: Rendering, after_seconds: float) -> None:
        self._service, self._store, self._after = service, store, after_seconds
        self.rendering = rendering
        self._made: dict[str, tuple[object, Sequence[str]]] = {}
        """{job: (what its rules were made of, their names)}"""
        self._swept = -math.inf
        self._problem = ""
        self._problems = Problems("no rules")

    @property
    def refused(self) -> int:
        """Jobs without rules, or everything."""
        return len(self._problems) + bool(self._problem)

    async def text(self, job: str) -> str:
        """The rules of a job as they lie there; empty where there are none. Raise OSError, BrokenError."""
        _, names = self._made.get(job, (None, ()))
        return await self._store.text(names)

    def forget(self) -> None:
        """Make all anew: what they are made by has changed."""
        self._made = {job: (None, names) for job, (_, names) in self._made.items()}

    async def turn(self) -> None:
        await self._service.sources_looked_at.wait()  # until then a job may seem to have ended
        oldest = time.time() - self._after
        await self.keep({job.job: job.skeleton for job in self._service.jobs if job.began <= oldest})

    async def keep(self, jobs: Mapping[str, bytes | None]) -> None:
        """Bring what lies there to the rules of these jobs, {name: skeleton}, and have them read."""
        self._problems.forget_others({*jobs, *self._made})
        try:
            await self._bring(jobs)
            await self._store.settle()
        except (ContractError, OSError, BrokenError) as error:
            if str(error) != self._problem:
                _log.error("rules: %s", error)
            self._problem = str(error)
        else:
            self._problem = ""

    async def _bring(self, jobs: Mapping[str, bytes | None]) -> None:
        for job in self._made.keys() - jobs.keys():
            await self._try(job, self._end)
        for job, skeleton in jobs.items():
            made_of = skeleton, self._store.belongs(job)
            if self._made.get(job, (None, ()))[0] != made_of:
                await self._try(job, self._put, made_of)
        now = time.monotonic()
        if now - self._swept >= _SWEEP_SECONDS:
            # Only now: a job that goes on keeps its rules through a start of the service, and so its alerts.
            lost = set(await self._store.sweep({name for _, names in self._made.values() for name in names}))
            self._made = {job: (None if lost & set(each[1]) else each[0], each[1]) for job, each in self._made.items()}
            self._swept = now

    async def _try(self, job: str, action: Callable[..., Awaitable[None]], *arguments: object) -> None:
        try:
            await action(job, *arguments)
        except (ContractError, RefusedError) as error:
            self._problems.of(job, error)
        else:
            self._problems.of(job, None)

    async def _end(self, job: str) -> None:
        await self._store.remove(self._made[job][1])
        del self._made[job]

    async def _put(self, job: str, made_of: tuple[bytes | None, object]) -> None:
        names = await self._store.put(job, await self.rendering(job, made_of[0]))
        _, before = self._made.get(job, (None, ()))
        self._made[job] = made_of, names
        await self._store.remove([name for name in before if name not in names])
