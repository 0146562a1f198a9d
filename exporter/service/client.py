"""One request after another to the skeleton service; and the directory in which its plans are kept."""

from __future__ import annotations

import hashlib
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import msgspec
import urllib3
from msgspec import Meta
from urllib3.exceptions import HTTPError

from exporter.contracts.codec import ContractError, decode, write
from exporter.contracts.plan import Plan, check_plan, read_plan
from exporter.contracts.secrets import read_secret
from exporter.service.settings import Service, Told

WAIT_SECONDS = 50.0
"""What lies between gives up connections that are idle for a minute."""
_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 30.0
_LARGEST_INDEX, _LARGEST_PLAN = 1 << 20, 256 << 20
_PIECE = 1 << 16
_FIRST_RETRY, _LONGEST_RETRY = 8.0, 60.0
"""Seconds, at most. A service that starts again was lost by all exporters of a fleet in the same moment: each looks its
name up, and has a handshake."""
_MOST_SAID = 200
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Entry(msgspec.Struct, frozen=True):
    job: Annotated[str, Meta(min_length=1, max_length=253)]
    generation: Annotated[int, Meta(ge=0)]


class _Index(msgspec.Struct, frozen=True):
    state: Annotated[str, Meta(max_length=100)]
    plans: Annotated[list[_Entry], Meta(max_length=4096)]


class Listed(NamedTuple):
    """Which plans a host has."""

    tag: str
    state: str
    """Which state of the service says so: one that was made anew knows nothing of what was before."""
    generations: Mapping[str, int]
    """Of each job's plan."""


class _Problem(msgspec.Struct, frozen=True):
    error: str = ""


class UnansweredError(Exception):
    """The service gave no answer that is one; ``str()`` is one line. ``retry_after`` is what it asked for, seconds."""

    def __init__(self, problem: str, retry_after: float = 0.0) -> None:
        super().__init__("".join(letter if letter.isprintable() else " " for letter in problem)[:_MOST_SAID])
        self.retry_after = retry_after


class Client:
    """As ``Service`` says. Not for several threads."""

    def __init__(self, service: Service, host: str) -> None:
        self._service, self._base = service, f"{service.url.rstrip('/')}/v1/agents/{quote(host, safe='')}"
        self._pool: urllib3.PoolManager | None = None
        self._seen: tuple[object, ...] = ()

    def register(self, told: Told, version: str) -> None:
        """Say what this exporter is. Raise UnansweredError."""
        endpoints = [{"rnic": rnic, "ready": ready} for rnic, ready in sorted(told.ready.items())]
        said = {"boot_epoch": told.boot_epoch, "version": version, "endpoints": endpoints}
        self._ask("PUT", "", (204,), 0, body=msgspec.json.encode(said))

    def plans(self, tag: str, wait: float) -> Listed | None:
        """Which plans there are, once they are others than those of ``tag``; None when they were not for so long.

        Raise UnansweredError.
        """
        headers = {"If-None-Match": tag} if tag else {}
        status, told, body = self._ask("GET", f"/plans?wait={wait:g}", (200, 304), _LARGEST_INDEX, headers, wait)
        if status == 304:
            return None
        try:
            index = msgspec.json.decode(body, type=_Index)
        except _UNREADABLE as error:
            raise UnansweredError(f"its list of plans is none: {error}") from error
        return Listed(told.get("ETag", ""), index.state, {each.job: each.generation for each in index.plans})

    def plan(self, job: str) -> Plan | None:
        """The host's part of a job's plan; None where it has none. Raise UnansweredError."""
        status, _, body = self._ask("GET", f"/plans/{quote(job, safe='')}", (200, 404), _LARGEST_PLAN)
        if status == 404:
            return None
        try:
            plan = decode(body, Plan, f"plan of job {job}")
            check_plan(plan, f"plan of job {job}")
        except ContractError as error:
            raise UnansweredError(str(error)) from error
        if plan.job != job:
            raise UnansweredError(f"plan of job {job}: is one of job {plan.job}")
        return plan

    def _ask(
        self,
        method: str,
        path: str,
        good: tuple[int, ...],
        largest: int,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
        body: bytes | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        asked = {"Accept-Encoding": "gzip", "Content-Type": "application/json", **(headers or {})}
        try:
            if self._service.token_file is not None:
                asked["Authorization"] = f"Bearer {read_secret(self._service.token_file)}"
            answer = self._connections().request(
                method, self._base + path, headers=asked, body=body, preload_content=False, redirect=False,
                retries=False, timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_ANSWER_SECONDS + wait),
            )  # fmt: skip
            try:
                data = _bounded(answer, largest if answer.status in good else _LARGEST_INDEX)
            finally:
                answer.release_conn()
        except ContractError as error:
            raise UnansweredError(str(error)) from error
        except (HTTPError, OSError, ValueError) as error:
            raise UnansweredError(f"{type(error).__name__}: {error}") from error
        if answer.status not in good:
            raise UnansweredError(
                f"{answer.status} {_reason(data)}".strip(), _seconds(answer.headers.get("Retry-After"))
            )
        return answer.status, answer.headers, data

    def _connections(self) -> urllib3.PoolManager:
        """New ones when a file is another one."""
        service = self._service
        files = [each for each in (service.ca_file, service.certificate, service.key) if each is not None]
        seen = tuple((os.stat(name).st_mtime_ns, os.stat(name).st_ino) for name in files)
        if self._pool is None or seen != self._seen:
            if self._pool is not None:
                self._pool.clear()
            trust: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED", "ca_certs": service.ca_file}
            self._pool = urllib3.PoolManager(
                1, cert_file=service.certificate, key_file=service.key, **(trust if service.url[:5] == "https" else {})
            )
            self._seen = seen
        return self._pool


def _bounded(answer: urllib3.BaseHTTPResponse, largest: int) -> bytes:
    """The body, unpacked; raise ValueError where it is longer."""
    data = bytearray()
    for piece in answer.stream(_PIECE, decode_content=True):
        data += piece
        if len(data) > max(largest, _PIECE):
            answer.close()
            raise ValueError(f"the answer is longer than {largest} bytes")
    return bytes(data)


def _reason(body: bytes) -> str:
    with suppress(*_UNREADABLE):
        return msgspec.json.decode(body, type=_Problem).error
    return ""


def _seconds(text: str | None) -> float:
    with suppress(TypeError, ValueError):
        seconds = float(text or 0)
        return min(max(seconds, 0.0), _LONGEST_RETRY) if math.isfinite(seconds) else 0.0
    return 0.0


class Backoff:
    """How long to wait after failures: longer each time, and no two exporters alike."""

    def __init__(self, first: float = _FIRST_RETRY, longest: float = _LONGEST_RETRY) -> None:
        self._first, self._longest = first, longest
        self._limit = first

    def well(self) -> None:
        self._limit = self._first

    def seconds(self, at_least: float = 0.0) -> float:
        limit, self._limit = self._limit, min(2 * self._limit, self._longest)
        return at_least + random.uniform(limit / 8, limit)  # noqa: S311 - spread, not secret


class _Memory(msgspec.Struct):
    """What a directory of plans remembers beside them."""

    state: str = ""
    """Which state of the service listed them last."""
    lapsing: dict[str, float] = {}
    """{job: Unix time when its plan expires} of those that an earlier state listed, and this one knows nothing of."""


class PlanDirectory:
    """A file for each job. What is in it that no job has is taken away."""

    def __init__(self, path: str, clock: Callable[[], float] = time.time) -> None:
        """Raise OSError where it cannot be made."""
        self._path, self._clock = Path(path), clock
        self._path.mkdir(parents=True, exist_ok=True)
        for unfinished in self._path.glob(".*.json.*"):  # a process was killed as it wrote one
            unfinished.unlink(missing_ok=True)
        self._remembered = self._path / ".state"
        self._memory = _Memory()
        with suppress(FileNotFoundError, *_UNREADABLE):
            self._memory = msgspec.json.decode(self._remembered.read_bytes(), type=_Memory)
        kept = list(self._kept())
        self.generations = {plan.job: plan.generation for plan in kept}
        self._expires = {plan.job: plan.expires for plan in kept}

    def _kept(self) -> Iterator[Plan]:
        """Those that an earlier process left."""
        for file in self._path.glob("*.json"):
            try:
                plan = read_plan(file)
            except ContractError:
                continue
            if file == self._file(plan.job):
                yield plan

    def _file(self, job: str) -> Path:
        name = quote(job, safe="")
        if len(name) > 200 or name.startswith("."):
            name = hashlib.blake2b(job.encode(), digest_size=20).hexdigest()
        return self._path / f"{name}.json"

    def has(self, job: str, generation: int) -> bool:
        return self.generations.get(job) == generation and self._file(job).exists()

    def keep(self, plan: Plan) -> None:
        """Raise ContractError, as of a full disk: the plan before stays."""
        write(self._file(plan.job), msgspec.json.encode(plan))
        self.generations[plan.job], self._expires[plan.job] = plan.generation, plan.expires

    def keep_only(self, jobs: Mapping[str, int], state: str) -> None:
        """Take the plans of other jobs away; but those that another state of the service listed lapse by themselves.

        A service whose state was lost does not know that they have ended. Raise ContractError, OSError.
        """
        before = self._memory
        lapsing = dict(before.lapsing)
        if before.state not in ("", state):
            lapsing |= self._expires
        now = self._clock()
        lapsing = {job: expires for job, expires in lapsing.items() if job not in jobs and expires > now}
        memory = _Memory(state, lapsing)
        if memory != before:
            write(self._remembered, msgspec.json.encode(memory))
            self._memory = memory
        kept = jobs.keys() | lapsing.keys()
        names = {self._file(job) for job in kept}
        for file in self._path.glob("*.json"):
            if file not in names:
                file.unlink(missing_ok=True)
        self.generations = {job: number for job, number in self.generations.items() if job in kept}
        self._expires = {job: expires for job, expires in self._expires.items() if job in kept}
