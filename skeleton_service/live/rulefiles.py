"""The directory that Prometheus reads rules of jobs from: a file while a job runs, none when it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.request import Request

from exporter.contracts.codec import ContractError, write
from skeleton_service.fetching import fetch
from skeleton_service.rulesdirectory import ended

Rendering = Callable[[str, bytes | None], Awaitable[Mapping[str, str]]]
"""From a job's name and its skeleton, if there is one, to {file name: content}."""
_RELOAD_SECONDS = 10.0
_log = logging.getLogger(__name__)


class RuleFiles:
    """Files of jobs in a directory that may hold others' too. What an earlier process left of ended jobs goes."""

    def __init__(self, directory: str, rendering: Rendering, reload: str | None = None) -> None:
        """``reload``: what to post to when files have changed, such as ``http://prometheus:9090/-/reload``."""
        self._directory = Path(directory)
        self.rendering = rendering
        self._reload_url = reload
        self._made: dict[str, tuple[bytes | None, tuple[str, ...]]] = {}
        """Of each job the skeleton that its rules were made of, and their files."""
        self._looked = False
        self._to_reload = False
        self._problem = ""

    def text(self, job: str) -> str:
        """The rules of a job as they lie there; empty where there are none. Raise OSError."""
        _, names = self._made.get(job, (None, ()))
        return "".join((self._directory / name).read_text() for name in names)

    def forget(self) -> None:
        """Make all anew: what they are made by has changed."""
        self._made = {job: (b"", names) for job, (_, names) in self._made.items()}

    async def keep(self, jobs: Mapping[str, bytes | None]) -> None:
        """Bring the directory to the rules of these jobs, {name: skeleton}, and have them read."""
        try:
            await self._write(jobs)
            if self._to_reload and self._reload_url is not None:
                await asyncio.to_thread(_post, self._reload_url)
            self._to_reload = False
        except (ContractError, OSError) as error:
            if str(error) != self._problem:
                _log.error("rules: %s", error)
            self._problem = str(error)
        else:
            self._problem = ""

    async def _write(self, jobs: Mapping[str, bytes | None]) -> None:
        for job in self._made.keys() - jobs.keys():
            _, names = self._made[job]
            for name in names:
                (self._directory / name).unlink(missing_ok=True)
            del self._made[job]
            self._to_reload = True
        for job, skeleton in jobs.items():
            if job in self._made and self._made[job][0] == skeleton:
                continue
            files = await self.rendering(job, skeleton)
            await asyncio.to_thread(self._put, files)
            self._made[job] = skeleton, tuple(files)
            self._to_reload = True
        if not self._looked:
            # Only now: a job that goes on keeps its rules through a start of the service, and so its alerts.
            made = {name: "" for _, names in self._made.values() for name in names}
            for path, why in ended(self._directory, made, prune=True, static=False, jobs=True).items():
                path.unlink(missing_ok=True)
                _log.info("rules removed: %s", why, extra={"file": str(path)})
                self._to_reload = True
            self._looked = True

    def _put(self, files: Mapping[str, str]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = self._directory / name
            if not path.exists() or path.read_text() != text:
                write(path, text.encode())


def _post(url: str) -> None:
    """Raise ContractError."""
    fetch(Request(url, method="POST"), url, _RELOAD_SECONDS)  # noqa: S310 - from the configuration
