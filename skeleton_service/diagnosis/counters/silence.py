"""What stops: devices that are not read any more while others of their kind are, and hosts without traffic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from exporter.contracts.catalogue import RDMA, RNIC_MTU, RNIC_RECEIVE, RNIC_TRANSMIT, RNIC_UP
from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import port_id, split_link, split_port
from exporter.contracts.switch_counters import PORT_RECEIVE, PORT_TRANSMIT, SWITCH_REACHABLE
from skeleton_service.diagnosis.counters.anomaly import Anomaly, Kind
from skeleton_service.diagnosis.counters.rising import seconds
from skeleton_service.diagnosis.counters.series import Floats, Key, Metric, Samples

KNOWN = frozenset(
    metric.name for metric in (PORT_RECEIVE, PORT_TRANSMIT, RNIC_RECEIVE, RNIC_TRANSMIT, RNIC_MTU, RNIC_UP)
)
NETDEV = frozenset(metric.name for metric in (RNIC_RECEIVE, RNIC_TRANSMIT, RNIC_MTU, RNIC_UP))
"""What an RNIC's network device tells; all else of an RNIC is its RDMA device's."""
NO_SIGNS = frozenset(metric.name for metric in RDMA.metrics) | {SWITCH_REACHABLE.name}
"""What says nothing of whether a device is read: told by the prober, whatever the device's files say, or told of a
switch, not by it."""
_MISSED = 3  # readings in a row
_ALIVE_SHARE = 0.5  # of the others of its kind: where fewer are read, it is the reader that stopped
IDLE_BYTES_PER_SECOND = 1000.0
"""Less than this is LLDP, ARP and the like, not a training job and not its prober."""


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    """What is read as one: a switch, or the network device or RDMA device of an RNIC."""

    kind: str
    node: str
    port: str | None
    times: Floats

    def read_between(self, after: float, before: float) -> bool:
        """Whether a reading lies in (after, before)."""
        at = int(np.searchsorted(self.times, after, side="right"))
        return at < len(self.times) and bool(self.times[at] < before)


class _Readings:
    """All units of a kind: how often they are read, and which of them were at a time."""

    def __init__(self, kind: str, units: list[_Unit], spacing: Floats) -> None:
        self.kind = kind
        self.units = [unit for unit in units if unit.kind == kind]
        self.period = float(np.median(spacing))
        self.limit = (_MISSED - 0.5) * float(np.quantile(spacing, 0.95))
        times = np.concatenate([unit.times for unit in self.units])
        order = np.argsort(times)
        self._times = times[order]
        self._unit = np.repeat(np.arange(len(self.units)), [len(unit.times) for unit in self.units])[order]

    def gaps(self, unit: _Unit) -> Iterator[_Gap]:
        """Where a unit was not read for longer than the limit while others were."""
        edges = np.append(unit.times, self._times[-1])
        for row in np.flatnonzero(np.diff(edges) > self.limit).tolist():
            proven = float(self._times[np.searchsorted(self._times, edges[row] + self.limit, side="right")])
            yield _Gap(float(edges[row]), float(edges[row + 1]), row + 1 < len(unit.times), proven)

    def witnesses(self, gap: _Gap, node: str) -> tuple[int, int]:
        """Of the units of other nodes: (read in a gap, all)."""
        others = [unit.node != node for unit in self.units]
        after, before = self.window(gap)
        low = np.searchsorted(self._times, after, side="right")
        read = np.unique(self._unit[low : np.searchsorted(self._times, before)])
        return sum(others[number] for number in read.tolist()), sum(others)

    def window(self, gap: _Gap) -> tuple[float, float]:
        """The time in which a unit that is read would have been, within a gap; the same however long the gap became."""
        return gap.after + self.limit / 2, gap.after + self.limit + self.period


@dataclass(frozen=True, slots=True)
class _Gap:
    after: float
    before: float
    """The next reading; the newest of its kind where there is none yet."""
    returned: bool
    proven: float
    """The first reading of its kind that is later than the limit."""


def silence(samples: Samples, fabric: Fabric) -> Iterator[Anomaly]:
    """Switches, hosts and RNICs that miss _MISSED readings in a row while most others of their kind do not."""
    units, spacings = _units(samples, fabric)
    by_node: dict[str, list[_Unit]] = defaultdict(list)
    for unit in units:
        by_node[unit.node].append(unit)
    for kind, spacing in sorted(spacings.items()):
        if not len(spacing):
            continue
        readings = _Readings(kind, units, spacing)
        for unit in readings.units:
            for gap in readings.gaps(unit):
                found = _blame(unit, gap, readings, by_node[unit.node], samples, fabric)
                if found is not None:
                    yield found


def _blame(
    unit: _Unit, gap: _Gap, readings: _Readings, on_host: list[_Unit], samples: Samples, fabric: Fabric
) -> Anomaly | None:
    """Whose silence it is: an RNIC's where others of its host are read, else the host's or its agent's."""
    beside = [other for other in on_host if other.port != unit.port] or on_host
    read = f"not read for {seconds(gap.before - gap.after)} while"
    kind: Kind
    if unit.kind != _SWITCH and any(other.read_between(*readings.window(gap)) for other in beside):
        kind, component = "rnic_absent", Component(kind="rnic", name=port_id(unit.node, unit.port or ""))
        evidence = f"{component.name}: {unit.kind} {read} others of {unit.node} are"
    else:
        alive, others = readings.witnesses(gap, unit.node)
        if alive < max(1, _ALIVE_SHARE * others):
            return None
        if unit.kind == _SWITCH:
            kind, component = "switch_unreachable", Component(kind="switch", name=unit.node)
            evidence = f"{unit.node}: {read} {alive} of {others} other switches are"
        else:
            moves = moves_traffic(samples, fabric, unit.node, gap.after + readings.period)
            kind = "agent_silent" if moves else "host_silent"
            component = Component(kind="agent" if moves else "host", name=unit.node)
            evidence = f"{unit.node}: {read} other hosts are{_MOVES[moves]}"
    first = gap.after + readings.period
    return Anomaly(
        kind=kind,
        component=component,
        node=unit.node,
        port=unit.port if kind == "rnic_absent" else None,
        start=first,
        proven=gap.proven,
        end=max(gap.before - readings.period, first) if gap.returned else None,
        magnitude=gap.before - gap.after,
        unit="s",
        evidence=evidence,
    )


_SWITCH = "switch"
_MOVES = {
    True: "; its leaf goes on receiving from it",
    False: "; its leaf receives nothing from it",
    None: "; no port of a leaf tells whether it sends",
}


def idle(samples: Samples) -> Iterator[Anomaly]:
    """RNICs that sent until they fell still, for three times as long as ever before, while most others send on."""
    metric = samples.get(RNIC_TRANSMIT.name)
    rates = np.divide(metric.rises, metric.seconds, out=np.full_like(metric.rises, np.nan), where=~metric.first)
    with np.errstate(invalid="ignore"):
        still, moving = rates < IDLE_BYTES_PER_SECOND, rates >= IDLE_BYTES_PER_SECOND
    longest: dict[int, float] = {}
    for series, first, last in metric.runs(still):
        begin = float(metric.times[first - 1])
        limit = max(_STILL_SECONDS, 3 * longest.get(series, 0.0))
        longest[series] = max(longest.get(series, 0.0), float(metric.times[last]) - begin)
        long = np.flatnonzero(metric.times[first : last + 1] - begin >= limit)
        if metric.first[first - 1] or not len(long):
            continue
        proven = first + int(long[0])
        now = metric.times[proven]
        recent = (metric.times > now - 2 * metric.seconds[proven]) & (metric.times <= now)
        others = set(metric.series[recent].tolist()) - {series}
        going = set(metric.series[recent & moving].tolist()) - {series}
        if len(going) < max(1, _ALIVE_SHARE * len(others)):
            continue
        key = metric.keys[series]
        length = float(metric.times[last]) - begin
        yield Anomaly(
            kind="traffic_stopped",
            component=Component(kind="rnic", name=key.end),
            node=key.node,
            port=key.port,
            start=float(metric.times[first]),
            proven=float(now),
            end=None if metric.lasts(last) else float(metric.times[last]),
            magnitude=length,
            unit="s",
            evidence=f"{key.end}: sends nothing for {seconds(length)} while {len(going)} of {len(others)} other RNICs "
            f"do, and never so long before ({metric.name})",
        )


_STILL_SECONDS = 15.0  # a job computes, or saves, for some seconds without sending


def _units(samples: Samples, fabric: Fabric) -> tuple[list[_Unit], dict[str, Floats]]:
    """Every unit with the times at which anything of it was read, and the times between readings of a series by kind.

    The ports of a switch need not be read at one time, so the readings of a unit may be closer than its period.
    """
    found: dict[tuple[str, str, str | None], list[Floats]] = {}
    spacings: dict[str, list[Floats]] = {}
    for metric in samples.metrics.values():
        if metric.name in NO_SIGNS:
            continue
        device = "network device" if metric.name in NETDEV else "RDMA device"
        for number, key in enumerate(metric.keys):
            switch = key.node in fabric.switches
            if not switch and key.port is None:
                continue
            unit = (_SWITCH, key.node, None) if switch else (device, key.node, key.port)
            rows = metric.rows(number)
            found.setdefault(unit, []).append(metric.times[rows])
            spacings.setdefault(unit[0], []).append(metric.seconds[rows.start + 1 : rows.stop])
    units = [_Unit(*unit, np.unique(np.concatenate(times))) for unit, times in found.items()]
    return units, {kind: np.concatenate(parts) for kind, parts in spacings.items()}


def moves_traffic(samples: Samples, fabric: Fabric, host: str, since: float) -> bool | None:
    """Whether packets have left a host since a time: what tells a dead agent from a dead host.

    The bytes that its leaves' ports received from it say so, and what its own RNICs say they sent; None where neither
    was read twice since.
    """
    seen = []
    for interface in fabric.interfaces.values():
        if interface.host.name != host:
            continue
        seen.append(_moved(samples.get(RNIC_TRANSMIT.name), interface.id, since))
        link = fabric.link_of(interface.id)
        fars = () if link is None else set(split_link(link)) - {interface.id}
        seen += [_moved(samples.get(PORT_RECEIVE.name), far, since) for far in fars]
    known = [each for each in seen if each is not None]
    return any(known) if known else None


def _moved(metric: Metric, end: str, since: float) -> bool | None:
    number = metric.place.get(Key(*split_port(end), None, None, None, None))
    if number is None:
        return None
    own = metric.rows(number)
    later = slice(own.start + int(np.searchsorted(metric.times[own], since)) + 1, own.stop)
    if later.start >= later.stop:
        return None
    rises, length = np.nansum(metric.rises[later]), np.nansum(metric.seconds[later])
    return bool(rises > IDLE_BYTES_PER_SECOND * length)
