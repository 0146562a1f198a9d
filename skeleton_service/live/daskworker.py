"""What runs on a Dask worker. Nothing imports this where Dask is not installed."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec
from distributed import Worker, WorkerPlugin, get_worker

from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import Topology
from skeleton_service.live.inferring import Traffic, inferred


class Knowing(WorkerPlugin):  # type: ignore[misc]
    """A worker knows a topology from its start on, or from when the service says so."""

    def __init__(self, topology: bytes) -> None:
        """``topology`` is as MessagePack."""
        self._topology = topology
        self.name = f"fabric-topology-{sha256(topology).hexdigest()[:16]}"

    def setup(self, worker: Worker) -> None:
        _known(worker)[self.name] = Fabric(msgspec.msgpack.decode(self._topology, type=Topology))

    def teardown(self, worker: Worker) -> None:
        _known(worker).pop(self.name, None)


def _known(worker: Any) -> dict[str, Fabric]:
    known: dict[str, Fabric] = worker.__dict__.setdefault("fabric_skeleton", {})
    return known


class UnknownTopologyError(LookupError):
    """The worker began under a scheduler that had not been told of it."""


def infer_there(name: str, document: bytes, traffic: Traffic, previous: bytes | None) -> bytes:
    """``inferred`` on a worker that knows the topology of that name."""
    fabric = _known(get_worker()).get(name)
    if fabric is None:
        raise UnknownTopologyError(name)
    return inferred(fabric, document, traffic, previous)
