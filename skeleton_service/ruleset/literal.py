"""Rules that name each path and its thresholds in their text: for small jobs, and where no join may be trusted.

Their number grows with the paths. What shares a link is not found, and nothing is learnt after they were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.contracts.codec import ContractError
from skeleton_service.ruleset.job import rule_file_name
from skeleton_service.ruleset.rendering import Links, render
from skeleton_service.ruleset.thresholds import Thresholds, timing

MAX_PATHS = 500


@dataclass(frozen=True, slots=True)
class LiteralPath:
    """A path as the plan names it, and what it took while it was well."""

    path: str
    minutes: tuple[float, ...] = ()
    """Median round trips, in seconds, of the minutes in which it was well, in order of time."""


def rtt_threshold(path: LiteralPath, thresholds: Thresholds) -> float | None:
    """Seconds, by the same rule as the series of thresholds; None where too few minutes are known.

    The first minutes are taken to be healthy, and later ones that are above what these make are not learnt from.
    """
    least = timing(thresholds).rtt_history_least
    minutes = np.asarray(path.minutes)
    if len(minutes) < least:
        return None
    first = _threshold(minutes[:least], thresholds)
    return _threshold(np.concatenate([minutes[:least], minutes[least:][minutes[least:] <= first]]), thresholds)


def _threshold(minutes: NDArray[np.float64], thresholds: Thresholds) -> float:
    # As Prometheus' quantile_over_time does it: between the neighbours, by share.
    return float(thresholds.rtt_factor * np.quantile(minutes, 0.99) + thresholds.rtt_floor_seconds)


def literal_rules(
    job: str,
    paths: Sequence[LiteralPath],
    thresholds: Thresholds,
    links: Links | None = None,
    *,
    max_paths: int = MAX_PATHS,
) -> Mapping[str, str]:
    """Return {file name: content}: a loss alert and, where enough is known, a round-trip alert for each path.

    In order of the paths' names; same input, same bytes. Raise ContractError for more than ``max_paths``.
    """
    if len(paths) > max_paths:
        raise ContractError(
            "rules",
            f"{len(paths)} paths of job {job!r} are more than the {max_paths} of --max-paths",
            "leave out --literal, whose place joined series take at any size, or raise --max-paths",
        )
    made = [
        {"name": each.path, "rtt": None if (found := rtt_threshold(each, thresholds)) is None else f"{found:.3g}"}
        for each in sorted(paths, key=lambda path: path.path)
    ]
    return {rule_file_name(job): render("literal.rules.yaml.j2", thresholds, links or Links(), job=job, paths=made)}
