"""Simulated jobs put to inference, and what came of each: recall, surplus, groups, probes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from exporter.contracts.skeleton import Skeleton
from lab.simulator import CASES, Case, Simulation, simulate
from skeleton_service.inference import Throughput, infer

HELD_OUT = 50_000_000
"""Seeds begin here. Jobs that a constant of the method was chosen or calibrated on are no measure of it: move this on
when that was done with these."""

STEPS = (0.2, 0.5, 1.0, 1.0, 1.0, 2.0, 5.0, 10.0, 15.0)
SECONDS = (20.0, 900.0)
NOISE = (1.0, 8.0)
MISSING = (0.0, 0.0, 0.02, 0.1, 0.3)
CLOCKS = (0.002, 0.002, 0.02, 0.1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was inferred of one job, beside what is true of it. Pairs are undirected."""

    structured: bool
    rnics: int
    true: int
    inferred: int
    hit: int
    basic: int
    exact_groups: bool
    fallback: bool
    confidence: float

    @property
    def recall(self) -> float:
        return self.hit / self.true if self.true else 1.0

    @property
    def surplus(self) -> float:
        """Pairs inferred per true pair."""
        return self.inferred / self.true if self.true else 1.0

    @property
    def of_full_mesh(self) -> float:
        return 2 * self.inferred / (self.rnics * (self.rnics - 1))

    @property
    def of_basic(self) -> float:
        return self.inferred / self.basic

    @property
    def right(self) -> bool:
        """A structure was found, there is one, and no pair of it is missing."""
        return self.structured and not self.fallback and self.hit == self.true


def pairs(skeleton: Skeleton) -> set[tuple[str, str]]:
    return {(a, b) for a, b, _ in skeleton.pairs()}


def basic_pairs(skeleton: Skeleton) -> int:
    """Pairs of RNICs on one rail of different hosts."""
    on: dict[tuple[int | None, str], int] = {}
    for end in skeleton.endpoints:
        on[end.rail, end.host] = on.get((end.rail, end.host), 0) + 1
    found = 0
    for rail in {rail for rail, _ in on}:
        counts = [count for (own, _), count in on.items() if own == rail]
        found += (sum(counts) ** 2 - sum(count**2 for count in counts)) // 2
    return found


def judge(truth: Skeleton, found: Skeleton, *, structured: bool) -> Outcome:
    true, inferred = pairs(truth), pairs(found)
    cliques = [{frozenset(group.members) for group in skeleton.groups} for skeleton in (truth, found)]
    return Outcome(
        structured=structured,
        rnics=len(truth.endpoints),
        true=len(true),
        inferred=len(inferred),
        hit=len(true & inferred),
        basic=basic_pairs(truth),
        exact_groups=cliques[0] == cliques[1],
        fallback=found.fallback is not None,
        confidence=found.confidence,
    )


def without_ranks(throughput: Throughput) -> Throughput:
    return replace(throughput, endpoints=tuple(replace(source, rank=None) for source in throughput.endpoints))


def outcomes(job: Simulation) -> tuple[Outcome, Outcome]:
    """(without ranks, with ranks) of a job that was simulated with them."""
    plain, told = (infer(observed, job.topology) for observed in (without_ranks(job.throughput), job.throughput))
    return (
        judge(job.truth, plain, structured=job.structured),
        judge(job.truth, told, structured=job.structured),
    )


def with_hosts(case: Case, most: int) -> Case:
    return replace(case, hosts=(min(case.hosts[0], most), min(case.hosts[1], most)))


def mixed(number: int) -> Outcome:
    """The ``number``-th of the held-out jobs: any case, watched for any time, at any step, well or badly."""
    draw = np.random.default_rng((HELD_OUT, number))
    case = with_hosts(CASES[str(draw.choice(list(CASES)))], 32)
    case = replace(
        case,
        noise=case.noise * float(np.exp(draw.uniform(*np.log(NOISE)))),
        missing_share=max(case.missing_share, float(draw.choice(MISSING))),
        clock_offset_seconds=max(case.clock_offset_seconds, float(draw.choice(CLOCKS))),
    )
    step = float(draw.choice(STEPS))
    seconds = max(float(np.exp(draw.uniform(*np.log(SECONDS)))), 2 * step)
    job = simulate(case, 2 * HELD_OUT + number, seconds=seconds, step_seconds=step, ranks=bool(draw.integers(2)))
    return judge(job.truth, infer(job.throughput, job.topology), structured=job.structured)


def watched(name: str, seed: int, iterations: float) -> Simulation:
    """A job of a case seen for so many of its iterations, second by second."""
    case = with_hosts(CASES[name], 32)
    period = simulate(case, seed, seconds=1.0).job.period
    return simulate(case, seed, seconds=max(round(iterations * period), 2), ranks=True)


def bins(judged: list[Outcome], count: int) -> Iterator[list[Outcome]]:
    """Outcomes by confidence, in ``count`` bins of equal width."""
    for number in range(count):
        yield [each for each in judged if min(int(each.confidence * count), count - 1) == number]


def brier(judged: list[Outcome]) -> float:
    """Mean square of confidence less being right (0 or 1)."""
    return float(np.mean([(each.confidence - each.right) ** 2 for each in judged]))
