"""Tomography over traced paths: failing paths accuse the links they cross, healthy ones exonerate them.

Each link in turn is supposed to be the broken one, losing packets at some ratio both ways. A probe is
then lost when it, or its reply, crosses the link. Where the probe went is known from its trace; the reply
went some equal-cost way back, which is not, so both possibilities are weighed. Records that tell which
way a probe was lost are judged each way by itself: with switches that hash both ways alike, round trips
alone could not tell the broken link from its neighbour. The link under which the observed losses are
likeliest is the suspect. Per-link voting as in 007 (NSDI'18) counts accusers only, and blames what many
paths share.

Where the fabric sprays packets, every probe and every reply takes a path of its own: each is lost with the share of
packets that cross the link times the ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, log1p

from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis.paths import PathHistory

BACKGROUND_LOSS = 0.002
"""Loss ratio of a path that crosses no broken link: not 0, for a stray loss must not exclude a link."""
LOSS_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
"""Loss ratios that a broken link is supposed to have, one after the other."""


@dataclass(frozen=True, slots=True)
class Suspect:
    link: str
    log_likelihood: float
    probability: float
    """Of this link among all suspects, each held equally likely beforehand."""
    loss_ratio: float
    """Mean loss of the paths whose probes cross it, all or some of them."""
    failing: tuple[PathHistory, ...]
    crossing: int


@dataclass(frozen=True, slots=True)
class _Evidence:
    """A path as it bears on one link: what share of its probes crosses the link, and how probably its replies do."""

    path: PathHistory
    forward: float
    back: float


def _log_binomial(lost: int, sent: int, ratio: float) -> float:
    """Log-likelihood of ``lost`` of ``sent`` at a loss ratio, without the constant binomial coefficient."""
    return lost * log(ratio) + (sent - lost) * log1p(-ratio)


def _log_mixture(weighted: Sequence[tuple[float, float]]) -> float:
    """Log of the sum of weight x exp(log-likelihood)."""
    known = [log(weight) + value for weight, value in weighted if weight > 0]
    highest = max(known)
    return highest + log(sum(exp(value - highest) for value in known))


def _loss_over(forward: float, back: float, ratio: float) -> float:
    """Loss ratio of what crosses a link that loses ``ratio`` with these shares, there and back."""
    return 1 - (1 - BACKGROUND_LOSS) * (1 - forward * ratio) * (1 - back * ratio)


def _log_likelihood(evidence: Sequence[_Evidence], ratio: float) -> float:
    """How much likelier the evidence is if the link loses ``ratio`` of its packets than if nothing is broken."""
    total = 0.0
    for item in evidence:
        path = item.path
        if path.tells_direction and path.answered:
            sent = path.sent - path.since_answer
            there = len(path.losses) - path.since_answer - path.replies_lost
            steps = [(there, sent, item.forward, 0.0), (path.replies_lost, sent - there, 0.0, item.back)]
        else:
            steps = [(len(path.losses), path.sent, item.forward, item.back)]
        for lost, sent, forward, back in steps:
            # The replies of a flow all take one way, which may be over the link; sprayed ones take every way.
            ways = ((1.0, back),) if path.sprayed else ((back, 1.0), (1 - back, 0.0))
            seen = [(weight, _log_binomial(lost, sent, _loss_over(forward, way, ratio))) for weight, way in ways]
            total += _log_mixture(seen) - _log_binomial(lost, sent, BACKGROUND_LOSS)
    return total


def rank_links(
    paths: Sequence[PathHistory], failing: Sequence[PathHistory], fabric: Fabric, *, replies_suffer: bool
) -> list[Suspect]:
    """Links crossed by at least one failing path whose links are known, likeliest first.

    ``replies_suffer`` says whether the fault takes replies too: an MTU mismatch lets small replies pass.
    O(paths x links a path x loss ratios).
    """
    traced = [path for path in paths if path.shares is not None]
    failed = {id(path) for path in failing}
    candidates = sorted({link for path in traced if id(path) in failed for link in path.shares or ()})
    evidence: dict[str, list[_Evidence]] = {link: [] for link in candidates}
    crossing: dict[str, list[PathHistory]] = {link: [] for link in candidates}
    for path in traced:
        shares = path.shares or {}
        source, destination, _ = path.flow
        back = fabric.link_shares(destination, source) if replies_suffer else {}
        for link in shares.keys() | back.keys():
            if link in evidence:
                evidence[link].append(_Evidence(path, shares.get(link, 0.0), min(back.get(link, 0.0), 1.0)))
                if link in shares:
                    crossing[link].append(path)
    likelihood = {link: max(_log_likelihood(evidence[link], ratio) for ratio in LOSS_RATIOS) for link in candidates}
    if not likelihood:
        return []
    best = max(likelihood.values())
    total = sum(exp(value - best) for value in likelihood.values())
    suspects = [
        Suspect(
            link=link,
            log_likelihood=likelihood[link],
            probability=exp(likelihood[link] - best) / total,
            loss_ratio=sum(len(path.losses) for path in crossing[link]) / sum(path.sent for path in crossing[link]),
            failing=tuple(path for path in crossing[link] if id(path) in failed),
            crossing=len(crossing[link]),
        )
        for link in candidates
    ]
    return sorted(suspects, key=lambda suspect: (-suspect.log_likelihood, suspect.link))
