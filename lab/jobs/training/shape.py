"""The sizes of the training job and who sits where in it; pure, needs no PyTorch."""

from __future__ import annotations

import random

from exporter.contracts.codec import Contract
from exporter.contracts.names import endpoint_id
from lab.errors import LabError
from lab.jobs.job import Job, Nic, Worker, factorisations
from lab.network.design import Design

FLOAT_BYTES = 4


class Shape(Contract, frozen=True, kw_only=True):
    """Sizes of the model and of one iteration. Parameters are float32."""

    tensor_parallel: int
    pipeline: int
    micro_batches: int
    vocabulary: int = 256
    width: int = 384
    heads: int = 8
    blocks_per_stage: int = 2
    sequences: int = 2
    """per micro-batch"""
    positions: int = 32

    def gradient_bytes(self, stage: int) -> int:
        """Bytes of the gradients of one rank of ``stage``: what its data-parallel all-reduce sums."""
        block = 12 * self.width**2 // self.tensor_parallel + 4 * self.width
        ends = 0
        if stage == 0:
            ends += (self.vocabulary + self.positions) * self.width
        if stage == self.pipeline - 1:
            ends += (self.vocabulary + 2) * self.width
        return FLOAT_BYTES * (self.blocks_per_stage * block + ends)

    @property
    def activation_bytes(self) -> int:
        """Bytes of one micro-batch at a stage boundary; its gradient has as many."""
        return FLOAT_BYTES * self.sequences * self.positions * self.width


class Place(Contract, frozen=True, kw_only=True):
    """Where a rank meets the network: its container's overlay interface on one rail."""

    rnic: str
    rail: int
    netdev: str
    address: str


class Training(Contract, frozen=True, kw_only=True):
    """One training job on one tenant's containers."""

    job: Job
    shape: Shape
    places: dict[str, tuple[Place, ...]]
    """{container: its ranks' places, in the order of the worker's RNICs}"""

    @property
    def endpoints(self) -> dict[str, str]:
        """{overlay address: endpoint id}"""
        return {
            place.address: endpoint_id(container, place.rnic)
            for container, places in self.places.items()
            for place in places
        }


def draw_training(
    seed: int, design: Design, *, tenant: int = 0, period_seconds: tuple[float, float] = (4.0, 5.5)
) -> Training:
    """Draw a job over one tenant's containers, one on every host; the same seed gives the same job.

    A container is a tensor-parallel group with a rank for each of its RNICs; (replica, stage) are drawn.
    """
    if not design.tenants:
        raise LabError("the training job needs containers, and this lab has none", "bring it up with --tenants 1")
    draw = random.Random(seed)
    containers = list(design.tenants[tenant].containers)
    choices = factorisations(len(containers))
    if not choices:
        raise LabError(f"{len(containers)} hosts cannot be split into at least 2 replicas of at least 2 stages")
    data_parallel, pipeline = draw.choice(choices)
    draw.shuffle(containers)
    rails = len(design.hosts[0].rnics)
    shape = Shape(tensor_parallel=rails, pipeline=pipeline, micro_batches=max(4, pipeline))
    workers = [
        Worker(
            host=container.host,
            container=container.name,
            rank=rank,
            stage=rank // data_parallel,
            replica=rank % data_parallel,
            nics=tuple(
                Nic(name=rnic.name, rail=rnic.rail, ip=rnic.address) for rnic in design.host(container.host).rnics
            ),
        )
        for rank, container in enumerate(containers)
    ]
    job = Job(
        name=f"torch-{draw.randrange(16**6):06x}",
        seed=seed,
        data_parallel=data_parallel,
        pipeline=pipeline,
        micro_batches=shape.micro_batches,
        period_seconds=draw.uniform(*period_seconds),
        compute_share=0.0,
        bandwidth=0.0,
        gradient_bytes=tuple(float(shape.gradient_bytes(stage)) for stage in range(pipeline)),
        activation_bytes=(float(shape.activation_bytes),) * (pipeline - 1),
        workers=tuple(sorted(workers, key=lambda worker: worker.host)),
    )
    return Training(
        job=job,
        shape=shape,
        places={
            container.name: tuple(
                Place(rnic=each.rnic, rail=each.rail, netdev=each.netdev, address=each.address)
                for each in container.interfaces
            )
            for container in containers
        },
    )
