"""Processes beside the one that answers: they know the topology, and make plans and rules, or infer skeletons."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Job
from exporter.contracts.skeleton import Skeleton
from exporter.contracts.topology import Topology
from skeleton_service.live.planner import observed, parts, unobserved
from skeleton_service.live.state import Part
from skeleton_service.planning import Settings
from skeleton_service.ruleset.rendering import Links
from skeleton_service.ruleset.thresholds import Thresholds

T = TypeVar("T")
_PR_SET_PDEATHSIG: Final = 1
_MOST_ATTEMPTS = 3
_TASKS_EACH = 1000
"""Then a process is another one: what libraries leave behind is bounded."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What all work is done by. Other knowledge is another ``Workers``."""

    topology: bytes
    """As MessagePack."""
    plans: Settings
    thresholds: Thresholds
    links: Links


class Workers:
    """A pool of processes. One that dies, of whatever, is started again, and its work done again."""

    def __init__(self, knowledge: Knowledge, processes: int) -> None:
        self._knowledge, self._processes = knowledge, processes
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # Forked ones would have the parent's sockets; and it has threads.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            self._processes, context, _begin, (self._knowledge, os.getpid()), max_tasks_per_child=_TASKS_EACH
        )
        pool.submit(os.getpid)  # now: the first job need not wait for the topology
        return pool

    async def _do(self, work: Callable[..., T], *arguments: Any) -> T:
        for attempt in range(_MOST_ATTEMPTS):
            pool = self._pool
            try:
                return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
            except BrokenExecutor:
                if attempt == _MOST_ATTEMPTS - 1:
                    raise
                if self._pool is pool:  # not yet by another who waited for it
                    self._pool = self._start()
        raise AssertionError("unreachable")

    async def plan(self, document: bytes, skeleton: bytes | None, generation: int, expires: float) -> list[Part]:
        """The parts of a job's plan, host by host; raise ContractError for a job that the topology cannot have."""
        return await self._do(_plan, document, skeleton, generation, expires)

    async def rules(self, job: str, skeleton: bytes | None) -> Mapping[str, str]:
        """{file name: content} of the job's rules."""
        return await self._do(_rules, job, skeleton)

    async def infer(self, document: bytes, sources: Sequence[str], previous: bytes | None) -> bytes:
        """The skeleton of the job's traffic in what ``sources`` tell; raise ContractError where that is too little."""
        return await self._do(_infer, document, sources, previous)

    def close(self, *, cancel: bool) -> None:
        """End when all is made that was asked for, or at once."""
        self._pool.shutdown(wait=False, cancel_futures=cancel)


_fabric: Fabric
_known: Knowledge


def _begin(knowledge: Knowledge, parent: int) -> None:
    global _fabric, _known
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it would wait for ever for work (prctl(2))
    if os.getppid() != parent:
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's to handle
    _fabric, _known = Fabric(msgspec.msgpack.decode(knowledge.topology, type=Topology)), knowledge


def _plan(document: bytes, skeleton: bytes | None, generation: int, expires: float) -> list[Part]:
    known = unobserved(msgspec.json.decode(document, type=Job), _fabric) if skeleton is None else _skeleton(skeleton)
    return parts(
        known, _fabric, observed=skeleton is not None, generation=generation, expires=expires, settings=_known.plans
    )


def _rules(job: str, skeleton: bytes | None) -> Mapping[str, str]:
    from skeleton_service.ruleset import job_rules  # noqa: PLC0415 - not every process renders

    known = None if skeleton is None else _skeleton(skeleton)
    return dict(job_rules(job, _known.thresholds, _known.links, known))


def _infer(document: bytes, sources: Sequence[str], previous: bytes | None) -> bytes:
    from skeleton_service.inference import infer  # noqa: PLC0415 - NumPy and SciPy are 100 MB
    from skeleton_service.throughput import read_throughput  # noqa: PLC0415

    job = msgspec.json.decode(document, type=Job)
    before = None if previous is None else _skeleton(previous)
    found = infer(read_throughput(sources, job=job.job), _fabric.topology, before)
    return msgspec.json.encode(observed(found, job, _fabric))


def _skeleton(encoded: bytes) -> Skeleton:
    return msgspec.json.decode(encoded, type=Skeleton)
