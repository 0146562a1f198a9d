"""Position groups: which hosts stand at the same place of different data-parallel replicas.

Hosts at the same place burst at the same time with the same volume, because data parallelism splits
nothing but the data (SkeletonHunter, section 5.1). The paper compares short-time spectra; their
magnitude forgets *when* a burst came, which is what separates pipeline stages. So the series
themselves are compared: time is kept, and the logarithm makes a sample's noise, which grows with its
rate, alike for bursts and for the traffic between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import squareform

from skeleton_service.inference.series import Floats, Integers, Rates

FLOOR = 0.1
"""Rates well below this share of the mean are all as good as silence."""

SEPARATED = 0.3
"""A silhouette below this is not a structure."""

ALIKE = 0.15
"""Hosts that differ by less than this share of their own variation are one group."""

REPAIRABLE = 512
"""Up to this many hosts, uneven clusters are evened out; the assignment costs O(hosts^3)."""


@dataclass(frozen=True, slots=True)
class RailSeries:
    """The features (members, samples) of one rail; row i belongs to host number ``hosts[i]``."""

    hosts: Integers
    features: Floats


@dataclass(frozen=True, slots=True)
class Partition:
    """``labels[host]`` is the group, 0-based; ``separation`` 0..1; ``agreement`` the share of like-minded rails."""

    labels: Integers
    separation: float
    agreement: float

    @property
    def count(self) -> int:
        return int(self.labels.max()) + 1


def features(tx: Rates, rx: Rates) -> Floats:
    """Log rates (endpoints, 2 x samples), sent before received; what was not observed takes the row's mean."""
    both = np.concatenate((tx, rx), axis=1, dtype=np.float64)
    mean = float(np.nanmean(both)) if np.isfinite(both).any() else 0.0
    levels = np.log1p(np.maximum(both, 0) / (FLOOR * mean)) if mean > 0 else np.zeros_like(both)
    known = np.isfinite(levels)
    centre = np.where(known, levels, 0).sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.where(known, levels, centre)


def distances(values: Floats) -> Floats:
    """Euclidean distances (members, members) between rows."""
    centred = values - values.mean(axis=0)  # moves no distance, and keeps the subtraction below precise
    norms = (centred**2).sum(axis=1)
    result: Floats = np.sqrt(np.maximum(norms[:, None] + norms[None, :] - 2 * centred @ centred.T, 0))
    np.fill_diagonal(result, 0)
    return result


def silhouette(apart: Floats, labels: Integers) -> float:
    """Mean silhouette, -1..1, of groups over a distance matrix; 0 for members that are alone. O(members^2)."""
    counts = np.bincount(labels)
    indicator = np.eye(counts.size)[labels]
    sums = apart @ indicator
    rows = np.arange(labels.size)
    own = sums[rows, labels] / np.maximum(counts[labels] - 1, 1)
    means = sums / counts
    means[rows, labels] = np.inf
    other = means.min(axis=1)
    larger = np.maximum(own, other)
    score = np.where(larger > 0, (other - own) / np.where(larger > 0, larger, 1), 0.0)
    return float(np.where(counts[labels] > 1, score, 0).mean())


def find_groups(rails: Iterable[RailSeries], hosts: int) -> Partition | None:
    """Partition the hosts into equally large groups; None where no structure is found.

    Each rail that holds all hosts clusters them by itself and scores every feasible number of groups
    (the paper's constraints: equal sizes, a divisor of the number of hosts; one RNIC of a host per group
    holds because a rail has one RNIC of a host). The scores' mean over rails decides the number; the
    groups come from distances averaged over rails, since host-mates belong to one replica.
    O(rails x hosts^2) time, O(hosts^2) memory: one rail's matrix at a time.
    """
    total, pairs = np.zeros((hosts, hosts)), np.zeros((hosts, hosts))
    counts = [count for count in range(2, hosts // 2 + 1) if hosts % count == 0]
    votes: list[dict[int, tuple[float, Integers]]] = []
    variation, spread = [], []
    for rail in rails:
        if rail.hosts.size < 2:
            continue
        apart = distances(rail.features)
        place = np.ix_(rail.hosts, rail.hosts)
        total[place] += apart
        pairs[place] += 1
        variation.append(float(rail.features.var(axis=1).mean()) * rail.features.shape[1])
        spread.append(float((apart**2).sum() / (apart.size - len(apart))) / 2)
        if rail.hosts.size == hosts:
            votes.append(_vote(apart, counts, np.argsort(rail.hosts)))
    if hosts < 2 or not (pairs + np.eye(hosts)).all() or not variation:
        return None
    mean = total / np.maximum(pairs, 1)
    combined = _vote(mean, counts, np.arange(hosts))
    scores = {count: float(np.mean([vote[count][0] for vote in votes or [combined]])) for count in combined}
    best = max(scores, key=lambda count: (scores[count], -count), default=0)
    if best and scores[best] >= SEPARATED:
        labels = combined[best][1]
        same = [_same(vote[best][1], labels) for vote in votes]
        return Partition(labels, scores[best], float(np.mean(same)) if same else 1.0)
    differing = float(np.sum(spread)) / max(float(np.sum(variation)), 1e-12)
    if differing < ALIKE:
        return Partition(np.zeros(hosts, dtype=np.int64), 1 - differing, 1.0)
    return None


def _vote(apart: Floats, counts: list[int], order: Integers) -> dict[int, tuple[float, Integers]]:
    """Cut one dendrogram at every feasible number of groups: {number: (silhouette, labels by host)}."""
    ordered = apart[np.ix_(order, order)]
    if not counts:
        return {}
    tree = linkage(squareform(ordered, checks=False), "average")
    result = {}
    for count in counts:
        labels = _even(fcluster(tree, count, "maxclust").astype(np.int64) - 1, ordered, count)
        if labels is None:
            result[count] = (-1.0, np.zeros(len(order), dtype=np.int64))
        else:
            result[count] = (silhouette(ordered, labels), labels)
    return result


def _even(labels: Integers, apart: Floats, count: int) -> Integers | None:
    """Even out cluster sizes by reassigning members to the nearest cluster with room; None if out of reach."""
    size = labels.size // count
    sizes = np.bincount(labels, minlength=count)
    if sizes.size == count and (sizes == size).all():
        return labels
    if labels.size > REPAIRABLE:
        return None
    present = np.unique(labels)
    if present.size != count:
        return None
    cost = np.stack([apart[:, labels == label].mean(axis=1) for label in present], axis=1)
    _, slot = linear_sum_assignment(np.repeat(cost, size, axis=1))
    even: Integers = (slot // size).astype(np.int64)
    return even


def _same(first: Integers, second: Integers) -> bool:
    pairs = len(set(zip(first.tolist(), second.tolist(), strict=True)))
    return pairs == len(set(first.tolist())) == len(set(second.tolist()))
