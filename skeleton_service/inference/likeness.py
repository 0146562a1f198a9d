"""How alike the courses of two groups are."""

from __future__ import annotations

import numpy as np

from skeleton_service.inference.series import Floats

FLOOR = 0.2
"""The share of the mean rate below which rates count linearly: noise is no likeness."""


def log_levels(means: Floats) -> Floats:
    """Log rates (groups, 2 x samples) of mean rates (groups, 2, samples), so that bursts do not drown the rest."""
    flat = np.nan_to_num(means.reshape(len(means), -1))
    levels: Floats = np.log1p(flat / (FLOOR * float(flat.mean()) or 1.0))
    return levels


def unlikeness(levels: Floats, *, crossed: bool = False) -> Floats:
    """One less the correlation (groups, groups) of the groups' log rates; ``crossed``, of sent with received."""
    centred = levels - levels.mean(axis=1, keepdims=True)
    normal = centred / np.maximum(np.sqrt((centred**2).sum(axis=1, keepdims=True)), 1e-12)
    unlike: Floats = 1 - normal @ (np.roll(normal, normal.shape[1] // 2, axis=1) if crossed else normal).T
    return unlike
