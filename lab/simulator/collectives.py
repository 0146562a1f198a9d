"""Gradient synchronisation: who moves how much when, in rings over the replicas of a stage.

A ring over d members moves (d - 1)/d of the buffer per member in a reduce-scatter or an all-gather, twice that in an
all-reduce (Patarasuk and Yuan 2009; NCCL). It begins when the last member is ready, for all members at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.simulator.job import TrainingJob
from lab.simulator.traffic import Floats, Integers
from lab.simulator.units import Units

BACKWARD = 2.0  # x the forward time


@dataclass(frozen=True, slots=True)
class Burst:
    """A collective step of one stage: ``begin`` (iterations,), ``seconds``, ``size`` bytes per RNIC and member."""

    kind: str
    stage: int
    source: Integers
    destination: Integers
    begin: Floats
    seconds: float
    size: float


def _share(units: Units) -> float:
    """Of a buffer, what each member sends in one pass around the ring."""
    return (units.containers - 1) / units.containers


def _ring(job: TrainingJob, units: Units, stage: int, begin: Floats, size: float) -> Burst:
    return Burst("dp", stage, *units.ring(stage), begin, size / job.collective_link, size)


def gather_parameters(job: TrainingJob, units: Units, iterations: int, bursts: list[Burst]) -> list[float]:
    """When each stage can begin to compute; a distributed optimizer first gathers what it updated in shards."""
    if job.synchronisation != "distributed-optimizer" or units.containers == 1:
        return [0.0] * job.stages
    gathered = [
        _ring(job, units, stage, np.zeros(iterations), _share(units) * float(job.parameters[stage]))
        for stage in range(job.stages)
    ]
    bursts += gathered
    return [burst.seconds for burst in gathered]


def synchronise(job: TrainingJob, units: Units, done: list[Floats], last: list[Floats], bursts: list[Burst]) -> Floats:
    """When the last stage is synchronised (iterations,).

    ``done``, ``last``: per stage (iterations, replicas), when all is computed and when the last backward pass began.
    """
    ends = [_synchronise_stage(job, units, stage, done[stage], last[stage], bursts) for stage in range(job.stages)]
    if job.embedding and job.stages > 1:
        # The embedding's copies are added up after each has been reduced over its own replicas.
        begin = np.maximum(ends[0], ends[-1])
        seconds = job.embedding / job.link
        bursts.append(Burst("pp", job.stages, *units.ends(), begin, seconds, job.embedding))
        ends.append(begin + seconds)
    return np.max(ends, axis=0)  # type: ignore[no-any-return]


def _synchronise_stage(
    job: TrainingJob, units: Units, stage: int, done: Floats, last: Floats, bursts: list[Burst]
) -> Floats:
    ready: Floats = done.max(axis=1)
    if units.containers == 1:
        return ready
    whole = _share(units) * float(job.gradient[stage])
    if job.synchronisation == "distributed-optimizer":
        bursts.append(_ring(job, units, stage, ready, whole))
    elif job.synchronisation == "overlapped":
        free = np.zeros_like(ready)
        for bucket in range(1, job.buckets + 1):
            # A bucket is ready as soon as the last pass has come past its layers, in every replica.
            moment = (last + (done - last) * (bucket / job.buckets)).max(axis=1)
            burst = _ring(job, units, stage, np.maximum(moment, free), 2 * whole / job.buckets)
            bursts.append(burst)
            free = burst.begin + burst.seconds
        return free
    else:
        bursts.append(_ring(job, units, stage, ready, 2 * whole))
    return bursts[-1].begin + bursts[-1].seconds


def fully_shard(
    job: TrainingJob,
    units: Units,
    pace: Floats,
    operation_jitter: float,
    draw: np.random.Generator,
    *,
    backward: bool = True,
) -> tuple[list[Burst], Floats]:
    """Sharded parameters (ZeRO-3, FSDP): (bursts, when the last member is done (iterations,)).

    Each group of layers is gathered before its forward and again before its backward pass, at most one group ahead,
    and its gradients are scattered after the backward pass. ``pace`` (iterations, replicas) stretches computation.
    """
    size = _share(units) * float(job.gradient[0]) / job.layer_groups
    forward = float(job.forward[0]) / job.layer_groups
    bursts: list[Burst] = []
    computed = [np.zeros(pace.shape)] * 2  # the last two groups' ends
    wire = np.zeros(pace.shape[0])  # when the links are free
    due: Floats | None = None  # when the last backward pass ended, until its gradients are on their way

    def move(ready: Floats) -> None:
        nonlocal wire
        burst = _ring(job, units, 0, np.maximum(wire, ready), size)
        bursts.append(burst)
        wire = burst.begin + burst.seconds

    for _ in range(job.batches):
        for factor in (1.0, BACKWARD) if backward else (1.0,):
            for _ in range(job.layer_groups):
                move(computed[-2].max(axis=1))
                gathered = wire
                if due is not None:  # after the next gathering, which computation waits for
                    move(due)
                noise = 1 + operation_jitter * draw.standard_normal(pace.shape, dtype=np.float32)
                end = np.maximum(computed[-1], gathered[:, None]) + forward * factor * pace * noise
                computed = [computed[-1], end]
                due = end.max(axis=1) if factor == BACKWARD else None
    if due is not None:
        move(due)
    return bursts, np.maximum(wire, computed[-1].max(axis=1))
