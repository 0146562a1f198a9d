"""From a job and what tells of its traffic to its skeleton: the same function, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from exporter.contracts.fabric import Fabric
from exporter.contracts.job import Job
from exporter.contracts.skeleton import Skeleton


@dataclass(frozen=True, slots=True)
class Traffic:
    """Where a job's is told of."""

    sources: tuple[str, ...]
    """URLs of exporters, or ``prometheus:URL``, as the command ``infer`` takes them."""
    token_file: str | None = None
    """Of Prometheus."""


def inferred(fabric: Fabric, document: bytes, traffic: Traffic, previous: bytes | None) -> bytes:
    """The skeleton of the job's traffic, as JSON; raise ContractError where it tells too little.

    ``document`` is the job and ``previous`` its skeleton before, both as JSON.
    """
    from skeleton_service.inference import infer  # noqa: PLC0415 - NumPy and SciPy are 100 MB
    from skeleton_service.live.planner import observed  # noqa: PLC0415
    from skeleton_service.reading.prometheus import Window  # noqa: PLC0415
    from skeleton_service.reading.throughput import read_throughput  # noqa: PLC0415

    job = msgspec.json.decode(document, type=Job)
    before = None if previous is None else msgspec.json.decode(previous, type=Skeleton)
    window = Window(token_file=traffic.token_file)
    found = infer(read_throughput(traffic.sources, job=job.job, window=window), fabric, before)
    return msgspec.json.encode(observed(found, job, fabric))
