"""Loss and unreachability, second by second: which failures there are, what each is, when it began and ended.

Feeding the same records in any number of pieces gives the same answer, as long as each piece is later than those
before it: everything is decided at the end of a second, from what was seen up to then.

Memory: ``BYTES_PER_PATH`` at most for each path that was probed in the last ten minutes (an eighth more until the rest
is forgotten), of which 516 are counts, 2,500 windows of round trips, 1,850 half hours of them, and the others routes
and names; and 32 for each record of a loss in the last two minutes. While a piece of records is taken in,
``BYTES_PER_RECORD`` for each of them beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis.counts import HORIZON, Counts
from skeleton_service.diagnosis.degradation import Degradations
from skeleton_service.diagnosis.geometry import Geometry
from skeleton_service.diagnosis.likelihood import Found, select
from skeleton_service.diagnosis.observations import Observations, Path, Trace
from skeleton_service.diagnosis.paths import PathIndex
from skeleton_service.diagnosis.refusals import Refusals
from skeleton_service.diagnosis.scan import Background, Members, scan, threshold
from skeleton_service.diagnosis.slowness import Slowness
from skeleton_service.diagnosis.suspects import Case, Seen, Suspect, case_of, wiser

FIRST_GAIN = 8.0
"""Log-likelihood ratio that the best component must reach once an alarm is raised."""
FURTHER_GAIN = 14.0
"""The same of each further one: that there is a second failure beside the first needs proof of its own."""
FURTHER_SHARE = 0.015
"""And the share of the first one's gain: no model fits so well that nothing is left over."""
LATER_REVIEWS_SECONDS = 60
"""And then again after each so many: what else breaks on the same paths must not hide behind the first."""
UNPROBED_SECONDS = 300
SAME_SHARE = 0.7
"""Of its failing paths that a stronger one explains: more, and it is what that one's model leaves over."""
LEAST_FRESH = 3
"""So many paths that the stronger one does not explain are a failure of their own, whatever share they are;"""
FEW_GAIN = 20.0
"""or fewer, if they gain so much."""
REVIEWS = (1, 2, 3, 5, 8, 12, 18, 25, 35, 50, 70, 95, 120)
"""Seconds after its alarm at which a failure is looked at again, with what was seen since."""
OVER_SECONDS = 3
"""Seconds without a loss after which nothing is learnt of what a failure was."""
QUIET_SECONDS = 30
"""Seconds without a loss after which a failure is over, if enough was sent to see one."""
BYTES_PER_PATH, BYTES_PER_RECORD = 12_000, 400
"""What the benchmark of the cost holds against what it measures."""
SWEEP_SECONDS = 60
IDLE_SECONDS = 600
"""Seconds without a probe after which a path is forgotten,"""
IDLE_SHARE, LEAST_IDLE = 0.125, 100
"""once so many are: the others are numbered anew each time."""
_QUIET_LOSSES = 5.0
_BACKGROUND = 1e-3


_Sums = tuple[NDArray[Any], ...]
"""The columns of ``Seen``."""


@dataclass(slots=True, eq=False)
class Loss:
    """A failure that loses probes, as far as it is known."""

    alarm: int
    """Second in which it was found."""
    detected_at: float
    start: float
    suspect: Suspect
    found: Found
    scores: tuple[tuple[Suspect, float], ...]
    """Suspects and their scores, best first: what else it might be."""
    paths: NDArray[np.int64]
    """Paths that cross the suspect, and those that it hurts."""
    failing: NDArray[np.int64]
    sent: float = 0.0
    lost: float = 0.0
    series: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 0)))
    """(2, seconds) sent and lost of its failing paths since it began."""
    last_loss: float = 0.0
    """Second of the last probe lost."""
    end: float | None = None
    large: bool = False
    """Whether no probe fails but full-size ones."""


class Losses:
    """The state of the detector. ``advance`` takes what was observed since the last time."""

    def __init__(self, fabric: Fabric, *, spraying: bool = False) -> None:
        self.fabric = fabric
        self.geometry = Geometry(fabric)
        self.index = PathIndex(self.geometry)
        self.counts = Counts()
        self.failures: list[Loss] = []
        self.slowness = Slowness(self.index, spraying=spraying)
        self.degradations = Degradations(self.index, spraying=spraying)
        self.refusals = Refusals(self.index)
        self._members = Members(self.index)
        self._background = Background()
        self._directed = False
        """Whether time-outs are known to be losses on the way there."""
        self._spraying = spraying
        self._last = np.zeros(0, np.int64)
        """(paths,) second of the last probe of each."""
        self._swept = 0

    def advance(self, observations: Observations) -> None:
        """Look at these seconds one after the other."""
        traces = observations.traces
        traced = np.floor([trace.time for trace in traces]).astype(np.int64)
        learnt = 0
        # An exporter gives a route the time at which it is asked: the first of a flow is of the probes before it too.
        first_of = {trace.flow: trace for trace in reversed(traces) if not self.geometry.routes(trace.flow)}
        self._learn(list(first_of.values()))
        numbers = np.full(len(observations.paths), -1)
        seconds = np.floor(observations.time).astype(np.int64)
        starts = np.flatnonzero(np.diff(seconds, prepend=-1))
        for first, last in pairwise([*starts.tolist(), len(seconds)]):
            own = slice(first, last)
            second = int(seconds[first])
            upto = int(np.searchsorted(traced, second, side="right"))
            self._learn(traces[learnt:upto])
            learnt = upto
            if self._forget_idle(second):
                numbers[:] = -1
            present = observations.path[own]
            if (numbers[present] < 0).any():
                fresh = np.unique(present)
                numbers[fresh] = self._add_paths([observations.paths[number] for number in fresh.tolist()])
            path = numbers[present]
            self._last[path] = second
            times, lost = observations.time[own], observations.lost[own]
            # A writer that tells directions says of some reply, sooner or later, that it was lost.
            self._directed |= bool((observations.lost_back[own] & (lost > 0)).any())
            self.counts.add(
                second,
                path,
                times,
                observations.sent[own],
                lost,
                observations.lost_back[own],
                observations.lost_untold[own] | (not self._directed),
            )
            self._look(second, float(times[-1]), bool((lost > 0).any()))
            self.refusals.add(second, path, times, observations.refused[own])
            self.slowness.add(path, times, observations.latency[own])
            self.slowness.look(second, float(times[-1]), self.blamed)
            self.degradations.add(path, times, observations.latency[own])
            self.degradations.look(second, float(times[-1]), self._blamed_since)
        self._learn(traces[learnt:])

    def blamed(self) -> NDArray[np.bool_]:
        """Which paths a failure hurts that is known and lasts."""
        owned = np.zeros(len(self.index), bool)
        for failure in self.failures:
            if failure.end is None:
                owned[failure.paths] = True
        return owned

    def _blamed_since(self, moment: float) -> NDArray[np.bool_]:
        """Which paths a failure hurts, or slows down, that is known and lasted until then."""
        owned = np.zeros(len(self.index), bool)
        hurt = [(each.end, each.paths) for each in self.failures]
        hurt += [(each.end, each.paths) for each in self.slowness.failures if not each.tentative]
        for end, paths in hurt:
            if end is None or end > moment:
                owned[paths] = True
        return owned

    def _add_paths(self, paths: Sequence[Path]) -> NDArray[np.int64]:
        numbers = self.index.add(paths)
        self.counts.grow(len(self.index))
        self._last = np.concatenate([self._last, np.zeros(len(self.index) - len(self._last), np.int64)])
        return numbers

    def _learn(self, traces: Sequence[Trace]) -> None:
        """Take new routes, and say again what the paths of those flows cross."""
        for flow in self.geometry.learn(traces):
            for number in self.index.reroute(flow):
                self.slowness.forget(number)
                self.degradations.forget(number)

    def _forget_idle(self, second: int) -> bool:
        """Once a minute, if enough of them are: forget paths that are probed no more and that no failure is about."""
        if second - self._swept < SWEEP_SECONDS:
            return False
        self._swept = second
        kept = self._last >= second - IDLE_SECONDS
        concerned = [each.paths for each in self.failures] + [each.paths for each in self.slowness.failures]
        for paths in concerned + [each.paths for each in self.degradations.failures]:
            kept[paths] = True
        for refusal in self.refusals.failures:
            kept[list(refusal.paths)] = True
        if len(kept) - kept.sum() <= max(LEAST_IDLE, IDLE_SHARE * len(kept)):
            return False
        left = np.flatnonzero(kept)
        number = np.full(len(kept), -1)
        number[left] = np.arange(len(left))
        self.index.keep(left, second - IDLE_SECONDS)
        self.counts.keep(left)
        self.slowness.keep(left, number)
        self.degradations.keep(left, number)
        self.refusals.keep(number)
        self._last = self._last[left]
        for failure in self.failures:
            failure.paths, failure.failing = number[failure.paths], number[failure.failing]
        return True

    def _look(self, second: int, now: float, any_lost: bool) -> None:
        small = ~self.index.large
        owned = self.blamed()
        window = self.counts.window(second, second)
        free = ~owned & small
        self._background.add(float(window.sent[free].sum()), float(window.lost[free].sum()))
        for chosen in (~owned, ~owned & ~small) if any_lost else ():
            if not (window.lost[chosen] > 0).any():
                continue
            alarm = scan(self.counts, second, self._members, chosen, self._background.ratio)
            if alarm is None:
                continue
            onset = self._onset(alarm.first, second, self._members.paths(alarm.member), chosen)
            sure = alarm.gain >= threshold(len(self._members), int(chosen.sum()))
            if self._localise(onset, second, now, sure=sure):
                break
        else:
            if any(failure.end is None and _due(second - failure.alarm) for failure in self.failures):
                self._localise(now, second, now)
        self._close(second)

    def _onset(self, first: int, second: int, members: NDArray[np.int64], chosen: NDArray[np.bool_]) -> float:
        """Time of the first of the losses that raised the alarm."""
        return self._first_loss(members[chosen[members]], first, second) or float(first)

    def _localise(self, since: float, second: int, now: float, *, sure: bool = True) -> bool:
        """Say anew what explains the losses since then, or since known failures began, and match the two.

        Unless it is ``sure`` that something fails, only what cannot be by chance is believed. Returns whether
        anything was found.
        """
        open_ones = [each for each in self.failures if each.end is None]
        first = int(min([since, *(each.start for each in open_ones)]))
        first = max(first, second - HORIZON + 1)
        case, founds = self.explain(first, second, sure=sure)
        if not founds:
            return False
        strongest = max(found.gain for found in founds)
        still = [case.suspects[found.column] for found in founds]
        left = list(open_ones)
        told = np.zeros(0, np.int64)
        for found in sorted(founds, key=lambda each: -each.gain):
            if found.gain < strongest and found.gain < max(FURTHER_GAIN, FURTHER_SHARE * strongest):
                continue
            paths, failing = self._hurt(case, found)
            fresh = len(np.setdiff1d(failing, told))
            few = fresh < LEAST_FRESH and fresh < (1 - SAME_SHARE) * len(failing)
            if not fresh or (few and found.gain < FEW_GAIN):
                continue
            told = np.union1d(told, failing)
            same = max(left, key=lambda each: len(np.intersect1d(each.failing, failing)), default=None)
            if same is not None and not len(np.intersect1d(same.failing, failing)):
                same = None
            parent = None
            if same is None:
                overlaps = [each for each in open_ones if len(np.intersect1d(each.failing, failing))]
                parent = min(overlaps, key=lambda each: each.detected_at, default=None)
            self._record(same, parent, case, found, paths, failing, since, second, now)
            if same is not None:
                left.remove(same)
        for each in left:
            # Taken for a failure of its own as long as less was known of another, which explains its paths now.
            explained = len(np.intersect1d(each.failing, told)) >= SAME_SHARE * len(each.failing)
            over = self.counts.quiet(each.failing) >= OVER_SECONDS  # every healthy second speaks against what was true
            if explained and not over and each.suspect not in still:
                self.failures.remove(each)
        return True

    def _record(
        self,
        known: Loss | None,
        parent: Loss | None,
        case: Case,
        found: Found,
        paths: NDArray[np.int64],
        failing: NDArray[np.int64],
        since: float,
        second: int,
        now: float,
    ) -> None:
        suspect = case.suspects[found.column]
        order = np.argsort(-found.score, kind="stable")[:64]
        scores = tuple(
            (case.suspects[each], float(found.score[each])) for each in order if np.isfinite(found.score[each])
        )
        if known is None:
            # What one failure was taken for, as long as little was known, are two: the other began when it did.
            began = since if parent is None else parent.start
            start = min(self._first_loss(failing, began, second) or began, now)
            detected_at = now if parent is None else max(parent.detected_at, start)
            known = Loss(second, detected_at, start, suspect, found, scores, paths, failing)
            self.failures.append(known)
        known.suspect, known.found, known.scores = suspect, found, scores
        known.paths, known.failing = paths, failing
        known.large = all(self.index.paths[number].task == "MTU" for number in failing.tolist())
        known.series = self.counts.total(failing, int(known.start), second)
        known.sent, known.lost = (float(each) for each in known.series.sum(axis=1))

    def _first_loss(self, paths: NDArray[np.int64], first: float, second: int) -> float | None:
        """Time of the first loss of these paths since ``first`` that is remembered."""
        path, time = self.counts.losses(int(first), second)
        own = time[self.counts.mask(paths)[path] & (time >= first)]
        return float(own.min()) if len(own) else None

    def explain(self, first: int, second: int, *, sure: bool = True) -> tuple[Case, list[Found]]:
        """What explains the losses of these seconds best: one localisation. O(paths + entries of the suspects)."""
        known = self._background.ratio
        background = max(_BACKGROUND, 3 * known) if sure else known
        seen = self._seen(first, second)
        case = case_of(seen, self.index, background=background, spraying=self._spraying)
        least = FIRST_GAIN if sure else threshold(case.tried, len(self.index))
        founds = select(case.rows, case.columns, case.prior, least)
        if len(founds) > 1 and not self._spraying:
            strongest = max(founds, key=lambda found: found.gain).column
            better = wiser(case, strongest, seen, self.index, background=background)
            if better is not None:
                return better, select(better.rows, better.columns, better.prior, least)
        return case, founds

    def _seen(self, first: int, second: int) -> Seen:
        """What all paths saw on their routes; a lossy one whose route changed meanwhile, on each of the two."""
        window = self.counts.window(first, second)
        probed = np.flatnonzero(window.sent)
        clean = probed[window.lost[probed] == 0]
        lossy = probed[window.lost[probed] > 0]
        series = self.counts.series(lossy, first, second)
        begins = first + (series[1:].sum(axis=0) > 0).argmax(axis=1)
        parts = [self._sum(clean, self.index.way_at(clean, np.full(len(clean), float(second))), window.sent[clean])]
        whole = np.ones(len(lossy), bool)
        for place in np.flatnonzero(self.index.moved(lossy)).tolist():
            own = self._split(int(lossy[place]), series[:, place : place + 1], first, int(begins[place]), second)
            whole[place] = not own
            parts += own
        # A trace is of the way that packets took before it failed: afterwards it may be none, or of another.
        ways = self.index.way_at(lossy[whole], begins[whole] + 1.0)
        parts.append(self._sums(lossy[whole], ways, series[:, whole]))
        path, *values = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.argsort(path, kind="stable")
        return Seen(path[order], *(each[order] for each in values))

    def _split(self, number: int, series: NDArray[np.int32], first: int, begins: int, last: int) -> list[_Sums]:
        """Of a lossy path whose route changed while it was, what it saw before and after; else nothing."""
        change = self.geometry.changed(self.index.paths[number].flow, begins, last + 1)
        if change is None:
            return []
        time, old, new = change
        sent, lost = series[0, 0], series[1:, 0].sum(axis=0)
        cut = min(max(int(time) - first, 1), len(sent))
        before, after = lost[begins - first : cut], lost[cut:]
        persists = sent[cut:].sum() >= 3 and after.sum() / sent[cut:].sum() >= 0.3 * before.sum() / max(
            sent[begins - first : cut].sum(), 1
        )
        if persists:
            cut = begins - first
        pieces = (old, series[:, :, :cut]), (new, series[:, :, cut:])
        one = np.array([number])
        return [self._sums(one, np.array([self.geometry.along(route)]), own) for route, own in pieces if own[0].sum()]

    @staticmethod
    def _sums(paths: NDArray[np.int64], ways: NDArray[np.int64], series: NDArray[np.int32]) -> _Sums:
        """Of (4, paths, seconds) counts."""
        sent, there = series[:2]
        answered = sent > series[1:].sum(axis=0)
        later = np.cumsum(answered[:, ::-1], axis=1)[:, ::-1] == 0
        sums = series.sum(axis=2, dtype=np.float64)
        return paths, ways, *sums, (there * later).sum(axis=1, dtype=np.float64)

    @staticmethod
    def _sum(paths: NDArray[np.int64], ways: NDArray[np.int64], sent: NDArray[np.float64]) -> _Sums:
        """Of paths that lost nothing."""
        none = np.zeros(len(paths))
        return paths, ways, sent, none, none, none, none

    def _hurt(self, case: Case, found: Found) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Paths that cross the component for sure, with those it hurts; and those of them that lose probes."""
        rows, weight = case.columns.column(found.column)
        failed = case.rows.failed[rows]
        ratio = found.ratio
        expected = (
            np.log(np.maximum(found.part * weight, 1e-9))
            + failed * np.log(ratio / case.rows.background[rows])
            + (case.rows.sent[rows] - failed) * np.log1p(-ratio)
        )
        hurt = (failed > 0) & ((weight > 0.999) | (expected > 0))
        sure = weight > 0.999
        paths = np.unique(case.path[rows[hurt | sure]])
        return paths, np.unique(case.path[rows[hurt]])

    def _close(self, second: int) -> None:
        """End the failures whose paths have been probed without a loss for long enough."""
        for failure in self.failures:
            if failure.end is not None:
                continue
            quiet = self.counts.quiet(failure.failing)
            if quiet < HORIZON:
                failure.last_loss = float(second - quiet)
            if (self._last[failure.failing] < second - UNPROBED_SECONDS).all():
                failure.end = failure.last_loss + 1  # the job is over, or its plan another: nobody looks any more
                continue
            if quiet < QUIET_SECONDS:
                continue
            sent = self.counts.sent(second - quiet + 1, second)[failure.failing].sum()
            if sent * failure.lost / max(failure.sent, 1.0) >= _QUIET_LOSSES:
                failure.end = failure.last_loss + 1  # longer ago than the horizon if nothing was sent meanwhile


def _due(age: int) -> bool:
    """Whether a failure of so many seconds is to be looked at again."""
    return age in REVIEWS or (age > REVIEWS[-1] and age % LATER_REVIEWS_SECONDS == 0)
