"""Tomography over traced paths: failing paths accuse the links they cross, healthy ones exonerate them.

Each link in turn is supposed to be the broken one: paths over it then lose at one rate, the others next
to nothing. The link under which the observed losses are likeliest is the suspect (a maximum-likelihood
localiser; the probability model of NetBouncer, NSDI'19, for a single broken link). Per-link voting as in
007 (NSDI'18) counts only accusers, and blames what many paths share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from skeleton_service.diagnosis.paths import PathHistory

BACKGROUND_LOSS = 0.002
"""Loss ratio of a path that crosses no broken link: not 0, for a stray loss must not exclude a link."""
_ALMOST_ONE = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Suspect:
    link: str
    log_likelihood: float
    probability: float
    """Of this link among all suspects, each held equally likely beforehand."""
    loss_ratio: float
    failing: tuple[PathHistory, ...]
    crossing: int


def _log_binomial(lost: int, sent: int, ratio: float) -> float:
    """Log-likelihood of ``lost`` of ``sent`` at a loss ratio, without the constant binomial coefficient."""
    ratio = min(max(ratio, BACKGROUND_LOSS), _ALMOST_ONE)
    return lost * log(ratio) + (sent - lost) * log(1 - ratio)


def rank_links(paths: Sequence[PathHistory], failing: Sequence[PathHistory]) -> list[Suspect]:
    """Links crossed by at least one failing traced path, likeliest first. O(paths x links a path)."""
    traced = [path for path in paths if path.links is not None]
    over: dict[str, list[PathHistory]] = defaultdict(list)
    for path in traced:
        for link in path.links or ():
            over[link].append(path)
    all_healthy = sum(_log_binomial(len(path.losses), path.sent, BACKGROUND_LOSS) for path in traced)
    failed = {id(path) for path in failing}
    found = []
    for link, crossing in over.items():
        accusers = tuple(path for path in crossing if id(path) in failed)
        if accusers:
            lost, sent = sum(len(path.losses) for path in crossing), sum(path.sent for path in crossing)
            ratio = lost / sent
            healthy = _log_binomial(lost, sent, BACKGROUND_LOSS)
            found.append(
                (all_healthy - healthy + _log_binomial(lost, sent, ratio), ratio, link, accusers, len(crossing))
            )
    if not found:
        return []
    best = max(likelihood for likelihood, *_ in found)
    total = sum(exp(likelihood - best) for likelihood, *_ in found)
    suspects = [
        Suspect(link, likelihood, exp(likelihood - best) / total, ratio, accusers, crossing)
        for likelihood, ratio, link, accusers, crossing in found
    ]
    return sorted(suspects, key=lambda suspect: (-suspect.log_likelihood, suspect.link))
