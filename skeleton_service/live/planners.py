"""Plans are made in processes of their own, so that who asks the service does not wait for one."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from typing import Final

import msgspec

from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Job
from exporter.contracts.skeleton import Skeleton
from exporter.contracts.topology import Topology
from skeleton_service.live.planner import parts, unobserved
from skeleton_service.live.state import Part
from skeleton_service.planning import Settings

_PR_SET_PDEATHSIG: Final = 1
_MOST_ATTEMPTS = 3


class Planners:
    """Processes that know the topology. A topology that is reloaded is a new ``Planners``."""

    def __init__(self, topology: Topology, settings: Settings, processes: int) -> None:
        self._made_of = msgspec.msgpack.encode(topology), settings
        self._processes = processes
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # Forked ones would have the parent's sockets; and it has threads.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self._processes, context, _begin, (*self._made_of, os.getpid()))
        pool.submit(os.getpid)  # now: the first job need not wait for the topology
        return pool

    async def plan(self, document: bytes, skeleton: bytes | None, generation: int, expires: float) -> list[Part]:
        """The parts of a job's plan, host by host; raise ContractError for a job that the topology cannot have."""
        for attempt in range(_MOST_ATTEMPTS):
            pool = self._pool
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    pool, _plan, document, skeleton, generation, expires
                )
            except BrokenExecutor:
                if attempt == _MOST_ATTEMPTS - 1:
                    raise
                if self._pool is pool:  # not yet by another who waited for it
                    self._pool = self._start()
        raise AssertionError("unreachable")

    def close(self, *, cancel: bool) -> None:
        """End when all is made that was asked for, or at once."""
        self._pool.shutdown(wait=False, cancel_futures=cancel)


_fabric: Fabric
_settings: Settings


def _begin(topology: bytes, settings: Settings, parent: int) -> None:
    global _fabric, _settings
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it would wait for ever for work (prctl(2))
    if os.getppid() != parent:
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's to handle
    _fabric, _settings = Fabric(msgspec.msgpack.decode(topology, type=Topology)), settings


def _plan(document: bytes, skeleton: bytes | None, generation: int, expires: float) -> list[Part]:
    if skeleton is None:
        known = unobserved(msgspec.json.decode(document, type=Job), _fabric)
    else:
        known = msgspec.json.decode(skeleton, type=Skeleton)
    return parts(
        known, _fabric, observed=skeleton is not None, generation=generation, expires=expires, settings=_settings
    )
