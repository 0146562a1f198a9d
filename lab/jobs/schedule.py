"""When the transfers of one iteration happen: forward, backward, then each stage's all-reduce.

All stages run a forward pass per micro-batch, one after the other, then the backward passes in the
opposite direction (twice as long), as a pipeline does. So the last stage is done first and begins its
all-reduce while the earlier ones still compute: that shift is what tells the stages apart.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from lab.jobs.job import Job


@dataclass(frozen=True, slots=True)
class Transfer:
    """``size`` bytes from one worker to another on every rail, ``start`` seconds into the iteration."""

    start: float
    source: int  # index in Job.workers
    destination: int
    size: float
    role: Literal["pp", "dp"]


@dataclass(frozen=True, slots=True)
class Iteration:
    length: float
    transfers: tuple[Transfer, ...]


def draw_iteration(job: Job, draw: random.Random, *, jitter: float = 0.02) -> Iteration:
    """Draw one iteration; ``jitter`` is the relative spread of each computation and of the whole.

    Replicas drift apart by their jitter; the all-reduce of a stage waits for its last replica.
    """
    place = {(worker.stage, worker.replica): index for index, worker in enumerate(job.workers)}
    stages, count = job.pipeline, job.micro_batches
    length = job.period_seconds * draw.gauss(1, jitter)
    forward = job.compute_share * length / (3 * (count + stages - 1))
    backward = 2 * forward
    transfers: list[Transfer] = []
    done = [0.0] * stages
    for replica in range(job.data_parallel):
        free = [0.0] * stages  # when each stage has finished what it is computing
        arrived = [[0.0] * stages for _ in range(count)]
        for batch in range(count):
            for stage in range(stages):
                begin = max(free[stage], arrived[batch][stage])
                free[stage] = begin + forward * draw.gauss(1, jitter)
                if stage + 1 < stages:
                    arrived[batch][stage + 1] = free[stage]
                    hop = (place[stage, replica], place[stage + 1, replica])
                    transfers.append(Transfer(free[stage], *hop, job.activation_bytes[stage], "pp"))
        ready = [0.0] * count
        for stage in reversed(range(stages)):
            for batch in range(count):
                begin = max(free[stage], ready[batch])
                free[stage] = begin + backward * draw.gauss(1, jitter)
                ready[batch] = free[stage]
                if stage:
                    hop = (place[stage, replica], place[stage - 1, replica])
                    transfers.append(Transfer(free[stage], *hop, job.activation_bytes[stage - 1], "pp"))
            done[stage] = max(done[stage], free[stage])
    for stage in range(stages):
        members = [place[stage, replica] for replica in range(job.data_parallel)]
        # Direct reduce-scatter and all-gather: each member sends every other one its share, twice.
        share = 2 * job.gradient_bytes[stage] / job.data_parallel
        transfers += [Transfer(done[stage], a, b, share, "dp") for a in members for b in members if a != b]
    return Iteration(length, tuple(sorted(transfers, key=lambda transfer: transfer.start)))
