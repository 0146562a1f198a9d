"""Judgements added up: precision, recall, how often the component is right, how soon, is the confidence true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.diagnosis.judge import Answer, Claim, Found, Judgement

BINS = 10


@dataclass(frozen=True, slots=True)
class Tally:
    """Shares are NaN where they are of nothing."""

    true: int
    found: tuple[Found, ...]
    false: int
    duplicates: int

    @property
    def missed(self) -> int:
        return self.true - len(self.found)

    @property
    def recall(self) -> float:
        return _share(len(self.found), self.true)

    @property
    def precision(self) -> float:
        """Of the reports, duplicates apart, those about something true."""
        return _share(len(self.found), len(self.found) + self.false)

    def count(self, answer: Answer) -> int:
        return sum(each.answer is answer for each in self.found)

    @property
    def ambiguous(self) -> int:
        return self.count(Answer.AMBIGUOUS)

    @property
    def top_1(self) -> float:
        """Of what was found, ambiguous answers apart, the share whose first component is right."""
        return _share(self.count(Answer.RIGHT), len(self.found) - self.ambiguous)

    @property
    def named(self) -> float:
        """Of all that is true, found or missed, the share that was named right or with what nobody can tell from it."""
        return _share(self.count(Answer.RIGHT) + self.ambiguous, self.true)

    @property
    def symptom(self) -> float:
        return _share(sum(each.symptom for each in self.found), len(self.found))

    @property
    def layer(self) -> float:
        return _share(sum(each.layer for each in self.found), len(self.found))

    @property
    def mean_seconds(self) -> float:
        return _mean([each.seconds for each in self.found])

    @property
    def p95_seconds(self) -> float:
        return float(np.percentile([each.seconds for each in self.found], 95)) if self.found else float("nan")

    @property
    def mean_seconds_after_third_probe(self) -> float:
        return _mean([each.seconds_after_third_probe for each in self.found])


def tally(judgements: Sequence[Judgement]) -> Tally:
    return Tally(
        true=sum(len(each.found) for each in judgements),
        found=tuple(one for each in judgements for one in each.found if one is not None),
        false=sum(each.false for each in judgements),
        duplicates=sum(each.duplicates for each in judgements),
    )


def bins(claims: Sequence[Claim]) -> Iterator[list[Claim]]:
    """Claims by confidence, in ten bins of equal width."""
    for number in range(BINS):
        yield [each for each in claims if min(int(each.confidence * BINS), BINS - 1) == number]


def brier(claims: Sequence[Claim]) -> float:
    """Mean square of confidence less being right, 0 or 1 (Brier 1950)."""
    return _mean([(each.confidence - each.right) ** 2 for each in claims])


def _share(some: int, of: int) -> float:
    return some / of if of else float("nan")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
