"""Whether a skeleton made earlier still explains a job's traffic: what SkeletonHunter, section 8, leaves to the future.

Cheaper than inferring again, and steadier: as long as the old skeleton holds, plan and rules stay as they are.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from exporter.contracts.skeleton import Skeleton
from skeleton_service.inference.chain import course_levels, exchanged, missed_by_neighbours
from skeleton_service.inference.participants import Participants
from skeleton_service.inference.positions import foretelling_errors, group_means, scaled_levels
from skeleton_service.inference.replicas import conserved_share, deviations
from skeleton_service.inference.series import Integers, Throughput

FAITHFUL, ALIKE = 0.9, 0.5
"""A skeleton of several groups holds where this share of units is in place; one of a single group, or a chain, where
peers foretell this share of their variation."""

STILL = 0.5
"""Replicas are who they were where their pairs conserve this share of what the best assignment does."""

ABSENT = 0.1
"""A job that has lost this share of its containers, or has others than it had, is not the job it was."""


def holds(skeleton: Skeleton, throughput: Throughput, participants: Participants) -> bool:
    """Whether the skeleton still explains the traffic of the same RNICs, and its replicas are who they were."""
    now = {(source.id, source.host) for source in throughput.endpoints}
    if now != {(endpoint.id, endpoint.host) for endpoint in skeleton.endpoints}:
        return False
    parallelism = skeleton.parallelism
    enough = FAITHFUL if parallelism is not None and parallelism.dp > 1 and parallelism.pp > 1 else ALIKE
    return fidelity(skeleton, throughput, participants) >= enough and _same_replicas(skeleton, throughput, participants)


def _same_replicas(skeleton: Skeleton, throughput: Throughput, participants: Participants) -> bool:
    """Whether the units that the skeleton calls one replica still conserve bytes; so, where it calls none so."""
    stages = _stages(skeleton, throughput, participants)
    replica_of = {endpoint.container: endpoint.replica for endpoint in skeleton.endpoints}
    containers = [throughput.endpoints[int(rows[rows >= 0][0])].container for rows in participants.rows]
    replicas = [replica_of.get(container) for container in containers]
    if stages is None or any(replica is None for replica in replicas) or np.bincount(stages).min() < 2:
        return True
    numbers = np.array(replicas, dtype=np.int64)
    found = deviations(throughput, participants, stages)
    groups = [np.flatnonzero(stages == stage) for stage in range(int(stages.max()) + 1)]
    groups = [group[np.argsort(numbers[group])] for group in groups]
    if len({len(group) for group in groups}) > 1:
        return True
    shares = [conserved_share(found, here, there) for here, there in pairwise(groups)]
    return not shares or float(np.median(shares)) >= STILL


def fidelity(skeleton: Skeleton, throughput: Throughput, participants: Participants) -> float:
    """How far the skeleton still holds, 0 to 1.

    With several groups, the share of units that their own group foretells better than any other group
    does; with one, and in a pipeline without replicas, the share of the units' variation in time that their
    peers foretell. 0 for a skeleton without structure and for a job with other containers.
    """
    stages = _stages(skeleton, throughput, participants)
    if stages is None or len(stages) < 2:
        return 0.0
    sizes = np.bincount(stages)
    if sizes.max() == 1:
        return _chained(throughput, participants, stages)
    best = 0.0
    for levels in scaled_levels(throughput, participants):
        own, other = foretelling_errors(levels - levels.mean(axis=0), stages)  # centred, differences stay precise
        if len(sizes) == 1:
            variation = levels.reshape(len(levels), -1, len(throughput.times)).var(axis=2).sum() * len(throughput.times)
            best = max(best, 1 - float(own.sum()) / max(float(variation), 1e-12))
        else:
            best = max(best, float((own < other).mean()))
    return best


def _stages(skeleton: Skeleton, throughput: Throughput, participants: Participants) -> Integers | None:
    """The stage of each unit (units,), as the skeleton has it; None where it does not say."""
    if skeleton.fallback is not None:
        return None
    stage_of = {endpoint.container: endpoint.stage for endpoint in skeleton.endpoints if endpoint.stage is not None}
    containers = [throughput.endpoints[int(rows[rows >= 0][0])].container for rows in participants.rows]
    stages = [stage_of.get(container) for container in containers]
    if len(stages) < (1 - ABSENT) * len(stage_of):
        return None
    known = [stage for stage in stages if stage is not None]
    if len(known) < len(stages) or not known:
        return None
    return np.unique(np.array(known, dtype=np.int64), return_inverse=True)[1].astype(np.int64)


def _chained(throughput: Throughput, participants: Participants, stages: Integers) -> float:
    """The share of variation that the neighbours in the skeleton's order foretell, three stages or more."""
    order = np.argsort(stages)
    if len(order) < 3:
        return 0.0
    chain = course_levels(exchanged(group_means(throughput, participants, np.arange(len(order)))))[order]
    return max(1 - missed_by_neighbours(chain) / max(float((chain**2).sum()), 1e-12), 0.0)
