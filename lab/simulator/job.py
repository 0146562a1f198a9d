"""One job as drawn from a case: its degrees, its durations and its volumes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lab.simulator.case import Case, Range, RankOrder, Schedule, Synchronisation
from lab.simulator.traffic import Floats

WORDS = ("amber", "basalt", "cobalt", "dune", "ember", "flint", "garnet", "heath", "iris", "jade")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Mixture of experts: ``degree`` neighbouring replicas of a stage share the experts of ``layers`` layers.

    ``size``: bytes per RNIC that a member sends to all members per layer and micro-batch. ``imbalance``: spread of the
    logarithm of an expert's load.
    """

    degree: int
    layers: int
    size: float
    imbalance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """``replicas`` and ``stages`` count containers. Volumes are bytes per RNIC, durations seconds.

    ``forward`` (stages,): one micro-batch through one model chunk; backward takes twice that. ``gradient`` and
    ``parameters`` (stages,): what a stage synchronises and, with a distributed optimizer, gathers.
    """

    name: str
    replicas: int
    stages: int
    chunks: int
    batches: int
    rnics: int
    containers_per_host: int
    ranks_per_container: int
    rank_order: RankOrder
    schedule: Schedule
    synchronisation: Synchronisation
    experts: Experts | None
    period: float
    forward: Floats
    optimizer: float
    jitter: float
    link: float
    collective_link: float
    gradient: Floats
    parameters: Floats
    activation: float
    embedding: float
    buckets: int
    layer_groups: int

    @property
    def containers(self) -> int:
        return self.replicas * self.stages

    @property
    def computation(self) -> float:
        """Seconds that one replica computes in an iteration, its idle time left out."""
        return 3 * float(self.forward.mean()) * self.chunks * self.batches


def log_uniform(draw: np.random.Generator, span: Range) -> float:
    low, high = span
    return float(math.exp(draw.uniform(math.log(low), math.log(high)))) if low > 0 else float(draw.uniform(low, high))


def integer(draw: np.random.Generator, span: tuple[int, int]) -> int:
    return int(draw.integers(span[0], span[1] + 1))


def factorisations(case: Case, containers: int) -> list[tuple[int, int]]:
    """All (replicas, stages) that the case allows for so many containers."""
    return [
        (containers // stages, stages)
        for stages in range(case.pipeline[0], min(case.pipeline[1], containers) + 1)
        if containers % stages == 0
        and case.data_parallel[0] <= containers // stages <= case.data_parallel[1]
        and (case.expert_parallel is None or expert_degrees(case, containers // stages))
    ]


def expert_degrees(case: Case, replicas: int) -> list[int]:
    low, high = case.expert_parallel or (1, 0)
    return [degree for degree in range(low, min(high, replicas) + 1) if replicas % degree == 0]


def draw_job(case: Case, draw: np.random.Generator, hosts: int | None) -> TrainingJob:
    """Draw a job over ``hosts`` hosts, or over as many as the case's range allows; raise ValueError if none fits."""
    name = f"{draw.choice(WORDS)}-{int(draw.integers(16**6)):06x}"
    rnics = int(draw.choice(case.rnics))
    per_host = int(draw.choice([each for each in case.containers_per_host if each * rnics <= 8] or [1]))
    lanes = [each for each in case.ranks_per_container if rnics % each == 0] or [1]
    numbers = [hosts] if hosts is not None else list(range(case.hosts[0], case.hosts[1] + 1))
    possible = [number for number in numbers if factorisations(case, number * per_host)]
    if not possible:
        raise ValueError(f"case {case.name}: {hosts} hosts cannot be split into its data-parallel and pipeline degrees")
    choices = factorisations(case, int(draw.choice(possible)) * per_host)
    replicas, stages = choices[int(draw.integers(len(choices)))]
    synchronisation = case.synchronisation[int(draw.integers(len(case.synchronisation)))]
    schedule = case.schedule[int(draw.integers(len(case.schedule)))]
    # Each chunk is a layer or more, and models have no more than a few hundred.
    deep = [each for each in case.virtual_stages if each * stages <= 128] or [min(case.virtual_stages)]
    chunks = int(draw.choice(deep)) if schedule == "interleaved" else 1
    batches = _draw_batches(case, draw, stages, schedule)

    period = log_uniform(draw, case.period_seconds)
    optimizer = period * draw.uniform(*case.optimizer_share)
    link = float(draw.choice(case.link_bytes_per_second))
    collective_link = link * draw.uniform(*case.collective_efficiency)
    gradient = _draw_gradient(case, draw, stages)
    shortest = case.max_synchronisation_share * period * collective_link
    if synchronisation == "fully-sharded":
        # Gathered per micro-batch in both directions, reduced once: at most what compute can nearly hide.
        total = log_uniform(draw, case.parameter_bytes)
        gradient = np.array([min(total, 0.9 * period * collective_link / (3 * batches))])
    else:
        gradient *= min(1.0, shortest / (2 * float(gradient.max())))
    spent = 0.0 if synchronisation == "fully-sharded" else 2 * float(gradient.max()) / collective_link
    compute = period - optimizer - (spent if replicas > 1 else 0.0)
    forward = 1 + case.stage_spread * draw.standard_normal(stages).clip(-3, 3)
    forward[0] *= draw.uniform(*case.end_stages)
    forward[-1] *= draw.uniform(*case.end_stages)
    # The slowest stage computes without a pause while the pipeline is full; filling it takes each of the others once.
    slowest = float(forward.max())
    forward *= compute / (3 * (batches * chunks * slowest + float(forward.sum()) - slowest))
    activation = min(log_uniform(draw, case.activation_bytes), 0.3 * float(forward.min()) * link)
    return TrainingJob(
        name=name,
        replicas=replicas,
        stages=stages,
        chunks=chunks,
        batches=batches,
        rnics=rnics,
        containers_per_host=per_host,
        ranks_per_container=int(draw.choice(lanes)),
        rank_order=case.rank_order[int(draw.integers(len(case.rank_order)))],
        schedule=schedule,
        synchronisation=synchronisation,
        experts=_draw_experts(case, draw, replicas, float(forward.min()), link),
        period=period,
        forward=forward,
        optimizer=optimizer,
        jitter=log_uniform(draw, case.replica_jitter_seconds),
        link=link,
        collective_link=collective_link,
        gradient=gradient,
        # Gradients are reduced in 32 or 16 bits, parameters gathered in 16.
        parameters=gradient * float(draw.choice([0.5, 1.0])),
        activation=activation,
        embedding=float(gradient.mean() * draw.uniform(*case.embedding_share)) if case.tied_embeddings else 0.0,
        buckets=integer(draw, case.buckets),
        layer_groups=integer(draw, case.layer_groups),
    )


def _draw_batches(case: Case, draw: np.random.Generator, stages: int, schedule: Schedule) -> int:
    if stages == 1:
        return integer(draw, case.accumulation)
    batches = max(stages, min(round(stages * draw.uniform(*case.micro_batches_per_stage)), case.max_micro_batches))
    return stages * max(batches // stages, 1) if schedule == "interleaved" else batches


def _draw_gradient(case: Case, draw: np.random.Generator, stages: int) -> Floats:
    """Bytes per RNIC and stage: the middle ones are alike or nearly so, the ends hold the embeddings as well."""
    gradient = np.full(stages, log_uniform(draw, case.gradient_bytes))
    gradient *= 1 + float(draw.choice(case.middle_spread)) * draw.standard_normal(stages).clip(-3, 3)
    if stages > 1:
        gradient[0] *= 1 + draw.uniform(*case.embedding_share)
        gradient[-1] *= 1 + draw.uniform(*case.embedding_share)
    return gradient


def _draw_experts(case: Case, draw: np.random.Generator, replicas: int, forward: float, link: float) -> Experts | None:
    if case.expert_parallel is None:
        return None
    layers = integer(draw, case.expert_layers)
    return Experts(
        degree=int(draw.choice(expert_degrees(case, replicas))),
        layers=layers,
        # There and back, and still a burst beside the computation of its layer.
        size=min(log_uniform(draw, case.expert_bytes), 0.1 * forward / layers * link),
        imbalance=float(draw.uniform(*case.expert_imbalance)),
    )
