"""Reads this host's RNICs at a steady step into the metric table and the throughput rings."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from exporter.config import Throughput, Workload
from exporter.contracts.catalogue import RNIC, RNIC_MTU, RNIC_RECEIVE, RNIC_TRANSMIT, RNIC_UP
from exporter.contracts.rnic_counters import BYTES_TIME, COMBINED_RECEIVE, COMBINED_TRANSMIT, RNIC_HARDWARE
from exporter.contracts.tables import ThroughputRow
from exporter.contracts.topology import Rnic
from exporter.host.netdev import NetdevReading, read_netdev
from exporter.host.ring import Sample, ThroughputRing
from exporter.store import RowWriter, Store

_BYTES = [RNIC_HARDWARE.metrics.index(metric) for metric in (BYTES_TIME, COMBINED_RECEIVE, COMBINED_TRANSMIT)]
_COLUMNS = ThroughputRow.__struct_fields__


class RnicMonitor:
    def __init__(self, host: str, rnics: Sequence[Rnic], settings: Throughput, sysfs: str, store: Store) -> None:
        self._host = host
        self._sysfs = sysfs
        self._counters: Store | None = None
        self._follows_rnic: set[str] = set()
        self._last: dict[str, float] = {}
        self._rnics = [rnic for rnic in rnics if rnic.netdev]
        capacity = int(settings.retention_seconds / settings.step_seconds)
        self.rings = {rnic.name: ThroughputRing(capacity) for rnic in self._rnics}
        writer = store.writer(RNIC)
        self._column = {metric: writer.column(metric.name) for metric in RNIC.metrics}
        self._rows = {rnic.name: writer.add((host, rnic.name)) for rnic in self._rnics}

    def follow(self, counters: Store) -> None:
        """Prefer what the RNICs themselves have counted: RDMA passes by the counters of most network devices."""
        self._counters = counters

    def sample(self, now: float) -> None:
        """Read every RNIC once; ``now`` is seconds since the epoch."""
        counted = self._counted()
        for rnic in self._rnics:
            reading = read_netdev(rnic.netdev or "", self._sysfs)
            self._put(self._rows[rnic.name], reading)
            own = counted.get(rnic.name)
            if own is not None:
                if rnic.name not in self._follows_rnic:
                    self._follows_rnic.add(rnic.name)
                    self.rings[rnic.name].clear()
                if own.time != self._last.get(rnic.name):
                    self._last[rnic.name] = own.time
                    self.rings[rnic.name].append(own)
            elif rnic.name in self._follows_rnic:
                continue  # bytes without RDMA's would look like a counter that was reset
            elif reading.receive_bytes is not None and reading.transmit_bytes is not None:
                self.rings[rnic.name].append(Sample(now, reading.receive_bytes, reading.transmit_bytes))

    def _counted(self) -> dict[str, Sample]:
        """Bytes of RDMA and of network devices together, of RNICs that tell."""
        found = {}
        for row in self._counters.read(RNIC_HARDWARE) if self._counters is not None else ():
            time, received, sent = (row.values[column] for column in _BYTES)
            if not math.isnan(time) and not math.isnan(received) and not math.isnan(sent):
                found[row.labels[1]] = Sample(time, int(received), int(sent))
        return found

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

    def throughput_csv(self, workloads: Sequence[Workload], since: float) -> bytes:
        """The rings as the throughput contract; RNICs that no workload names are nobody's traffic."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for workload in workloads:
            rank = "" if workload.rank is None else workload.rank
            for name in workload.rnics:
                for rate in self.rings[name].rates(since) if name in self.rings else ():
                    writer.writerow(
                        (
                            f"{rate.time:.6f}",
                            workload.job,
                            self._host,
                            workload.container,
                            name,
                            f"{rate.transmit_bytes_per_second:.1f}",
                            f"{rate.receive_bytes_per_second:.1f}",
                            rank,
                        )
                    )
        return text.getvalue().encode()
