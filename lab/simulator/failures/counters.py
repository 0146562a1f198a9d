"""Readings of counters: series of every port, RNIC and switch, as a poller would have sampled them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from exporter.contracts.counters import is_counter
from exporter.contracts.names import split_port
from exporter.contracts.switch_counters import SWITCH_REACHABLE
from lab.simulator.failures.effects import Interval
from lab.simulator.failures.story import Event, Story
from lab.simulator.failures.wiring import CARRIER, Booleans, Floats, Integers, Wiring

LONG_SECONDS = 600.0  # records of more than that are read more rarely, as often in all
_Place = tuple[str, int | None, int | None, int | None]  # metric, priority, queue, VLAN


@dataclass(frozen=True, slots=True)
class _Block:
    """Series of one metric: ``values`` (series, samples); ``owners`` (series,)."""

    owners: Integers
    values: Floats
    peers: Sequence[str] | None


class Readings:
    """Every 5 to 15 s a reading of each device, one device after the other.

    An owner of series is an RNIC, a switch port, or a switch itself (port empty): ``rnics``, ``ports`` and ``switches``
    are their numbers, ``far`` (RNICs and ports,) the number of the other end of each one's cable, -1 where nobody
    polls it. ``owner_times`` (owners, samples) in seconds since the epoch.
    """

    def __init__(self, draw: np.random.Generator, wiring: Wiring, begin: float, end: float) -> None:
        self.draw = draw
        self.period = float(draw.choice([5.0, 10.0, 10.0, 15.0])) * max(1.0, (end - begin) / LONG_SECONDS)
        ticks = np.arange(begin + draw.random() * 2, end, self.period)
        switches = [each.name for each in wiring.topology.switches if each.tier != CARRIER]  # nobody polls a provider's
        nodes = {name: number for number, name in enumerate([*wiring.hosts, *switches])}
        times = ticks + draw.uniform(0.0, min(2.0, self.period / 4), (len(nodes), 1))
        ends = [*wiring.rnics[: wiring.computing], *(port for port in wiring.ports if split_port(port)[0] in nodes)]
        self._owners = [*map(split_port, ends), *((name, "") for name in switches)]
        self._number = {owner: number for number, owner in enumerate(self._owners)}
        self._node = np.array([nodes[node] for node, _ in self._owners])
        self._nodes = nodes
        self.owner_times = times[self._node]
        self._end = end
        self.rnics = np.arange(wiring.computing)
        self.ports = np.arange(wiring.computing, len(ends))
        self.switches = np.arange(len(ends), len(self._owners))
        self.far = np.full(len(ends), -1)
        for a, b in wiring.ends:
            pair = [self._number.get(split_port(each), -1) for each in (a, b)]
            for own, other in (pair, pair[::-1]):
                if own >= 0:
                    self.far[own] = other
        self._blocks: dict[_Place, _Block] = {}

    @property
    def samples(self) -> int:
        return int(self.owner_times.shape[1])

    def number(self, node: str, port: str = "") -> int:
        return self._number[node, port]

    # ---- series

    def add(
        self,
        metric: str,
        owners: Integers,
        values: Floats,
        *,
        priority: int | None = None,
        queue: int | None = None,
        vlan: int | None = None,
        peers: Sequence[str] | None = None,
    ) -> None:
        """Series of a metric: ``values`` is broadcast to (owners, samples)."""
        whole = np.array(np.broadcast_to(values, (owners.size, self.samples)), dtype=float)
        self._blocks[metric, priority, queue, vlan] = _Block(owners, whole, peers)

    def grow(self, metric: str, owners: Integers, grown: Floats, **place: int | None) -> None:
        """A counter, from what each reading's interval adds; it started long ago."""
        whole = np.broadcast_to(grown, (owners.size, self.samples))
        past = np.maximum(whole.mean(axis=1, keepdims=True), 0.01) * 1e3
        start = np.floor(self.draw.exponential(1.0, (owners.size, 1)) * past)
        self.add(metric, owners, start + np.cumsum(whole, axis=1), **place)  # type: ignore[arg-type]

    def arrivals(self, owners: Integers, rate: Floats | float) -> Floats:
        """How many independent events each interval holds at ``rate`` per second, broadcast to (owners, samples)."""
        expected = np.broadcast_to(np.asarray(rate, float) * self.period, (owners.size, self.samples))
        counts = np.zeros(expected.shape)
        some: Booleans = np.logical_or.reduce(expected, axis=1)
        if some.any():
            counts[some] = self.draw.poisson(expected[some])
        return counts

    # ---- what a failure does to them

    def tell(self, story: Story) -> None:
        for port, window in story.frozen:
            self._freeze(self._number[split_port(port)], window)
        for event in story.events:
            self._happen(event)
        for node, port, moment in story.resets:
            self._reset(self._number[node, port], moment)

    def _happen(self, event: Event) -> None:
        owner = self._number[event.node, event.port]
        block = self._blocks[event.metric, event.priority, event.queue, event.vlan]
        rows = np.flatnonzero(block.owners == owner)
        if block.peers is not None:
            rows = np.array([row for row in rows.tolist() if block.peers[row] == event.peer])
        values, times = block.values[rows[0]], self.owner_times[owner]
        for since, until in event.windows:
            if event.level is not None:
                values[(times >= since) & (times < until)] = event.level
                continue
            grown = event.rate * np.clip(np.minimum(times, until) - since, 0.0, None)
            values += grown if "seconds" in event.metric else np.floor(grown)

    def _counters_of(self, owner: int) -> list[Floats]:
        """The values (samples,) of every counter of an owner, to be changed in place."""
        return [
            block.values[row]
            for (metric, *_), block in self._blocks.items()
            if is_counter(metric)
            for row in np.flatnonzero(block.owners == owner).tolist()
        ]

    def _freeze(self, owner: int, window: Interval) -> None:
        times = self.owner_times[owner]
        still = (times >= window[0]) & (times < window[1])
        for values in self._counters_of(owner):
            steps = np.diff(values, prepend=values[0])
            steps[still] = 0.0
            values[:] = values[0] + np.cumsum(steps)

    def _reset(self, owner: int, moment: float) -> None:
        after = np.flatnonzero(self.owner_times[owner] >= moment)
        if after.size:
            for values in self._counters_of(owner):
                values[after] -= values[max(int(after[0]) - 1, 0)]

    # ---- rows

    def _read(self, story: Story) -> Booleans:
        """(owners, samples): what is read. A device that is gone has no series but that of its poller."""
        read: Booleans = self.owner_times <= self._end
        for node, port, (since, until) in story.silent:
            own = [self._number[node, port]] if port else np.flatnonzero(self._node == self._nodes[node])
            read[own] &= ~((self.owner_times[own] >= since) & (self.owner_times[own] < until))
        return read

    def table(self, story: Story) -> pa.Table:
        """All readings as counter samples."""
        places, blocks = list(self._blocks), list(self._blocks.values())
        owners = np.concatenate([block.owners for block in blocks])
        place = np.repeat(np.arange(len(blocks)), [block.owners.size for block in blocks])
        read = self._read(story)[owners]
        read[place == places.index((SWITCH_REACHABLE.name, None, None, None))] = True
        kept = np.flatnonzero(read.ravel())
        series = kept // self.samples
        owner, number = pa.array(owners[series]), pa.array(place[series])
        absent: list[str | None] = [None]
        peers = [peer for block in blocks for peer in (block.peers or absent * block.owners.size)]
        metric, priority, queue, vlan = zip(*places, strict=True)
        return pa.table(
            {
                "time": self.owner_times[owners].ravel()[kept],
                "metric": pa.array(metric).take(number),
                "node": pa.array([node for node, _ in self._owners]).take(owner),
                "port": pa.array([port or None for _, port in self._owners], pa.string()).take(owner),
                "priority": pa.array(priority, pa.int64()).take(number),
                "queue": pa.array(queue, pa.int64()).take(number),
                "vlan": pa.array(vlan, pa.int64()).take(number),
                "peer": pa.array(peers, pa.string()).take(pa.array(series)),
                "value": np.round(np.concatenate([block.values for block in blocks]).ravel()[kept], 6),
            }
        )
