"""Rules of jobs in the ruler of Mimir, by its API: a namespace for each job, of one tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import urllib3
import yaml
from urllib3.exceptions import HTTPError

from exporter.contracts.codec import ContractError
from exporter.contracts.secrets import read_secret
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.kubernetes import RefusedError
from skeleton_service.live.rulekeeper import Held
from skeleton_service.ruleset.formats import mimir_namespaces

_ANSWER_SECONDS = 20.0
_ABSENT = 404
_TOO_MANY = 429


class RuleApi:
    """A ``RuleStore``. Names are ``NAMESPACE/GROUP``; a namespace begins with ``prefix``, and nobody else's does."""

    def __init__(self, url: str, *, tenant: str | None, token_file: str | None, prefix: str) -> None:
        """``url``: of Mimir, with its prefix for Prometheus' API, as ``http://mimir/prometheus``."""
        self._base = f"{url.rstrip('/')}/config/v1/rules"
        self._tenant, self._token_file, self._prefix = tenant, token_file, prefix
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(_ANSWER_SECONDS), retries=False)

    def belongs(self, job: str) -> object | None:  # noqa: ARG002 - of every job alike
        return self._base

    async def _ask(self, method: str, path: str = "", body: bytes | None = None) -> bytes:
        """Raise RefusedError, BrokenError."""
        return await asyncio.to_thread(self._asked, method, path, body)

    def _asked(self, method: str, path: str, body: bytes | None) -> bytes:
        what = f"{method} {self._base}{path}"
        headers = {"Content-Type": "application/yaml"}
        try:
            if self._tenant is not None:
                headers["X-Scope-OrgID"] = self._tenant
            if self._token_file is not None:
                headers["Authorization"] = f"Bearer {read_secret(self._token_file)}"
            answer = self._pool.request(method, self._base + path, headers=headers, body=body)
        except (HTTPError, OSError, ContractError) as error:
            raise BrokenError(f"{what}: {error}") from error
        if answer.status < 300:
            return answer.data
        said = " ".join(answer.data.decode(errors="replace").split())[:300]
        problem = f"{what}: Mimir says {answer.status}: {''.join(each for each in said if each.isprintable())}"
        if answer.status == _TOO_MANY or answer.status >= 500:
            raise BrokenError(problem)
        raise RefusedError(problem, answer.status)

    async def put(self, job: str, files: Mapping[str, str]) -> Sequence[str]:
        names: list[str] = []
        namespace = self._namespace(job)
        for name, encoded in await asyncio.to_thread(_groups, files):
            await self._ask("POST", f"/{quote(namespace, safe='')}", encoded)
            names.append(f"{namespace}/{name}")
        return names

    def _namespace(self, job: str) -> str:
        return f"{self._prefix}.{job}"

    async def remove(self, names: Sequence[str]) -> None:
        for each in names:
            namespace, _, group = each.rpartition("/")
            try:
                await self._ask("DELETE", f"/{quote(namespace, safe='')}/{quote(group, safe='')}")
            except RefusedError as error:
                if error.code != _ABSENT:
                    raise

    async def held(self) -> Held:
        jobs: dict[str, str] = {}
        for namespace, groups in (await self._listed()).items():
            job = namespace.removeprefix(f"{self._prefix}.")
            if job != namespace:
                jobs |= {f"{namespace}/{group['name']}": job for group in groups}
        return Held(jobs)

    async def _listed(self) -> dict[str, list[dict[str, Any]]]:
        try:
            found = await asyncio.to_thread(_loaded, await self._ask("GET"))
        except RefusedError as error:
            if error.code == _ABSENT:  # the tenant has none
                return {}
            raise
        except yaml.YAMLError as error:
            raise BrokenError(f"GET {self._base}: what Mimir sent is no YAML") from error
        if not isinstance(found, dict | None):
            raise BrokenError(f"GET {self._base}: what Mimir sent is no list of namespaces")
        return found or {}

    async def settle(self) -> None:
        """The ruler looks itself, each minute by default."""

    async def text(self, names: Sequence[str]) -> str:
        groups = []
        for each in names:
            namespace, _, group = each.rpartition("/")
            path = f"/{quote(namespace, safe='')}/{quote(group, safe='')}"
            groups.append(await asyncio.to_thread(_loaded, await self._ask("GET", path)))
        return yaml.safe_dump({"groups": groups}, sort_keys=False, allow_unicode=True) if groups else ""


def _groups(files: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """(name, YAML) of each group of a job; raise ContractError."""
    groups = [group for text in mimir_namespaces(files).values() for group in yaml.safe_load(text)["groups"]]
    return [(group["name"], yaml.safe_dump(group, sort_keys=False, allow_unicode=True).encode()) for group in groups]


def _loaded(text: bytes) -> Any:
    """As fast as can be: Mimir tells all rules of a tenant at once."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
