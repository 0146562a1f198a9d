"""Hosts that answer probes with a refusal: the network carries them, and nobody is there to reply."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skeleton_service.diagnosis.paths import PathIndex

WINDOW_SECONDS = 24
"""A responder that restarts is away for less."""
LEAST_REFUSALS = 5
_LEAST_SECONDS = 12.0
LEAST_SHARE = 0.5
QUIET_SECONDS = 30
UNPROBED_SECONDS = 300


@dataclass(slots=True)
class Refusal:
    """A host whose responder is gone. Times are seconds since the epoch."""

    host: str
    start: float
    detected_at: float
    paths: set[int]
    last: float
    end: float | None = None


class Refusals:
    """Counts refusals and answers of each host, second by second."""

    def __init__(self, index: PathIndex) -> None:
        self.failures: list[Refusal] = []
        self._index = index
        self._refusing: set[int] = set()
        """Paths that were ever refused: of others it is not known whether a refusal would be told."""
        self._recent: dict[str, list[tuple[int, float, int, int]]] = defaultdict(list)
        """By host: (second, time of the first refusal, refused, probed) of the last seconds with probes."""

    def add(self, second: int, path: NDArray[np.int64], time: NDArray[np.float64], refused: NDArray[np.bool_]) -> None:
        """Look at the probes of one second."""
        self._refusing |= set(path[refused].tolist())
        if not self._refusing:
            return
        own = np.isin(path, np.fromiter(self._refusing, np.int64))
        counts: dict[str, list[float]] = {}
        for number, when, no in zip(path[own].tolist(), time[own].tolist(), refused[own].tolist(), strict=True):
            host = self._index.paths[number].hosts[1]
            count = counts.setdefault(host, [np.inf, 0, 0])
            count[2] += 1
            if no:
                count[0], count[1] = min(count[0], when), count[1] + 1
        for failure in self.failures:
            if failure.end is None and second - failure.last > UNPROBED_SECONDS:
                failure.end = failure.last  # nobody asks any more
        for host, (first, no, probed) in counts.items():
            self._judge(host, second, first, int(no), int(probed), float(time[-1]))

    def keep(self, number: NDArray[np.int64]) -> None:
        """``number`` (paths,) is what each path is called from now on; -1 where it is forgotten."""
        self._refusing = {int(number[each]) for each in self._refusing if number[each] >= 0}
        for failure in self.failures:
            failure.paths = {int(number[each]) for each in failure.paths}
        probed = {host for path in self._index.paths for host in path.hosts}
        for host in self._recent.keys() - probed:
            del self._recent[host]

    def _judge(self, host: str, second: int, first: float, refused: int, probed: int, now: float) -> None:
        recent = self._recent[host]
        recent.append((second, first, refused, probed))
        while recent[0][0] <= second - WINDOW_SECONDS:
            recent.pop(0)
        known = next((each for each in self.failures if each.host == host and each.end is None), None)
        if known is not None:
            known.last = now if refused else known.last
            known.paths |= {n for n in self._refusing if self._index.paths[n].hosts[1] == host}
            if now - known.last >= QUIET_SECONDS:
                known.end = known.last
            return
        total, all_probed = sum(each[2] for each in recent), sum(each[3] for each in recent)
        started = min(each[1] for each in recent)
        if total >= LEAST_REFUSALS and total > LEAST_SHARE * all_probed and now - started >= _LEAST_SECONDS:
            paths = {n for n in self._refusing if self._index.paths[n].hosts[1] == host}
            self.failures.append(Refusal(host, started, now, paths, now))
