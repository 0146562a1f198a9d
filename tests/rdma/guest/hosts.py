"""The RDMA process of a host, as the exporter runs it, for tests in the guest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from exporter.child import Child
from exporter.contracts.catalogue import PATH, RDMA, RELIABLE, RELIABLE_FAILURE, RELIABLE_OPERATION, RELIABLE_SERVING
from exporter.contracts.fabric import Fabric
from exporter.contracts.metric import Metric
from exporter.contracts.plan import Target
from exporter.probing.settings import RESULT_CAPACITY
from exporter.rdma.settings import RdmaSettings, Reliable, TraceSettings, rdma_tables
from exporter.rdma.ways import orders
from exporter.results import Result, ResultRing
from exporter.store import Store
from lab.guest.network import Port

TRAFFIC_CLASS = 26 << 2 | 2
SENT, LOST = "fabric_path_probes_sent_total", "fabric_path_probes_lost_total"
RELIABLE_TABLES = (RELIABLE, RELIABLE_OPERATION, RELIABLE_FAILURE, RELIABLE_SERVING)
RTT, LAST_REPLY = "fabric_path_rtt_seconds", "fabric_path_last_reply_timestamp_seconds"

STARVED = "fabric_rdma_starved_probes_total"


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.02)


def target(
    near: Port,
    far: Port,
    source_port: int = 50_000,
    period: float = 0.01,
    traffic_class: int = TRAFFIC_CLASS,
    *,
    active: bool = True,
) -> Target:
    return Target(
        path=f"{near.device}>{far.device}/{source_port}",
        source=f"a/{near.device}",
        destination=f"b/{far.device}",
        probe="rdma",
        source_address=near.address,
        destination_address=far.address,
        source_ports=(source_port,),
        traffic_class=traffic_class,
        payload_bytes=64,
        period_seconds=period,
        active=active,
    )


class Host:
    """One host with these ports: ``exporter.rdma.process``, its memory and its pipe."""

    def __init__(
        self,
        *ports: Port,
        name: str = "host",
        timeout_seconds: float = 0.3,
        max_paths: int = 512,
        fabric: Fabric | None = None,
        reliable: Reliable | None = None,
    ) -> None:
        """Paths are traced in ``fabric``, where it is given."""
        self._fabric = fabric
        self.store = Store(rdma_tables(max_paths, len(ports), reliable=reliable is not None))
        self._results = ResultRing(RESULT_CAPACITY)
        settings = RdmaSettings(
            host=name,
            rnics={port.device: port.address for port in ports},
            key=b"k" * 32,
            timeout_seconds=timeout_seconds,
            max_paths=max_paths,
            responder_packets_per_second=1e6,
            tracing=TraceSettings(
                period_seconds=1.0, max_hops=8, packets_per_second_per_switch=1000.0, switches=fabric.switch_addresses
            )
            if fabric is not None
            else None,
            reliable=reliable,
        )
        descriptors = (self.store.descriptor, self._results.descriptor)
        self.process = Child("exporter.rdma.process", descriptors, msgspec.msgpack.encode(settings))
        self.process.tick(time.monotonic())
        self._generation = 0

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()

    def plan(self, targets: Iterable[Target]) -> None:
        self.process.tell(msgspec.msgpack.encode(orders(tuple(targets), self._fabric)))

    def paths(self) -> dict[str, dict[str, float]]:
        """{path: {metric: value}}; what is absent is not there."""
        return {row.labels[0]: _values(PATH.metrics, row.values) for row in self.store.read(PATH)}

    def total(self, name: str) -> float:
        return sum(values.get(name, 0) for values in self.paths().values())

    def rnics(self) -> dict[str, dict[str, float]]:
        return {row.labels[1]: _values(RDMA.metrics, row.values) for row in self.store.read(RDMA)}

    def connection(self, metric: Metric, *labels: str) -> float | None:
        return total(self.store, metric, *labels)

    def total_of_rnics(self, name: str) -> float:
        return sum(values.get(name, 0) for values in self.rnics().values())

    def results(self) -> list[Result]:
        return self._results.read(0)[0]

    def up(self) -> bool:
        rnics = self.rnics()
        return bool(rnics) and all(values.get("fabric_rdma_up") for values in rnics.values())

    def answers(self, more: int = 20) -> None:
        """Wait for so many answered probes more."""
        before = self.answered()
        until(lambda: self.answered() >= before + more)

    def answered(self) -> int:
        return sum(result.outcome == 1 and result.rtt_ns > 0 for result in self.results())


def _values(metrics: Sequence[Metric], values: Sequence[float]) -> dict[str, float]:
    return {metric.name: value for metric, value in zip(metrics, values, strict=True) if not math.isnan(value)}


def total(store: Store, metric: Metric, *labels: str) -> float | None:
    """Of reliable connections: the sum over rows that have these labels, wherever; None when there are none."""
    found = [
        row.values[table.metrics.index(metric)]
        for table in RELIABLE_TABLES
        if metric in table.metrics
        for row in store.read(table)
        if set(labels) <= set(row.labels)
    ]
    return sum(found) if found else None
