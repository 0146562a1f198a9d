"""Inference on the workers of a Dask cluster, for more jobs than one machine looks at in time.

Workers need this package, and reach the exporters or Prometheus; each has the topology once. What they run is what the
service runs itself (``skeleton_service.live.inferring``), so skeletons are the same, byte for byte.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from exporter.contracts.codec import ContractError
from skeleton_service.live.errors import BrokenError
from skeleton_service.live.inferring import Traffic
from skeleton_service.live.settings import Dask

if TYPE_CHECKING:
    from distributed import Client

MOST_SECONDS = 300.0
"""For one skeleton, from when it is asked for: others wait too."""
_CONNECT_SECONDS = 10.0
_LAST_WORD_SECONDS = 2.0
EXTRA = "pip install 'fabric-skeleton[dask]'"


class Spread:
    """For one event loop. A scheduler that goes away is looked for again at the next job."""

    def __init__(self, settings: Dask, topology: bytes) -> None:
        """``topology`` is as MessagePack. Raise ContractError where Dask is not installed."""
        try:
            from skeleton_service.live.daskworker import Knowing  # noqa: PLC0415 - of the extra
        except ImportError as error:
            raise ContractError("field 'inference.dask'", "Dask is not installed", EXTRA) from error
        self._settings, self._knowing = settings, Knowing(topology)
        self._client: Client | None = None
        self._closed = False
        self._connecting = asyncio.Lock()

    async def _connected(self) -> Client:
        from distributed import Client, Security  # noqa: PLC0415 - of the extra

        async with self._connecting:
            if self._closed:
                raise BrokenError("the topology is another one: it is inferred at the next look")
            if self._client is not None and self._client.status == "running":
                return self._client
            await self._leave()
            tls = self._settings
            files = {"tls_ca_file": tls.ca_file, "tls_client_cert": tls.certificate, "tls_client_key": tls.key}
            security = Security(**files, require_encryption=True) if tls.ca_file is not None else None
            client = self._client = await Client(
                tls.scheduler, asynchronous=True, security=security, timeout=_CONNECT_SECONDS, set_as_default=False
            )
            await self._tell(client)
            return client

    async def _tell(self, client: Client) -> None:
        """All workers, and those that come. One that does not take it says so when it is given work."""
        with suppress(Exception):
            async with asyncio.timeout(_CONNECT_SECONDS):
                await client.register_plugin(self._knowing, name=self._knowing.name)

    async def infer(self, document: bytes, traffic: Traffic, previous: bytes | None) -> bytes:
        """As ``Workers.infer``. Raise ContractError of the job, BrokenError where the cluster does not work."""
        from skeleton_service.live.daskworker import UnknownTopologyError  # noqa: PLC0415 - of the extra

        try:
            async with asyncio.timeout(MOST_SECONDS):
                client = await self._connected()
                try:
                    return await self._asked(client, document, traffic, previous)
                except UnknownTopologyError:
                    await self._tell(client)
                    return await self._asked(client, document, traffic, previous)
        except (ContractError, BrokenError):
            raise
        except TimeoutError:
            problem = f"takes longer than {MOST_SECONDS:.0f} s, or waits so long for a worker"
            raise ContractError("its skeleton", problem, "add workers to the Dask cluster") from None
        except Exception as error:  # of the cluster: no scheduler, killed workers, lost connections, of many kinds
            scheduler = self._settings.scheduler
            raise BrokenError(f"Dask at {scheduler} did not infer it: {type(error).__name__}: {error}") from error

    async def _asked(self, client: Client, document: bytes, traffic: Traffic, previous: bytes | None) -> bytes:
        from skeleton_service.live.daskworker import infer_there  # noqa: PLC0415 - of the extra

        future = client.submit(infer_there, self._knowing.name, document, traffic, previous, pure=False)
        try:
            return bytes(await future)
        finally:
            if not future.done():
                await future.cancel()

    async def close(self) -> None:
        """For good: what is in work is looked at again."""
        self._closed = True
        client = self._client
        if client is not None and client.status == "running":
            with suppress(Exception):  # it may be gone, and what it knows with it
                async with asyncio.timeout(_LAST_WORD_SECONDS):
                    await client.unregister_worker_plugin(self._knowing.name)
        await self._leave()

    async def _leave(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                async with asyncio.timeout(2 * _LAST_WORD_SECONDS):
                    await client.close(timeout=_LAST_WORD_SECONDS)
