"""How likely the observed losses are if a component is broken: the sum that localisation ranks by.

A row is what was seen of one path in one direction, or in both where nobody knows which way a probe was lost: so many
probes of which so many failed. A column is a component that may be broken: the rows that cross it, each with the
probability that it does (1 where a trace says so; the share of equal-cost ways that cross it where none does, as for
replies). A broken component fails a share of what crosses it, and perhaps only some of the flows (those of one
buffer, one hash bucket, one queue); both are fitted. Healthy rows that cross it count against it: they exonerate.

Components are taken one after the other, each time the one that explains most of what is not explained yet, as long
as it explains more than chance would (a forward selection as in deTector's PLL, ATC'17, with a likelihood in place
of a hit ratio).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

RATIOS = np.array([0.005, 0.01, 0.02, 0.04, 0.07, 0.12, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 0.999])
"""Shares of its packets that a broken component is supposed to lose, one after the other."""
FLAG_RATIOS = np.array([0.3, 0.6, 0.9, 0.98])
"""The same where a path either is slow or is not."""
PARTS = ((1.0, 0.0), (0.5, -2.0), (0.25, -3.0), (0.1, -4.0))
"""Shares of the flows across it that a broken component is supposed to hurt, with the log of how credible that is."""

_MOST_WHOLES = 4
_MOST_WEIGHED = 4
_MOST_SETTLINGS = 2
_MOST_RECONSIDERED = 5
"""Before so many choices, one may turn out to be several: later ones explain little."""
_MISFIT_GAIN = 2000.0
_EACH_MORE = 5.0
"""Log of how much less credible two independent failures are than one."""
_LEAST, _MOST = 1e-9, 1.0 - 1e-9

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class Rows:
    """What was seen: arrays of one length."""

    sent: NDArray[np.float64]
    failed: NDArray[np.float64]
    background: NDArray[np.float64]
    """Share that fails where nothing is broken."""
    sprayed: NDArray[np.bool_]
    """Whether each probe takes a way of its own, so that the probability to cross is a share of the probes."""

    def failing_more_than(self, background: NDArray[np.float64]) -> Rows:
        """The same with another background: that of components already found."""
        other = Rows(self.sent, self.failed, background, self.sprayed)
        other.__dict__["kind"] = self.kind  # the cached property
        return other

    @cached_property
    def kind(self) -> NDArray[np.int64]:
        """(rows,) one number for all that are alike but for their background."""
        kind = np.zeros(len(self.sent), np.int64)
        for values in (self.sent, self.failed, self.sprayed):
            distinct, which = _distinct(values)
            _, kind = _distinct(kind * len(distinct) + which)
        return kind


@dataclass(frozen=True)
class Columns:
    """Which rows cross which component: in compressed columns, as scipy's CSC format has them."""

    start: NDArray[np.int64]
    """(columns + 1,) where each column begins in ``row`` and ``weight``."""
    row: NDArray[np.int64]
    weight: NDArray[np.float64]
    """Probability to cross, over 0 and at most 1."""
    whole: NDArray[np.bool_] | None = None
    """(columns,) whether each breaks for all flows or for none; None where any may break for some."""

    @classmethod
    def of(
        cls, columns: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]], whole: Sequence[bool] | None = None
    ) -> Columns:
        sizes = [len(rows) for rows, _ in columns]
        return cls(
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.concatenate([rows for rows, _ in columns]) if columns else np.zeros(0, np.int64),
            np.concatenate([weights for _, weights in columns]) if columns else np.zeros(0),
            None if whole is None else np.array(whole, bool),
        )

    @cached_property
    def weights(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The weights that occur, each once; and for every entry which of them it has."""
        return _distinct(self.weight)

    @cached_property
    def number(self) -> NDArray[np.int64]:
        """Of every entry, which column it is in."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def __len__(self) -> int:
        return len(self.start) - 1

    def column(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        own = slice(self.start[number], self.start[number + 1])
        return self.row[own], self.weight[own]


@dataclass(frozen=True, slots=True)
class Fit:
    """How well each column explains the rows, at its best ratio and part."""

    gain: NDArray[np.float64]
    """Log of how much likelier the rows are if this component is broken than if no further one is."""
    ratio: NDArray[np.float64]
    part: NDArray[np.float64]


def fit(
    rows: Rows,
    columns: Columns,
    ratios: NDArray[np.float64] = RATIOS,
    parts: tuple[tuple[float, float], ...] = PARTS,
    *,
    softness: float = 1.0,
) -> Fit:
    """Fit every column by itself; columns without rows gain nothing.

    Paths that are probed alike see alike, so a likelihood is worked out once for all entries with the same weight and
    the same counts. O(entries of the columns + columns x ratios x parts x kinds of entries).
    """
    gain, best_ratio, best_part = np.full(len(columns), -np.inf), np.zeros(len(columns)), np.ones(len(columns))
    filled = np.flatnonzero(np.diff(columns.start))
    if not len(filled):
        return Fit(gain, best_ratio, best_part)
    entries, count = _alike(rows, columns)
    certain = entries.columns.weight >= _MOST
    seen, choices = [], []
    for ratio in ratios:
        loss = _log_ratio(entries.rows, entries.columns, ratio)
        for part, credible in parts:
            weight = part * entries.columns.weight
            seen.append(_mixed(loss, weight, certain if part >= 1 else None, entries.rows.sprayed))
            choices.append((ratio, part, credible))
    ratio, part, credible = np.array(choices).T
    total = count[filled] @ np.column_stack(seen) + softness * credible
    if columns.whole is not None:
        total[np.ix_(columns.whole[filled], part < 1)] = -np.inf
    best = np.argmax(total, axis=1)
    gain[filled], best_ratio[filled], best_part[filled] = total[np.arange(len(filled)), best], ratio[best], part[best]
    return Fit(gain, best_ratio, best_part)


@dataclass(frozen=True, slots=True)
class _Entries:
    """Kinds of entries: one row each, all in one column."""

    rows: Rows
    columns: Columns


def _alike(rows: Rows, columns: Columns) -> tuple[_Entries, sparse.csr_matrix]:
    """The kinds of entries, and (columns, kinds) how many of each every column has."""
    distinct, which = _distinct(rows.background)
    _, kind = _distinct(rows.kind * len(distinct) + which)
    first = _first(kind)
    weights, weight = columns.weights
    codes = kind[columns.row]
    if len(weights) > 1:
        codes = codes * len(weights) + weight
    code, entry = _distinct_of(codes, len(first) * len(weights))
    own, weighs = first[code // len(weights)], weights[code % len(weights)]
    entries = _Entries(
        Rows(rows.sent[own], rows.failed[own], rows.background[own], rows.sprayed[own]),
        Columns(np.array([0, len(own)]), np.arange(len(own)), weighs),
    )
    shape = len(columns), len(code)
    if shape[0] * shape[1] > 4 * len(entry):
        return entries, sparse.csr_matrix((np.ones(len(entry)), entry, columns.start), shape=shape)
    place = columns.number * shape[1]
    place += entry
    return entries, sparse.csr_matrix(np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape))


def _distinct(values: NDArray[_T]) -> tuple[NDArray[_T], NDArray[np.int64]]:
    """As ``np.unique`` with the inverse, in order of appearance: hashing where that sorts."""
    encoded = pa.array(values).dictionary_encode()
    return encoded.dictionary.to_numpy(zero_copy_only=False), encoded.indices.to_numpy().astype(np.int64)


def _distinct_of(values: NDArray[np.int64], limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same of numbers from 0 to below a limit: a table, where that is no longer than the values."""
    if limit > len(values):
        return _distinct(values)
    first = np.full(limit, -1, np.int64)
    first[values[::-1]] = np.arange(len(values) - 1, -1, -1)
    found = np.flatnonzero(first >= 0)
    found = found[np.argsort(first[found])]
    place = np.empty(limit, np.int64)
    place[found] = np.arange(len(found))
    return found, place[values]


def _first(which: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of the numbers 0, 1, ... first is."""
    first = np.zeros(int(which.max(initial=-1)) + 1, np.int64)
    first[which[::-1]] = np.arange(len(which))[::-1]
    return first


def _log_ratio(rows: Rows, columns: Columns, ratio: float) -> NDArray[np.float64]:
    """For each entry: log-likelihood of its row if it crosses a component that loses ``ratio``, less that if not."""
    share = ratio
    if rows.sprayed.any():
        share = np.where(rows.sprayed[columns.row], ratio * columns.weight, ratio)  # type: ignore[assignment]
    background = rows.background[columns.row]
    failed, sent = rows.failed[columns.row], rows.sent[columns.row]
    result: NDArray[np.float64] = failed * np.log((background + share * (1 - background)) / background)
    result += (sent - failed) * np.log1p(-share)
    return result


def _mixed(
    loss: NDArray[np.float64],
    weight: NDArray[np.float64],
    certain: NDArray[np.bool_] | None,
    sprayed: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """The log-likelihood ratio where the row crosses, or is hurt, with a probability alone."""
    if certain is not None and (certain | sprayed).all():
        return loss
    bounded = np.clip(weight, _LEAST, _MOST)
    mixed: NDArray[np.float64] = np.logaddexp(np.log(bounded) + loss, np.log1p(-bounded))
    if certain is None:
        return mixed
    return np.where(certain | sprayed, loss, mixed)


def explained(rows: Rows, columns: Columns, number: int, ratio: float, part: float) -> NDArray[np.float64]:
    """Background of every row once this column is held to be broken: what fails without anything else."""
    own, weight = columns.column(number)
    single = Columns(np.array([0, len(own)]), own, weight)
    sprayed = rows.sprayed[own]
    loss = _log_ratio(rows, single, ratio)
    prior = np.clip(np.where(sprayed, part, part * weight), _LEAST, _MOST)
    odds = np.log(prior) - np.log1p(-prior) + loss
    hurt = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
    background = rows.background.copy()
    background[own] += (1 - background[own]) * hurt * np.where(sprayed, ratio * weight, ratio)
    return np.minimum(background, _MOST)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A component held to be broken, and how well each other one would do in its place."""

    column: int
    gain: float
    """As ``Fit.gain``, all others found being taken for broken."""
    ratio: float
    part: float
    score: NDArray[np.float64]
    """(columns,) gain plus prior of every column in this one's place."""


def select(
    rows: Rows,
    columns: Columns,
    prior: NDArray[np.float64],
    threshold: float,
    *,
    most: int = 12,
    ratios: NDArray[np.float64] = RATIOS,
) -> list[Found]:
    """The components that together explain the rows: each must gain ``threshold`` over those before it.

    ``prior`` is the log of how credible each column is beforehand.
    """
    chosen: list[_Choice] = []
    left = rows
    if not len(columns):
        return []
    softness = softness_of(float(fit(rows, columns, ratios).gain.max(initial=0.0)))
    prior = softness * prior
    while len(chosen) < most:
        taken = [each.column for each in chosen]
        best = _best(left, columns, prior, threshold, taken, ratios, PARTS, softness)
        if best is None:
            break
        own = [best]
        composed = columns.whole is not None and columns.whole[best.column]
        if (best.part < 1 or composed) and len(chosen) + 1 < min(most, _MOST_RECONSIDERED):
            own = _wholes(left, columns, prior, threshold, taken, ratios, best, softness)
        chosen += own
        for each in own:
            left = left.failing_more_than(explained(left, columns, each.column, each.ratio, each.part))
    return _settled(rows, columns, prior, threshold, chosen, ratios, softness)


def evidence_of(
    rows: Rows, columns: Columns, prior: NDArray[np.float64], threshold: float, ratios: NDArray[np.float64] = RATIOS
) -> float:
    """Log of how much likelier the rows are if these columns may be broken than if nothing is: by the best few.

    Broken whole: a part of the flows of anything big would explain whatever happens to them elsewhere.
    """
    total, taken, left = 0.0, list[int](), rows
    while len(columns) and len(taken) < _MOST_WEIGHED:
        best = _best(left, columns, prior, threshold, taken, ratios, PARTS[:1], 1.0)
        if best is None:
            break
        total += best.score - (_EACH_MORE if taken else 0.0)
        taken.append(best.column)
        left = left.failing_more_than(explained(left, columns, best.column, best.ratio, best.part))
    return total


def softness_of(gain: float) -> float:
    """How much a unit of log-likelihood is worth less than it says, among rows that gain so much.

    Losses of a second come together and no two probes are quite alike, so that a share of every sum is misfit: what is
    credible beforehand has to be weighed against a difference of the same share.
    """
    return 1.0 + gain / _MISFIT_GAIN


class _Choice(NamedTuple):
    column: int
    ratio: float
    part: float
    score: float


def _best(
    rows: Rows,
    columns: Columns,
    prior: NDArray[np.float64],
    threshold: float,
    taken: Sequence[int],
    ratios: NDArray[np.float64],
    parts: tuple[tuple[float, float], ...],
    softness: float,
) -> _Choice | None:
    fitted = fit(rows, columns, ratios, parts, softness=softness)
    score = fitted.gain + prior
    score[list(taken)] = -np.inf
    best = int(np.argmax(score))
    if not score[best] > -np.inf or fitted.gain[best] < threshold:
        return None
    return _Choice(best, float(fitted.ratio[best]), float(fitted.part[best]), float(score[best]))


def _wholes(
    rows: Rows,
    columns: Columns,
    prior: NDArray[np.float64],
    threshold: float,
    taken: Sequence[int],
    ratios: NDArray[np.float64],
    partial: _Choice,
    softness: float,
) -> list[_Choice]:
    """A few components that are broken whole, if they explain more than the one that is broken in part, or composed.

    The first of them is often what they have in common: each is chosen again, given the others.
    """
    alone = fit(rows, columns, ratios, PARTS[:1], softness=softness).gain
    # None ever gains more beside others than it does by itself.
    hopeless = alone < threshold if columns.whole is None else columns.whole | (alone < threshold)
    numbers = np.flatnonzero(~hopeless)
    if not len(numbers):
        return [partial]
    few, few_prior = Columns.of([columns.column(number) for number in numbers.tolist()]), prior[numbers]
    known = [int(place) for place in np.flatnonzero(np.isin(numbers, [*taken, partial.column]))]

    def best(beside: Sequence[_Choice]) -> _Choice | None:
        left = rows
        for each in beside:
            left = left.failing_more_than(explained(left, few, each.column, each.ratio, each.part))
        excluded = [*known, *(each.column for each in beside)]
        return _best(left, few, few_prior, threshold, excluded, ratios, PARTS[:1], softness)

    wholes: list[_Choice] = []
    while len(wholes) < _MOST_WHOLES and (further := best(wholes)) is not None:
        wholes.append(further)
    for _ in range(_MOST_SETTLINGS):
        before = [each.column for each in wholes]
        for place in reversed(range(len(wholes))):
            again = best([*wholes[:place], *wholes[place + 1 :]])
            wholes[place : place + 1] = [] if again is None else [again]
        if [each.column for each in wholes] == before:
            break
    # One after the other, as the score of a single one is: those of the last round are each given all others.
    ordered = [_again(rows, few, few_prior, wholes, place, softness) for place in range(len(wholes))]
    total = sum(each.score for each in ordered) - softness * _EACH_MORE * (len(ordered) - 1)
    if len(ordered) < 2 or total <= partial.score:
        return [partial]
    return [each._replace(column=int(numbers[each.column])) for each in ordered]


def _again(
    rows: Rows, columns: Columns, prior: NDArray[np.float64], choices: Sequence[_Choice], place: int, softness: float
) -> _Choice:
    """A choice, scored beside those before it."""
    left = rows
    for each in choices[:place]:
        left = left.failing_more_than(explained(left, columns, each.column, each.ratio, each.part))
    own = choices[place]
    fitted = fit(left, Columns.of([columns.column(own.column)]), np.array([own.ratio]), PARTS[:1], softness=softness)
    return own._replace(score=float(fitted.gain[0] + prior[own.column]))


def _settled(
    rows: Rows,
    columns: Columns,
    prior: NDArray[np.float64],
    threshold: float,
    chosen: list[_Choice],
    ratios: NDArray[np.float64],
    softness: float,
) -> list[Found]:
    """Look at each choice again, given the others: an early one may have been made for want of a later one."""
    found: list[Found] = []
    kept = list(chosen)
    for choice in chosen:
        others = [other for other in kept if other.column != choice.column]
        beside = rows
        for other in others:
            beside = beside.failing_more_than(explained(beside, columns, other.column, other.ratio, other.part))
        fitted = fit(beside, columns, ratios, softness=softness)
        score = fitted.gain + prior
        score[[other.column for other in others]] = -np.inf
        best = int(np.argmax(score))
        if fitted.gain[best] < threshold:
            kept = others
            continue
        refit = _Choice(best, float(fitted.ratio[best]), float(fitted.part[best]), float(score[best]))
        kept = [refit if other.column == choice.column else other for other in kept]
        found.append(Found(best, float(fitted.gain[best]), refit.ratio, refit.part, score))
    return found
