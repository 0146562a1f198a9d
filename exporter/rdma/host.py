"""The RNICs of a host and the RDMA paths of a plan."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Sequence, Set
from functools import partial

import msgspec

from exporter.contracts.catalogue import PATH, RDMA, RDMA_INFO_TABLE, RDMA_WAITING, RTT_TABLE
from exporter.contracts.plan import ROCE_PORT, Target
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import Codec
from exporter.probing.paths import Path
from exporter.probing.phase import phases
from exporter.probing.pipe import ControlPipe
from exporter.probing.registration import Pair
from exporter.probing.responder import Streams
from exporter.rdma.reliable_prober import Tables
from exporter.rdma.reliable_rnic import ReliableRnic
from exporter.rdma.rnic import RdmaRnic, Shared
from exporter.rdma.settings import Orders, RdmaSettings
from exporter.rdma.tracing import RoceTraces
from exporter.rdma.waiting import Waiting
from exporter.results import ResultRing
from exporter.store import RowWriter, Store, StoreFullError

_CHECK_SECONDS = 1.0
_WAITING = RDMA.metrics.index(RDMA_WAITING)


class RdmaHost:
    """Obeys the plans that come down the pipe ``control``, for targets of type ``rdma``, until it closes."""

    def __init__(
        self, settings: RdmaSettings, store: Store, results: ResultRing, control: socket.socket, loop: Loop
    ) -> None:
        store.clear()
        self._settings = settings
        self._results = results
        self._rows = store.writer(PATH)
        self._histograms = store.writer(RTT_TABLE)
        self._histogram_rows: dict[tuple[str, ...], RowWriter] = {}
        self._loop = loop
        devices = store.writer(RDMA)
        self._device_rows = {a: devices.add((settings.host, name)) for name, a in settings.rnics.items()}
        self._traces = RoceTraces(self._loop, settings.tracing, store) if settings.tracing is not None else None
        self._infos = store.writer(RDMA_INFO_TABLE)
        self._info: dict[str, tuple[str, RowWriter]] = {}  # RNIC -> who stamps, and the row that says so
        shared = Shared(
            self._loop,
            Codec(settings.key),
            Streams(clock=self._now),
            SourceLimit(settings.responder_packets_per_second, clock=self._now),
            settings.timeout_seconds,
            port=settings.port,
            traces=self._traces,
        )
        tables = Tables(store) if settings.reliable is not None else None
        self._rnics = {
            address: RdmaRnic(
                name,
                address,
                shared,
                self._device_rows[address],
                partial(self._inform, name),
                self._on_answer,
                self._on_asked,
                reliable=self._reliable(name, shared, tables),
            )
            for name, address in settings.rnics.items()
        }
        self._paths: dict[str, Path] = {}
        self._place: dict[str, float] = {}
        self._waiting = Waiting(self._loop, self._ask, self._start)
        for rnic in self._rnics.values():
            rnic.check()
        if self._rnics:
            self._check(0)
        self._loop.watch(ControlPipe(self._loop, control, self._obey))

    def run(self) -> None:
        try:
            self._loop.run()
        finally:
            for rnic in self._rnics.values():
                rnic.close()

    def _now(self) -> int:
        return self._loop.now_ns

    def _inform(self, rnic: str, timestamps: str) -> None:
        before, row = self._info.pop(rnic, ("", None))
        if row is not None and before != timestamps:
            self._infos.remove(row)
            row = None
        if row is None:
            row = self._infos.add((self._settings.host, rnic, timestamps))
            row.set(0, 1)
        self._info[rnic] = (timestamps, row)

    def _check(self, number: int) -> None:
        """Look at one RNIC, and in its turn at the next: to look takes time, in which replies wait."""
        list(self._rnics.values())[number].check()
        self._loop.after(_CHECK_SECONDS / len(self._rnics), lambda: self._check((number + 1) % len(self._rnics)))

    def _obey(self, message: bytes) -> None:
        """Probe what the plans say: paths that stay keep their state, paths that left vanish.

        An inactive target waits until its destination has answered an introduction.
        """
        orders = msgspec.msgpack.decode(message, type=Orders)
        if self._traces is not None:
            self._traces.follow(orders.ways)
        wanted = {t.path: t for t in orders.targets if t.probe == "rdma" and t.source_address in self._rnics}
        before, self._paths = self._paths, {}
        for name, target in wanted.items():
            path = before.get(name)
            if path is not None and _same_messages(path.target, target):
                path.follow(target, self._histogram(target))
                self._paths[name] = path
        gone = [path for name, path in before.items() if name not in self._paths]
        self._place = phases(list(wanted.values()))
        self._follow(self._rnics.keys())
        for path in gone:
            self._rows.remove(path.row)
        new = [target for name, target in wanted.items() if name not in self._paths]
        self._start([target for target in new if target.active])
        self._connect(self._rnics.keys())
        self._waiting.expect([target for target in new if not target.active])
        self._count_waiting(self._rnics.keys())
        self._release_histograms()

    def _start(self, targets: Sequence[Target]) -> None:
        """Probe these as well."""
        for target in targets:
            try:
                row = self._rows.add(self._labels(target))
            except (StoreFullError, ValueError) as error:
                print(f"cannot probe {target.path}: {error}", file=sys.stderr, flush=True)
                continue
            path = Path(target, secrets.randbits(64), row, self._histogram(target), self._results)
            self._paths[target.path] = path
        addresses = {target.source_address for target in targets}
        self._follow(addresses)
        self._connect(addresses)
        self._count_waiting(addresses)

    def _connect(self, addresses: Set[str]) -> None:
        """Once the paths of a plan are all there: connections outlive those that are probed otherwise from now on."""
        for address in addresses:
            own = (path.target for path in self._paths.values() if path.target.source_address == address)
            self._rnics[address].connect(own)

    def _follow(self, addresses: Set[str]) -> None:
        for address, rnic in self._rnics.items():
            if address not in addresses:
                continue
            own = (path for path in self._paths.values() if path.target.source_address == address)
            rnic.follow({path: self._place[path.target.path] for path in own})

    def _count_waiting(self, addresses: Set[str]) -> None:
        for address in addresses:
            self._device_rows[address].set(_WAITING, self._waiting.targets_of(address))

    def _ask(self, pair: Pair, traffic_class: int) -> None:
        self._rnics[pair[0]].ask(pair[1], traffic_class)

    def _on_answer(self, source: str, destination: str) -> None:
        self._waiting.on_answer((source, destination))

    def _on_asked(self, source: str, destination: str) -> None:
        self._waiting.on_asked((source, destination))

    def _reliable(self, rnic: str, shared: Shared, tables: Tables | None) -> ReliableRnic | None:
        settings = self._settings.reliable
        if settings is None or tables is None:
            return None
        counters = tables.serving.add((self._settings.host, rnic))
        loop, codec, limit = shared.loop, shared.codec, shared.limit
        return ReliableRnic(rnic, loop, codec, limit, settings, self._connection_labels, tables, counters)

    def _connection_labels(self, target: Target) -> tuple[str, ...]:
        return (*self._labels(target)[1:5], target.destination_address, str(target.traffic_class >> 2))

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
        labels = self._histogram_labels(target)
        row = self._histogram_rows.get(labels)
        if row is None:
            row = self._histogram_rows[labels] = self._histograms.add(labels)
        return row

    def _histogram_labels(self, target: Target) -> tuple[str, ...]:
        return (self._settings.host, self._rnics[target.source_address].name, target.role, target.probe)

    def _release_histograms(self) -> None:
        """Histograms that no path books to any more vanish."""
        used = {self._histogram_labels(path.target) for path in self._paths.values()}
        for labels in self._histogram_rows.keys() - used:
            self._histograms.remove(self._histogram_rows.pop(labels))


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
