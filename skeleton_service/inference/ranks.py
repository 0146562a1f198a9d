"""Ranks as a second witness: what a job's numbering says about its shape, once the traffic agrees.

Launchers number containers so that replicas of one stage follow each other (Megatron's default, ``tp-cp-ep-dp-pp``),
or stages of one replica (``tp-cp-ep-pp-dp``). Either, and the number of stages, is a hypothesis; the traffic judges.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from skeleton_service.inference.participants import Participants
from skeleton_service.inference.positions import ALL_BUT, Partition, foretelling_error, foretelling_errors
from skeleton_service.inference.series import Integers, Rates, Throughput

AGREES = 0.1
"""A numbering may foretell worse than the groups found without it by this share, and still agree with them."""

BETTER, IN_PLACE, SURELY_IN_PLACE, CLEAR = 1.2, 0.8, 0.95, 3.0
"""A numbering of more stages than were found shows them where it foretells better by this ratio, each of this share
of the units is foretold best by its own stage, and what was found was not clear to this margin: expert-parallel groups
within a stage line up with ranks. So do clocks in small jobs: where one group explains nearly all, more is asked."""

FAR_BETTER, SOME_IN_PLACE = 4.0, 0.3
"""Where no groups were found, a numbering that foretells this much better on some scale shows them, if more units than
by chance are foretold best by their own stage: chance and clocks reach a ratio of 1.6, but a replica that is slow makes
groups of its own. Expert-parallel groups that follow ranks come with a pipeline whose stages foretell better still."""


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


def rank_order(ranks: Integers | None) -> tuple[int, ...] | None:
    """The units by rank; None where ranks are not known, or missing between them."""
    if ranks is None or not evenly_spaced(ranks):
        return None
    return tuple(np.argsort(ranks).tolist())


def evenly_spaced(ranks: Integers) -> bool:
    """Whether no distinct rank is missing between others. They may count by eights, as those of processes do."""
    return len(ranks) < 3 or np.unique(np.diff(np.sort(ranks))).size == 1


def numberings(ranks: Integers) -> list[Numbering]:
    """Every shape that distinct ``ranks`` (units,) may stand for, of two replicas or more.

    None where ranks are missing between them: then nobody knows which.
    """
    units = len(ranks)
    if not evenly_spaced(ranks):
        return []
    place = np.argsort(np.argsort(ranks))
    found = []
    for stages in (k for k in range(1, units // 2 + 1) if units % k == 0):
        found.append(Numbering(place // (units // stages), place % (units // stages)))
        if stages > 1:
            found.append(Numbering(place % stages, place // stages))
    return found


def agreeing(partition: Partition, ranks: Integers) -> Numbering | None:
    """The numbering of several stages that foretells the units' series best, if the traffic agrees with it."""
    candidates = [candidate for candidate in numberings(ranks) if candidate.count > 1]
    if not candidates:
        return None
    errors = [foretelling_error(partition.levels, candidate.stages) for candidate in candidates]
    found = foretelling_error(partition.levels, partition.labels)
    if partition.count == 1 or partition.margin < CLEAR:
        best = int(np.argmin(errors))
        own, other = foretelling_errors(partition.levels, candidates[best].stages)
        nearly_all = partition.count == 1 and partition.foretold >= ALL_BUT
        in_place = SURELY_IN_PLACE if nearly_all else IN_PLACE
        if errors[best] * BETTER <= found and float((own < other).mean()) >= in_place:
            return candidates[best]
        if candidates[best].count > partition.count > 1:
            return None  # the groups hold several stages each, and whose partner is whose cannot be told from ranks
    agreed = [n for n in range(len(errors)) if errors[n] <= (1 + AGREES) * found]
    same = [n for n in agreed if candidates[n].count == partition.count]
    return candidates[min(same, key=lambda n: errors[n])] if same else None


def far_better(scales: Iterable[Rates], ranks: Integers) -> Numbering | None:
    """The numbering of several stages that foretells units far better than all of them as one group do.

    ``scales`` yield the units' levels (units, features), on each scale. What hides stages on one, such as reads from
    storage, may not be seen on another. None where no numbering does.
    """
    candidates = [candidate for candidate in numberings(ranks) if candidate.count > 1]
    best, shown = FAR_BETTER, None
    for levels in scales:
        centred = levels - levels.mean(axis=0)
        together = foretelling_error(centred, np.zeros(len(centred), dtype=np.int64))
        for candidate in candidates:
            own, other = foretelling_errors(centred, candidate.stages)
            ratio = together / max(float(own.sum()), 1e-12)
            if ratio > best and float((own < other).mean()) >= SOME_IN_PLACE:
                best, shown = ratio, candidate
    return shown
