"""Which way replies come back is found out from what is lost of them."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from exporter.contracts.fabric import Fabric
from exporter.contracts.skeleton import read_skeleton
from exporter.contracts.topology import read_topology
from skeleton_service.diagnosis import Diagnoser
from skeleton_service.reading.records import read_records
from tests.unit.probed import BROKEN, FABRIC, SKELETON, TRACES, Lost, Way, crosses, probed, table

RECORDING = Path(__file__).parents[1] / "data" / "replies"


def mirrored(path: Way, _: int = 0) -> bool:
    """Whether a request, or a reply that comes back over its links, takes BROKEN, which loses all."""
    return crosses(path) or (path[1].startswith("host-p0") and path[2] == 0)


def hashed(path: Way, _: int = 0) -> bool:
    """The same where replies take a spine of their own."""
    spine = crc32(repr(path).encode()) % 2
    return crosses(path) or (path[1].startswith("host-p0") and spine == 0)


def diagnoser(lost: Lost, pieces: int = 1) -> Diagnoser:
    rows = sorted([*TRACES, *probed(lost)], key=lambda row: row["ping_time"])
    own = Diagnoser(FABRIC, SKELETON)
    times = [row["ping_time"] for row in rows]
    for some in np.array_split(np.unique(np.array(times) // 10**9), pieces):
        own.advance(table(*(row for row in rows if row["ping_time"] // 10**9 in set(some.tolist()))))
    return own


@pytest.mark.parametrize(("lost", "symmetric"), [(mirrored, True), (hashed, False)])
@pytest.mark.parametrize("pieces", [1, 7])
def test_symmetric_hashing_is_told_from_any_other(lost: Lost, symmetric: bool, pieces: int) -> None:
    own = diagnoser(lost, pieces)
    (failure,) = own.diagnosis(table()).failures
    assert failure.component.name == BROKEN
    assert own._losses.index.mirrored is symmetric  # what nobody is told, and everything rests on


def test_between_some_leaves_replies_may_come_back_otherwise() -> None:
    """What the README of the recording says: two pairs of RNICs seemed to fail for themselves, beside any link."""
    topology, skeleton = read_topology(RECORDING / "topology.json"), read_skeleton(RECORDING / "skeleton.json")
    own = Diagnoser(Fabric(topology), skeleton)
    own.advance(read_records([str(RECORDING / "probes.csv.gz")]))
    (failure,) = own.diagnosis(table()).failures
    assert failure.component.name == "leaf-36:Ethernet93 -- spine-96:Ethernet7"
    assert failure.confidence > 0.95
    assert own._losses.index.mirrored
    assert len(own._losses.index.astray) == 1
