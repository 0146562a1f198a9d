"""One simulated case: what was recorded, what it was recorded on, and what is true."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from exporter.contracts.codec import encode, write
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.overlay import OverlayState
from exporter.contracts.skeleton import Skeleton
from exporter.contracts.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``begin``, ``injected``, ``repaired`` and ``end`` in seconds since the epoch.

    ``truth`` holds one failure for each real one: what distracts begins at ``injected`` too and is none.
    """

    name: str
    seed: int
    topology: Topology
    skeleton: Skeleton
    probes: pa.Table
    counters: pa.Table | None
    overlay_before: OverlayState | None
    overlay: OverlayState | None
    truth: Diagnosis
    begin: float
    injected: float
    repaired: float | None
    end: float

    def write(self, directory: Path) -> None:
        """Leave the files of docs/scenarios.md; ``probes-dns.csv.gz`` where names were looked up."""
        directory.mkdir(parents=True, exist_ok=True)
        write(directory / "topology.json", encode(self.topology))
        write(directory / "skeleton.json", encode(self.skeleton))
        write(directory / "truth.json", encode(self.truth))
        lookups = pc.equal(self.probes["task_type"], "DNS")
        inside = pc.fill_null(pc.not_equal(self.probes["src_ip"], self.probes["src_real_ip"]), False)
        _write_table(self.probes.filter(pc.invert(pc.or_(lookups, inside))), directory / "probes-underlay.csv.gz")
        _write_table(self.probes.filter(inside), directory / "probes-overlay.csv.gz")
        if pc.any(lookups).as_py():
            _write_table(self.probes.filter(lookups), directory / "probes-dns.csv.gz")
        if self.counters is not None:
            _write_table(self.counters, directory / "counters.csv.gz")
        if self.overlay is not None and self.overlay_before is not None:
            write(directory / "overlay-before.json", encode(self.overlay_before))
            write(directory / "overlay.json", encode(self.overlay))
        times = {"begin": self.begin, "injected": self.injected, "repaired": self.repaired, "end": self.end}
        document = {"version": 1, "scenario": self.name, "seed": self.seed, "times": times}
        (directory / "scenario.json").write_text(json.dumps(document, indent=2) + "\n")


def _write_table(table: pa.Table, path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "gzip") as file:
        csv.write_csv(table, file)
