"""JSON Schemas of every contract, generated from the types that read and write it.

``python -m exporter.contracts.schemas DIRECTORY`` writes them; a test holds the committed ones
against this output.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from exporter.contracts.codec import encode, write
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.intent import Intent
from exporter.contracts.job import Job
from exporter.contracts.neighbors import Neighbors
from exporter.contracts.overlay import OverlayState
from exporter.contracts.plan import Plan
from exporter.contracts.request import ThroughputRequest
from exporter.contracts.skeleton import Skeleton
from exporter.contracts.tables import CounterSample, ProbeRecord, ThroughputRow
from exporter.contracts.topology import Topology
from exporter.contracts.verification import Verification

CONTRACTS: dict[str, type] = {
    "throughput": ThroughputRow,
    "throughput-request": ThroughputRequest,
    "topology": Topology,
    "skeleton": Skeleton,
    "plan": Plan,
    "probe-records": ProbeRecord,
    "overlay-state": OverlayState,
    "counter-samples": CounterSample,
    "diagnosis": Diagnosis,
    "intent": Intent,
    "verification": Verification,
    "neighbors": Neighbors,
    "job": Job,
}


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one contract; for a tabular one, of one row."""
    document = msgspec.json.schema(CONTRACTS[name])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name, **document}


def main(directory: str) -> None:
    for name in CONTRACTS:
        write(Path(directory) / f"{name}.schema.json", encode(schema(name)))


if __name__ == "__main__":
    main(sys.argv[1])
