"""Processes beside the one that answers: they know the topology, and make plans and rules, or infer skeletons."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Job
from exporter.contracts.skeleton import Skeleton
from exporter.contracts.topology import Topology
from skeleton_service.jobs.pods import Key, Pod, job_of
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.inferring import Traffic, inferred
from skeleton_service.live.memory import map_from
from skeleton_service.live.parenthood import end_with_parent
from skeleton_service.live.planner import parts, unobserved
from skeleton_service.live.state import Part
from skeleton_service.planning.plan import Settings
from skeleton_service.ruleset.rendering import Links
from skeleton_service.ruleset.thresholds import Thresholds

T = TypeVar("T")
_MOST_ATTEMPTS = 2
MOST_SECONDS = 300.0
"""For a plan, rules or a skeleton: others wait for the process that makes it."""


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
        # Not with what a process is started with: that goes through a pipe, and one that dies before it has read a
        # large topology would leave the service, which has both ends, writing for ever.
        self._memory = os.fdopen(os.memfd_create("knowledge"), "w+b", buffering=0)
        self._memory.write(pickle.dumps(knowledge))
        self._processes = processes
        self._pool = self._start()
        self._suspects = asyncio.Lock()

    def _start(self) -> ProcessPoolExecutor:
        # Forked ones would have the parent's sockets; and it has threads.
        context = multiprocessing.get_context("spawn")
        knowledge = f"/proc/{os.getpid()}/fd/{self._memory.fileno()}"
        # No max_tasks_per_child: where the last process has ended by it, Python 3.11 starts no other (gh-115634).
        pool = ProcessPoolExecutor(self._processes, context, _begin, (knowledge, os.getpid()))
        pool.submit(os.getpid)  # now: the first job need not wait for the topology
        return pool

    async def _do(self, work: Callable[..., T], *arguments: Any) -> T:
        with suppress(BrokenExecutor):
            return await self._try(work, *arguments)
        # All that was queued is lost with a process. Whoever killed it does so again: one at a time shows who.
        async with self._suspects:
            for _ in range(_MOST_ATTEMPTS):
                with suppress(BrokenExecutor):
                    return await self._try(work, *arguments)
        raise BrokenError("the process that works on it dies, perhaps for want of memory")

    async def _try(self, work: Callable[..., T], *arguments: Any) -> T:
        pool = self._pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
        except BrokenExecutor:
            if self._pool is pool:  # not yet by another who waited for it
                self._pool = self._start()
            raise

    async def plan(self, document: bytes, skeleton: bytes | None, generation: int, expires: float) -> list[Part]:
        """The parts of a job's plan, host by host; raise ContractError for a job that the topology cannot have."""
        return await self._do(_plan, document, skeleton, generation, expires)

    async def job(self, key: Key, pods: Sequence[Pod], resources: Sequence[str]) -> Job | None:
        """The job of these pods, if they are one; raise ContractError for one that cannot be."""
        return await self._do(_job, key, list(pods), resources)

    async def rules(self, job: str, skeleton: bytes | None) -> Mapping[str, str]:
        """{file name: content} of the job's rules."""
        return await self._do(_rules, job, skeleton)

    async def infer(self, document: bytes, traffic: Traffic, previous: bytes | None) -> bytes:
        """The skeleton of the job's traffic; raise ContractError where that tells too little."""
        return await self._do(_infer, document, traffic, previous)

    def close(self, *, cancel: bool) -> None:
        """End when all is made that was asked for, or at once."""
        self._pool.shutdown(wait=False, cancel_futures=cancel)


class _Worker:
    """What a process of the pool has."""

    fabric: Fabric
    known: Knowledge


def _begin(knowledge: str, parent: int) -> None:
    end_with_parent(parent)  # it would wait for ever for work
    map_from()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's to handle
    with open(knowledge, "rb") as file:
        _Worker.known = pickle.load(file)  # noqa: S301 - our own, of a moment ago
    _Worker.fabric = Fabric(msgspec.msgpack.decode(_Worker.known.topology, type=Topology))
    gc.collect()
    gc.freeze()  # of the topology's hundred thousands of objects none is ever garbage


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Raise ContractError of what takes longer. For the main thread of a process."""

    def late(*_: object) -> None:
        raise ContractError(what, f"takes longer than {seconds:.0f} s", "of a job so large, plan fewer paths")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _plan(document: bytes, skeleton: bytes | None, generation: int, expires: float) -> list[Part]:
    fabric, settings, seen = _Worker.fabric, _Worker.known.plans, skeleton is not None
    with within(MOST_SECONDS, "its plan"):
        job = msgspec.json.decode(document, type=Job)
        known = _skeleton(skeleton) if skeleton is not None else unobserved(job, fabric)
        return parts(known, fabric, observed=seen, generation=generation, expires=expires, settings=settings)


def _job(key: Key, pods: Sequence[Pod], resources: Sequence[str]) -> Job | None:
    with within(MOST_SECONDS, "what its pods say"):
        return job_of(key, pods, _Worker.fabric, resources)


def _rules(job: str, skeleton: bytes | None) -> Mapping[str, str]:
    from skeleton_service.ruleset import job_rules  # noqa: PLC0415 - not every process renders

    with within(MOST_SECONDS, "its rules"):
        known = None if skeleton is None else _skeleton(skeleton)
        return dict(job_rules(job, _Worker.known.thresholds, _Worker.known.links, known))


def _infer(document: bytes, traffic: Traffic, previous: bytes | None) -> bytes:
    with within(MOST_SECONDS, "its skeleton"):
        return inferred(_Worker.fabric, document, traffic, previous)


def _skeleton(encoded: bytes) -> Skeleton:
    return msgspec.json.decode(encoded, type=Skeleton)
