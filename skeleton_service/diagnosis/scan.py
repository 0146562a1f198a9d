"""When losses are a failure: as soon as some component has lost more than chance would in all that it carries.

Every second, each component that recent losses have in common is held against the background: log-likelihood ratio of
its losses in windows of several lengths. The threshold follows from the false alarms that are allowed (Wald 1945: a
ratio exceeds e^T by chance with probability e^-T at most), so that three losses in a row on one path are enough, and
three among the probes of a link that carries hundreds are not.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from exporter.contracts.names import link_id
from skeleton_service.diagnosis.counts import Counts
from skeleton_service.diagnosis.paths import PathIndex

WINDOWS = (1, 3, 8, 20, 50, 120)
"""Seconds that losses are summed over."""
PATH_HOURS = 30_000.0
"""Path-hours with one false alarm: three times better than is promised, since losses come in bursts."""
LEAST_LOSSES = 3
_LEAST_BACKGROUND, _MOST_BACKGROUND = 1e-5, 5e-3
_SUPPOSED_PROBES = 20_000.0
"""Weight of the first guess of the background, in probes."""


DOUBTFUL_GAIN = 9.0
"""From here on a closer look is worth its while: ``likelihood.select`` knows of replies and of kinds of probes."""


class Alarm(NamedTuple):
    """Losses that chance hardly explains: since which second, of which member, and how much likelier a failure is."""

    first: int
    member: int
    gain: float


class Background:
    """Share of probes lost where nothing is broken, learnt from paths of which nothing is known to be."""

    def __init__(self) -> None:
        self._sent = _SUPPOSED_PROBES
        self._lost = 1e-4 * _SUPPOSED_PROBES

    def add(self, sent: float, lost: float) -> None:
        self._sent += sent
        self._lost += lost

    @property
    def ratio(self) -> float:
        return min(max(self._lost / self._sent, _LEAST_BACKGROUND), _MOST_BACKGROUND)


class Members:
    """Which paths belong to which component: those that each path crosses for sure, or ends at; and all of them."""

    def __init__(self, index: PathIndex) -> None:
        self._index = index
        self._version = -1
        self._of: dict[str, int] = {}
        self._ends = np.zeros((0, 2), np.int64)
        """(egress ends, 2) numbers of the link and the switch that an end leads to; -1 where there is none."""
        self._by_path = self._by_member = sparse.csr_matrix((0, 0))

    def matrix(self) -> sparse.csr_matrix:
        """(components, paths) of ones."""
        self._update()
        return self._by_member

    def of(self, paths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The components of any of these paths."""
        self._update()
        return np.unique(self._by_path[paths].indices).astype(np.int64)

    def __len__(self) -> int:
        self._update()
        return int(self._by_member.shape[0])

    def paths(self, member: int) -> NDArray[np.int64]:
        matrix = self.matrix()
        own: NDArray[np.int64] = matrix.indices[matrix.indptr[member] : matrix.indptr[member + 1]].astype(np.int64)
        return own

    def _update(self) -> None:
        """Sort the paths anew if there are others, or if they take other ways. O(paths)."""
        index = self._index
        if self._version == index.version:
            return
        self._version = index.version
        every = np.arange(len(index))
        crossing = index.crossing(
            every, index.route.astype(np.int64), np.ones(len(every), bool), np.zeros(len(every), bool)
        )
        crossing = crossing.tocoo()
        sure = crossing.data >= 1
        self._name_ends()
        members = self._ends[crossing.col[sure]].T
        path = [crossing.row[sure]] * 2
        keys = index.keys
        row, place = np.nonzero(keys >= 0)
        count = len(self._of)
        all_members = np.concatenate(
            [*members, count + keys[row, place], np.full(len(every), count + len(index.names))]
        )
        all_paths = np.concatenate([*path, row, every])
        known = all_members >= 0
        distinct, number = np.unique(all_members[known], return_inverse=True)
        entries = np.ones(int(known.sum())), (all_paths[known], number)
        self._by_path = sparse.csr_matrix(entries, shape=(len(every), len(distinct)))
        self._by_member = self._by_path.T.tocsr()

    def _name_ends(self) -> None:
        """Links and switches that new ends lead to."""
        fabric, known = self._index.geometry.fabric, []
        for end in self._index.geometry.ends[len(self._ends) :]:
            far = fabric.far_end(end)
            names = (
                ("", "")
                if far is None
                else (link_id(end, far), "" if far in fabric.interfaces else far.partition(":")[0])
            )
            known.append([self._of.setdefault(name, len(self._of)) if name else -1 for name in names])
        self._ends = np.concatenate([self._ends, np.array(known, np.int64).reshape(-1, 2)])


def scan(counts: Counts, second: int, members: Members, chosen: NDArray[np.bool_], background: float) -> Alarm | None:
    """The component that lost most beyond chance up to this second; None where that is not worth a closer look.

    ``chosen`` says which paths count: those of one size of probe, and of no failure that is known. Only components that
    lost something in this very second are looked at: the others were when they did.
    O(paths of these components x windows).
    """
    lost = counts.lost(second, second)
    near = members.of(np.flatnonzero((lost > 0) & chosen))
    recent = [counts.lost(second - length + 1, second) * chosen for length in WINDOWS]
    lossy = np.flatnonzero(recent[-1])
    matrix = members.matrix()[near]
    failed = matrix[:, lossy] @ np.column_stack([each[lossy] for each in recent])
    enough = failed[:, -1] >= LEAST_LOSSES
    if not enough.any():
        return None
    near, failed = near[enough], failed[enough]
    sent = matrix[enough] @ np.column_stack([counts.sent(second - length + 1, second) * chosen for length in WINDOWS])
    best: Alarm | None = None
    for length, failures, of in zip(WINDOWS, failed.T, sent.T, strict=True):
        ratio = np.minimum(failures / np.maximum(of, 1), 1 - 1e-6)
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = failures * np.log(ratio / background) + (of - failures) * np.log((1 - ratio) / (1 - background))
        gain[(ratio <= background) | (failures < LEAST_LOSSES)] = 0
        top = int(np.argmax(gain))
        if gain[top] > (DOUBTFUL_GAIN if best is None else best.gain + 1e-9):
            best = Alarm(second - length + 1, int(near[top]), float(gain[top]))
    return best


def threshold(hypotheses: int, paths: int) -> float:
    """The gain that the best of so many hypotheses reaches by chance once in ``PATH_HOURS``, looked at each second."""
    return log(max(hypotheses, 1) * PATH_HOURS * 3600 / max(paths, 1))
