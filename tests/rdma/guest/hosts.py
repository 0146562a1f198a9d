"""The RDMA process of a host, as the exporter runs it, for tests in the guest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from exporter.child import Child
from exporter.contracts.catalogue import PATH, RDMA, Metric
from exporter.contracts.plan import Plan, Target
from exporter.probing.settings import RESULT_CAPACITY
from exporter.rdma.settings import RdmaSettings, rdma_tables
from exporter.results import Result, ResultRing
from exporter.store import Store
from lab.guest.network import Port

TRAFFIC_CLASS = 26 << 2 | 2
SENT, LOST = "fabric_path_probes_sent_total", "fabric_path_probes_lost_total"
RTT, LAST_REPLY = "fabric_path_rtt_seconds", "fabric_path_last_reply_timestamp_seconds"


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.02)


def target(
    near: Port, far: Port, source_port: int = 50_000, period: float = 0.01, traffic_class: int = TRAFFIC_CLASS
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
        active=True,
    )


class Host:
    """One host with these ports: ``exporter.rdma.process``, its memory and its pipe."""

    def __init__(self, *ports: Port, name: str = "host", timeout_seconds: float = 0.3, max_paths: int = 512) -> None:
        self.store = Store(rdma_tables(max_paths, len(ports)))
        self._results = ResultRing(RESULT_CAPACITY)
        settings = RdmaSettings(
            host=name,
            rnics={port.device: port.address for port in ports},
            key=b"k" * 32,
            timeout_seconds=timeout_seconds,
            max_paths=max_paths,
            responder_packets_per_second=1e6,
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
        self._generation += 1
        plan = Plan(
            version=1,
            job="j",
            job_uid=None,
            phase="skeleton",
            generation=self._generation,
            expires=9e9,
            targets=tuple(targets),
        )
        self.process.tell(msgspec.msgpack.encode(plan))

    def paths(self) -> dict[str, dict[str, float]]:
        """{path: {metric: value}}; what is absent is not there."""
        return {row.labels[0]: _values(PATH.metrics, row.values) for row in self.store.read(PATH)}

    def total(self, name: str) -> float:
        return sum(values.get(name, 0) for values in self.paths().values())

    def rnics(self) -> dict[str, dict[str, float]]:
        return {row.labels[1]: _values(RDMA.metrics, row.values) for row in self.store.read(RDMA)}

    def results(self) -> list[Result]:
        return self._results.read(0)[0]

    def up(self) -> bool:
        rnics = self.rnics()
        return bool(rnics) and all(values["fabric_rdma_up"] for values in rnics.values())

    def answers(self, more: int = 20) -> None:
        """Wait for so many answered probes more."""
        before = self.answered()
        until(lambda: self.answered() >= before + more)

    def answered(self) -> int:
        return sum(result.outcome == 1 and result.rtt_ns > 0 for result in self.results())


def _values(metrics: Sequence[Metric], values: Sequence[float]) -> dict[str, float]:
    return {metric.name: value for metric, value in zip(metrics, values, strict=True) if not math.isnan(value)}
