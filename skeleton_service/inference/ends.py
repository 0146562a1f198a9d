"""Which stages are the ends of a pipeline, and whether these exchange bytes, by what stages carry."""

from __future__ import annotations

import numpy as np

from skeleton_service.inference.series import Floats
from skeleton_service.inference.ways import Pair

HALF = 0.6
"""The first and last stage of a plain pipeline carry half of what the others do, between bursts: they have one
neighbour. Where model chunks are interleaved they carry three quarters or more."""

MUCH_LESS, LEAST, EQUAL = 0.88, 0.1, 1.5
"""The ends carry less than this of what each other stage does, but not next to nothing; and the others about the same.
Else it is not their place that sets them apart."""

BURST = 0.995
QUIET_SHARES = (0.08, 0.2, 0.5)
"""What counts as between bursts: samples below these shares of a burst, the strictest that leaves enough."""

ENOUGH = 0.1
LIKE_BURSTS = 0.3
SHARED = 0.012
"""The share of a stage's bytes that both ends move at once while all stages between them are much quieter: shared
embeddings do. Parameters that are gathered take the ends longer too, but they begin with all others."""

FAINT = 0.02


def find_ends(means: Floats) -> Pair | None:
    """The first and the last stage by what stages carry between bursts; None where that does not tell.

    ``means`` as for `order_stages`, three groups or more. The ends have one neighbour: in a plain pipeline
    they carry half of what the others do, with interleaved model chunks three quarters or more.
    """
    carried = _between_bursts(means)
    if carried is None:
        return None
    order = np.argsort(carried, kind="stable")
    least, most = carried[order[2]], carried[order[-1]]
    if carried[order[1]] > MUCH_LESS * least or carried[order[0]] < LEAST * least or most > EQUAL * least:
        return None
    return int(order[0]), int(order[1])


def ends_meet(means: Floats) -> bool | None:
    """Whether the first and the last stage exchange bytes, by what stages carry; None where that does not tell.

    ``means`` (stages, 2, samples) as for `order_stages`, three stages or more, in their order.
    """
    if ends_share(means.sum(axis=1)):
        return True
    carried = _between_bursts(means)
    return None if carried is None else bool(min(carried[0], carried[-1]) >= HALF * float(np.median(carried[1:-1])))


def _between_bursts(means: Floats) -> Floats | None:
    """What each group (groups,) typically carries between bursts, relative to all; None where bursts are everything."""
    carried = means.sum(axis=1)
    usual = carried.mean(axis=0)
    burst = float(np.quantile(carried, BURST))
    for share in QUIET_SHARES:
        quiet = (carried.max(axis=0) < share * burst) & (usual > FAINT * share * burst)
        if quiet.mean() >= ENOUGH:
            return np.array([_typical(own[quiet], usual[quiet]) for own in carried])
    if float(np.median(usual)) > LIKE_BURSTS * burst:  # what is between bursts is as much as they are
        return np.array([_typical(own, usual) for own in carried])
    return None


def _typical(carried: Floats, between: Floats) -> float:
    """The median of what one stage carries relative to others, samples that carry much counting for more."""
    ratio = carried / np.maximum(between, 1e-12)
    order = np.argsort(ratio)
    weight = np.cumsum(between[order])
    return float(ratio[order][np.searchsorted(weight, weight[-1] / 2)])


def ends_share(carried: Floats) -> bool:
    """Whether the ends alone are busy for a while, as the all-reduce of shared embeddings has it."""
    burst = float(np.quantile(carried, BURST))
    both, between = np.minimum(carried[0], carried[-1]), carried[1:-1].max(axis=0)
    alone = (between < both / 2) & (both > FAINT * burst)
    return float((both - between)[alone].sum()) > SHARED * float(carried.sum(axis=1).mean())
