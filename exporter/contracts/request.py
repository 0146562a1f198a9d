"""The throughput request: when exporters are to sample their RNICs at a finer step than they always do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from exporter.contracts.codec import Contract, ContractError, Version, read

LATEST = 1e11
"""The year 5138 in seconds since the epoch; today in milliseconds is later."""
MOST_SECONDS = 600.0
"""Of one request: a fine step costs each host a little all the time it lasts."""


class ThroughputRequest(Contract, frozen=True, kw_only=True):
    """Sample from ``start`` to ``end`` (s since the epoch) each ``step_seconds``.

    ``job``: only where a workload is that job's; without it everywhere.
    """

    version: Version
    start: float
    end: float
    step_seconds: Annotated[float, Meta(ge=0.02, le=1.0)] = 0.1
    job: str | None = None


def read_request(path: Path | str) -> ThroughputRequest:
    """Read and check a request; raise ContractError naming the file, the field and the remedy."""
    return read(path, ThroughputRequest, _check)


def _check(request: ThroughputRequest, source: str) -> None:
    if not (math.isfinite(request.start) and math.isfinite(request.end)):
        raise ContractError(source, "fields 'start' and 'end' are not both times", "give seconds since the epoch")
    if request.start > LATEST:
        raise ContractError(source, f"field 'start' is {request.start:.3g}", "give seconds since the epoch")
    if request.end <= request.start:
        raise ContractError(source, "field 'end' is not after 'start'", "give the later time last")
    if request.end - request.start > MOST_SECONDS:
        problem = f"lasts {request.end - request.start:g} s"
        raise ContractError(source, problem, f"let 'end' be at most {MOST_SECONDS:g} s after 'start'")
