"""Who takes part in a job: its RNICs as a table of units and lanes.

A *unit* is one container: with tensor parallelism inside it, its RNICs carry the traffic of one place of
the pipeline. A *lane* joins the RNICs that talk across containers: collective libraries keep to the same
local RNIC on both hosts, which on a rail-optimised fabric is the same rail (SkeletonHunter, section 5.1).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skeleton_service.inference.series import Floats, Integers, Throughput

OBSERVED = 0.3
"""An endpoint seen in less than this share of the window cannot be placed by what it carries."""

IDLE = 0.02
"""An endpoint with less than this share of its rail's median traffic is idle."""

IDLE_RAIL = 0.05
"""A rail counts as carrying at least this share of the busiest endpoint's traffic: less is not the job's."""

USED = 0.5
"""Where this share of the units uses a lane, a silent RNIC on it is dead or dropped, not idle."""


@dataclass(frozen=True, slots=True)
class Participants:
    """``rows[unit, lane]`` is a row of the throughput, -1 where the unit has no such RNIC.

    ``heard[unit, lane]`` says that what the row carries can be gone by: an RNIC that is silent or hardly
    observed takes the place of its unit. ``rails[row]`` is the rail of each row. ``hidden`` rows were
    hardly observed, and so were all others of their container; rows neither here nor in ``rows`` are
    idle. ``by_rail`` says that lanes are rails, and not places in the container.
    """

    rows: Integers
    heard: NDArray[np.bool_]
    rails: Integers
    hidden: tuple[int, ...]
    by_rail: bool

    def places(self, throughput: Throughput) -> Integers:
        """The place in its container of every row (endpoints,), by rail: the lane where lanes are places."""
        members: dict[str, list[int]] = defaultdict(list)
        for row, source in enumerate(throughput.endpoints):
            members[source.container].append(row)
        found = np.zeros(len(throughput.endpoints), dtype=np.int64)
        for rows in members.values():
            found[sorted(rows, key=lambda row: int(self.rails[row]))] = np.arange(len(rows))
        return found

    @property
    def units(self) -> int:
        return len(self.rows)

    @property
    def lanes(self) -> int:
        return self.rows.shape[1] if self.rows.size else 0

    def busy(self) -> Integers:
        """The rows that are heard."""
        found: Integers = self.rows[self.heard]
        return found


def find_participants(throughput: Throughput, rails: Integers) -> Participants:
    """Sort the endpoints, whose rails are ``rails`` (endpoints,), into units and lanes."""
    active, seen = _active(throughput, rails)
    members: dict[str, list[int]] = defaultdict(list)
    for row, source in enumerate(throughput.endpoints):
        members[source.container].append(row)
    # Containers are listed by their first row, rows come sorted: an order that carries no meaning.
    containers = [sorted(rows, key=lambda row: int(rails[row])) for rows in members.values()]
    units = [rows for rows in containers if active[rows].any()]
    hidden = [row for rows in containers if not active[rows].any() for row in rows if not seen[row]]
    sets = {tuple(int(rails[row]) for row in rows) for rows in containers}
    longest = max(sets, key=_length_first) if sets else ()
    widest = set(longest)
    distinct = all(len(set(own)) == len(own) for own in sets)
    # A unit that lacks an RNIC still has its others on the usual rails. Where containers share hosts, or take
    # whichever RNIC is free, the rails differ, and the place in the container is what two RNICs have in common.
    by_rail = distinct and all(set(own) <= widest for own in sets)
    lane_of = {rail: lane for lane, rail in enumerate(sorted(widest))}
    lanes = len(widest) if by_rail else max((len(rows) for rows in units), default=0)
    table = np.full((len(units), lanes), -1, dtype=np.int64)
    for unit, rows in enumerate(units):
        for place, row in enumerate(rows):
            table[unit, lane_of[int(rails[row])] if by_rail else place] = row
    heard = (table >= 0) & active[table]
    told = (table >= 0) & seen[table]
    used = heard.sum(axis=0) >= USED * np.maximum(told.sum(axis=0), 1)
    table = np.where(heard | used, table, -1)
    some = (table >= 0).any(axis=0)
    return Participants(table[:, some], heard[:, some], rails, tuple(sorted(hidden)), by_rail)


def _length_first(rails: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return len(rails), rails


def _active(throughput: Throughput, rails: Integers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows (endpoints,) carry the job's traffic, and which were observed enough to tell."""
    known = np.isfinite(throughput.tx) & np.isfinite(throughput.rx)
    samples = known.sum(axis=1)
    carried = np.nansum(throughput.tx, axis=1, dtype=np.float64) + np.nansum(throughput.rx, axis=1, dtype=np.float64)
    mean: Floats = carried / np.maximum(samples, 1)
    seen = samples >= max(OBSERVED * len(throughput.times), 1)
    active = np.zeros(len(rails), dtype=bool)
    busiest = float(mean[seen].max(initial=0.0))
    for rail in np.unique(rails).tolist():
        rows = np.flatnonzero((rails == rail) & seen)
        if rows.size:
            # Where most of a rail is idle, its median is nothing: the busiest RNIC is the measure then.
            usual = max(float(np.median(mean[rows])), float(mean[rows].max()) * IDLE, busiest * IDLE_RAIL)
            active[rows[mean[rows] > IDLE * usual]] = True
    return active, seen
