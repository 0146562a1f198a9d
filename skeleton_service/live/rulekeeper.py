"""Rules of jobs that have run for a while: made, kept, and taken away, wherever Prometheus reads them from."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from exporter.contracts.codec import ContractError
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.kubernetes import RefusedError
from skeleton_service.live.problems import Problems
from skeleton_service.live.service import Service

Rendering = Callable[[str, bytes | None], Awaitable[Mapping[str, str]]]
"""From a job's name and its skeleton, if there is one, to {file name: content}; or ContractError."""
_SWEEP_SECONDS = 60.0
"""From one look at what lies there to the next: others have hands too."""
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 300.0
"""Before rules that were refused are put again."""
_MOST_FAILED = 3
"""One after another: then it is not for one's sake that nothing can be put."""
_log = logging.getLogger(__name__)


class Held(NamedTuple):
    """What lies where rules of jobs are put, and nobody else's."""

    jobs: Mapping[str, str]
    """{name of what holds rules: the job whose they are}"""
    unknown: tuple[str, ...] = ()
    """With which names begin of what may lie there or not."""
    problem: str = ""
    """Why something is unknown; empty where nothing is."""


class RuleStore(Protocol):
    """Where rules lie. OSError and BrokenError say that nothing can be done there, others are of one job alone."""

    def belongs(self, job: str) -> object | None:
        """What beside its skeleton a job's rules hang on; they are put anew when it is another. None: not known yet."""
        raise NotImplementedError

    async def put(self, job: str, files: Mapping[str, str]) -> Sequence[str]:
        """Names of what holds the rules now. Raise ContractError, RefusedError."""
        raise NotImplementedError

    async def remove(self, names: Sequence[str]) -> None:
        """Also what is gone already. Raise RefusedError."""
        raise NotImplementedError

    async def held(self) -> Held:
        raise NotImplementedError

    async def settle(self) -> None:
        """Have what changed since read."""
        raise NotImplementedError

    async def text(self, names: Sequence[str]) -> str:
        raise NotImplementedError


@dataclass(slots=True)
class _Refused:
    """Rules that could not be made, or put."""

    pause: float
    until: float
    """Monotonic seconds."""


class RuleKeeper:
    """For one event loop."""

    def __init__(
        self,
        service: Service,
        store: RuleStore,
        rendering: Rendering,
        after_seconds: float,
        unsure: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """``unsure``: whether a job that is not known may be there all the same."""
        self._service, self._store, self._after, self._unsure = service, store, after_seconds, unsure
        self.rendering = rendering
        self._round = 0
        """Rules of another were made by what is known no more."""
        self._made: dict[str, tuple[object, Sequence[str]]] = {}
        """{job: (what its rules were made of, their names)}"""
        self._refused: dict[str, _Refused] = {}
        self._swept = -math.inf
        self._problem = self._sweeping = self._left = ""
        """Why nothing can be done, why it is not known what lies there, and what of that was said."""
        self._failed = 0
        """Jobs in this turn whose rules could be put nowhere."""
        self._problems = Problems("no rules")

    @property
    def refused(self) -> int:
        """Jobs without rules, or everything."""
        return len(self._problems) + bool(self._problem or self._sweeping)

    async def text(self, job: str) -> str:
        """The rules of a job as they lie there; empty where there are none. Raise OSError, BrokenError."""
        _, names = self._made.get(job, (None, ()))
        return await self._store.text(names)

    def forget(self) -> None:
        """Make all anew: what they are made by has changed."""
        self._round += 1

    async def turn(self) -> None:
        await self._service.sources_looked_at.wait()  # until then a job may seem to have ended
        oldest = time.time() - self._after
        jobs = self._service.jobs
        await self.keep({job.job: job.skeleton for job in jobs if job.began <= oldest}, {job.job for job in jobs})

    async def keep(self, jobs: Mapping[str, bytes | None], running: Collection[str] = ()) -> None:
        """Bring what lies there to the rules of these jobs, {name: skeleton}, and have them read.

        Of others that are ``running`` what lies there stays.
        """
        there = {*jobs, *self._made}
        self._problems.forget_others(there)
        self._refused = {job: each for job, each in self._refused.items() if job in there}
        try:
            await self._bring(jobs, {*jobs, *running})
            await self._store.settle()
        except (ContractError, OSError, BrokenError) as error:
            if str(error) != self._problem:
                _log.error("rules: %s", error)
            self._problem = str(error)
        else:
            self._problem = ""

    async def _bring(self, jobs: Mapping[str, bytes | None], running: Collection[str]) -> None:
        self._failed = 0
        for job in self._made.keys() - running:
            await self._try(job, self._end)
        for job, skeleton in jobs.items():
            belongs = self._store.belongs(job)
            made_of = skeleton, belongs, self._round
            if belongs is not None and self._made.get(job, (None, ()))[0] != made_of:
                await self._try(job, self._put, made_of)
        now = time.monotonic()
        if now - self._swept >= _SWEEP_SECONDS:
            # Only now: a job that goes on keeps its rules through a start of the service, and so its alerts.
            self._swept, self._sweeping = now, "nobody has looked at what lies there"
            problem = await self._sweep(running)
            if problem and problem != self._left:
                _log.error("rules: not all that lies there is known, or could be taken away: %s", problem)
            self._left = self._sweeping = problem

    async def _sweep(self, running: Collection[str]) -> str:
        """Take away what an earlier process left, and see to what is missing; return what was left undone, and why."""
        held = await self._store.held()
        problem = held.problem
        own = {name for _, names in self._made.values() for name in names}
        for name, job in held.jobs.items():
            if name in own or not (job in self._made or (job not in running and not self._unsure(job))):
                continue
            try:
                await self._store.remove([name])
            except RefusedError as error:  # others' are taken away all the same
                problem = str(error)
            else:
                _log.info("rules removed: of no job that runs", extra={"rules": name, "job": job})
        lost = {name for name in own - held.jobs.keys() if not name.startswith(held.unknown)}
        self._made = {job: (None if lost & set(names) else of, names) for job, (of, names) in self._made.items()}
        return problem

    async def _try(self, job: str, action: Callable[..., Awaitable[None]], *arguments: object) -> None:
        before, now = self._refused.get(job), time.monotonic()
        if before is not None and now < before.until:
            return
        try:
            await action(job, *arguments)
        except (ContractError, BrokenError, OSError) as error:
            pause = _FIRST_PAUSE if before is None else min(2 * before.pause, _LONGEST_PAUSE)
            self._refused[job] = _Refused(pause, now + pause)
            self._problems.of(job, error)
            if not isinstance(error, ContractError | RefusedError):
                self._failed += 1
                if self._failed >= _MOST_FAILED:
                    raise
        else:
            self._refused.pop(job, None)
            self._problems.of(job, None)

    async def _end(self, job: str) -> None:
        await self._store.remove(self._made[job][1])
        del self._made[job]

    async def _put(self, job: str, made_of: tuple[bytes | None, object, int]) -> None:
        try:
            files = await self.rendering(job, made_of[0])
        except BrokenError as error:  # of this job's: where it dies, others' go on
            raise ContractError(f"rules of job {job}", str(error)) from error
        names = await self._store.put(job, files)
        _, before = self._made.get(job, (None, ()))
        self._made[job] = made_of, names
        await self._store.remove([name for name in before if name not in names])
