"""Ranks as a second witness: what a job's numbering says about its shape, once the traffic agrees.

Launchers number containers so that replicas of one stage follow each other (Megatron's default, ``tp-cp-ep-dp-pp``),
or stages of one replica (``tp-cp-ep-pp-dp``). Either, and the number of stages, is a hypothesis; the traffic judges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skeleton_service.inference.participants import Participants
from skeleton_service.inference.positions import foretelling_error
from skeleton_service.inference.series import Integers, Rates, Throughput

AGREES = 0.1
"""A numbering may foretell worse than the groups found without it by this share, and still agree with them."""


@dataclass(frozen=True, slots=True)
class Numbering:
    """``stages`` and ``replicas`` (units,): the place of each unit, as its rank has it."""

    stages: Integers
    replicas: Integers

    @property
    def count(self) -> int:
        return int(self.stages.max()) + 1


def unit_ranks(throughput: Throughput, participants: Participants) -> Integers | None:
    """The rank of each unit (units,); None unless every unit has one of its own."""
    ranks: list[int] = []
    for rows in participants.rows.tolist():
        known = {throughput.endpoints[row].rank for row in rows if row >= 0}
        rank = known.pop() if len(known) == 1 else None
        if rank is None:
            return None
        ranks.append(rank)
    return np.array(ranks, dtype=np.int64) if len(set(ranks)) == len(ranks) else None


def numberings(ranks: Integers) -> list[Numbering]:
    """Every shape that distinct ``ranks`` (units,) may stand for, of two replicas or more."""
    units = len(ranks)
    place = np.argsort(np.argsort(ranks))
    found = []
    for stages in (k for k in range(1, units // 2 + 1) if units % k == 0):
        found.append(Numbering(place // (units // stages), place % (units // stages)))
        if stages > 1:
            found.append(Numbering(place % stages, place // stages))
    return found


def agreeing(levels: Rates, ranks: Integers, least_error: float) -> Numbering | None:
    """The numbering that foretells the units' series (units, features) best, if about as well as traffic alone."""
    candidates = numberings(ranks)
    errors = [foretelling_error(levels, candidate.stages) for candidate in candidates]
    best = int(np.argmin(errors)) if errors else -1
    return candidates[best] if best >= 0 and errors[best] <= (1 + AGREES) * least_error else None
