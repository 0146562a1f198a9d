"""Whether a path fails: loss with a confidence bound, so that one lost probe of few is no failure."""

from __future__ import annotations

from math import sqrt

from skeleton_service.diagnosis.paths import PathHistory

_Z = 1.96  # 95 %, two-sided
MIN_LOSS_RATIO = 0.01
MIN_LOSSES = 2
UNREACHABLE_RATIO = 0.95


def wilson_lower_bound(losses: int, sent: int) -> float:
    """Lower end of the Wilson score interval of a loss ratio (Wilson 1927); 0 when nothing was sent."""
    if sent == 0:
        return 0.0
    ratio = losses / sent
    centre = ratio + _Z**2 / (2 * sent)
    spread = _Z * sqrt(ratio * (1 - ratio) / sent + _Z**2 / (4 * sent**2))
    return (centre - spread) / (1 + _Z**2 / sent)


def is_failing(path: PathHistory) -> bool:
    losses = len(path.losses)
    return losses >= MIN_LOSSES and wilson_lower_bound(losses, path.sent) > MIN_LOSS_RATIO


def is_refused(path: PathHistory) -> bool:
    """The far host answers that nobody listens: the network is fine, the responder is not."""
    return len(path.refusals) >= MIN_LOSSES and len(path.refusals) > path.sent / 2
