"""What is new in a diagnosis since the one before, so that each failure is told once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exporter.contracts.diagnosis import Component, Diagnosis, Failure

_SAME_SECONDS = 1.0
"""A failure keeps its start, whatever it is called meanwhile."""


@dataclass(frozen=True, slots=True)
class Change:
    what: Literal["found", "changed", "ended", "withdrawn"]
    """``withdrawn``: what was seen since has another explanation, or none is needed."""
    failure: Failure
    before: Component | None = None
    """What a changed failure was held to be."""


class Told:
    """The failures that have been told."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []

    def update(self, diagnosis: Diagnosis) -> list[Change]:
        """What to tell now. Of a failure that is over when it is found both are told; what goes on is found again."""
        left = list(self._failures)
        known_as: dict[int, Failure] = {}
        # By identity first, so that none is taken for another that only began with it.
        for same in (_named_alike, _over_the_same):
            for place, failure in enumerate(diagnosis.failures):
                if place not in known_as and (one := same(failure, left)) is not None:
                    left.remove(one)
                    known_as[place] = one
        made: list[Change] = []
        for place, failure in enumerate(diagnosis.failures):
            known = known_as.get(place)
            if known is None or (known.end is not None and failure.end is None):
                made.append(Change("found", failure))
            elif (known.component.kind, known.component.name) != (failure.component.kind, failure.component.name):
                made.append(Change("changed", failure, known.component))
            if failure.end is not None and (known is None or known.end is None):
                made.append(Change("ended", failure))
        made += [Change("withdrawn", each) for each in left if each.end is None]
        self._failures = list(diagnosis.failures)
        return made


def _named_alike(failure: Failure, known: list[Failure]) -> Failure | None:
    """The one of these that is the same failure by id and time."""
    alike = [each for each in known if each.id == failure.id and each.job == failure.job and _meet(each, failure)]
    return min(alike, key=lambda each: abs(each.start - failure.start), default=None)


def _over_the_same(failure: Failure, known: list[Failure]) -> Failure | None:
    """The one of these that is the same failure by job, start and paths, whatever it is called."""
    close = [each for each in known if each.job == failure.job and _close(each, failure)]
    own = set(failure.paths)
    shared = [each for each in close if own & set(each.paths) or own == set(each.paths)]
    return max(shared, key=lambda each: len(own & set(each.paths)), default=None)


def _close(one: Failure, other: Failure) -> bool:
    return abs(one.start - other.start) <= _SAME_SECONDS


def _meet(one: Failure, other: Failure) -> bool:
    """Whether both began together or lasted at a time: what comes late may tell of an earlier start."""
    first, second = sorted((one, other), key=lambda each: each.start)
    return _close(one, other) or first.end is None or second.start <= first.end
