"""What goes on being wrong is said once."""

from __future__ import annotations

import logging
from collections.abc import Iterable

_log = logging.getLogger(__name__)


class Problems:
    """What is wrong with jobs: each change of it is said once."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told: dict[str, str] = {}

    def of(self, job: str, problem: Exception | None) -> None:
        text = str(problem) if problem is not None else ""
        if text and self._told.get(job) != text:
            _log.error("%s: %s", self._what, text, extra={"job": job})
        self._told[job] = text

    def forget_others(self, jobs: Iterable[str]) -> None:
        there = set(jobs)
        self._told = {job: text for job, text in self._told.items() if job in there}

    def __len__(self) -> int:
        return sum(map(bool, self._told.values()))
