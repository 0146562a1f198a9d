"""What is suspect now, and whom it hurts, as Prometheus has it; and the webhook that is told of changes."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.request import Request

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.diagnosis import Diagnosis, lasting
from exporter.contracts.job import Job
from exporter.contracts.secrets import read_secret
from skeleton_service.jobalerts import jobs_hurt, principal, since
from skeleton_service.live.errors import BrokenError, BusyError
from skeleton_service.live.settings import Prometheus, Webhook
from skeleton_service.live.state import StoredJob
from skeleton_service.live.verdict import (
    Series,
    Suspect,
    Verdict,
    hurting,
    hurting_paths,
    questions,
    suspect_of,
    verdict,
)
from skeleton_service.reading.fetching import fetch
from skeleton_service.reading.prometheusapi import Api, quoted

T = TypeVar("T")

MOST_ASKING = 32
"""Verdicts that are asked for at a time: people press reload, and Prometheus has rules to evaluate."""
AT_ONCE = 4
KEPT_SECONDS = 5.0
MOST_SUSPECTS = 50
"""Whose jobs are asked for; more at once are one incident."""
SIGNATURE = "X-Fabric-Signature"
_IDENTITY = ("cluster", "suspect")
_TIMEOUT_SECONDS = 10.0
_log = logging.getLogger(__name__)


class Suspects:
    """Asks, a few questions at a time, and keeps an answer for a moment."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._asking = 0
        self._verdicts: dict[str, tuple[float, Verdict]] = {}

    async def verdict(self, job: StoredJob, diagnosis: Diagnosis | None = None) -> Verdict:
        """Is it the network? ``diagnosis`` is of the job's probe records, if anybody made one.

        Raise BusyError, and BrokenError where Prometheus does not answer.
        """
        now = time.monotonic()
        self._verdicts = {name: each for name, each in self._verdicts.items() if each[0] > now - KEPT_SECONDS}
        if job.job in self._verdicts:
            return self._verdicts[job.job][1]
        if self._asking >= MOST_ASKING:
            raise BusyError(1.0)
        self._asking += 1
        try:
            async with self._slots:
                found = await self._asked(lambda: self._verdict(job, diagnosis))
        finally:
            self._asking -= 1
        self._verdicts[job.job] = time.monotonic(), found
        return found

    def _verdict(self, job: StoredJob, diagnosis: Diagnosis | None) -> Verdict:
        at, api = time.time(), self._api()
        told: dict[str, Series] = {name: list(api.instant(text, at)) for name, text in questions(job.job).items()}
        hosts = {container.host for container in msgspec.json.decode(job.document, type=Job).containers}
        return verdict(job.job, len(hosts), told, at, lasting(diagnosis))

    async def hurting(self) -> Mapping[str, int]:
        """{job: how many of its paths lose probes or are slow}; raise BrokenError."""

        def ask() -> Mapping[str, int]:
            answer = self._api().instant(hurting(), time.time())
            return {labels.get("training_job", ""): int(count) for labels, count in answer}

        return await self._asked(ask)

    async def hurting_paths(self, job: str) -> Sequence[str]:
        """Those of one job; of many some. Raise BrokenError."""

        def ask() -> Sequence[str]:
            return [labels.get("path", "") for labels, _ in self._api().instant(hurting_paths(job), time.time())]

        return await self._asked(ask)

    async def all(self) -> list[Suspect]:
        """The oldest first. Raise BrokenError."""
        return await self._asked(self._all)

    def _all(self) -> list[Suspect]:
        at, api = time.time(), self._api()
        began: dict[tuple[str, ...], float] = {}
        for labels, value in api.instant(since(), at):
            key = tuple(labels.get(name, "") for name in _IDENTITY)
            began[key] = min(value, began.get(key, value))
        found: list[Suspect] = []
        for labels, _ in api.instant(principal(), at):
            key = tuple(labels.get(name, "") for name in _IDENTITY)
            jobs: Sequence[str] = ()
            if len(found) < MOST_SUSPECTS:
                hurt = jobs_hurt(f"cluster={quoted(key[0])}", f"suspect={quoted(key[1])}")
                jobs = sorted({each["training_job"] for each, _ in api.instant(hurt, at)})
            found.append(suspect_of(labels, began.get(key, at), jobs))
        return sorted(found, key=lambda each: (each.since, each.component))

    def _api(self) -> Api:
        """With the token that is in its file now."""
        return Api(self._prometheus.url, self._prometheus.token_file, unauthorized="give it as prometheus.token_file")

    @staticmethod
    async def _asked(question: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(question)
        except ContractError as error:
            raise BrokenError(str(error)) from error


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What the webhook is sent: all that is suspect now, and what of it is new or over since the last that it took."""

    version: int = 1
    time: float
    appeared: Sequence[Suspect]
    gone: Sequence[Suspect]
    now: Sequence[Suspect]


class Messenger:
    """Sends changes until they are taken: each at least once, in order."""

    def __init__(self, suspects: Suspects, settings: Webhook) -> None:
        self._suspects, self._settings = suspects, settings
        self._taken: dict[tuple[str, str, str], Suspect] = {}
        self._problem = ""

    async def turn(self) -> None:
        try:
            now = {(each.cluster, each.kind, each.component): each for each in await self._suspects.all()}
            appeared = [each for key, each in now.items() if key not in self._taken]
            gone = [each for key, each in self._taken.items() if key not in now]
            if appeared or gone:
                message = Message(time=time.time(), appeared=appeared, gone=gone, now=list(now.values()))
                await asyncio.to_thread(self._send, msgspec.json.encode(message))
                self._taken = now
        except (BrokenError, ContractError) as error:
            if str(error) != self._problem:
                _log.error("webhook: %s", error)
            self._problem = str(error)
        else:
            self._problem = ""

    def pause(self) -> float:
        return self._settings.every_seconds

    def _send(self, body: bytes) -> None:
        """Raise ContractError."""
        headers = {"Content-Type": "application/json", **signed(body, read_secret(self._settings.key_file))}
        request = Request(self._settings.url, data=body, headers=headers)  # noqa: S310 - its scheme was checked
        fetch(request, self._settings.url, _TIMEOUT_SECONDS)


def signed(body: bytes, key: str, now: float | None = None) -> Mapping[str, str]:
    """The header by which a receiver knows the sender and the moment: ``t=UNIX,v1=HMAC-SHA256 of "t.body"`` in hex."""
    moment = int(time.time() if now is None else now)
    digest = hmac.new(key.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return {SIGNATURE: f"t={moment},v1={digest}"}
