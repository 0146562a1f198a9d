"""The API server of a Kubernetes cluster: who asks it, and what its refusals mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from exporter.contracts.codec import ContractError
from skeleton_service.live.errors import BrokenError

if TYPE_CHECKING:
    import httpx2
    from lightkube import AsyncClient

MANAGER = "skeleton-service"
"""Whose the fields of objects are (server-side apply)."""
_ANSWER_SECONDS = 20.0
_LARGEST_LINE = 16 << 20
"""Bytes: etcd holds 1.5 MiB of an object."""
_TOO_MANY = 429
EXTRA = "pip install 'fabric-skeleton[kubernetes]'"


class RefusedError(BrokenError):
    """The API server answered, and says no: asking it something else may do."""

    def __init__(self, problem: str, code: int) -> None:
        super().__init__(problem)
        self.code = code


class Cluster:
    """One of them, for one event loop."""

    def __init__(self, objects: AsyncClient, plain: httpx2.AsyncClient) -> None:
        self.objects, self._plain = objects, plain

    @property
    def namespace(self) -> str:
        """The service's own."""
        return str(self.objects.namespace)

    async def get(self, path: str, parameters: Mapping[str, str] | None = None, accept: str = "") -> bytes:
        """Raise BrokenError."""
        headers = {"Accept": accept} if accept else {}
        with told(path):
            answer = await self._plain.get(path, params=dict(parameters or {}), headers=headers)
            answer.raise_for_status()
            return bytes(answer.content)

    @asynccontextmanager
    async def lines(self, path: str, parameters: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """What is told for as long as it is, a line each; from when it was answered. Raise BrokenError."""
        import httpx2  # noqa: PLC0415 - of the extra

        waiting = httpx2.Timeout(_ANSWER_SECONDS, read=None)
        with told(path):
            request = self._plain.build_request("GET", path, params=dict(parameters), timeout=waiting)
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    answer = await self._plain.send(request, stream=True)
            except TimeoutError:
                raise BrokenError(f"{path}: the API server does not answer") from None
            try:
                if answer.is_error:
                    await answer.aread()
                answer.raise_for_status()
                yield _split(answer.aiter_bytes())
            finally:
                await answer.aclose()


async def _split(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """At line feeds alone: text may hold whatever else Unicode takes for the end of a line."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > _LARGEST_LINE:
            raise BrokenError(f"the API server sent a line of more than {_LARGEST_LINE} bytes")
        for line in whole:
            yield line


def connect(kubeconfig: str | None, source: str) -> Cluster:
    """As the pod's service account, or as a kubeconfig file says. ``source`` is what is told to be wrong.

    Raise ContractError.
    """
    try:
        import httpx2  # noqa: PLC0415 - of the extra
        from lightkube import AsyncClient, KubeConfig  # noqa: PLC0415
        from lightkube.config.client_adapter import ConnectionParams  # noqa: PLC0415
        from lightkube.core.exceptions import ConfigError  # noqa: PLC0415
    except ImportError as error:
        raise ContractError(source, "section 'kubernetes' needs lightkube, which is not installed", EXTRA) from error
    try:
        timeout = httpx2.Timeout(_ANSWER_SECONDS)
        config = KubeConfig.from_file(kubeconfig) if kubeconfig is not None else KubeConfig.from_env()
        objects = AsyncClient(config, timeout=timeout, field_manager=MANAGER)
        # Watches are as many as there are namespaces to watch, each a connection.
        unlimited = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        plain = httpx2.AsyncClient(**ConnectionParams(timeout=timeout).httpx_params(objects.config), limits=unlimited)
    except (ConfigError, AssertionError, OSError, KeyError, TypeError, ValueError) as error:
        remedy = "run it in a pod with a service account, or name a file as kubernetes.kubeconfig"
        problem = f"section 'kubernetes': nobody says where the cluster is: {error or type(error).__name__}"
        raise ContractError(source, problem, remedy) from error
    return Cluster(objects, plain)


async def published_keys(cluster: Cluster) -> Mapping[str, Any]:
    """With what the cluster signs service accounts' tokens: a JSON Web Key Set. Raise BrokenError."""
    try:
        return msgspec.json.decode(await cluster.get("/openid/v1/jwks"), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise BrokenError("the API server sent something else than its keys for tokens") from error


@contextmanager
def told(what: str) -> Iterator[None]:
    """Raise BrokenError for an API server that cannot be asked, RefusedError for one that says no."""
    import httpx2  # noqa: PLC0415 - of the extra
    from lightkube.core.exceptions import ConfigError  # noqa: PLC0415

    try:
        yield
    except httpx2.HTTPStatusError as error:
        if error.response is not None:
            raise refused(what, error.response.status_code, _reason(error.response)) from error
        raise refused(what, getattr(getattr(error, "status", None), "code", None), str(error)) from error
    except BrokenError:
        raise
    # lightkube stumbles over answers that no API server gives, but what stands before one does.
    except (
        httpx2.HTTPError,
        OSError,
        ConfigError,
        KeyError,
        ValueError,
        RecursionError,
        msgspec.MsgspecError,
    ) as error:
        problem = f"{what}: the API server cannot be asked: {error or type(error).__name__}"
        raise BrokenError(" ".join(problem.split())[:500]) from error


def refused(what: str, code: int | None, reason: str) -> BrokenError:
    """What it means that the API server says so: whether anything else may be asked."""
    problem = f"{what}: the API server says {code or 'an error'}: {' '.join(reason.split())[:400]}"
    return BrokenError(problem) if not code or code == _TOO_MANY or code >= 500 else RefusedError(problem, code)


def _reason(response: httpx2.Response) -> str:
    try:
        return str(msgspec.json.decode(response.content)["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return str(response.reason_phrase)
