"""Tomography over traced paths: failing paths accuse the links they cross, healthy ones exonerate them.

A link's suspicion is the mean loss of the paths over it times the share of all loss that they explain
(the same score as the generated PromQL rules, rules/templates/job.rules.yaml.j2). Per-link voting as in
007 (NSDI'18) knows only the second factor, and blames what many paths share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from skeleton_service.diagnosis.paths import PathHistory


@dataclass(frozen=True, slots=True)
class Suspect:
    link: str
    suspicion: float
    """0 to 1."""
    loss_ratio: float
    failing: tuple[PathHistory, ...]
    crossing: int


def rank_links(paths: Sequence[PathHistory], failing: Sequence[PathHistory]) -> list[Suspect]:
    """Links crossed by at least one failing traced path, most suspected first. O(paths x links a path)."""
    traced = [path for path in paths if path.links is not None]
    total = sum(path.loss_ratio for path in traced)
    if total == 0:
        return []
    over: dict[str, list[PathHistory]] = defaultdict(list)
    for path in traced:
        for link in path.links or ():
            over[link].append(path)
    failed = {id(path) for path in failing}
    suspects = []
    for link, crossing in over.items():
        accusers = tuple(path for path in crossing if id(path) in failed)
        if accusers:
            lost = sum(path.loss_ratio for path in crossing)
            mean = lost / len(crossing)
            suspects.append(Suspect(link, mean * lost / total, mean, accusers, len(crossing)))
    return sorted(suspects, key=lambda suspect: (-suspect.suspicion, suspect.link))
