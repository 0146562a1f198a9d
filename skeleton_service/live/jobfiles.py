"""A directory of job files: a job begins when its file appears, and ends when that is gone."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from exporter.contracts.codec import ContractError
from exporter.contracts.job import Job, read_job
from exporter.contracts.watchedfile import WatchedFile
from skeleton_service.live.upkeep import Told

SUFFIXES = (".json", ".yaml", ".yml")
_log = logging.getLogger(__name__)


class JobFiles:
    """What the files of a directory say. A file that is wrong is refused, and its job stays what it was."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[str, WatchedFile[Job]] = {}
        self._told: set[str] = set()
        self._absent = False

    @property
    def refused(self) -> int:
        """Files that are wrong now."""
        return sum(file.refused for file in self._files.values()) + len(self._told)

    async def look(self) -> Told:
        """While the directory itself cannot be read any job may be there."""
        jobs = await asyncio.to_thread(self._look)
        if jobs is None:
            return Told({}, lambda _: True, False)
        # A file that was never good says of no job that it has ended.
        unread = any(file.value is None for file in self._files.values())
        return Told(jobs, lambda _: unread, True)

    def _look(self) -> Mapping[str, Job] | None:
        try:
            names = sorted(name for name in os.listdir(self._directory) if _is_job_file(name))
        except OSError as error:
            if not self._absent:
                _log.error("jobs: %s: %s; all jobs of files go on", self._directory, error.strerror)
            self._absent = True
            return None
        self._absent = False
        for name in self._files.keys() - set(names):
            del self._files[name]
        for name in names:
            path = str(Path(self._directory, name))
            self._files.setdefault(name, WatchedFile(path, read_job, "job", _log.error)).changed()
        return self._said()

    def _said(self) -> dict[str, Job]:
        """Jobs by name, each as the first file says that names it."""
        first: dict[str, str] = {}
        jobs: dict[str, Job] = {}
        twice = set()
        for name, file in sorted(self._files.items()):
            if (job := file.value) is None:
                continue
            owner = first.setdefault(job.job, name)
            if owner == name:
                jobs[job.job] = job
            else:
                twice.add(f"{name}: job {job.job!r} is that of {owner} already")
        for problem in sorted(twice - self._told):
            _log.error("jobs: %s", ContractError(self._directory, problem, "take one of them away"))
        self._told = twice
        return jobs


def _is_job_file(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")
