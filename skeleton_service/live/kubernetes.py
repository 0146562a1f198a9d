"""The API server of a Kubernetes cluster: who asks it, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from exporter.contracts.codec import ContractError
from skeleton_service.live.errors import BrokenError

if TYPE_CHECKING:
    from lightkube import AsyncClient

MANAGER = "skeleton-service"
"""Whose the fields of objects are (server-side apply)."""
_ANSWER_SECONDS = 20.0
EXTRA = "pip install 'fabric-skeleton[kubernetes]'"


class RefusedError(BrokenError):
    """The API server answered, and refuses: asking it something else may do."""


def connect(kubeconfig: str | None, source: str) -> AsyncClient:
    """As the pod's service account, or as a kubeconfig file says. ``source`` is what is told to be wrong.

    Raise ContractError.
    """
    try:
        import httpx2  # noqa: PLC0415 - of the extra
        from lightkube import AsyncClient, KubeConfig  # noqa: PLC0415
        from lightkube.core.exceptions import ConfigError  # noqa: PLC0415
    except ImportError as error:
        raise ContractError(source, "section 'kubernetes' needs lightkube, which is not installed", EXTRA) from error
    try:
        config = KubeConfig.from_file(kubeconfig) if kubeconfig is not None else KubeConfig.from_env()
        return AsyncClient(config, timeout=httpx2.Timeout(_ANSWER_SECONDS), field_manager=MANAGER)
    except (ConfigError, OSError, KeyError, ValueError) as error:
        remedy = "run it in a pod with a service account, or name a file as kubernetes.kubeconfig"
        raise ContractError(
            source, f"section 'kubernetes': nobody says where the cluster is: {error}", remedy
        ) from error


async def published_keys(client: AsyncClient) -> Mapping[str, Any]:
    """With what the cluster signs service accounts' tokens: a JSON Web Key Set. Raise BrokenError."""
    import httpx2  # noqa: PLC0415 - of the extra
    from lightkube.config import client_adapter  # noqa: PLC0415

    what = "its keys for tokens"
    connection = client_adapter.ConnectionParams(timeout=httpx2.Timeout(_ANSWER_SECONDS))
    with told(what):
        async with client_adapter.AsyncClient(client.config, connection) as asked:
            answer = (await asked.get("/openid/v1/jwks")).raise_for_status()
        try:
            return dict(answer.json())
        except (ValueError, TypeError) as error:
            raise BrokenError(f"{what}: the API server sent something else") from error


@contextmanager
def told(what: str) -> Iterator[None]:
    """Raise BrokenError for an API server that cannot be asked, RefusedError for one that says no."""
    import httpx2  # noqa: PLC0415 - of the extra

    try:
        yield
    except httpx2.HTTPStatusError as error:
        code = error.response.status_code if error.response is not None else getattr(error.status, "code", 0)
        problem = f"{what}: the API server says {code}: {_reason(error)}"
        raise (BrokenError if code in (0, 429) or code >= 500 else RefusedError)(problem) from error
    except (httpx2.HTTPError, OSError) as error:
        raise BrokenError(f"{what}: the API server cannot be asked: {error or type(error).__name__}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
