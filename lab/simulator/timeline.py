"""A job over the observed window: iteration after iteration, and what comes between them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lab.simulator.case import Case
from lab.simulator.iteration import Clockwork, put
from lab.simulator.job import TrainingJob, integer, log_uniform
from lab.simulator.stragglers import Stragglers
from lab.simulator.traffic import TX, Floats, Integers, Traffic


@dataclass(frozen=True, slots=True)
class Regime:
    """Seconds of the window in which iterations are alike. ``killed``: the last one ends in its middle."""

    begin: float
    end: float
    scale: float
    killed: bool


@dataclass(frozen=True, slots=True)
class Pauses:
    """What comes after every so many iterations; 0 is never. ``writers``: containers that write a checkpoint."""

    checkpoint_every: int
    checkpoint_seconds: float
    checkpoint_bytes: float
    writers: Integers
    evaluation_every: int
    evaluation_passes: int


@dataclass(slots=True)
class Timeline:
    """Plays a job. ``storage`` counts per container and host total, ``traffic`` per unit and RNIC."""

    clockwork: Clockwork
    pauses: Pauses
    stragglers: Stragglers
    traffic: Traffic
    storage: Traffic
    lengths: list[Floats] = field(default_factory=list)
    finished: int = 0

    def play(self, regimes: list[Regime]) -> None:
        clock = regimes[0].begin
        for regime in regimes:
            clock = max(clock, regime.begin)
            while clock < regime.end:
                clock = self._play_block(clock, regime)

    def period(self) -> float | None:
        """Median length of the iterations that began in the window."""
        return float(np.median(np.concatenate(self.lengths))) if self.lengths else None

    def _play_block(self, clock: float, regime: Regime) -> float:
        """Play as many iterations as are computed at once; return when the next one begins."""
        work = self.clockwork
        left = (regime.end - clock) / (work.job.period * regime.scale)
        iterations = int(min(work.block_size(), left + 2))
        block = work.train(iterations, regime.scale, self.stragglers.draw(iterations))
        ends = regime.end if regime.killed else np.inf
        starts = []
        evaluations = []
        for length in block.length.tolist():
            if clock >= regime.end:
                break
            starts.append(clock)
            clock += length
            self.finished += 1
            if clock < ends and self._due(self.pauses.checkpoint_every):
                clock = self._checkpoint(clock, ends)
            if clock < ends and self._due(self.pauses.evaluation_every):
                evaluations.append(clock)
                clock = self._evaluate(clock, regime.scale, ends)
        put(block, np.array(starts), ends, work, self.traffic)
        self.lengths.append(block.length[: len(starts)])
        return min(clock, ends)

    def _due(self, every: int) -> bool:
        return every > 0 and self.finished % every == 0

    def _evaluate(self, clock: float, scale: float, until: float) -> float:
        block = self.clockwork.evaluate(self.pauses.evaluation_passes, scale)
        starts = clock + np.concatenate([[0.0], np.cumsum(block.length)[:-1]])
        put(block, starts, until, self.clockwork, self.traffic)
        return clock + float(block.length.sum())

    def _checkpoint(self, clock: float, until: float) -> float:
        """All that write begin at once and end at slightly different times; training waits for the slowest."""
        pauses, draw = self.pauses, self.clockwork.draw
        seconds = pauses.checkpoint_seconds * (1 + 0.1 * draw.random(pauses.writers.size))
        begin = np.full((1, pauses.writers.size), clock)
        self.storage.outside(TX, pauses.writers, begin, seconds[None, :], pauses.checkpoint_bytes, until)
        return clock + float(seconds.max())


def draw_pauses(case: Case, job: TrainingJob, draw: np.random.Generator) -> Pauses:
    """Container c is that of replica ``c % replicas``."""
    everyone = np.arange(job.containers)
    writers = case.checkpoint_writers[int(draw.integers(len(case.checkpoint_writers)))]
    seconds = log_uniform(draw, case.checkpoint_seconds)
    size = log_uniform(draw, case.checkpoint_bytes)
    return Pauses(
        checkpoint_every=integer(draw, case.checkpoint_iterations) if case.checkpoint_iterations else 0,
        checkpoint_seconds=seconds,
        # Storage may be reached over one RNIC alone.
        checkpoint_bytes=min(size, 0.5 * seconds * job.link),
        writers=everyone if writers == "all" else everyone[everyone % job.replicas == 0],
        evaluation_every=integer(draw, case.evaluation_iterations) if case.evaluation_iterations else 0,
        evaluation_passes=integer(draw, case.evaluation_passes),
    )


def draw_regimes(case: Case, job: TrainingJob, draw: np.random.Generator, seconds: float, ready: float) -> list[Regime]:
    """The window divided by restarts and changes of period. ``ready``: when the job can begin, 0 if it ran before."""
    begin = ready if ready > 0 else -float(draw.uniform(0, job.period))
    events = [(moment, "restart") for moment in draw.uniform(0.1, 0.9, integer(draw, case.restarts)) * seconds]
    events += [(moment, "change") for moment in draw.uniform(0.2, 0.8, integer(draw, case.period_changes)) * seconds]
    regimes: list[Regime] = []
    scale = 1.0
    for moment, kind in sorted(events):
        if moment <= begin:
            continue
        regimes.append(Regime(begin, moment, scale, killed=kind == "restart"))
        begin = moment
        if kind == "restart":
            begin += log_uniform(draw, case.restart_silence_seconds)
            scale = log_uniform(draw, case.period_factor) if draw.random() < case.restart_changes_period else scale
        else:
            scale = log_uniform(draw, case.period_factor)
    return [*regimes, Regime(begin, seconds, scale, killed=False)]
