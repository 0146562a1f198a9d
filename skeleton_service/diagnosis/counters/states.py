"""What devices say of themselves: ports up and down, their MTU, BGP sessions, a switch that does not answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from exporter.contracts import counters
from exporter.contracts.catalogue import RDMA_MTU, RDMA_PORT_CHANGES, RDMA_UP, RNIC_MTU, RNIC_UP
from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link, split_port
from exporter.contracts.switch_counters import PORT_ENABLED, PORT_MTU, PORT_UP, SWITCH_REACHABLE
from skeleton_service.diagnosis.counters.anomaly import Anomaly, Kind
from skeleton_service.diagnosis.counters.rising import component_of, seconds
from skeleton_service.diagnosis.counters.series import Floats, Key, Metric, Samples
from skeleton_service.diagnosis.counters.surges import BASELINE_SECONDS, COMMON_SHARE

KNOWN = frozenset(
    metric.name
    for metric in (
        PORT_ENABLED, PORT_MTU, PORT_UP, RDMA_MTU, RDMA_PORT_CHANGES, RDMA_UP, RNIC_MTU, RNIC_UP, SWITCH_REACHABLE
    )
) | {
    counters.BGP_ESTABLISHED, counters.BGP_TRANSITIONS, counters.RNIC_LINK_DOWNS, counters.STATUS_CHANGES
}  # fmt: skip

_POLL_SKEW = 30.0  # two states of one thing are read by different polls
_FLAPS = 3  # changes in BASELINE_SECONDS: down, up and down again; a restart or a swapped card makes two


def states(samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    flapping = list(_flapping(samples, fabric))
    unsteady: dict[str, list[Anomaly]] = defaultdict(list)
    for anomaly in flapping:
        unsteady[anomaly.component.name].append(anomaly)
    down = [
        anomaly
        for anomaly in _down(samples, fabric)
        if not any(_within(anomaly.start, each) for each in unsteady[anomaly.component.name])
    ]
    yield from flapping
    yield from down
    yield from _unreachable(samples)
    yield from _changed_mtu(samples, fabric)
    yield from _differing_mtu(samples, fabric)
    yield from _sessions(samples, fabric, flapping + down)


def _within(time: float, anomaly: Anomaly) -> bool:
    """Whether a time is one of an anomaly's, give or take one in which no poll has seen it yet, or still does."""
    return anomaly.start - _POLL_SKEW <= time and (anomaly.end is None or time <= anomaly.end + _POLL_SKEW)


def _down(samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    """Ports and RNICs that are down though enabled, and were up or are cabled."""
    enabled = samples.get(PORT_ENABLED.name)
    for name in (PORT_UP.name, RNIC_UP.name, RDMA_UP.name):
        metric = samples.get(name)
        for series, first, last in metric.runs(metric.values == 0):
            key = metric.keys[series]
            was_up = not metric.first[first]
            meant = enabled.at(key, float(metric.times[first]))
            if meant == 0 or not (was_up or fabric.link_of(key.end)):
                continue
            start = float(metric.times[first])
            length = float(metric.times[last]) - start
            yield _of_gauge(
                "port_down" if name == PORT_UP.name else "rnic_down",
                metric, first, last, component_of(key, fabric), 0.0, "up",
                f"{key.end}: down in {last - first + 1} reading(s) over {seconds(length)}, "
                f"{'up before' if was_up else 'cabled'} ({name})",
            )  # fmt: skip


def _flapping(samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    """Ports and RNICs that changed between up and down _FLAPS times or more in BASELINE_SECONDS."""
    changes: dict[str, list[tuple[Metric, Key, Floats, Floats]]] = {}
    for name, each in (
        (PORT_UP.name, 1.0), (RNIC_UP.name, 1.0), (RDMA_UP.name, 1.0), (counters.STATUS_CHANGES, 1.0),
        (RDMA_PORT_CHANGES.name, 1.0), (counters.RNIC_LINK_DOWNS, 2.0),  # each came up before it could go down again
    ):  # fmt: skip
        metric = samples.get(name)
        counted = metric.rises if counters.is_counter(name) else metric.changed.astype(float)
        rows = np.flatnonzero(counted > 0)
        for series in np.unique(metric.series[rows]).tolist():
            own = rows[metric.series[rows] == series]
            key = metric.keys[series]
            changes.setdefault(key.end, []).append((metric, key, metric.times[own], each * counted[own]))
    for views in changes.values():
        for view in views:
            yield from _bursts(*view, fabric)


def _bursts(metric: Metric, key: Key, times: Floats, counts: Floats, fabric: Fabric) -> Iterator[Anomaly]:
    """Changes no further apart than BASELINE_SECONDS, from the first of _FLAPS that fell into as long."""
    newest = float(metric.times[metric.rows(metric.place[key]).stop - 1])
    for own in np.split(np.arange(len(times)), np.flatnonzero(np.diff(times) > BASELINE_SECONDS) + 1):
        totals = np.concatenate(([0.0], np.cumsum(counts[own])))
        since = np.searchsorted(times[own], times[own] - BASELINE_SECONDS)
        enough = np.flatnonzero(totals[1:] - totals[since] >= _FLAPS)
        if not len(enough):
            continue
        first = int(since[enough[0]])
        shown = times[own][first:].tolist()
        longest = max((later - sooner for sooner, later in pairwise(shown)), default=0.0)
        total = float(totals[-1] - totals[first])
        yield Anomaly(
            kind="port_flapping" if key.node in fabric.switches else "rnic_flapping",
            component=component_of(key, fabric),
            node=key.node,
            port=key.port,
            start=shown[0],
            proven=float(times[own][enough[0]]),
            end=shown[-1] if newest - shown[-1] > 2 * longest else None,
            magnitude=total,
            unit="changes",
            evidence=f"{key.end}: {total:.0f} changes between up and down in {seconds(shown[-1] - shown[0])} "
            f"({metric.name})",
        )


def _unreachable(samples: Samples) -> Iterator[Anomaly]:
    """Switches that two polls in a row did not reach."""
    metric = samples.get(SWITCH_REACHABLE.name)
    for series, first, last in metric.runs(metric.values == 0):
        if last > first:
            node = metric.keys[series].node
            polls = last - first + 1
            yield _of_gauge(
                "switch_unreachable", metric, first, last, Component(kind="switch", name=node), float(polls), "polls",
                f"{node}: {polls} polls in a row without an answer ({metric.name})", first + 1,
            )  # fmt: skip


def _changed_mtu(samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    """Ports and RNICs whose MTU became smaller than it was, until it is restored."""
    for name in (PORT_MTU.name, RNIC_MTU.name, RDMA_MTU.name):
        metric = samples.get(name)
        fell = np.flatnonzero(metric.changed & (np.diff(metric.values, prepend=np.nan) < 0))
        for row in fell.tolist():
            series = int(metric.series[row])
            key = metric.keys[series]
            was, now = float(metric.values[row - 1]), float(metric.values[row])
            rest = metric.values[row : metric.rows(series).stop]
            restored = np.flatnonzero(rest >= was)
            last = row + (int(restored[0]) if len(restored) else len(rest)) - 1
            yield _of_gauge(
                "mtu_mismatch" if name == PORT_MTU.name else "mtu_change",
                metric, row, last, component_of(key, fabric), now, "bytes",
                f"{key.end}: MTU {now:.0f}, {was:.0f} before ({name})",
            )  # fmt: skip


def _differing_mtu(samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    """Links whose ends have had different MTUs as long as they were read: the smaller is suspected.

    A switch's port may take longer frames than the RNIC at its end sends, so there only the opposite counts. Where as
    many as COMMON_SHARE of the links differ, it is how this fabric is set up.
    """
    differing = list(_unequal(samples, fabric))
    if len(differing) < max(2.0, COMMON_SHARE * len(fabric.topology.links)):
        yield from differing


def _unequal(samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    ports, rnics = samples.get(PORT_MTU.name), samples.get(RNIC_MTU.name)
    for link in fabric.topology.links:
        ends = split_link(link.id)
        found = []
        for end in ends:
            node, port = split_port(end)
            metric = ports if node in fabric.switches else rnics
            key = Key(node, port, None, None, None, None)
            if key in metric.place:
                found.append((metric, key, metric.rows(metric.place[key])))
        if len(found) < len(ends):
            continue
        (one, key, own), (other, far, theirs) = sorted(found, key=lambda each: each[0].values[each[2].start])
        small, large = float(one.values[own.start]), float(other.values[theirs.start])
        if small == large or key.node not in fabric.switches:
            continue
        restored = np.flatnonzero(one.values[own] >= large)
        last = own.start + int(restored[0]) - 1 if len(restored) else own.stop - 1
        yield _of_gauge(
            "mtu_mismatch", one, own.start, last, component_of(key, fabric), small, "bytes",
            f"{key.end}: MTU {small:.0f}, its far end {far.end} has {large:.0f} ({one.name})",
        )  # fmt: skip


def _sessions(samples: Samples, fabric: Fabric, ports: list[Anomaly]) -> Iterator[Anomaly]:
    """BGP sessions that went down though the link below them did not."""
    hurt = [anomaly for anomaly in ports if anomaly.kind.startswith("port_")]
    established, transitions = samples.get(counters.BGP_ESTABLISHED), samples.get(counters.BGP_TRANSITIONS)
    again = np.flatnonzero(transitions.rises > 0)
    flapped: set[Key] = set()
    for series in np.unique(transitions.series[again]).tolist():
        key = transitions.keys[series]
        rows = again[transitions.series[again] == series]
        first, last = int(rows[0]), int(rows[-1])
        if key.peer is None or _explained(key, float(transitions.times[first]), hurt, fabric):
            continue
        flapped.add(key)
        count = float(transitions.rises[rows].sum())
        yield _of_gauge(
            "bgp_flapping", transitions, first, last, _session(key), count, "transitions",
            f"{key.node}: session with {key.peer} was established {count:.0f} time(s) anew, its link up "
            f"({transitions.name})",
        )  # fmt: skip
    for series, first, last in established.runs(established.values == 0):
        key = established.keys[series]
        if key.peer is None or key in flapped or _explained(key, float(established.times[first]), hurt, fabric):
            continue
        kind: Kind = "bgp_down"
        yield _of_gauge(
            kind, established, first, last, _session(key), 0.0, "established",
            f"{key.node}: session with {key.peer} down in {last - first + 1} reading(s), its link up "
            f"({established.name})",
        )  # fmt: skip


def _session(key: Key) -> Component:
    return Component(kind="bgp_session", name=f"{key.node}:{key.peer}")


def _explained(key: Key, time: float, hurt: list[Anomaly], fabric: Fabric) -> bool:
    """Whether a port between a switch and its neighbour went down at most BASELINE_SECONDS before (the hold time)."""
    between = _ports_between(key, fabric)
    return any(
        anomaly.component.name in between and -BASELINE_SECONDS <= anomaly.start - time <= _POLL_SKEW
        and (anomaly.end is None or time - anomaly.end <= BASELINE_SECONDS)
        for anomaly in hurt
    )  # fmt: skip


def _ports_between(key: Key, fabric: Fabric) -> set[str]:
    """Both ends of the links that a session may stand on: its peer is an address, a port or a name."""
    place = fabric.locate(key.peer or "")
    ends = set()
    for link in fabric.topology.links:
        for own, far in ((link.a, link.b), (link.b, link.a)):
            if own.partition(":")[0] == key.node and place in (far, far.partition(":")[0]):
                ends |= {own, far}
    return ends


def _of_gauge(
    kind: Kind, metric: Metric, first: int, last: int, component: Component, magnitude: float, unit: str,
    evidence: str, proven: int | None = None,
) -> Anomaly:  # fmt: skip
    """An anomaly of the rows of one series from ``first`` to ``last``."""
    key = metric.keys[int(metric.series[first])]
    return Anomaly(
        kind=kind,
        component=component,
        node=key.node,
        port=key.port,
        start=float(metric.times[first]),
        proven=float(metric.times[first if proven is None else proven]),
        end=None if metric.lasts(last) else float(metric.times[last]),
        magnitude=magnitude,
        unit=unit,
        evidence=evidence,
    )
