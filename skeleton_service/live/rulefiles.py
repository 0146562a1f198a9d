"""The directory that Prometheus reads rules of jobs from: a file while a job runs, none when it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.request import Request

from exporter.contracts.codec import write
from skeleton_service.live.rulekeeper import Held
from skeleton_service.reading.fetching import fetch
from skeleton_service.ruleset.directory import files_of_jobs

_RELOAD_SECONDS = 10.0


class RuleFiles:
    """A ``RuleStore``: files in a directory that may hold others' too."""

    def __init__(self, directory: str, reload: str | None = None) -> None:
        """``reload``: what to post to when files have changed, such as ``http://prometheus:9090/-/reload``."""
        self._directory = Path(directory)
        self._reload_url = reload
        self._to_reload = False

    def belongs(self, job: str) -> object:  # noqa: ARG002 - of every job alike
        return self._directory

    async def put(self, job: str, files: Mapping[str, str]) -> Sequence[str]:  # noqa: ARG002
        self._to_reload |= await asyncio.to_thread(self._write, files)
        return tuple(files)

    def _write(self, files: Mapping[str, str]) -> bool:
        self._directory.mkdir(parents=True, exist_ok=True)
        changed = {
            path: text
            for path, text in ((self._directory / name, text) for name, text in files.items())
            if not path.exists() or path.read_text() != text
        }
        for path, text in changed.items():
            write(path, text.encode())
        return bool(changed)

    async def remove(self, names: Sequence[str]) -> None:
        for name in names:
            (self._directory / name).unlink(missing_ok=True)
            self._to_reload = True

    async def held(self) -> Held:
        files = await asyncio.to_thread(files_of_jobs, self._directory)
        return Held({path.name: job for path, job in files.items()})

    async def settle(self) -> None:
        if self._to_reload and self._reload_url is not None:
            await asyncio.to_thread(_post, self._reload_url)
        self._to_reload = False

    async def text(self, names: Sequence[str]) -> str:
        return "".join([await asyncio.to_thread((self._directory / name).read_text) for name in names])


def _post(url: str) -> None:
    """Raise ContractError."""
    fetch(Request(url, method="POST"), url, _RELOAD_SECONDS)  # noqa: S310 - from the configuration
