"""The RNICs of a host and the RDMA paths of a plan."""

from __future__ import annotations

import secrets
import socket
import time

import msgspec

from exporter.contracts.catalogue import PATH, RDMA, RTT_TABLE
from exporter.contracts.plan import Plan, Target
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import Codec
from exporter.probing.paths import Path
from exporter.probing.phase import phases
from exporter.probing.pipe import ControlPipe
from exporter.probing.responder import Streams
from exporter.rdma.rnic import RdmaRnic, Shared
from exporter.rdma.settings import RdmaSettings
from exporter.results import ResultRing
from exporter.store import RowWriter, Store

_CHECK_SECONDS = 1.0


class RdmaHost:
    """Obeys the plans that come down the pipe ``control``, for targets of type ``rdma``, until it closes."""

    def __init__(self, settings: RdmaSettings, store: Store, results: ResultRing, control: socket.socket) -> None:
        store.clear()
        self._settings = settings
        self._results = results
        self._rows = store.writer(PATH)
        self._histograms = store.writer(RTT_TABLE)
        self._histogram_rows: dict[tuple[str, ...], RowWriter] = {}
        self._loop = Loop()
        devices = store.writer(RDMA)
        shared = Shared(
            self._loop,
            Codec(settings.key),
            time.time_ns(),
            Streams(clock=self._loop.clock),
            SourceLimit(settings.responder_packets_per_second, clock=self._loop.clock),
            settings.timeout_seconds,
            port=settings.port,
        )
        self._rnics = {
            address: RdmaRnic(name, address, shared, devices.add((settings.host, name)))
            for name, address in settings.rnics.items()
        }
        self._paths: dict[str, Path] = {}
        self._check()
        self._loop.watch(ControlPipe(self._loop, control, self._obey))

    def run(self) -> None:
        try:
            self._loop.run()
        finally:
            for rnic in self._rnics.values():
                rnic.close()

    def _check(self) -> None:
        for rnic in self._rnics.values():
            rnic.check()
        self._loop.after(_CHECK_SECONDS, self._check)

    def _obey(self, message: bytes) -> None:
        """Probe what the plan says: paths that stay keep their state, paths that left vanish."""
        plan = msgspec.msgpack.decode(message, type=Plan)
        wanted = {t.path: t for t in plan.targets if t.probe == "rdma" and t.source_address in self._rnics}
        before, self._paths = self._paths, {}
        for name, target in wanted.items():
            path = before.get(name)
            if path is not None and _same_messages(path.target, target):
                path.follow(target, self._histogram(target))
                self._paths[name] = path
        gone = [path for name, path in before.items() if name not in self._paths]
        place = phases(list(wanted.values()))
        for name, target in wanted.items():
            if name not in self._paths:
                row = self._rows.add(self._labels(target))
                self._paths[name] = Path(target, secrets.randbits(64), row, self._histogram(target), self._results)
        for address, rnic in self._rnics.items():
            own = (path for path in self._paths.values() if path.target.source_address == address)
            rnic.follow({path: place[path.target.path] for path in own})
        for path in gone:
            self._rows.remove(path.row)

    def _labels(self, target: Target) -> tuple[str, ...]:
        return (
            target.path,
            target.source_host or self._settings.host,
            target.source_rnic or self._rnics[target.source_address].name,
            target.destination_host or "",
            target.destination_rnic or "",
            target.probe,
            target.source_address,
            str(target.source_ports[0]),
            target.destination_address,
            str(ROCE_PORT),
            str(target.traffic_class),
        )

    def _histogram(self, target: Target) -> RowWriter:
        labels = (self._settings.host, self._rnics[target.source_address].name, target.role, target.probe)
        row = self._histogram_rows.get(labels)
        if row is None:
            row = self._histogram_rows[labels] = self._histograms.add(labels)
        return row


ROCE_PORT = 4791
"""UDP destination port of RoCEv2 (InfiniBand Architecture, annex A17.3)."""


def _same_messages(one: Target, other: Target) -> bool:
    def key(target: Target) -> tuple[object, ...]:
        return (
            target.source_address,
            target.destination_address,
            target.source_ports,
            target.traffic_class,
            target.period_seconds,
        )

    return key(one) == key(other)
