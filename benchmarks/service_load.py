"""Simulated exporters of a service: each over its own connection, as ``exporter.service`` talks, without probing.

``python -m benchmarks.service_load PORT KEYS CERTIFICATE AGENTS`` is a herd of its own. For each line that it reads it
writes one: JSON of the plans that its exporters have.
"""

from __future__ import annotations

import asyncio
import random
import resource
import ssl
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvloop

from benchmarks.simulated_fleet import host_name
from skeleton_service.live.identity import Identity, Keys, Role

WAIT_SECONDS = 50
_RETRY_SECONDS = 1.0, 8.0
"""As ``exporter.service.client.Backoff`` begins."""
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
            await asyncio.sleep(random.uniform(*_RETRY_SECONDS))
        except (OSError, EOFError):
            herd.failures += 1
            tag = ""
            await asyncio.sleep(random.uniform(*_RETRY_SECONDS))


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


def trusting(certificate: Path) -> ssl.SSLContext:
    """For a client that believes this certificate alone, whatever it is a name of."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    return context


def allow_many_connections() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _herd(port: int, keys: Keys, context: ssl.SSLContext, agents: int) -> None:
    herd = Herd()
    tasks = [
        asyncio.create_task(
            agent(
                host_name(number),
                Connection(port, keys.sign(Identity(Role.AGENT, host_name(number)), 4 * 3600), context),
                herd,
                random.uniform(0, _RETRY_SECONDS[1]),
            )
        )
        for number in range(agents)
    ]
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        sys.stdout.buffer.write(msgspec.json.encode(herd.has) + b"\n")
        sys.stdout.buffer.flush()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    allow_many_connections()
    _port, _keys, _certificate, _agents = sys.argv[1:]
    uvloop.run(_herd(int(_port), Keys(Path(_keys)), trusting(Path(_certificate)), int(_agents)))
