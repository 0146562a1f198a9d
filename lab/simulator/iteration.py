"""When things happen within iterations: computation by its dependencies, transfers, and the global barrier.

Iterations do not overlap (the optimizer step is a barrier), so a block of them is computed at once: times are seconds
from the beginning of each iteration, arrays (iterations, replicas). ``replicas`` counts model replicas here: where a
container holds several ranks, each of them is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lab.simulator.collectives import BACKWARD, Burst, fully_shard, gather_parameters, synchronise
from lab.simulator.job import TrainingJob
from lab.simulator.schedules import Step, plan
from lab.simulator.traffic import Floats, Traffic
from lab.simulator.units import Units

BLOCK_BYTES = 48e6
_AT_ONCE = 64  # operations whose noise is drawn together


@dataclass(frozen=True, slots=True)
class Hop:
    """One micro-batch from stage to stage in every replica: ``begin`` (iterations, replicas)."""

    source: int
    destination: int
    begin: Floats


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One all-to-all of every expert-parallel group of a stage: ``begin`` (iterations, groups)."""

    stage: int
    begin: Floats


@dataclass(slots=True)
class Block:
    """Some iterations: ``length`` (iterations,) and what moves in them."""

    length: Floats
    hops: list[Hop] = field(default_factory=list)
    dispatches: list[Dispatch] = field(default_factory=list)
    bursts: list[Burst] = field(default_factory=list)


Slowness = Callable[[int], Floats | float]


@dataclass(frozen=True, slots=True)
class Clockwork:
    """Computes blocks of iterations of one job.

    ``operation_jitter``: relative noise of each operation. ``expert_load`` (stages, replicas): logarithm of how much
    more than others each replica's experts are asked for, all along.
    """

    job: TrainingJob
    units: Units
    operation_jitter: float
    draw: np.random.Generator
    expert_load: Floats

    def block_size(self) -> int:
        """So many iterations at once that their times fit into BLOCK_BYTES."""
        job = self.job
        operations = 2 * job.stages * job.batches * job.chunks * (1 + (job.experts.layers if job.experts else 0))
        return max(1, int(BLOCK_BYTES / (8 * operations * self.units.replicas)))

    def train(self, iterations: int, scale: float, slowness: Slowness) -> Block:
        """``scale`` stretches all computation; ``slowness(stage)`` (iterations, replicas) stretches a stage's."""
        job, units = self.job, self.units
        shape = (iterations, units.replicas)
        # The replica's whole delay of this iteration, spread over all that it computes.
        late = job.jitter * self.draw.standard_normal(shape) / (job.computation * scale)
        pace = scale * np.maximum(1 + late, 0.5)
        if job.synchronisation == "fully-sharded":
            bursts, end = fully_shard(job, units, pace * slowness(0), self.operation_jitter, self.draw)
            return Block(end + job.optimizer * scale, bursts=bursts)
        block = Block(np.zeros(iterations))
        begin = gather_parameters(job, units, iterations, block.bursts)
        steps = plan(job.schedule, job.stages, job.batches, job.chunks)
        done, last = self._run(steps, block, pace, slowness, begin)
        end = synchronise(job, units, done, last, block.bursts)
        block.length = end + job.optimizer * scale * (1 + 0.02 * self.draw.standard_normal(iterations))
        return block

    def evaluate(self, passes: int, scale: float) -> Block:
        """Forward passes alone, one round of micro-batches after the other, without synchronisation."""
        job = self.job
        pace = np.full((passes, self.units.replicas), scale)
        block = Block(np.zeros(passes))
        if job.synchronisation == "fully-sharded":
            block.bursts, block.length = fully_shard(
                job, self.units, pace, self.operation_jitter, self.draw, backward=False
            )
            return block
        steps = plan("forward", job.stages, job.batches, job.chunks)
        done, _ = self._run(steps, block, pace, lambda _: 1.0, [0.0] * job.stages)
        block.length = np.max([each.max(axis=1) for each in done], axis=0)
        return block

    def _run(
        self, steps: tuple[Step, ...], block: Block, pace: Floats, slowness: Slowness, begin: list[float]
    ) -> tuple[list[Floats], list[Floats]]:
        """(when each stage has computed everything, when it began its last operation), each (iterations, replicas)."""
        job = self.job
        hop_seconds = job.activation / job.link
        forward = [pace * slowness(stage) * float(job.forward[stage]) for stage in range(job.stages)]
        backward = [BACKWARD * seconds for seconds in forward]
        free = [np.full(pace.shape, moment) for moment in begin]
        last = list(free)
        results: dict[int, Floats] = {}
        for number, step in enumerate(steps):
            if number % _AT_ONCE == 0:
                noise = self.draw.standard_normal((min(_AT_ONCE, len(steps) - number), *pace.shape), dtype=np.float32)
                noise *= self.operation_jitter
                noise += 1
            stage = step.stage
            ready = free[stage]
            if step.awaits is not None:
                ready = np.maximum(ready, results.pop(step.awaits))
            seconds = noise[number % _AT_ONCE] * (forward if step.forward else backward)[stage]
            if job.experts is not None:
                ready, seconds = self._together(block, stage, ready, seconds)
            end = ready + seconds
            last[stage], free[stage] = ready, end
            if step.sends_to is not None:
                block.hops.append(Hop(stage, step.sends_to, end))
                results[number] = end + hop_seconds
        return free, last

    def _together(self, block: Block, stage: int, ready: Floats, seconds: Floats) -> tuple[Floats, Floats]:
        """Expert-parallel groups wait for each other at every layer; note their all-to-alls."""
        experts = self.job.experts
        if experts is None:
            return ready, seconds
        degree = experts.degree
        groups = (ready.shape[0], -1, degree)
        begin = ready.reshape(groups).max(axis=2)
        long = seconds.reshape(groups).max(axis=2) + 2 * experts.layers * experts.size / self.job.link
        for layer in range(experts.layers):
            block.dispatches.append(Dispatch(stage, begin + (layer + 0.5) / experts.layers * long))
        return np.repeat(begin, degree, axis=1), np.repeat(long, degree, axis=1)


def put(block: Block, starts: Floats, until: float, clockwork: Clockwork, traffic: Traffic) -> None:
    """Count what the first ``starts.size`` iterations of the block move, if they begin at ``starts``."""
    job, units, draw = clockwork.job, clockwork.units, clockwork.draw
    kept = starts.size
    # All of one kind at once: a call for each of a deep pipeline's transfers would take most of the time.
    hops: dict[tuple[int, int], list[Floats]] = {}
    for hop in block.hops:
        hops.setdefault((hop.source, hop.destination), []).append(hop.begin[:kept])
    for (source, destination), relative in hops.items():
        begin = (starts[:, None] + np.array(relative)).reshape(-1, units.replicas)
        a, b = units.at[source], units.at[destination]
        traffic.transfer("pp", a, b, begin, job.activation / job.link, job.activation, until)
    experts = job.experts
    if experts is not None:
        # Some experts are popular all along; the rest of the imbalance is the iteration's.
        loads = experts.imbalance * draw.standard_normal((job.stages, kept, units.replicas)) / np.sqrt(2)
        loads = np.exp(loads + clockwork.expert_load[:, None, :]).reshape(job.stages, kept, -1, experts.degree)
        loads /= loads.sum(axis=3, keepdims=True)
        dispatches: dict[int, list[Floats]] = {}
        for dispatch in block.dispatches:
            dispatches.setdefault(dispatch.stage, []).append(dispatch.begin[:kept])
        for stage, relative in dispatches.items():
            members = units.at[stage].reshape(-1, experts.degree)
            begin = (starts[:, None] + np.array(relative)).reshape(-1, members.shape[0])
            weights = np.tile(loads[stage], (len(relative), 1, 1))
            traffic.exchange("ep", members, begin, 2 * experts.size / job.link, experts.size, weights, until)
    kinds: dict[tuple[str, int], list[Burst]] = {}
    for burst in block.bursts:
        kinds.setdefault((burst.kind, burst.stage), []).append(burst)
    for bursts in kinds.values():
        moments = np.concatenate([starts + each.begin[:kept] for each in bursts])
        lengths = np.repeat([each.seconds for each in bursts], kept)
        sizes = np.repeat([each.size for each in bursts], kept)
        traffic.collective(bursts[0].kind, bursts[0].source, bursts[0].destination, moments, lengths, sizes, until)
