"""Sources asked side by side, again and again. Whoever does not answer holds up nobody else."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from urllib.request import Request

import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts.codec import ContractError
from skeleton_service.reading import counters, records
from skeleton_service.reading.fetching import MAX_PARALLEL, TIMEOUT_SECONDS, fetch
from skeleton_service.reading.tables import LIVE, load_tables, parse_table

HELD_SECONDS = 1.0
"""Who takes longer to answer is asked on, but somebody else has his place among the MAX_PARALLEL."""
MOST_THREADS = 640
"""Of which all but MAX_PARALLEL wait for sources that take longer: so many hosts may die at once and delay nobody."""
RETRIED = 32
"""How many of those that failed the last time are asked at a time."""
_POLL_SECONDS = 0.2

Read = Callable[[str, float], pa.Table]
"""From a source and a time, what it has since then; raises ContractError."""


class Sources:
    """Sources asked side by side. One that does not answer holds up nobody, and is told of once.

    Each is asked by a thread of its own, which is a daemon: a source that answers in drops does not keep the program
    from ending.
    """

    def __init__(self, names: Sequence[str], read: Read, stop: Event) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._read = read
        self._stop = stop
        self.returned: set[str] = set()
        """Those that were silent before: their answers of the last fetch may be as old as the rounds before it."""
        self._silent: set[str] = set()
        self._begun: dict[str, float] = {}
        """Who is being asked, since when (monotonic seconds)."""
        self._waiting: deque[str] = deque()
        self._retries: deque[str] = deque()
        self._answers: SimpleQueue[tuple[str, pa.Table | ContractError]] = SimpleQueue()

    def fetch(self, since: float, patience: float) -> dict[str, pa.Table]:
        """What they have since a time (seconds since the epoch), of those that answer in ``patience`` seconds."""
        self._line_up()
        self.returned = set()
        latest = time.monotonic() + patience
        answered: dict[str, pa.Table] = {}
        while not self._stop.is_set():
            self._begin(since)
            left = latest - time.monotonic() if self._waiting or self._awaited() else 0
            try:
                name, answer = self._answers.get(block=left > 0, timeout=max(0.001, min(left, _POLL_SECONDS)))
            except Empty:
                if left > 0:
                    continue
                break
            del self._begun[name]
            if isinstance(answer, ContractError):
                self._tell_silent(name, answer)
                continue
            if name in self._silent:
                self._silent.discard(name)
                self.returned.add(name)
                print(f"back: {name}", file=sys.stderr, flush=True)
            answered[name] = answer
        for name in () if self._stop.is_set() else sorted(self._awaited()):
            self._tell_silent(name, ContractError(name, f"has not answered for {patience:.0f} s"))
        return answered

    def _awaited(self) -> set[str]:
        """Who is being asked and answered the last time, or was never asked before."""
        return self._begun.keys() - self._silent

    def _line_up(self) -> None:
        """Let everybody be asked who is not being asked, nor in the line from the round before."""
        lined = {*self._begun, *self._waiting, *self._retries}
        for name in self.names:
            if name not in lined:
                (self._retries if name in self._silent else self._waiting).append(name)

    def _begin(self, since: float) -> None:
        """Ask as many more as there are places for: those that failed the last time have some of their own."""
        now = time.monotonic()
        awaited = self._awaited()
        quick = sum(now - self._begun[name] < HELD_SECONDS for name in awaited)
        retried = len(self._begun) - len(awaited)
        for line, places in (
            (self._waiting, min(MAX_PARALLEL - quick, MOST_THREADS - len(self._begun))),
            (self._retries, RETRIED - retried),
        ):
            for _ in range(min(places, len(line))):
                try:
                    Thread(target=self._ask, args=(line[0], since), daemon=True).start()
                except RuntimeError:
                    if not self._begun:
                        raise
                    return  # no more threads are to be had until one of these ends
                self._begun[line.popleft()] = now

    def _tell_silent(self, name: str, error: ContractError) -> None:
        if name not in self._silent:
            self._silent.add(name)
            print(f"left out until it answers: {error}", file=sys.stderr, flush=True)

    def _ask(self, name: str, since: float) -> None:
        try:
            self._answers.put((name, self._read(name, since)))
        except ContractError as error:
            self._answers.put((name, error))
        except Exception as error:  # noqa: BLE001 - whatever it sends, the others are followed on
            self._answers.put((name, ContractError(name, f"cannot be read: {type(error).__name__}: {error}")))


def read_probes(url: str, since: float) -> pa.Table:
    table = parse_table(_get(_with_since(url, since), url), url, records.KINDS, records.REQUIRED)
    return records.checked_records(table, url)


def read_samples(source: str, since: float) -> pa.Table:
    """Its counter samples since a time (seconds since the epoch)."""
    if source.startswith(LIVE):
        table = parse_table(_get(source, source), source, counters.KINDS, counters.REQUIRED)
    else:
        ((_, table),) = load_tables([source], counters.KINDS, counters.REQUIRED)
    table = counters.checked_counters(table, source)
    return table.filter(pc.greater_equal(table["time"], since))


def _get(url: str, source: str) -> bytes:
    request = Request(url, headers={"Accept-Encoding": "gzip"})  # noqa: S310 - the command checked the scheme
    return fetch(request, source, TIMEOUT_SECONDS, within=6 * TIMEOUT_SECONDS)


def _with_since(url: str, since: float) -> str:
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "since"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("since", f"{since:.0f}")])))
