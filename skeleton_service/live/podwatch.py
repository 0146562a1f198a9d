"""Jobs as a Kubernetes cluster's pods tell of them: each change is told by the API server as it happens."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.job import Job
from skeleton_service import pods
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.kubernetes import RefusedError, told
from skeleton_service.live.problems import Problems

if TYPE_CHECKING:
    from lightkube import AsyncClient

QUIET_SECONDS = 1.0
"""A job whose pods stay as they are for so long is taken as it is: its pods come one after another."""
LATEST_SECONDS = 3.0
"""And after so long in any case."""
_WATCH_SECONDS = 60.0
"""A watch is asked for anew so often: whether its connection died without a word nothing else tells."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_PAGE = 500
_GONE = 410
_log = logging.getLogger(__name__)

Making = Callable[[pods.Key, Sequence[pods.Pod]], Awaitable[Job | None]]
"""From a job's pods to the job, or to None where they are none; or ContractError."""


class PodWatch:
    """For one event loop. ``look`` tells the jobs, ``watches`` are what runs beside it."""

    def __init__(
        self, client: AsyncClient, making: Making, *, namespaces: Sequence[str] = (), labels: Sequence[str] = ()
    ) -> None:
        """``namespaces``: whose pods; of all without any. ``labels``: names of the site's own that name jobs."""
        self._client, self._kinds = client, pods.kinds(labels)
        self.making = making
        self._watches = [
            _Watch(self, namespace, selector) for namespace in namespaces or ("*",) for selector in self._selectors()
        ]
        self._groups: defaultdict[pods.Key, dict[str, pods.Pod]] = defaultdict(dict)
        self._changed: dict[pods.Key, tuple[float, float]] = {}
        """{job: (first, last change that was not looked at, monotonic seconds)}"""
        self._jobs: dict[str, tuple[pods.Key, Job]] = {}
        self.problems = Problems("job refused")

    def _selectors(self) -> Iterator[Mapping[str, bool]]:
        """{label: whether pods have it}, one for each label that names jobs; no pod is of two."""
        labels = [kind.job for kind in self._kinds if kind is not pods.JOBSET]  # whose pods are of Jobs too
        for number, label in enumerate(labels):
            yield {label: True, **dict.fromkeys(labels[:number], False)}

    @property
    def refused(self) -> int:
        """What is wrong now: jobs, and watches that nobody answers."""
        return len(self.problems) + sum(bool(watch.problem) for watch in self._watches)

    @property
    def problem(self) -> str:
        """Why it is not known which pods there are; empty when it is."""
        return next((watch.problem for watch in self._watches if watch.problem), "")

    def watches(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """Each to be run for as long as there is a service."""
        for watch in self._watches:
            yield watch.run

    # ---- what pods do

    def took(self, pod: pods.Pod, before: pods.Pod | None) -> None:
        """A pod as it is now, and as it was, of which each may be of no job."""
        key = pods.key_of(pod, self._kinds)
        if before is not None and pods.key_of(before, self._kinds) != key:
            self.lost(before)
        if key is not None and self._groups[key].get(pod.name) != pod:
            self._groups[key][pod.name] = pod
            self._touch(key)

    def lost(self, pod: pods.Pod) -> None:
        key = pods.key_of(pod, self._kinds)
        if key is not None and self._groups.get(key, {}).pop(pod.name, None) is not None:
            self._touch(key)

    def _touch(self, key: pods.Key) -> None:
        now = time.monotonic()
        first, _ = self._changed.get(key, (now, now))
        self._changed[key] = first, now

    def lean(self, pod: pods.Pod) -> pods.Pod:
        return pods.read_of(pod, self._kinds)

    def anew(self) -> None:
        """Make all jobs again: the topology is another one."""
        for key in self._groups:
            self._touch(key)

    # ---- jobs

    async def look(self) -> Mapping[str, Job] | None:
        """Jobs by name; None until all pods have been listed once. One that did not change is the same object."""
        if not all(watch.listed for watch in self._watches):
            return None
        now = time.monotonic()
        settled = [
            key
            for key, (first, last) in self._changed.items()
            if now - last >= QUIET_SECONDS or now - first >= LATEST_SECONDS or not self._there(key)
        ]
        for key in settled:
            del self._changed[key]
        self.problems.forget_others({key.job for key in self._groups})
        await asyncio.gather(*map(self._make, settled))
        return {name: job for name, (_, job) in self._jobs.items()}

    def _there(self, key: pods.Key) -> bool:
        return any(pod.there for pod in self._groups.get(key, {}).values())

    async def _make(self, key: pods.Key) -> None:
        owner, _ = self._jobs.get(key.job, (key, None))
        members = self._groups.get(key, {})
        if not members:
            self._groups.pop(key, None)
        try:
            if owner != key and members:
                raise pods.twice(key)
            job = await self.making(key, list(members.values())) if self._there(key) else None
        except (ContractError, BrokenError) as error:  # it stays what it was
            self.problems.of(key.job, error)
            if isinstance(error, BrokenError):
                self._touch(key)
            return
        self.problems.of(key.job, None)
        if owner != key:
            return
        if job is None:
            self._jobs.pop(key.job, None)
        elif self._jobs.get(key.job) != (key, job):
            self._jobs[key.job] = key, job

    def home(self, job: str) -> tuple[str, tuple[pods.Owner, ...]] | None:
        """(namespace, what its pods go with) of a job; None for one that is not of pods."""
        if job not in self._jobs:
            return None
        key, _ = self._jobs[job]
        return key.namespace, pods.owners_of(self._groups.get(key, {}).values())


class _Watch:
    """Pods of one selector: listed, and from there on told of."""

    def __init__(self, of: PodWatch, namespace: str, selector: Mapping[str, bool]) -> None:
        self._of, self._namespace, self._selector = of, namespace, selector
        self._pods: dict[str, pods.Pod] = {}
        self._version: str | None = None
        """After which changes are to be told; None where all is to be listed."""
        self.listed = False
        self.problem = ""

    async def run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                if self._version is None:
                    await self._list()
                self._well()
                await self._follow()
                pause = _FIRST_PAUSE
            except (BrokenError, ContractError) as error:
                if str(error) != self.problem:
                    _log.error("pods: %s; jobs stay what they were", error)
                self.problem = str(error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _well(self) -> None:
        if self.problem:
            _log.info("pods: the API server answers again")
        self.problem = ""

    async def _list(self) -> None:
        from lightkube.resources.core_v1 import Pod  # noqa: PLC0415 - of the extra

        found: dict[str, pods.Pod] = {}
        with told("list pods"):
            listed = self._of._client.list(
                Pod, namespace=self._namespace, labels=_labels(self._selector), chunk_size=_PAGE
            )
            async for each in listed:
                pod = self._read(each)
                found[pod.name] = pod
        for name in self._pods.keys() - found.keys():
            self._of.lost(self._pods[name])
        for name, pod in found.items():
            self._of.took(pod, self._pods.get(name))
        self._pods, self._version, self.listed = found, listed.resourceVersion, True

    async def _follow(self) -> None:
        from lightkube.resources.core_v1 import Pod  # noqa: PLC0415 - of the extra

        watched = self._of._client.watch(
            Pod, namespace=self._namespace, labels=_labels(self._selector), resource_version=self._version,
            server_timeout=int(2 * _WATCH_SECONDS),
        )  # fmt: skip
        try:
            async with asyncio.timeout(_WATCH_SECONDS):
                with told("watch pods"):
                    async for event, each in watched:
                        self._happened(event, self._read(each))
                        self._version = each.metadata.resourceVersion if each.metadata is not None else None
        except TimeoutError:
            return
        except RefusedError as error:
            if f" {_GONE}:" not in str(error):
                raise
            self._version = None  # too long ago: what happened since is told by a list

    def _happened(self, event: str, pod: pods.Pod) -> None:
        if event == "DELETED":
            before = self._pods.pop(pod.name, None)
            if before is not None:
                self._of.lost(before)
        elif self._pods.get(pod.name) != pod:
            self._of.took(pod, self._pods.get(pod.name))
            self._pods[pod.name] = pod

    def _read(self, each: object) -> pods.Pod:
        try:
            return self._of.lean(msgspec.convert(each.to_dict(), pods.Pod))  # type: ignore[attr-defined]
        except msgspec.ValidationError as error:
            raise ContractError("a pod of the API server", str(error), "is this a Kubernetes API server?") from error


def _labels(selector: Mapping[str, bool]) -> dict[str, Any]:
    from lightkube.operators import exists, not_exists  # noqa: PLC0415 - of the extra

    return {label: exists() if has else not_exists() for label, has in selector.items()}
