"""Simulated exporters of a service: each over its own connection, as ``exporter.service`` talks, without probing."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

WAIT_SECONDS = 50
_HEADER_BYTES = 65_536


class RefusedError(Exception):
    """An answer that is none of 200, 204 and 304."""


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class Connection:
    """One connection at a time to the service, as somebody."""

    def __init__(self, port: int, token: str, context: ssl.SSLContext | None) -> None:
        self._port, self._context = port, context
        self._head = f"Host: service\r\nAuthorization: Bearer {token}\r\nAccept-Encoding: gzip\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Answer:
        """Raise OSError or EOFError where the service is gone; the next request opens a new connection."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(
                    "127.0.0.1", self._port, ssl=self._context, limit=_HEADER_BYTES
                )
            reader, writer = self._streams
            begun = time.perf_counter()
            kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
            writer.write(f"{method} {path} HTTP/1.1\r\n{self._head}{headers}{kind}\r\n".encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            told = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            data = await reader.readexactly(int(told.get("content-length", "0")))
            if told.get("connection") == "close":
                self.close()
            return Answer(int(head[0].split()[1]), told, data, time.perf_counter() - begun)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class _Entry(msgspec.Struct):
    job: str
    generation: int


class _Index(msgspec.Struct):
    plans: list[_Entry]


@dataclass
class Herd:
    """What all agents saw."""

    answers: list[float] = field(default_factory=list)
    """Seconds that requests took which nothing had to be waited for."""
    registered: set[str] = field(default_factory=set)
    waited_out: int = 0
    failures: int = 0
    refusals: int = 0
    plan_bytes: int = 0
    has: dict[str, dict[str, int]] = field(default_factory=dict)
    """{host: {job: generation of the plan that it has}}"""
    told: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until_all_have(self, job: str, hosts: Mapping[str, object], seconds: float) -> bool:
        """Whether each of the hosts had a plan of the job in time."""

        def all_have() -> bool:
            return all(job in self.has.get(host, ()) for host in hosts)

        try:
            async with asyncio.timeout(seconds), self.told:
                await self.told.wait_for(all_have)
        except TimeoutError:
            return False
        return True


async def agent(host: str, connection: Connection, herd: Herd, begins: float) -> None:
    """Register, then follow the host's plans for ever."""
    await asyncio.sleep(begins)
    tag, registration = "", b'{"boot_epoch": 1, "version": "0.1", "endpoints": [{"rnic": "mlx5_0", "ready": true}]}'
    while True:
        try:
            if host not in herd.registered:
                _good(await connection.ask("PUT", f"/v1/agents/{host}", registration))
                herd.registered.add(host)
            waits = f"?wait={WAIT_SECONDS}" if tag else ""
            answer = _good(
                await connection.ask(
                    "GET", f"/v1/agents/{host}/plans{waits}", headers=f"If-None-Match: {tag}\r\n" if tag else ""
                )
            )
            if not waits:
                herd.answers.append(answer.seconds)
            if answer.status == 304:
                herd.waited_out += 1
                continue
            tag = answer.headers["etag"]
            await _take(host, connection, herd, msgspec.json.decode(answer.body, type=_Index))
        except RefusedError:
            herd.refusals += 1
            await asyncio.sleep(1)
        except (OSError, EOFError):
            herd.failures += 1
            tag = ""
            await asyncio.sleep(1)


async def _take(host: str, connection: Connection, herd: Herd, index: _Index) -> None:
    before, after = herd.has.get(host, {}), {each.job: each.generation for each in index.plans}
    for job, generation in after.items():
        if before.get(job) == generation:
            continue
        answer = await connection.ask("GET", f"/v1/agents/{host}/plans/{job}")
        if answer.status != 404:
            _good(answer)
            herd.answers.append(answer.seconds)
            herd.plan_bytes += len(answer.body)
    herd.has[host] = after
    async with herd.told:
        herd.told.notify_all()


def _good(answer: Answer) -> Answer:
    if answer.status not in (200, 204, 304):
        raise RefusedError(answer.status)
    return answer
