"""Which plans each host has, and who waits for other ones."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence

Generations = Sequence[tuple[str, int]]
"""Job and generation of each plan of a host, in the order of jobs."""
MOST_WAITING = 4
"""Requests of one host that wait; one more ends the oldest, whose sender has gone as a rule."""


class Book:
    """For one event loop. Memory: names and numbers of plans, not the plans, and what waits."""

    def __init__(self, hosts: Mapping[str, Generations], identity: str = "") -> None:
        """``identity`` is that of the state: what another one has not listed has not ended."""
        self.identity = identity
        self._hosts = dict(hosts)
        self._etags = {host: self._etag(generations) for host, generations in hosts.items()}
        self._none = self._etag(())
        self._of_job: dict[str, set[str]] = {}
        for host, generations in hosts.items():
            for job, _ in generations:
                self._of_job.setdefault(job, set()).add(host)
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}
        self._closed = False

    def _etag(self, generations: Generations) -> str:
        """An entity tag (RFC 9110, section 8.8.3): the same for the same plans, whichever process says so."""
        digest = hashlib.blake2b(self.identity.encode(), digest_size=12)
        for job, generation in generations:
            digest.update(f"{job}\0{generation}\0".encode())
        return f'"{digest.hexdigest()}"'

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def plans(self, host: str) -> Generations:
        return self._hosts.get(host, ())

    def etag(self, host: str) -> str:
        return self._etags.get(host, self._none)

    def change(self, job: str, hosts: Mapping[str, int]) -> None:
        """These hosts have these generations of the job's plan, and no others have one; wake whoever waits for it."""
        before = self._of_job.pop(job, set())
        if hosts:
            self._of_job[job] = set(hosts)
        for host in before | hosts.keys():
            known = [each for each in self.plans(host) if each[0] != job]
            if host in hosts:
                known = sorted([*known, (job, hosts[host])])
            if known == self.plans(host):
                continue
            if known:
                self._hosts[host], self._etags[host] = known, self._etag(known)
            else:
                del self._hosts[host], self._etags[host]
            self._wake(self._waiting.pop(host, ()))

    def close(self) -> None:
        """Wake all, and let nobody wait again: the service ends."""
        self._closed = True
        for host in list(self._waiting):
            self._wake(self._waiting.pop(host))

    @staticmethod
    def _wake(waiting: Iterable[asyncio.Future[None]]) -> None:
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def others_than(self, host: str, known: str) -> bool:
        """Whether the host has other plans than those of the tag ``known``."""
        return self.etag(host) != known.removeprefix("W/")  # what lies between may have weakened it as it compressed

    async def other_than(self, host: str, known: str, seconds: float) -> bool:
        """Wait until the host has other plans than those of the tag ``known``; False when it had not for so long."""
        if self.others_than(host, known):
            return True
        if self._closed or seconds <= 0:
            return False
        woken = asyncio.get_running_loop().create_future()
        own = self._waiting.setdefault(host, {})
        own[woken] = None
        if len(own) > MOST_WAITING:
            oldest = next(iter(own))
            del own[oldest]
            self._wake((oldest,))
        try:
            async with asyncio.timeout(seconds):
                await woken
        except TimeoutError:
            return False
        finally:
            if waiting := self._waiting.get(host):
                waiting.pop(woken, None)
                if not waiting:
                    del self._waiting[host]
        return self.others_than(host, known)
