"""Priority flow control: who pauses whom, followed to where it comes from (counters.md 5.2).

A switch that cannot send on pauses whoever sends to it, so pauses spread against the traffic. Their origin is the
device that sends them and receives none: an RNIC is a slow receiver or broken, a switch is congested at a port of its
own. A circle of switches that pause each other is a deadlock (Guo et al., SIGCOMM 2016, 4.2).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from exporter.contracts import counters
from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link, split_port
from exporter.contracts.switch_counters import PORT_SPEED, PORT_UP
from skeleton_service.diagnosis.counters.anomaly import Anomaly, Kind
from skeleton_service.diagnosis.counters.series import Floats, Key, Metric, Samples
from skeleton_service.diagnosis.counters.surges import Bar, surges

QUANTUM_BITS = 65535 * 512
"""Bit times that one PFC frame can pause a priority for: rate(frames) x this / speed is an upper bound of the share of
time paused (counters.md 5.1)."""
STORM_SHARE = 0.5
"""Of the time: "rate >= 0.5 x full-shut rate, and a watchdog or a queue that sends nothing" (5.2)."""
_BARS = {
    True: Bar(0.05, 0.0, held=2, quantile=1.0),  # measured: healthy pauses take some 0.1 % of the time
    False: Bar(0.2, 0.0, held=2, quantile=1.0),  # counted: a frame may pause for much less than it could
}
_UNKNOWN_BITS_PER_SECOND = 400e9  # the fastest common port: the share comes out too small, never too large

_SENT = ((counters.PFC_PAUSING, True), (counters.PFC_SENT, False))
_RECEIVED = ((counters.PFC_PAUSED, True), (counters.PFC_RECEIVED, False))
_RNIC_SENT = ((counters.RNIC_PFC_PAUSING, True), (counters.RNIC_PFC_SENT, False))
_RNIC_RECEIVED = ((counters.RNIC_PFC_PAUSED, True), (counters.RNIC_PFC_RECEIVED, False))
_STORMS = (counters.RNIC_STORM_WARNINGS, counters.RNIC_STORM_ERRORS)
KNOWN = frozenset(name for views in (_SENT, _RECEIVED, _RNIC_SENT, _RNIC_RECEIVED) for name, _ in views) | {
    *_STORMS, counters.QUEUE_PACKETS, counters.ECN_MARKED, counters.WATCHDOG_STUCK, PORT_SPEED.name, PORT_UP.name
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pause:
    """An end that pauses its far end in one priority."""

    end: str
    far: str
    priority: int | None
    start: float
    proven: float
    stop: float | None
    share: float
    told_by: str

    @property
    def node(self) -> str:
        return split_port(self.end)[0]

    @property
    def paused(self) -> str:
        """The node that waits."""
        return split_port(self.far)[0]

    def meets(self, other: _Pause) -> bool:
        """Whether both lasted at a time."""
        return (self.stop is None or other.start <= self.stop) and (other.stop is None or self.start <= other.stop)


def pauses(samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    """Storms, deadlocks and the origins of pauses; those who only pass pauses on are not named."""
    found = _pauses(samples, fabric)
    waits: dict[str, list[_Pause]] = defaultdict(list)  # node -> the pauses that hold it
    for pause in found:
        waits[pause.paused].append(pause)
    origins: dict[str, list[_Pause]] = defaultdict(list)
    for pause in found:
        if pause.node not in fabric.switches:
            yield _from_rnic(pause, samples)
            continue
        held = [other for other in waits[pause.node] if other.meets(pause) and other.priority == pause.priority]
        circle = pause.share >= STORM_SHARE and _returns(pause, waits, fabric)
        if circle:
            yield _anomaly("pfc_deadlock", pause, Component(kind="switch", name=pause.node),
                           f"a circle: {' waits for '.join(circle)}")  # fmt: skip
        elif not held:
            origins[pause.node].append(pause)
    for switch, own in origins.items():
        yield from _from_switch(switch, own, samples, fabric)


def _from_rnic(pause: _Pause, samples: Samples) -> Anomaly:
    rnic = Component(kind="rnic", name=pause.end)
    storm = _storm(pause, samples)
    if storm is not None:
        return _anomaly("pfc_storm", pause, rnic, storm)
    return _anomaly("rnic_pausing", pause, rnic, "an RNIC that pauses the network cannot take what arrives")


def _from_switch(switch: str, own: list[_Pause], samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    """A switch where pauses begin: congested at the one port that it does not pause, if there is only one."""
    pause = min(own, key=lambda each: (each.proven, each.end))
    cabled = {
        end for link in fabric.topology.links for end in split_link(link.id) if split_port(end)[0] == switch
    }  # fmt: skip
    up = samples.get(PORT_UP.name)
    cabled = {end for end in cabled if up.at(_port_key(end), pause.proven) != 0}
    marks = _marks(switch, pause, samples)
    before, during = sum(was for was, _ in marks.values()), sum(now for _, now in marks.values())
    free = sorted(cabled - {each.end for each in own})
    unmarked = [end for end in free if not sum(marks.get(end, (0.0, 0.0)))]
    alone = unmarked if before and len(free) > 1 else free
    suspect = Component(kind="port", name=alone[0]) if len(alone) == 1 else Component(kind="switch", name=switch)
    what = f"it pauses {len(own)} of its {len(cabled)} neighbours, none pauses it"
    if len(alone) == 1:
        what += f"; of the other ports only {alone[0]} marks nothing" if len(free) > 1 else f", {alone[0]} excepted"
    storm = _storm(pause, samples)
    yield _anomaly("pfc_pausing" if storm is None else "pfc_storm", pause, suspect, storm or what)
    if before and (during <= 2 * before or (len(alone) == 1 and not sum(marks.get(alone[0], (0.0, 1.0))))):
        yield _anomaly("ecn_absent", pause, suspect,
                       f"{what}; the switch marked {during:.3g} packets /s, {before:.3g} /s before")  # fmt: skip


def _marks(switch: str, pause: _Pause, samples: Samples) -> dict[str, tuple[float, float]]:
    """{port: ECN marks a second before and during a pause} of a switch's queues of the priority."""
    metric = samples.get(counters.ECN_MARKED)
    marks = {}
    for number, key in enumerate(metric.keys):
        if key.node != switch or key.level not in (pause.priority, None):
            continue
        rows = metric.rows(number)
        times, rises, length = metric.times[rows], metric.rises[rows], metric.seconds[rows]
        now = (times > pause.start) & (times <= (np.inf if pause.stop is None else pause.stop))
        before = times < pause.start
        marks[key.end] = (_rate(rises[before], length[before]), _rate(rises[now], length[now]))
    return marks


def _rate(rises: Floats, lengths: Floats) -> float:
    total = float(np.nansum(lengths))
    return float(np.nansum(rises)) / total if total else 0.0


def _returns(pause: _Pause, waits: dict[str, list[_Pause]], fabric: Fabric) -> list[str]:
    """The circle of switches that each wait for the next, from and to the sender of a pause; empty if there is none."""
    way = {pause.node: [pause.node]}
    queue = [pause.node]
    while queue:
        node = queue.pop(0)
        for other in waits[node]:
            if other.share < STORM_SHARE or other.priority != pause.priority or not other.meets(pause):
                continue
            if other.node == pause.node:
                return [*way[node], pause.node]
            if other.node in fabric.switches and other.node not in way:
                way[other.node] = [*way[node], other.node]
                queue.append(other.node)
    return []


def _storm(pause: _Pause, samples: Samples) -> str | None:
    """What shows that a long pause lets nothing leave: a watchdog that fired, or a queue that stands still."""
    if pause.share < STORM_SHARE:
        return None
    watchdog = samples.get(counters.WATCHDOG_STUCK)
    for number, key in enumerate(watchdog.keys):
        if key.end == pause.far and key.level in (pause.priority, None) and _rise(watchdog, number, pause) > 0:
            return f"the watchdog of {pause.far} found its queue stuck"
    for name in _STORMS:
        metric = samples.get(name)
        for number, key in enumerate(metric.keys):
            if key.end == pause.end and _rise(metric, number, pause) > 0:
                return f"its own watchdog fired ({name})"
    packets = samples.get(counters.QUEUE_PACKETS)
    for number, key in enumerate(packets.keys):
        if key.end == pause.far and key.level == pause.priority and pause.priority is not None:
            rows = packets.rows(number)
            times, rises = packets.times[rows], packets.rises[rows]
            during = (times > pause.start) & (times <= (pause.stop or np.inf))
            if during.any() and not rises[during].sum() and np.nansum(rises[times < pause.start]):
                return f"queue {pause.priority} of {pause.far} sends nothing"
    return None


def _rise(metric: Metric, number: int, pause: _Pause) -> float:
    rows = metric.rows(number)
    times = metric.times[rows]
    slack = float(np.nanmax(metric.seconds[rows], initial=0.0))
    during = (times >= pause.start - slack) & (times <= (np.inf if pause.stop is None else pause.stop + slack))
    return float(np.nansum(metric.rises[rows][during]))


def _pauses(samples: Samples, fabric: Fabric) -> list[_Pause]:
    """Every end that pauses, from what it says it sent and from what its far end says it received."""
    found: dict[tuple[str, int | None], list[_Pause]] = defaultdict(list)
    for views, sends in ((_SENT, True), (_RNIC_SENT, True), (_RECEIVED, False), (_RNIC_RECEIVED, False)):
        timed: set[Key] = set()
        for name, measured in views:
            metric = samples.get(name)
            scale = np.ones(len(metric.keys))
            for series in () if measured else np.unique(metric.series[metric.rises > 0]).tolist():
                scale[series] = QUANTUM_BITS / _bits_per_second(metric.keys[series].end, samples, fabric)
            for surge in surges(metric, _BARS[measured], scale):
                key = metric.keys[surge.series]
                link = fabric.link_of(key.end)
                if key in timed or link is None:
                    continue
                (far,) = set(split_link(link)) - {key.end}
                share = min(surge.rate, 1.0)
                ends = (key.end, far) if sends else (far, key.end)
                pause = _Pause(*ends, key.level, surge.start, surge.known, surge.end, share, name)
                found[ends[0], key.level].append(pause)
            if measured:
                timed |= set(metric.keys)
    return [pause for _, own in sorted(found.items(), key=str) for pause in _apart(own)]


def _apart(views: list[_Pause]) -> list[_Pause]:
    """What both ends say of the pauses of one end, once for each time."""
    kept: list[_Pause] = []
    for pause in sorted(views, key=lambda each: (each.proven, each.told_by)):
        if not any(pause.meets(other) for other in kept):
            kept.append(pause)
    return kept


def _bits_per_second(end: str, samples: Samples, fabric: Fabric) -> float:
    """Speed of a cable, from either end."""
    metric = samples.get(PORT_SPEED.name)
    link = fabric.link_of(end)
    for one in () if link is None else (end, *split_link(link)):
        speed = metric.at(_port_key(one), np.inf)
        if speed:
            return 8 * speed
        node, port = split_port(one)
        switch = fabric.switches.get(node)
        told = next((own.speed_mbps for own in switch.ports if own.name == port), None) if switch else None
        if told:
            return 1e6 * told
    return _UNKNOWN_BITS_PER_SECOND


def _port_key(end: str) -> Key:
    return Key(*split_port(end), None, None, None, None)


def _anomaly(kind: Kind, pause: _Pause, component: Component, why: str) -> Anomaly:
    node, port = split_port(pause.end)
    level = "" if pause.priority is None else f" in priority {pause.priority}"
    return Anomaly(
        kind=kind,
        component=component,
        node=node,
        port=port,
        start=pause.start,
        proven=pause.proven,
        end=pause.stop,
        magnitude=pause.share,
        unit="ratio",
        evidence=f"{pause.end} pauses {pause.far}{level} for {pause.share:.0%} of the time; {why} ({pause.told_by})",
        direction="ingress" if component.kind == "rnic" else "egress" if component.kind == "port" else None,
    )
