"""Which component makes paths slow: abnormal windows located as losses are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skeleton_service.diagnosis.latency import OUTLIER_FACTOR, STEP_SECONDS, Latencies, Slow
from skeleton_service.diagnosis.likelihood import FLAG_RATIOS, Found, select
from skeleton_service.diagnosis.paths import PathIndex
from skeleton_service.diagnosis.suspects import Case, Suspect, case_of, of_flags

ALARM_GAIN = 16.0
FEW_FACTORS = {1: 25.0, 2: 12.0}
"""Local outlier factor of one path, or two, that are slow alone: congestion finds some of thousands."""
DOUBTFUL_FACTOR = 2.5
"""Local outlier factor from which on it is worth asking the tables."""
FURTHER_GAIN = 18.0
QUIET_STEPS = 5
UNPROBED_STEPS = 60
"""Steps without a window to judge after which nobody looks any more."""
REFINED_SECONDS = 45.0
"""As long as a failure is young, each step says again what it is."""
_LINK = -3.0
"""Log of how much less credible it is that a link delays than that it loses: a cable has no queue."""
_BACKGROUND = 0.02
_MOST_WEIGHT = 5
"""Windows in a row that count: so many that a single path which is slow without a break is enough."""
_MOST_STEPS = 3
_CHECKED_PATHS = 12
_LEAST_PARTLY = 3
_LEAST_DOUBTFUL = 2
_SAME_SHARE = 0.7
_PARTLY_GAIN = 25.0
_PARTLY_LEAD = 8.0
_PARTLY_EXPLAINED = 0.6
"""Of all paths that are slow now and then; congestion has many places."""
_PARTLY_SHARE = 0.3
_RNIC_EXPLAINED = 0.8
"""The same of what is slow at one RNIC: congestion that all it meets goes to, or comes from, is no congestion."""
_RNIC_GAIN, _RNIC_FACTOR = 35.0, 10.0
_RNIC_SHARE, _RNIC_FEW_FACTOR = 0.5, 25.0
"""Of less than this share of its paths the windows must stand out so far."""
_SOFTWARE = frozenset({"vswitch", "container"})


@dataclass(slots=True, eq=False)
class Slowdown:
    """A failure that makes probes late, as far as it is known. Times are seconds since the epoch."""

    detected_at: float
    start: float
    suspect: Suspect
    found: Found
    scores: tuple[tuple[Suspect, float], ...]
    paths: NDArray[np.int64]
    slow: NDArray[np.int64]
    microseconds: float
    """Median of what the slow paths' round trips grew by."""
    partly: bool
    """Some of their probes are late, others not."""
    tentative: bool = False
    """It may be congestion: a failure only if the tables of the overlay say so too."""
    looks: int = 1
    """So many windows showed it, the last one"""
    seen_at: float = 0.0
    """at this time."""
    quiet: int = 0
    end: float | None = None


class Slowness:
    """The state of the detector of slow paths."""

    def __init__(self, index: PathIndex, *, spraying: bool = False) -> None:
        self.index = index
        self.failures: list[Slowdown] = []
        self.latencies = Latencies()
        self._spraying = spraying
        self._steps = np.zeros(0, np.int64)
        """(paths,) steps in a row that each was slow."""
        self._step = -1

    def add(self, path: NDArray[np.int64], time: NDArray[np.float64], latency: NDArray[np.float64]) -> None:
        self.latencies.grow(len(self.index))
        self.latencies.add(path, time, latency)

    def forget(self, path: int) -> None:
        """The path takes another way from now on."""
        self.latencies.grow(len(self.index))
        self.latencies.forget(path)

    def look(self, second: int, now: float, blamed: Callable[[], NDArray[np.bool_]]) -> None:
        """At the end of a second: judge the windows if a step is over. ``blamed`` says which paths fail otherwise."""
        step = second // STEP_SECONDS
        if step == self._step:
            return
        first, self._step = self._step < 0, step
        if first:
            return
        self.latencies.grow(len(self.index))
        slow = self.latencies.judge(now)
        self._count(slow)
        if (self._steps > 0).any() or any(each.end is None for each in self.failures):
            excused = blamed()
            for partly in (False, True):
                self._locate(slow, now, partly, excused)
        self._close(slow, now)

    def _count(self, slow: Slow) -> None:
        self._count_paths()
        abnormal = slow.steady | slow.partly
        self._steps = np.where(abnormal, self._steps + 1, 0)

    def _count_paths(self) -> None:
        self._steps = np.concatenate([self._steps, np.zeros(len(self.index) - len(self._steps), np.int64)])

    def _locate(self, slow: Slow, now: float, partly: bool, excused: NDArray[np.bool_]) -> None:
        flagged = (slow.steady | slow.partly) if partly else slow.steady
        known = [each for each in self.failures if each.end is None]
        owned = np.zeros(len(flagged), bool)
        for each in known:
            lasting = now - each.detected_at > REFINED_SECONDS and not each.tentative
            if lasting or (partly and not each.partly):
                owned[each.paths] = True
        judged = slow.judged & ~excused & ~owned
        if not (flagged & judged).any():
            return
        numbers = np.flatnonzero(judged)
        weight = np.where(flagged, 1.0 + np.minimum(self._steps, _MOST_WEIGHT), 2.0)
        seen = of_flags(numbers, flagged[numbers], weight[numbers], now, self.index)
        # What is slow now and then tells little of the way that it came.
        case = case_of(
            seen,
            self.index,
            background=_BACKGROUND,
            spraying=self._spraying,
            ratios=FLAG_RATIOS,
            mirrors=not partly,
        )
        prior = case.prior + np.array([_LINK if each.kind == "link" else 0.0 for each in case.suspects])
        founds = select(case.rows, case.columns, prior, ALARM_GAIN, ratios=FLAG_RATIOS)
        recorded = [self._record(case, found, slow, flagged, now, partly, known) for found in founds]
        told = [each for each in recorded if each is not None]
        none = [np.zeros(0, np.int64)]
        explained = np.concatenate([each.slow for each in told] or none)
        firm = np.concatenate([each.slow for each in told if not each.tentative] or none)
        for each in known:
            # Taken for one of its own as long as less was known of another, which explains its paths now.
            explains = firm if not each.tentative else explained
            if each not in told and len(np.intersect1d(each.slow, explains)) >= _SAME_SHARE * len(each.slow):
                self.failures.remove(each)

    def keep(self, kept: NDArray[np.int64], number: NDArray[np.int64]) -> None:
        """Forget all paths but these; ``number`` (paths,) is what each is called from now on."""
        self.latencies.keep(kept)
        self._steps = np.pad(self._steps, (0, len(number) - len(self._steps)))[kept]
        for each in self.failures:
            each.paths, each.slow = number[each.paths], number[each.slow]

    def _record(
        self,
        case: Case,
        found: Found,
        slow: Slow,
        flagged: NDArray[np.bool_],
        now: float,
        partly: bool,
        known: list[Slowdown],
    ) -> Slowdown | None:
        suspect = case.suspects[found.column]
        rows, weight = case.columns.column(found.column)
        paths = np.unique(case.path[rows[weight > 0.999]])
        crossing = np.unique(case.path[rows[weight > 0.04]])
        own = crossing[flagged[crossing]]
        if not len(own):
            return None
        # Congestion makes some probes of some paths late for a while, and is no failure.
        firm = (
            not partly
            or self._is_software(case, found, own, flagged)
            or self._is_rnic(case, found, own, paths, flagged)
        )
        common = {id(each): len(np.intersect1d(each.slow, own)) for each in known}
        meets = [each for each in known if common[id(each)]]
        same = max(meets, key=lambda each: (not each.tentative, common[id(each)]), default=None)
        if same is None:
            if found.gain < FURTHER_GAIN and not all(each.tentative for each in known):
                return None
            factor = self._outlier_factor(own)
            if factor < FEW_FACTORS.get(len(own), OUTLIER_FACTOR):
                return None
            if not firm and (
                factor < DOUBTFUL_FACTOR or len(own) < _LEAST_DOUBTFUL or not self.index.overlay[own].all()
            ):
                return None
        elif not firm and not same.tentative:
            return None
        order = np.argsort(-found.score, kind="stable")[:64]
        scores = tuple(
            (case.suspects[each], float(found.score[each])) for each in order if np.isfinite(found.score[each])
        )
        rise = float(np.median(slow.microseconds[own]))
        if same is None:
            start = self.latencies.onset(own.tolist(), partly=partly)
            same = Slowdown(
                now,
                start,
                suspect,
                found,
                scores,
                np.union1d(paths, own),
                own,
                rise,
                partly,
                tentative=not firm,
                seen_at=now,
            )
            self.failures.append(same)
        else:
            same.suspect, same.found, same.scores = suspect, found, scores
            same.paths, same.slow, same.microseconds = np.union1d(paths, own), own, rise
            same.partly &= partly
            same.looks += same.seen_at < now
            same.seen_at = now
            if firm and same.tentative:
                same.tentative, same.detected_at = False, now
                same.start = self.latencies.onset(own.tolist(), partly=partly)
        return same

    def _outlier_factor(self, paths: NDArray[np.int64]) -> float:
        """Median local outlier factor of the paths' windows."""
        checked = [self.latencies.outlier_factor(number) for number in paths[:_CHECKED_PATHS].tolist()]
        return float(np.nanmedian(checked or [np.nan]))

    def _is_rnic(
        self,
        case: Case,
        found: Found,
        own: NDArray[np.int64],
        crossing: NDArray[np.int64],
        flagged: NDArray[np.bool_],
    ) -> bool:
        """Whether what is slow now and then, all of it, meets at one RNIC, and stands out."""
        if case.suspects[found.column].kind != "cable" or found.gain < _RNIC_GAIN:
            return False
        least = _RNIC_FACTOR if len(own) >= _RNIC_SHARE * len(crossing) else _RNIC_FEW_FACTOR
        return bool(
            (self._steps[own] >= _MOST_STEPS).sum() >= _LEAST_PARTLY
            and len(own) >= _RNIC_EXPLAINED * flagged[np.unique(case.path)].sum()
            and self._outlier_factor(own) >= least
        )

    def _is_software(self, case: Case, found: Found, own: NDArray[np.int64], flagged: NDArray[np.bool_]) -> bool:
        """Whether paths that are slow now and then have a container or a virtual switch in common, beyond doubt."""
        own_suspect = case.suspects[found.column]
        between = own_suspect.kind == "hosts" and own_suspect.filter.overlay is True
        if not (own_suspect.kind in _SOFTWARE or between) or found.gain < _PARTLY_GAIN:
            return False
        crossing = np.unique(case.path[case.columns.column(found.column)[0]])
        hosts = Counter(host for number in own.tolist() for host in set(self.index.paths[number].hosts))
        # Congestion hurts whoever sends that way: others than those of this host would do nearly as well.
        rivals = [
            score
            for suspect, score in zip(case.suspects, found.score, strict=True)
            if suspect.kind in ("host", "container", "vswitch", "switch", "linecard")
            and not _within(suspect, hosts, len(own), self.index, own)
        ]
        lasting = (self._steps[own] >= _MOST_STEPS).sum()
        return bool(
            lasting >= _LEAST_PARTLY
            and len(own) >= _PARTLY_EXPLAINED * flagged[np.unique(case.path)].sum()
            and len(own) >= _PARTLY_SHARE * len(crossing)
            and max(rivals, default=-np.inf) < found.gain - _PARTLY_LEAD
        )

    def _close(self, slow: Slow, now: float) -> None:
        for each in self.failures:
            if each.end is None:
                own = each.slow[slow.judged[each.slow]]
                each.quiet = 0 if (slow.steady | slow.partly)[own].any() else each.quiet + 1
                if each.quiet >= (QUIET_STEPS if len(own) else UNPROBED_STEPS):
                    each.end = now - each.quiet * STEP_SECONDS


def _within(suspect: Suspect, hosts: Counter[str], count: int, index: PathIndex, own: NDArray[np.int64]) -> bool:
    """Whether a suspect is, or sits on, a host that all these paths have in common."""
    common = {host for host, times in hosts.items() if times == count}
    if suspect.kind == "container":
        return any(
            suspect.name in path.containers
            for path in (index.paths[number] for number in own[:1].tolist())
            if set(path.hosts) & common
        )
    return suspect.name in common
