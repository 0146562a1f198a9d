"""A training job as drawn at random: who sits where in it, and hence which pairs really talk.

Tensor parallelism fills a host, so it stays off the network; what is left of a rank's traffic keeps to
its rail. Each (replica, stage) of the job is one host, the placement of ranks on hosts is random.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations, pairwise

from exporter.contracts.codec import Contract
from exporter.contracts.names import endpoint_id
from exporter.contracts.skeleton import Edge, Endpoint, Group, Parallelism, Skeleton, Window
from exporter.contracts.topology import Topology

MEGABYTE = 1e6


class Nic(Contract, frozen=True, kw_only=True):
    name: str
    rail: int
    ip: str


class Worker(Contract, frozen=True, kw_only=True):
    """One container: a whole host, at one place of the pipeline of one data-parallel replica."""

    host: str
    container: str
    rank: int
    stage: int
    replica: int
    nics: tuple[Nic, ...]


class Job(Contract, frozen=True, kw_only=True):
    """Bytes are per RNIC: of one stage's gradients, and of one micro-batch across one stage boundary."""

    name: str
    seed: int
    data_parallel: int
    pipeline: int
    micro_batches: int
    period_seconds: float
    compute_share: float
    bandwidth: float
    gradient_bytes: tuple[float, ...]
    activation_bytes: tuple[float, ...]
    workers: tuple[Worker, ...]

    def members(self, stage: int) -> tuple[Worker, ...]:
        """The workers of one stage, one per replica."""
        return tuple(sorted((w for w in self.workers if w.stage == stage), key=lambda worker: worker.replica))

    def pairs(self) -> Iterator[tuple[Worker, Worker, str]]:
        """Yield the pairs of workers that exchange bytes, once each, with their role."""
        for stage in range(self.pipeline):
            for a, b in combinations(self.members(stage), 2):
                yield a, b, "dp"
        for stage, following in pairwise(range(self.pipeline)):
            for a, b in zip(self.members(stage), self.members(following), strict=True):
                yield a, b, "pp"

    def truth(self) -> Skeleton:
        """The skeleton as it is, not as it was inferred: exact groups, exact pipeline edges."""
        groups: list[Group] = []
        edges: list[Edge] = []
        endpoints = [
            Endpoint(
                id=endpoint_id(worker.container, nic.name),
                host=worker.host,
                container=worker.container,
                rnic=nic.name,
                rail=nic.rail,
                ip=nic.ip,
                rank=worker.rank,
                stage=worker.stage,
                replica=worker.replica,
            )
            for worker in self.workers
            for nic in worker.nics
        ]
        rails = sorted({endpoint.rail for endpoint in endpoints if endpoint.rail is not None})
        at = {(e.stage, e.replica, e.rail): e.id for e in endpoints}
        for rail in rails:
            for stage in range(self.pipeline):
                members = tuple(at[stage, replica, rail] for replica in range(self.data_parallel))
                groups.append(Group(role="dp", stage=stage, rail=rail, members=members))
            for stage, following in pairwise(range(self.pipeline)):
                edges += [
                    Edge(a=at[stage, replica, rail], b=at[following, replica, rail], role="pp")
                    for replica in range(self.data_parallel)
                ]
        return Skeleton(
            version=1,
            job=self.name,
            window=Window(start=0, end=0, step_seconds=1),
            period_seconds=self.period_seconds,
            confidence=1.0,
            fallback=None,
            parallelism=Parallelism(
                dp=self.data_parallel, pp=self.pipeline, position_groups=self.pipeline * len(rails)
            ),
            endpoints=tuple(endpoints),
            groups=tuple(groups),
            edges=tuple(edges),
        )


def factorisations(hosts: int) -> list[tuple[int, int]]:
    """All (data parallel, pipeline) degrees of at least 2 each whose product is ``hosts``."""
    return [(hosts // p, p) for p in range(2, hosts // 2 + 1) if hosts % p == 0]


def draw_job(
    seed: int,
    topology: Topology,
    *,
    period_seconds: tuple[float, float] = (4.0, 7.0),
    degrees: tuple[int, int] | None = None,
    gradient_megabytes: tuple[float, float] = (8.0, 16.0),
    activation_megabytes: tuple[float, float] = (1.0, 3.0),
    all_reduce_share: float = 0.04,
) -> Job:
    """Draw a job over all active hosts of ``topology`` with RNICs on rails; the same seed gives the same job.

    ``degrees`` fixes (data parallel, pipeline). ``all_reduce_share`` is about the share of the period
    that a stage's all-reduce takes at full speed. Raises ValueError when no factorisation exists.
    """
    draw = random.Random(seed)
    hosts = [
        host for host in topology.hosts if host.state == "active" and any(rnic.rail is not None for rnic in host.rnics)
    ]
    choices = [degrees] if degrees else factorisations(len(hosts))
    if not choices or choices[0][0] * choices[0][1] != len(hosts):
        raise ValueError(f"{len(hosts)} hosts cannot be split into at least 2 replicas of at least 2 stages")
    data_parallel, pipeline = draw.choice(choices)
    draw.shuffle(hosts)
    name = f"{draw.choice(['amber', 'basalt', 'cobalt', 'dune', 'ember', 'flint'])}-{draw.randrange(16**6):06x}"
    ranks = list(range(len(hosts)))
    labels = draw.sample(range(16**5), len(hosts))
    workers = [
        Worker(
            host=host.name,
            container=f"{name}-{label:05x}",
            rank=rank,
            stage=rank // data_parallel,
            replica=rank % data_parallel,
            nics=tuple(
                Nic(name=rnic.name, rail=index if rnic.rail is None else rnic.rail, ip=rnic.ip)
                for index, rnic in enumerate(host.rnics)
            ),
        )
        for host, label, rank in zip(hosts, labels, ranks, strict=True)
    ]
    period = draw.uniform(*period_seconds)
    gradients = tuple(round(draw.uniform(*gradient_megabytes) * MEGABYTE) for _ in range(pipeline))
    return Job(
        name=name,
        seed=seed,
        data_parallel=data_parallel,
        pipeline=pipeline,
        micro_batches=draw.choice([pipeline, 2 * pipeline]),
        period_seconds=period,
        compute_share=draw.uniform(0.7, 0.9),
        bandwidth=2 * max(gradients) / (all_reduce_share * period),
        gradient_bytes=gradients,
        # One activation size per model: every boundary carries the same hidden state.
        activation_bytes=(round(draw.uniform(*activation_megabytes) * MEGABYTE),) * (pipeline - 1),
        workers=tuple(sorted(workers, key=lambda worker: worker.host)),
    )
