"""Probe records made by hand, of a fabric with one link to break, and the verdict on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import pyarrow as pa

from exporter.contracts.diagnosis import Diagnosis, Failure
from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis import diagnose
from skeleton_service.reading.records import KINDS
from tests.unit.fabrics import leaf_spine
from tests.unit.test_skeleton_contract import skeleton

FABRIC = Fabric(leaf_spine(pods=3, rails=1, spines=2, hosts_per_pod=2))
SKELETON = skeleton()
START = 1_000
SECONDS = 30
HOSTS = [f"host-p{pod}-{n}" for pod in range(3) for n in range(2)]
Way = tuple[str, str, int]
"""(source host, destination host, spine)."""
PATHS: list[Way] = [(a, b, spine) for a in HOSTS for b in HOSTS for spine in range(2) if a[:7] != b[:7]]
BROKEN = "leaf-p0-r0:Ethernet0 -- spine-0:Ethernet0"

LOST = {"dial": "fail", "latency": None, "loss_rate": 1.0}
REFUSED = {**LOST, "error": "refused"}
RESTARTED = {**LOST, "error": "restarted"}

Lost = Callable[[Way, int], bool]


def leaf(host: str) -> str:
    return f"leaf-{host.split('-')[1]}-r0"


def crosses(path: Way) -> bool:
    """Whether a path takes BROKEN, from pod 0 to spine 0."""
    return path[0].startswith("host-p0") and path[2] == 0


def unlucky(path: Way, second: int, one_in: int) -> bool:
    """One probe in so many, as a noisy link drops them: each by its own chance, and the same ones each time."""
    return crc32(f"{path} {second}".encode()) % one_in == 0


def lossy(path: Way, second: int) -> bool:
    """A third of what takes BROKEN is lost."""
    return crosses(path) and unlucky(path, second, 3)


def dead(path: Way, _: int) -> bool:
    """All that takes BROKEN is lost."""
    return crosses(path)


def never(*_: object) -> bool:
    return False


def record(path: Way, second: float, **changes: Any) -> dict[str, Any]:
    source, destination, spine = path
    basis = {
        "task_type": "UDP_PING",
        "ping_time": int((START + second) * 1e9),
        "src_node_id": f"c-{source}",
        "dst_node_id": f"c-{destination}",
        "src_node_sn": source,
        "dst_node_sn": destination,
        "src_real_ip": FABRIC.interfaces[f"{source}:mlx5_0"].rnic.ip,
        "dst_real_ip": FABRIC.interfaces[f"{destination}:mlx5_0"].rnic.ip,
        "src_rnic": "mlx5_0",
        "dst_rnic": "mlx5_0",
        "src_port": 49152 + spine,
        "dst_port": 65300,
        "dial": "success",
        "latency": 15.0,
        "loss_rate": 0.0,
        "job": "job-1",
    }
    return {**basis, **changes}


def trace(path: Way) -> dict[str, Any]:
    hops = f'["{leaf(path[0])}", "spine-{path[2]}", "{leaf(path[1])}"]'
    return record(path, 0, task_type="TRACEROUTE", route=hops, latency=None, loss_rate=None)


TRACES = [trace(path) for path in PATHS]


def probed(
    lost: Lost = never, *, fate: dict[str, Any] = LOST, seconds: int = SECONDS, **changes: Any
) -> list[dict[str, Any]]:
    """A probe a second on every path; ``lost(path, second)`` says which meet ``fate``."""
    return [
        record(path, second, **{**changes, **(fate if lost(path, second) else {})})
        for path in PATHS
        for second in range(seconds)
    ]


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(
        [{name: row.get(name) for name in KINDS} for row in rows], schema=pa.schema(list(KINDS.items()))
    )


def verdict(*rows: dict[str, Any], fabric: Fabric = FABRIC, spraying: bool = False) -> Diagnosis:
    return diagnose(table(*rows), fabric, SKELETON, spraying=spraying)


def names(failure: Failure) -> set[str]:
    """All that a failure may be, by its verdict."""
    return {failure.component.name, *(other.name for other in failure.alternatives)}
