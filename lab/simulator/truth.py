"""The skeleton of a simulated job as it is: groups and edges from the placement, not from the traffic."""

from __future__ import annotations

import numpy as np

from exporter.contracts.names import endpoint_id
from exporter.contracts.skeleton import Edge, Endpoint, Group, Parallelism, Skeleton, Window
from lab.simulator.job import TrainingJob
from lab.simulator.placement import Placement


def endpoints(placement: Placement, job: TrainingJob | None) -> list[Endpoint]:
    """One per RNIC of every container, containers in order, then their RNICs by local index."""
    listed = []
    for container, name in enumerate(placement.containers):
        for local in range(placement.rails.shape[1]):
            rnic = placement.rnic(container, local)
            listed.append(
                Endpoint(
                    id=endpoint_id(name, rnic.name),
                    host=placement.topology.hosts[placement.host[container]].name,
                    container=name,
                    rnic=rnic.name,
                    rail=rnic.rail,
                    ip=rnic.ip,
                    rank=int(placement.rank[container]),
                    stage=container // job.replicas if job else None,
                    replica=container % job.replicas if job else None,
                )
            )
    return listed


def structured(job: TrainingJob, placement: Placement, window: Window, period: float | None) -> Skeleton:
    """Per local RNIC index and stage a clique of the replicas; pipeline edges within each replica.

    Containers of one job on one host have other rails for the same local index; such a group has no rail.
    """
    ends = endpoints(placement, job)
    rnics = placement.rails.shape[1]
    at = np.array([end.id for end in ends], dtype=object).reshape(job.stages, job.replicas, rnics)
    groups, edges = [], []
    for local in range(rnics):
        rails = set(placement.rails[:, local].tolist())
        rail = rails.pop() if len(rails) == 1 else None
        for stage in range(job.stages):
            members = tuple(sorted(at[stage, :, local].tolist(), key=str.encode))
            groups.append(Group(role="dp", stage=stage, rail=rail, members=members))
        edges += [
            Edge(a=at[a, replica, local], b=at[b, replica, local], role="pp")
            for a, b in neighbours(job)
            for replica in range(job.replicas)
            # Containers on one host talk in its memory.
            if placement.host[a * job.replicas + replica] != placement.host[b * job.replicas + replica]
        ]
    return Skeleton(
        version=1,
        job=job.name,
        window=window,
        period_seconds=period,
        confidence=1.0,
        fallback=None,
        parallelism=Parallelism(dp=job.replicas, pp=job.stages, position_groups=len(groups)),
        endpoints=tuple(sorted(ends, key=lambda end: end.id.encode())),
        groups=tuple(groups),
        edges=tuple(edges),
    )


def neighbours(job: TrainingJob) -> list[tuple[int, int]]:
    """Pairs of stages between which every replica moves bytes."""
    pairs = [(stage, stage + 1) for stage in range(job.stages - 1)]
    # Interleaving wraps around from last to first; tied embeddings are added up between the two.
    if job.stages > 2 and (job.chunks > 1 or job.embedding):
        pairs.append((0, job.stages - 1))
    return pairs


def structureless(name: str, placement: Placement, window: Window) -> Skeleton:
    """The basic list: every rail as a whole."""
    ends = endpoints(placement, None)
    rails: dict[int | None, list[str]] = {}
    for end in ends:
        rails.setdefault(end.rail, []).append(end.id)
    return Skeleton(
        version=1,
        job=name,
        window=window,
        period_seconds=None,
        confidence=1.0,
        fallback="basic",
        parallelism=None,
        endpoints=tuple(sorted(ends, key=lambda end: end.id.encode())),
        groups=tuple(
            Group(role="basic", rail=rail, members=tuple(sorted(members, key=str.encode)))
            for rail, members in rails.items()
        ),
        edges=(),
    )
