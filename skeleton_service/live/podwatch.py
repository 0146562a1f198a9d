"""Jobs as a Kubernetes cluster's pods tell of them: each change is told by the API server as it happens."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.job import Job
from skeleton_service.jobs import pods
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.kubernetes import Cluster, RefusedError, refused
from skeleton_service.live.problems import Problems
from skeleton_service.live.upkeep import Told

QUIET_SECONDS = 1.0
"""A job whose pods stay as they are for so long is taken as it is: its pods come one after another."""
LATEST_SECONDS = 3.0
"""And after so long in any case."""
GONE_SECONDS = 15.0
"""A job without pods for so long has ended: one that is started again has others by then."""
_WATCH_SECONDS = 55
"""A watch is asked for anew so often: whether its connection died without a word nothing else tells."""
_LATE_SECONDS = 10.0
"""By which the API server may end it later than it was asked to."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_PAGE = 500
_GONE = 410
EVERYWHERE = "*"
_log = logging.getLogger(__name__)

Making = Callable[[pods.Key, Sequence[pods.Pod]], Awaitable[Job | None]]
"""From a job's pods to the job, or to None where they are none; or ContractError."""


class _Known(NamedTuple):
    """A job that pods are."""

    key: pods.Key
    job: Job
    owners: tuple[pods.Owner, ...]


class PodWatch:
    """For one event loop. ``look`` tells the jobs, ``watches`` are what runs beside it."""

    def __init__(
        self, cluster: Cluster, making: Making, *, namespaces: Sequence[str] = (), labels: Sequence[str] = ()
    ) -> None:
        """``namespaces``: whose pods; of all without any. ``labels``: names of the site's own that name jobs."""
        self._kinds, self._making = pods.kinds(labels), making
        self._watches = [
            _Watch(self, cluster, namespace, selector)
            for namespace in dict.fromkeys(namespaces or (EVERYWHERE,))
            for selector in self._selectors()
        ]
        self._groups: defaultdict[pods.Key, dict[str, pods.Pod]] = defaultdict(dict)
        self._changed: dict[pods.Key, tuple[float, float]] = {}
        """{job: (first, last change that was not looked at, monotonic seconds)}"""
        self._first: set[pods.Key] | None = None
        """Jobs that were there when all pods were listed first, and have not been made yet."""
        self._jobs: dict[str, _Known] = {}
        self._leaving: dict[str, float] = {}
        """{job without pods: since when, monotonic seconds}"""
        self.problems = Problems("job refused")

    def _selectors(self) -> Iterator[str]:
        """One for each label that names jobs; no pod is of two."""
        # JobSet's pods are of Jobs too.
        labels = list(dict.fromkeys(kind.job for kind in self._kinds if kind is not pods.JOBSET))
        for number, label in enumerate(labels):
            yield ",".join((label, *(f"!{before}" for before in labels[:number])))

    @property
    def refused(self) -> int:
        """What is wrong now: jobs, and watches that nobody answers."""
        return len(self.problems) + sum(bool(watch.problem) for watch in self._watches)

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

    async def look(self) -> Told:
        """Jobs by name, and of which others it is not known whether they are. One that did not change is the same."""
        now = time.monotonic()
        settled = [
            key for key, (first, last) in self._changed.items()
            if now - last >= QUIET_SECONDS or now - first >= LATEST_SECONDS
        ]  # fmt: skip
        for key in settled:
            del self._changed[key]
        made = await asyncio.gather(*map(self._make, settled), return_exceptions=True)
        for key, problem in zip(settled, made, strict=True):
            if isinstance(problem, Exception):
                self._touch(key)
                _log.error("job refused: %s", problem, exc_info=problem, extra={"job": key.job})
        self.problems.forget_others(map(_title, self._groups))
        for name, since in list(self._leaving.items()):
            if now - since >= GONE_SECONDS:
                self._forget(name)
        if self._first is None and all(watch.listed for watch in self._watches):
            self._first = set(self._changed)
        if self._first:
            self._first &= self._changed.keys()
        return Told({name: known.job for name, known in self._jobs.items()}, self._unsure(), self._first == set())

    def _unsure(self) -> Callable[[str], bool]:
        """Of jobs by name, those among them that are not told: they may be there all the same."""
        unlisted = {watch.namespace for watch in self._watches if not watch.listed}
        waiting = {key.job for key in self._changed} | {key.job for key, each in self._groups.items() if _there(each)}

        def unsure(job: str) -> bool:
            return job in waiting or EVERYWHERE in unlisted or job.partition(".")[0] in unlisted

        return unsure

    async def _make(self, key: pods.Key) -> None:
        members, name = self._groups.get(key, {}), key.job
        if not members:
            self._groups.pop(key, None)
        if not _there(members):
            self.problems.of(_title(key), None)
            known = self._jobs.get(name)
            if known is not None and known.key == key:
                self._leaving.setdefault(name, time.monotonic())
            return
        try:
            job = await self._making(key, list(members.values()))
        except (ContractError, BrokenError) as error:  # it stays what it was
            self.problems.of(_title(key), error)
            if isinstance(error, BrokenError):
                self._touch(key)
            return
        known = self._jobs.get(name)
        if known is not None and known.key != key:
            self.problems.of(_title(key), pods.twice(key) if job is not None else None)
            return
        self.problems.of(_title(key), None)
        self._leaving.pop(name, None)
        if job is None:
            self._forget(name)
            return
        owners = pods.owners_of(members.values()) or (known.owners if known is not None else ())
        if known is None or (known.job, known.owners) != (job, owners):
            self._jobs[name] = _Known(key, job if known is None or known.job != job else known.job, owners)

    def _forget(self, name: str) -> None:
        self._leaving.pop(name, None)
        if self._jobs.pop(name, None) is not None:
            for key in self._groups:
                if key.job == name:  # one that had to stand back for it
                    self._touch(key)

    def home(self, job: str) -> tuple[str, tuple[pods.Owner, ...]] | None:
        """(namespace, what its pods go with) of a job; None for one that is not known, or not yet."""
        known = self._jobs.get(job)
        return None if known is None else (known.key.namespace, known.owners)


def _there(members: Mapping[str, pods.Pod]) -> bool:
    return any(pod.there for pod in members.values())


def _title(key: pods.Key) -> str:
    return f"{key.job} ({key.kind.job})"


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str | None = None
    continue_: str | None = msgspec.field(default=None, name="continue")


class _Page(msgspec.Struct):
    items: list[msgspec.Raw] | None
    metadata: _Metadata


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Versioned(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    code: int | None = None
    message: str = ""


class _EndedError(BrokenError):
    """What is asked for is too long ago: a list tells what happened since."""


class _Watch:
    """Pods of one selector: listed, and from there on told of."""

    def __init__(self, of: PodWatch, cluster: Cluster, namespace: str, selector: str) -> None:
        self._of, self._cluster, self._selector = of, cluster, selector
        self.namespace = namespace
        self._path = "/api/v1/pods" if namespace == EVERYWHERE else f"/api/v1/namespaces/{namespace}/pods"
        self._pods: dict[str, pods.Pod] = {}
        self._version: str | None = None
        """After which changes are to be told; None where all is to be listed."""
        self.listed = False
        self.problem = ""
        self._unread = ""

    async def run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._follow()
                pause = _FIRST_PAUSE
                continue
            except _EndedError:
                self._version = None
            except BrokenError as error:
                if isinstance(error, RefusedError):
                    self._version = None
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
        found: dict[str, pods.Pod] = {}
        parameters = {"labelSelector": self._selector, "limit": str(_PAGE)}
        while True:
            page = _decoded(await self._asked(parameters), _Page)
            for each in page.items or ():
                if (pod := self._read(each)) is not None:
                    found[pod.name] = pod
            if not page.metadata.continue_:
                break
            parameters["continue"] = page.metadata.continue_
        for name in self._pods.keys() - found.keys():
            self._of.lost(self._pods[name])
        for name, pod in found.items():
            self._of.took(pod, self._pods.get(name))
        self._pods, self._version, self.listed = found, page.metadata.resource_version, True

    async def _asked(self, parameters: Mapping[str, str]) -> bytes:
        try:
            return await self._cluster.get(self._path, parameters)
        except RefusedError as error:
            if error.code == _GONE:
                raise _EndedError(str(error)) from error
            raise

    async def _follow(self) -> None:
        """For a minute. Raise BrokenError where it is none."""
        parameters = {
            "watch": "true", "allowWatchBookmarks": "true", "labelSelector": self._selector,
            "timeoutSeconds": str(_WATCH_SECONDS), "resourceVersion": self._version or "0",
        }  # fmt: skip
        begun, told = time.monotonic(), 0
        try:
            async with (
                asyncio.timeout(_WATCH_SECONDS + _LATE_SECONDS),
                self._cluster.lines(self._path, parameters) as lines,
            ):
                self._well()
                async for line in lines:
                    if line.strip():
                        self._happened(_decoded(line, _Event))
                        told += 1
        except TimeoutError:
            return
        except RefusedError as error:
            if error.code == _GONE:
                raise _EndedError(str(error)) from error
            raise
        if not told and time.monotonic() - begun < _FIRST_PAUSE:
            raise BrokenError(f"{self._path}: the API server ends each watch at once")

    def _happened(self, event: _Event) -> None:
        about = _decoded(event.object, _Versioned)
        if event.type == "ERROR":
            error = refused(self._path, about.code, about.message)
            self._version = None
            raise _EndedError(str(error)) if about.code == _GONE else error
        if event.type != "BOOKMARK" and (pod := self._read(event.object)) is not None:
            before = self._pods.get(pod.name)
            if event.type == "DELETED":
                self._pods.pop(pod.name, None)
                if before is not None:
                    self._of.lost(before)
            elif before != pod:
                self._of.took(pod, before)
                self._pods[pod.name] = pod
        self._version = about.metadata.resource_version or self._version

    def _read(self, raw: msgspec.Raw) -> pods.Pod | None:
        """None for one that cannot be read: it is nobody's job, and must not hide others."""
        try:
            return self._of.lean(msgspec.json.decode(raw, type=pods.Pod))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if str(error) != self._unread:
                _log.error("pods: one is left out: %s", error)
            self._unread = str(error)
            return None


def _decoded(data: bytes | msgspec.Raw, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenError(f"pods: the API server sent what cannot be read: {error}") from error
