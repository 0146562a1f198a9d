"""The units of a training job by their place in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.simulator.traffic import Integers


@dataclass(frozen=True, slots=True)
class Units:
    """``at`` (stages, replicas): the unit of each rank. Unit = container x ranks per container + rank in it.

    Replicas of one container are neighbours: replica = container's replica x ranks per container + rank in it.
    """

    at: Integers
    ranks_per_container: int

    @property
    def replicas(self) -> int:
        return int(self.at.shape[1])

    @property
    def containers(self) -> int:
        """Data-parallel members that lie on different containers: only between those bytes pass the network."""
        return self.replicas // self.ranks_per_container

    def ring(self, stage: int) -> tuple[Integers, Integers]:
        """(each unit, the one it sends to): per rank in the container a ring over the containers of the stage."""
        members = self.at[stage].reshape(-1, self.ranks_per_container)
        return members.ravel(), np.roll(members, -1, axis=0).ravel()

    def ends(self) -> tuple[Integers, Integers]:
        """First and last stage of every replica, both ways."""
        first, last = self.at[0], self.at[-1]
        return np.concatenate([first, last]), np.concatenate([last, first])


def number_units(stages: int, replicas: int, ranks_per_container: int) -> Units:
    """Units of containers numbered stage by stage."""
    return Units(np.arange(stages * replicas * ranks_per_container).reshape(stages, -1), ranks_per_container)
