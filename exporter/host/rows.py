"""The rows of one RNIC's counters: written whole after a reading, gone while it cannot be read."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence

from exporter.contracts.metric import Metric
from exporter.contracts.rnic_counters import (
    GID_CHANGES,
    MTU_CHANGES,
    PORT_CHANGES,
    READ_DURATION,
    READ_FAILURES,
    READ_TIME,
    READS,
    RNIC_COVERAGE_TABLE,
    RNIC_DEVICE_TABLE,
    RNIC_DSCP_TABLE,
    RNIC_GID_TABLE,
    RNIC_HARDWARE,
    RNIC_PRIORITY,
    RNIC_READING,
    RNIC_VLAN_TABLE,
)
from exporter.host.device import Setup
from exporter.host.reading import SIGNALS, Reading
from exporter.host.settings import MOST_GIDS, MOST_VLANS
from exporter.store import RowWriter, Store, TableWriter

_HARDWARE = {metric: column for column, metric in enumerate(RNIC_HARDWARE.metrics)}
_READING = {metric: column for column, metric in enumerate(RNIC_READING.metrics)}


class Tables:
    """The writers of the tables that the RNICs share."""

    def __init__(self, store: Store) -> None:
        self.hardware = store.writer(RNIC_HARDWARE)
        self.priority = store.writer(RNIC_PRIORITY)
        self.reading = store.writer(RNIC_READING)
        self.device = store.writer(RNIC_DEVICE_TABLE)
        self.gid = store.writer(RNIC_GID_TABLE)
        self.vlan = store.writer(RNIC_VLAN_TABLE)
        self.dscp = store.writer(RNIC_DSCP_TABLE)
        self.coverage = store.writer(RNIC_COVERAGE_TABLE)


class _Set:
    """Rows of one table that come and go, of one value each."""

    def __init__(self, table: TableWriter) -> None:
        self._table = table
        self._rows: dict[tuple[str, ...], RowWriter] = {}

    def put(self, wanted: Mapping[tuple[str, ...], float]) -> None:
        """Have rows with these labels and values, and no others."""
        for labels in [labels for labels in self._rows if labels not in wanted]:
            self._table.remove(self._rows.pop(labels))
        for labels, value in wanted.items():
            row = self._rows.get(labels)
            if row is None:
                row = self._rows[labels] = self._table.add(labels)
            row.begin()
            row.set(0, value)
            row.end()

    def say(self, wanted: Iterable[tuple[str, ...]]) -> None:
        """Have rows with these labels, which say it all."""
        self.put(dict.fromkeys(wanted, 1.0))


class RnicRows:
    """What one RNIC tells, in the store."""

    def __init__(self, tables: Tables, host: str, rnic: str) -> None:
        self._tables = tables
        self._labels = (host, rnic)
        self._reading = tables.reading.add(self._labels)
        self._hardware: RowWriter | None = None
        self._priorities: dict[int, RowWriter] = {}
        self._device, self._gids, self._vlans = _Set(tables.device), _Set(tables.gid), _Set(tables.vlan)
        self._coverage, self._dscps = _Set(tables.coverage), _Set(tables.dscp)
        self._setup: Setup | None = None
        self._told: tuple[object, ...] | None = None

    def begin_reading(self) -> None:
        self._count(READS)

    def put(self, reading: Reading, seconds: float, now: float) -> None:
        """Write a whole reading that took ``seconds`` and ended ``now``, seconds since the epoch."""
        values = _array(reading.values, RNIC_HARDWARE.metrics)
        if self._hardware is None:
            self._hardware = self._tables.hardware.add(self._labels, values)
        else:
            self._hardware.put(values)
        for priority in [priority for priority in self._priorities if priority not in reading.priorities]:
            self._tables.priority.remove(self._priorities.pop(priority))
        for priority, own in reading.priorities.items():
            values, row = _array(own, RNIC_PRIORITY.metrics), self._priorities.get(priority)
            if row is None:
                self._priorities[priority] = self._tables.priority.add((*self._labels, str(priority)), values)
            else:
                row.put(values)
        self._say(reading)
        self._notice(reading.setup)
        self._reading.begin()
        self._reading.set(_READING[READ_DURATION], seconds)
        self._reading.set(_READING[READ_TIME], now)
        self._reading.end()

    def _say(self, reading: Reading) -> None:
        """Have the rows that are no numbers: they seldom change."""
        setup = reading.setup
        told = reading.device, setup.gids, setup.vlans, reading.of_dscp, reading.coverage
        if told == self._told:
            return
        self._told = told
        self._device.say([(*self._labels, *reading.device.labels)])
        self._gids.say(
            (*self._labels, str(gid.index), gid.address, gid.type, gid.netdev, gid.vlan)
            for gid in setup.gids[:MOST_GIDS]
        )
        self._vlans.say(
            (*self._labels, vlan.number, str(priority))
            for vlan in setup.vlans[:MOST_VLANS]
            for priority in vlan.priorities
        )
        self._dscps.put({(*self._labels, str(dscp)): priority for dscp, priority in reading.of_dscp.items()})
        self._coverage.say([(*self._labels, signal, state) for signal, state in reading.coverage.items()])

    def put_bytes(self, values: Mapping[Metric, float]) -> None:
        """Write bytes alone; nothing before the first whole reading."""
        if self._hardware is not None:
            self._hardware.begin()
            for metric, value in values.items():
                self._hardware.set(_HARDWARE[metric], value)
            self._hardware.end()

    def fail(self) -> None:
        """Take back what was counted: old values would look like health."""
        self._count(READ_FAILURES)
        if self._hardware is not None:
            self._tables.hardware.remove(self._hardware)
            self._hardware = None
        while self._priorities:
            self._tables.priority.remove(self._priorities.popitem()[1])
        self._told = None
        self._gids.say([])
        self._vlans.say([])
        self._dscps.say([])
        self._coverage.say([(*self._labels, signal, "stale") for signal in SIGNALS])

    def _notice(self, setup: Setup) -> None:
        """Count what changed since the last reading."""
        before, self._setup = self._setup, setup
        if before is None:
            return
        if before.gids != setup.gids:
            self._count(GID_CHANGES)
        if (before.mtu, before.active_mtu) != (setup.mtu, setup.active_mtu):
            self._count(MTU_CHANGES)
        if None not in (before.active, setup.active) and before.active != setup.active:
            self._count(PORT_CHANGES)

    def _count(self, metric: Metric) -> None:
        self._reading.begin()
        self._reading.add(_READING[metric])
        self._reading.end()


def _array(values: Mapping[Metric, float], metrics: Sequence[Metric]) -> array[float]:
    return array("d", [values.get(metric, math.nan) for metric in metrics])
