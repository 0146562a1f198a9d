"""A job's endpoints start at once: ``python -m lab.network.registration --directory LAB``.

Each endpoint registers itself by dynamic update; once all have tried, each resolves the job's bucket in the
checkpoint store, the same for all, and some peers, as a container on Kubernetes does: search list and ``ndots:5``,
A and AAAA side by side, time-out 5 s, two attempts (resolv.conf(5), glibc's res_nsearch). A peer's name, with four
dots, costs ten queries so. Endpoints are spread over the hosts of the lab and send from there, each to the resolver
of its host (lab.network.resolver).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab.errors import LabError
from lab.network import design as drawn
from lab.network import dns
from lab.network import resolver as resolvers
from lab.network.design import Design
from lab.sandbox.netns import socket_in

NDOTS = 5
TIMEOUT_SECONDS = 5.0
ATTEMPTS = 2
TIMED_OUT = "timeout"
SPREAD_SECONDS = 0.2


@dataclass(frozen=True)
class Endpoint:
    name: str
    address: str
    namespace: str
    resolver: str  # what its resolv.conf says


@dataclass(frozen=True)
class Burst:
    """What is to happen: who registers in which zone, and what each resolves (its own list of names)."""

    endpoints: tuple[Endpoint, ...]
    zone: str
    primary: str  # address of the server that takes updates
    search: tuple[str, ...]
    spread: float  # the endpoints start at moments drawn from so many seconds
    names: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Measured:
    """One question of an endpoint: a message (``update``, ``query``), or a whole ``lookup``. Times in s."""

    kind: str
    name: str
    start: float
    seconds: float
    result: str  # an rcode, or "timeout"


@dataclass(frozen=True)
class Spread:
    count: int
    median_seconds: float
    p99_seconds: float
    longest_seconds: float
    results: dict[str, int]


@dataclass
class Report:
    """All that was asked, in order of completion; ``seconds`` from the first message to the last answer."""

    measured: list[Measured] = field(default_factory=list)
    seconds: float = 0.0

    def spread(self, kind: str) -> Spread:
        chosen = [each for each in self.measured if each.kind == kind]
        times = sorted(each.seconds for each in chosen) or [0.0]

        def quantile(share: float) -> float:
            return round(times[min(len(times) - 1, int(share * len(times)))], 6)

        results = dict(Counter(each.result for each in chosen))
        return Spread(len(chosen), quantile(0.5), quantile(0.99), round(times[-1], 6), results)

    def summary(self) -> dict[str, object]:
        kinds = {kind: asdict(self.spread(kind)) for kind in ("update", "query", "lookup")}
        queries = kinds["query"]["count"] + kinds["update"]["count"]
        return {"seconds": round(self.seconds, 3), "messages_per_second": round(queries / self.seconds), **kinds}


def candidates(name: str, search: Sequence[str]) -> Iterator[str]:
    """The names that are tried for ``name``, in order."""
    if name.endswith("."):
        yield name
    elif name.count(".") >= NDOTS:
        yield name
        yield from (f"{name}.{suffix}" for suffix in search)
    else:
        yield from (f"{name}.{suffix}" for suffix in search)
        yield name


class Client(asyncio.DatagramProtocol):
    """One endpoint's socket to one server: sends, waits, tries again, and notes what became of each message."""

    def __init__(self, report: Report, rng: random.Random) -> None:
        self._report = report
        self._rng = rng
        self._waiting: dict[int, asyncio.Future[dns.Answer]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self, namespace: str, server: str) -> Client:
        plain = socket_in(namespace, socket.AF_INET, socket.SOCK_DGRAM)
        plain.setblocking(False)
        plain.connect((server, dns.PORT))
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=plain)
        return self

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, _address: object) -> None:
        try:
            answer = dns.decode(data)
        except ValueError:
            return
        future = self._waiting.pop(answer.identifier, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def error_received(self, _error: Exception) -> None:
        """Nobody listens (ICMP port unreachable): the time-out tells."""

    async def ask(self, kind: str, name: str, message: bytes) -> dns.Answer | None:
        """Send one message and return its answer, None when there is none in time."""
        identifier = self._rng.randrange(1, 1 << 16)
        while identifier in self._waiting:
            identifier = self._rng.randrange(1, 1 << 16)
        future: asyncio.Future[dns.Answer] = asyncio.get_running_loop().create_future()
        self._waiting[identifier] = future
        start = time.monotonic()
        assert self._transport is not None  # noqa: S101 - opened before it is used
        self._transport.sendto(identifier.to_bytes(2, "big") + message[2:])
        try:
            answer = await asyncio.wait_for(future, TIMEOUT_SECONDS)
            result = dns.RCODES.get(answer.rcode, str(answer.rcode))
        except TimeoutError:
            answer, result = None, TIMED_OUT
            self._waiting.pop(identifier, None)
        self._report.measured.append(Measured(kind, name, start, time.monotonic() - start, result))
        return answer

    async def register(self, zone: str, name: str, address: str) -> bool:
        """Whether the name is registered, after ``ATTEMPTS`` at most."""
        for _ in range(ATTEMPTS):
            answer = await self.ask("update", name, dns.update(0, zone, name, address))
            if answer is not None and answer.rcode == dns.NOERROR:
                return True
        return False

    async def resolve(self, name: str, search: Sequence[str]) -> str | None:
        """Look ``name`` up as glibc does; return its first address, None when there is none or no answer."""
        start = time.monotonic()
        result, address = "NXDOMAIN", None
        for candidate in candidates(name, search):
            answer = await self._both(candidate)
            if answer is None:  # nobody answered: glibc does not go on
                result = TIMED_OUT
                break
            if answer.rcode == dns.NOERROR and answer.addresses:
                result, address = "NOERROR", answer.addresses[0]
                break
            if answer.rcode not in (dns.NOERROR, dns.NXDOMAIN):
                result = dns.RCODES.get(answer.rcode, str(answer.rcode))
        self._report.measured.append(Measured("lookup", name, start, time.monotonic() - start, result))
        return address

    async def _both(self, name: str) -> dns.Answer | None:
        """A and AAAA at once; what is missing or failed is asked again. The answer to A, None without one."""
        answers: dict[int, dns.Answer | None] = {dns.A: None, dns.AAAA: None}
        for _ in range(ATTEMPTS):
            wanted = [kind for kind, answer in answers.items() if answer is None or answer.rcode == dns.SERVFAIL]
            if not wanted:
                break
            asked = (self.ask("query", name, dns.query(0, name, kind)) for kind in wanted)
            for kind, answer in zip(wanted, await asyncio.gather(*asked), strict=True):
                answers[kind] = answer or answers[kind]
        # Without an answer to one of the two, getaddrinfo has none: it waits for both.
        return None if None in answers.values() else answers[dns.A]


async def run(burst: Burst, seed: int = 0) -> Report:
    """Let all endpoints start at about the same moment; return when the last has all its answers or has given up."""
    report, rng = Report(), random.Random(f"registration {seed}")
    start = time.monotonic()

    async def register(endpoint: Endpoint) -> None:
        await asyncio.sleep(rng.uniform(0, burst.spread))
        client = await Client(report, rng).open(endpoint.namespace, burst.primary)
        try:
            await client.register(burst.zone, endpoint.name, endpoint.address)
        finally:
            client.close()

    async def resolve(endpoint: Endpoint, names: Sequence[str]) -> None:
        await asyncio.sleep(rng.uniform(0, burst.spread))
        client = await Client(report, rng).open(endpoint.namespace, endpoint.resolver)
        try:
            for name in names:
                await client.resolve(name, burst.search)
        finally:
            client.close()

    await asyncio.gather(*(register(endpoint) for endpoint in burst.endpoints))
    await asyncio.gather(*(resolve(*each) for each in zip(burst.endpoints, burst.names, strict=True)))
    report.seconds = time.monotonic() - start
    return report


def draw_burst(
    design: Design,
    endpoints: int = 500,
    peers: int = 4,
    seed: int = 0,
    resolver: str | None = None,
    spread: float = SPREAD_SECONDS,
) -> Burst:
    """A job of ``endpoints``, its neighbours in rank as peers; ``resolver`` overrides that of the hosts."""
    plan = resolvers.plan(design)
    rng = random.Random(f"burst {design.seed} {seed}")
    job = f"job-{rng.randrange(16**5):05x}"
    addresses = rng.sample(range(1 << 16), endpoints)
    made = []
    for rank in range(endpoints):
        host = design.hosts[rank * len(design.hosts) // endpoints]
        name = f"{job}-worker-{rank}.{plan.search[0]}"
        address = f"10.200.{addresses[rank] >> 8}.{addresses[rank] & 255}"
        made.append(Endpoint(name, address, host.namespace, resolver or resolvers.resolver_of(design, host)))
    names = tuple(
        (f"{job}.{plan.store}", *(made[(rank + step) % endpoints].name for step in range(1, peers + 1)))
        for rank in range(endpoints)
    )
    return Burst(tuple(made), resolvers.ZONE, plan.address, plan.search, spread, names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.network.registration", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="the lab's directory; run inside its sandbox")
    parser.add_argument("--endpoints", type=int, default=500)
    parser.add_argument("--peers", type=int, default=4, help="names of peers that each endpoint resolves (default: 4)")
    parser.add_argument(
        "--spread", type=float, default=SPREAD_SECONDS, help="seconds within which they start (default: 0.2)"
    )
    parser.add_argument("--resolver", help="ask this address, not the resolver of each host")
    parser.add_argument("--seed", type=int, default=0, help="another job with other names")
    parser.add_argument("--repeat", type=float, metavar="SECONDS", help="another job so long after each, until ended")
    parser.add_argument("--queries", action="store_true", help="print every message and lookup too, one a line")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    # A socket per endpoint.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    try:
        design = drawn.load((arguments.directory / "design.json").read_bytes())
        seed = arguments.seed
        while True:
            burst = draw_burst(design, arguments.endpoints, arguments.peers, seed, arguments.resolver, arguments.spread)
            report = asyncio.run(run(burst, seed))
            if arguments.queries:
                for each in report.measured:
                    print(json.dumps(asdict(each)))
            print(json.dumps(report.summary()), flush=True)
            if arguments.repeat is None:
                return 0
            time.sleep(arguments.repeat)
            seed += 1
    except (LabError, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
