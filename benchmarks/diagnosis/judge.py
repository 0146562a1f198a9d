"""What was reported beside what is true: found or missed, named or not, false, and how soon.

A report is about a true failure when their times overlap and it names the failure's component, or most of the paths
that it lists are the failure's. Pairs of paths have no direction here: what is lost on the way back shows on both.

The truth's ``alternatives`` of score 1 are other names of the same thing, those of less are what no data of the case
can tell from it. Who names a link as one of several has named the ports at its ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from scipy.optimize import linear_sum_assignment

from exporter.contracts.diagnosis import Alternative, Component, Diagnosis, Failure
from exporter.contracts.names import split_link

TOLERANCE_SECONDS = 5.0
"""A report's failure may begin so long before the true one, or after its end."""

MOST_NAMED = 3
"""Who cannot tell some components apart must name them all, and no more than so many in all."""

Name = tuple[str, str]
"""Kind and name of a component."""


class Answer(IntEnum):
    """What the component of a report about a true failure is worth, worst first."""

    WRONG = 1
    AMBIGUOUS = 2
    """One of the components that no data can tell apart, with the others as its alternatives."""
    RIGHT = 3


@dataclass(frozen=True, slots=True)
class Found:
    """A true failure that was reported."""

    answer: Answer
    seconds: float
    """From its start until it was reported as detected."""
    seconds_after_third_probe: float
    """The same, from the third probe that met it; less than 0 where counters knew it before."""
    symptom: bool
    layer: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A report: how sure it was, and whether its component is that of a true failure, of those alike the very one."""

    confidence: float
    right: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    found: tuple[Found | None, ...]
    """One for each true failure, None for one that was missed."""
    false: int
    """Reports about nothing that is true, or about what another has reported already, that named it wrong."""
    duplicates: int
    """Reports about what another has reported already that are not wrong."""
    claims: tuple[Claim, ...]
    """One for each report."""


def judge(truth: Diagnosis, reported: Diagnosis, end: float) -> Judgement:
    """Judge reports on records that last until ``end``, seconds since the epoch.

    Each report is about one true failure at most, and each true failure has one report at most. Who reports it several
    times is judged by the best of them: that of the right component, else the earliest.
    """
    reports = reported.failures
    answers = [[_answer(failure, report, end) for report in reports] for failure in truth.failures]
    report_of = _matched(answers, reports)
    names = [_names(failure) for failure in truth.failures]
    right = [
        any(own[place] and _name(report.component) in known for own, known in zip(answers, names, strict=True))
        for place, report in enumerate(reports)
    ]
    again = [
        any(own[place] in (Answer.RIGHT, Answer.AMBIGUOUS) for own in answers)
        for place in range(len(reports))
        if place not in report_of.values()
    ]
    found: list[Found | None] = [None] * len(answers)
    for number, place in report_of.items():
        answer = answers[number][place]
        if answer is not None:
            found[number] = _found(truth.failures[number], reports[place], answer)
    return Judgement(
        found=tuple(found),
        false=again.count(False),
        duplicates=again.count(True),
        claims=tuple(Claim(report.confidence, own) for report, own in zip(reports, right, strict=True)),
    )


def _found(failure: Failure, report: Failure, answer: Answer) -> Found:
    return Found(
        answer=answer,
        seconds=report.detected_at - failure.start,
        seconds_after_third_probe=report.detected_at - failure.detected_at,
        symptom=report.symptom == failure.symptom,
        layer=report.layer == failure.layer,
    )


def _matched(answers: Sequence[Sequence[Answer | None]], reports: Sequence[Failure]) -> dict[int, int]:
    """{true failure: the report about it}; right answers count before ambiguous ones, these before wrong ones."""
    if not answers or not reports:
        return {}
    in_order = np.argsort(np.argsort([report.detected_at for report in reports], kind="stable"), kind="stable")
    most = len(reports) * len(answers) + 1  # one answer of a better kind outweighs all of the next
    worth = np.array([[0.0 if one is None else float(most) ** (2 * one) for one in own] for own in answers])
    worth -= np.where(worth > 0, in_order, 0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if answers[row][column]}


def _answer(failure: Failure, report: Failure, end: float) -> Answer | None:
    """What a report says of a true failure; None when it is not about it."""
    latest = (end if failure.end is None else failure.end) + TOLERANCE_SECONDS
    if not failure.start - TOLERANCE_SECONDS <= report.start <= latest:
        return None
    own = _names(failure)
    alike = {_name(other) for other in failure.alternatives if other.score < 1}
    named = _name(report.component)
    told = {named, *(_name(other) for other in report.alternatives)}
    told |= {("port", end) for kind, name in told if kind == "link" for end in split_link(name)}
    if named in own | alike and alike and alike <= told and own & told and len(report.alternatives) < MOST_NAMED:
        return Answer.AMBIGUOUS
    if named in own:
        return Answer.RIGHT
    if named in alike or _mostly(report.paths, failure.paths):
        return Answer.WRONG
    return None


def _names(failure: Failure) -> set[Name]:
    """All names of a true failure's component."""
    return {_name(failure.component), *(_name(other) for other in failure.alternatives if other.score >= 1)}


def _name(component: Component | Alternative) -> Name:
    return component.kind, component.name


def _mostly(some: Sequence[tuple[str, str]], of: Sequence[tuple[str, str]]) -> bool:
    """Whether more than half of some pairs, which have no direction, are of others."""
    pairs, others = ({frozenset(pair) for pair in each} for each in (some, of))
    return 2 * len(pairs & others) > len(pairs)
