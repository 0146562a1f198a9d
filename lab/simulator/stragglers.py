"""Replicas and hosts that compute more slowly than the others, for some iterations or all along."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lab.simulator.case import Case
from lab.simulator.iteration import Slowness
from lab.simulator.job import integer
from lab.simulator.traffic import Floats
from lab.simulator.units import Units


@dataclass(slots=True)
class Stragglers:
    """``lasting`` (stages, replicas): how much longer each unit computes in every iteration."""

    case: Case
    draw_from: np.random.Generator
    lasting: Floats
    ranks_per_container: int
    _passing: list[tuple[int, int, int, float]] = field(default_factory=list)

    def draw(self, iterations: int) -> Slowness:
        """The next iterations' slowness by stage."""
        case, source = self.case, self.draw_from
        if not case.passing_stragglers and (self.lasting == 1).all():
            return lambda _: 1.0
        stages, replicas = self.lasting.shape
        slow = np.repeat(self.lasting[:, None, :], iterations, axis=1)
        for iteration in range(iterations):
            if source.random() < case.passing_stragglers:
                # A slow host is one container of the stage; a slow replica is slow in all of its stages.
                stage = int(source.integers(stages)) if source.random() < 0.5 else -1
                container = int(source.integers(replicas // self.ranks_per_container))
                self._passing.append(
                    (integer(source, case.passing_iterations), stage, container, source.uniform(*case.passing_slowdown))
                )
            left = []
            for remaining, stage, container, factor in self._passing:
                ranks = slice(container * self.ranks_per_container, (container + 1) * self.ranks_per_container)
                slow[slice(None) if stage < 0 else stage, iteration, ranks] *= factor
                if remaining > 1:
                    left.append((remaining - 1, stage, container, factor))
            self._passing = left
        return lambda stage: slow[stage]


def draw_stragglers(case: Case, units: Units, draw: np.random.Generator) -> Stragglers:
    lasting = np.ones(units.at.shape)
    for _ in range(integer(draw, case.lasting_stragglers)):
        rank = int(draw.integers(units.replicas)) // units.ranks_per_container * units.ranks_per_container
        ranks = slice(rank, rank + units.ranks_per_container)
        stage = int(draw.integers(units.at.shape[0])) if draw.random() < 0.5 else slice(None)
        lasting[stage, ranks] *= draw.uniform(*case.lasting_slowdown)
    return Stragglers(case, draw, lasting, units.ranks_per_container)
