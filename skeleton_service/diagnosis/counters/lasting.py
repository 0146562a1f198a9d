"""Anomalies that last for longer than samples are kept: carried on until samples show that they are over.

What an anomaly is known by is the time before it. Once that is kept no more, it would seem to begin where the samples
do, or to be none. So it keeps the start that it had, and it ends on evidence alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporter.contracts import counters
from exporter.contracts.catalogue import RDMA_MTU, RDMA_PORT_CHANGES, RDMA_UP, RNIC_MTU, RNIC_TRANSMIT, RNIC_UP
from exporter.contracts.diagnosis import Component
from exporter.contracts.switch_counters import PORT_MTU, PORT_UP
from skeleton_service.diagnosis.counters.anomaly import Anomaly, Kind
from skeleton_service.diagnosis.counters.rising import RULES
from skeleton_service.diagnosis.counters.series import Flags, Metric, gather
from skeleton_service.diagnosis.counters.silence import IDLE_BYTES_PER_SECOND, NETDEV, NO_SIGNS
from skeleton_service.diagnosis.counters.surges import BASELINE_SECONDS, CONTRAST

_UP = (PORT_UP.name, RNIC_UP.name, RDMA_UP.name)
_MTU = (PORT_MTU.name, RNIC_MTU.name, RDMA_MTU.name)
_GAUGES: dict[Kind, tuple[str, ...]] = {
    "port_down": _UP, "rnic_down": _UP, "bgp_down": (counters.BGP_ESTABLISHED,), "mtu_mismatch": _MTU,
    "mtu_change": _MTU,
}  # fmt: skip
"""Those whose magnitude is what the gauge shows; more is well."""
_CHANGES: dict[Kind, tuple[str, ...]] = {
    "bgp_flapping": (counters.BGP_TRANSITIONS,),
    "port_flapping": (*_UP, counters.STATUS_CHANGES),
    "rnic_flapping": (*_UP, RDMA_PORT_CHANGES.name, counters.RNIC_LINK_DOWNS),
}
_SILENT = frozenset({"agent_silent", "host_silent", "rnic_absent", "switch_unreachable"})
_PAUSES = frozenset({"pfc_deadlock", "pfc_storm", "pfc_pausing", "rnic_pausing", "ecn_absent"})
"""What begins with pauses. These are seen without the time before, what they stand for may be not."""
_COUNTED: dict[Kind, tuple[str, ...]] = {
    kind: tuple(name for rule in RULES if rule.kind == kind for name in rule.metrics)
    for kind in {rule.kind for rule in RULES}
    if kind not in _SILENT and kind not in _GAUGES
}


@dataclass(frozen=True, slots=True)
class _Known:
    anomaly: Anomaly
    oldest: float
    """Time of the oldest sample of its device when it was found, in seconds since the epoch."""
    seen: float
    """That of the newest one of all when it was last known to last."""


class Lasting:
    """The anomalies that are told of, while samples come and go."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, float], _Known] = {}
        """By what is the same in all samples, and start."""

    def update(self, found: Sequence[Anomaly], samples: pa.Table) -> list[Anomaly]:
        """What lasts or is over, in order of time: the anomalies ``found`` in the samples kept, and those carried on.

        O(samples), and little for each anomaly whose beginning is not kept any more.
        """
        nodes = samples.group_by("node").aggregate([("time", "min")])
        oldest = dict(zip(nodes["node"].to_pylist(), nodes["time_min"].to_pylist(), strict=True))
        first, newest = min(oldest.values(), default=inf), pc.max(samples["time"]).as_py()
        told = list(found)
        places: dict[tuple[str, Component], list[int]] = defaultdict(list)
        for number, each in enumerate(found):
            places[each.kind, each.component].append(number)
        alone: list[_Known] = []
        for (*_, start), known in self._known.items():
            since = oldest.get(known.anomaly.node, first)
            if since <= known.oldest or start - BASELINE_SECONDS >= since:
                continue  # all that it is known by is kept
            alike = places[known.anomaly.kind, known.anomaly.component]
            own = next((number for number in alike if _meet(known.anomaly, told[number])), None)
            if own is not None:
                told[own] = replace(known.anomaly, end=told[own].end)
            elif known.anomaly.end is None:
                alone.append(known)
            elif known.anomaly.end >= since:
                told.append(known.anomaly)
        samples_of = _by_node(samples, {known.anomaly.node for known in alone})
        told += [replace(each.anomaly, end=_over(each, found, samples_of[each.anomaly.node])) for each in alone]
        told.sort(key=lambda each: (each.start, each.kind, each.component.name, each.proven))
        self._remember(told, oldest, first, newest or 0.0)
        return told

    def _remember(self, told: Sequence[Anomaly], oldest: dict[str, float], first: float, newest: float) -> None:
        before = self._known
        self._known = {}
        for each in told:
            key = (each.kind, each.component.kind, each.component.name, each.start)
            since = before[key].oldest if key in before else oldest.get(each.node, first)
            self._known[key] = _Known(each, since, newest)


def _meet(known: Anomaly, other: Anomaly) -> bool:
    """Whether both lasted at a time."""
    since, until = max(known.start, other.start), min(inf if each.end is None else each.end for each in (known, other))
    return since <= until


def _by_node(samples: pa.Table, nodes: Set[str]) -> dict[str, pa.Table]:
    """The samples of each of these nodes. O(samples), however many they are."""
    own = samples.filter(pc.is_in(samples["node"], pa.array(sorted(nodes), pa.string())))
    encoded = own["node"].combine_chunks().dictionary_encode()
    code = encoded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(code, kind="stable")
    begins = np.searchsorted(code[order], np.arange(len(encoded.dictionary) + 1))
    own = own.take(pa.array(order))
    found = dict.fromkeys(nodes, samples.slice(0, 0))
    for name, (begin, end) in zip(encoded.dictionary.to_pylist(), pairwise(begins.tolist()), strict=True):
        found[name] = own.slice(begin, end - begin)
    return found


def _over(known: _Known, found: Sequence[Anomaly], samples: pa.Table) -> float | None:
    """When it was seen last, if the samples of its node show that it is over; None while it may last."""
    anomaly = known.anomaly
    own = samples.filter(pc.greater(samples["time"], anomaly.start))
    if anomaly.kind in _PAUSES and len(own):
        beside = [each for each in found if each.kind in _PAUSES and each.node == anomaly.node]
        ends = [inf if each.end is None else each.end for each in beside]
        return None if inf in ends else max(ends, default=known.seen)
    if anomaly.port is not None:
        own = own.filter(pc.equal(own["port"], anomaly.port))
    if anomaly.component.kind == "bgp_session":
        own = own.filter(pc.equal(own["peer"], anomaly.component.name.partition(":")[2]))
    return _spoke(known, own) if anomaly.kind in _SILENT else _well(known, own)


def _spoke(known: _Known, own: pa.Table) -> float | None:
    """When a device, of which these are all samples, was read again; an RNIC's other device may be all the while."""
    own = own.filter(pc.invert(pc.is_in(own["metric"], pa.array(sorted(NO_SIGNS)))))
    netdev = pc.is_in(own["metric"], pa.array(sorted(NETDEV)))
    firsts = [pc.min(own.filter(each)["time"]).as_py() for each in (netdev, pc.invert(netdev))]
    # Not all samples come as soon as they are taken.
    again = [first for first in firsts if first is not None and first > known.seen - BASELINE_SECONDS]
    return float(min(again)) if again else None


def _well(known: _Known, own: pa.Table) -> float | None:
    """When its own samples showed it last, if they have not for so long that it is over."""
    kind = known.anomaly.kind
    names = _GAUGES.get(kind) or _CHANGES.get(kind) or _COUNTED.get(kind) or (RNIC_TRANSMIT.name,)
    metrics = list(gather(own, frozenset(names), inf).each(names))
    if not metrics:
        return None
    shown = np.concatenate([metric.times[_shows(known.anomaly, metric)] for metric in metrics])
    latest = float(shown.max(initial=min(float(metric.times.min()) for metric in metrics)))
    rest = BASELINE_SECONDS if kind in _CHANGES or kind in _COUNTED else 0.0
    return latest if min(float(metric.times.max()) for metric in metrics) - latest > rest else None


def _shows(anomaly: Anomaly, metric: Metric) -> Flags:
    """(rows,): which show the anomaly still."""
    if anomaly.kind in _GAUGES:
        return metric.values <= anomaly.magnitude
    if anomaly.kind in _CHANGES:
        return metric.rises > 0 if counters.is_counter(metric.name) else metric.changed
    rates = metric.rises / metric.seconds
    if anomaly.kind == "traffic_stopped":
        return rates < IDLE_BYTES_PER_SECOND
    return rates >= anomaly.magnitude / CONTRAST
