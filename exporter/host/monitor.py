"""Reads this host's RNICs at a steady step into the metric table and the throughput rings."""

from __future__ import annotations

import math
import time
from collections.abc import Container, Sequence

from exporter.config import Throughput
from exporter.contracts.catalogue import RNIC, RNIC_MTU, RNIC_RECEIVE, RNIC_TRANSMIT, RNIC_UP
from exporter.contracts.rnic_counters import (
    BYTES_TIME,
    COMBINED_RECEIVE,
    COMBINED_TRANSMIT,
    RNIC_COVERAGE_TABLE,
    RNIC_HARDWARE,
)
from exporter.contracts.topology import Rnic
from exporter.host.netdev import NetdevReading, read_bytes, read_netdev
from exporter.host.ring import Sample
from exporter.host.throughput import Read, Rings
from exporter.store import RowWriter, Store

_BYTES = [RNIC_HARDWARE.metrics.index(metric) for metric in (BYTES_TIME, COMBINED_RECEIVE, COMBINED_TRANSMIT)]


class RnicMonitor:
    def __init__(self, host: str, rnics: Sequence[Rnic], settings: Throughput, sysfs: str, store: Store) -> None:
        self._sysfs = sysfs
        self._counters: Store | None = None
        self._netdevs = {rnic.name: rnic.netdev for rnic in rnics if rnic.netdev}
        self.rings = Rings(self.names, settings.step_seconds, int(settings.retention_seconds / settings.step_seconds))
        writer = store.writer(RNIC)
        self._column = {metric: writer.column(metric.name) for metric in RNIC.metrics}
        self._rows = {name: writer.add((host, name)) for name in self._netdevs}

    @property
    def names(self) -> list[str]:
        """RNICs that have a network device."""
        return list(self._netdevs)

    def follow(self, counters: Store) -> None:
        """Prefer what the RNICs themselves have counted: RDMA passes by the counters of most network devices."""
        self._counters = counters

    def sample(self, now: float) -> None:
        """Read every RNIC once; ``now`` is seconds since the epoch."""
        read = self._counted()
        unknown = self._unknown(read)
        for name, netdev in self._netdevs.items():
            reading = read_netdev(netdev, self._sysfs)
            self._put(self._rows[name], reading)
            if (
                name not in read
                and name not in unknown
                and reading.receive_bytes is not None
                and reading.transmit_bytes is not None
            ):
                read[name] = Read(Sample(now, reading.receive_bytes, reading.transmit_bytes), by_rnic=False)
        self.rings.add(read)

    def read(self, pause: float) -> dict[str, Read]:
        """The byte counters of every RNIC, and nothing else: of network devices now, of RNICs in ``pause`` seconds."""
        found = {}
        for name, netdev in self._netdevs.items():
            now, counted = time.time(), read_bytes(netdev, self._sysfs)
            if counted is not None:
                found[name] = Read(Sample(now, *counted), by_rnic=False)
        if self._counters is not None:
            time.sleep(pause)
        own = self._counted()
        unknown = self._unknown(own)
        read = {name: one for name, one in found.items() if name not in unknown} | own
        self.rings.add(read)  # the usual ones take what is at their instants
        return read

    def _unknown(self, known: Container[str]) -> set[str]:
        """RNICs whose own counters cannot be read: what passes by the network device would look like silence."""
        if self._counters is None or all(name in known for name in self._netdevs):
            return set()
        rows = self._counters.read(RNIC_COVERAGE_TABLE)
        return {row.labels[1] for row in rows if row.labels[2:] == ("bytes", "stale")}

    def _counted(self) -> dict[str, Read]:
        """Bytes of RDMA and of network devices together, of RNICs that tell."""
        found = {}
        for row in self._counters.read(RNIC_HARDWARE) if self._counters is not None else ():
            at, received, sent = (row.values[column] for column in _BYTES)
            if not math.isnan(at) and not math.isnan(received) and not math.isnan(sent):
                found[row.labels[1]] = Read(Sample(at, int(received), int(sent)), by_rnic=True)
        return {name: read for name, read in found.items() if name in self._netdevs}

    def _put(self, row: RowWriter, reading: NetdevReading) -> None:
        values = {
            RNIC_RECEIVE: reading.receive_bytes,
            RNIC_TRANSMIT: reading.transmit_bytes,
            RNIC_MTU: reading.mtu_bytes,
            RNIC_UP: reading.up,
        }
        row.begin()
        for metric, value in values.items():
            row.set(self._column[metric], float("nan") if value is None else float(value))
        row.end()
