"""Traces of RoCE flows: with the addresses and ports of the device's own packets, up to the last switch on their way.

The far device says nothing to a packet that is no RDMA, and may count it as damaged (mlx5: ``rx_icrc_encapsulated``).
So a trace sends none beyond the switch that the topology has before it: where that one answers, the route is whole.
What is sent is an ordinary datagram from the UDP source port that the device puts into its own packets.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterable
from pathlib import Path as FilePath

from exporter.contracts.catalogue import (
    FAILING_TRACE,
    RDMA_SPRAYED,
    RDMA_TRACES,
    RDMA_TRACES_DELAYED,
    RDMA_TRACES_INCOMPLETE,
    RDMA_TRACING,
    ROUTE,
    ROUTE_CHANGE,
)
from exporter.probing.loop import Loop
from exporter.probing.paths import Flow, Path
from exporter.probing.sockets import IcmpError, bind_to_device, error_queue, open_flow, receive, send_options
from exporter.probing.tracing.changes import RouteChanges
from exporter.probing.tracing.tracer import LastSwitch, TraceColumns, Tracer
from exporter.probing.tracing.walk import Walk
from exporter.rdma.ports import SYSFS
from exporter.rdma.settings import TraceSettings, Way
from exporter.store import Store

_COLUMNS = TraceColumns(
    *map(
        RDMA_TRACING.metrics.index,
        (RDMA_TRACES, RDMA_TRACES_INCOMPLETE, RDMA_TRACES_DELAYED, RDMA_SPRAYED),
    )
)
_BATCH = 8
_HEADER = struct.Struct("!BBHII")
_OPCODE, _TRANSPORT_VERSION = 0xFF, 0x0F
"""What every device drops at the first look: a base transport header of a version that there is none of."""
_RXE_SHIFT = 32 - 14
_GOLDEN_RATIO_32 = 0x61C88647


def source_port(device: str, planned: int, queue_pair: int, sysfs: FilePath = SYSFS) -> int | None:
    """From which UDP port ``device`` sends datagrams of ``queue_pair`` whose flow label stands for ``planned``.

    mlx5 derives it from the flow label (rdma_flow_label_to_udp_sport, include/rdma/ib_verbs.h), soft-RoCE from the
    queue pair's number (rxe_qp_init_req). None: of other drivers nobody knows, and a trace of another flow must not
    vote.
    """
    root = sysfs / device
    if (root / "parent").is_file():  # an attribute that rxe alone has; its "device", if any, is that of its interface
        hashed = (queue_pair * _GOLDEN_RATIO_32 & 0xFFFFFFFF) >> _RXE_SHIFT  # hash_32(), linux/hash.h
        return 0xC000 + hashed
    driver = (root / "device" / "driver").resolve().name
    return 0xC000 | planned & 0x3FFF if driver.partition(".")[0] == "mlx5_core" else None


class RoceCarrier:
    """Sends the packets of a flow's traces from ``port``, by the interface of the RNIC."""

    def __init__(self, loop: Loop, flow: Flow, port: int, netdev: str, traffic_class: int) -> None:
        self._loop = loop
        self._flow = flow
        self._port = port
        self._netdev = netdev
        self._traffic_class = traffic_class
        self._socket: socket.socket | None = None
        self._walk: Walk | None = None
        self._number = random.getrandbits(32)

    def busy(self) -> float:
        return 0.0

    def ask(self, walk: Walk, hop_limit: int) -> None:
        self.end()
        sender = open_flow(self._flow.source_address, self._port, timed=False)
        self._number = (self._number + 1) & 0xFFFFFFFF
        packet = _HEADER.pack(_OPCODE, _TRANSPORT_VERSION, 0, self._number, 0)
        try:
            bind_to_device(sender, self._netdev)
            sender.sendmsg([packet], send_options(self._traffic_class, hop_limit), 0, self._flow.destination)
        except OSError:
            sender.close()
            raise
        self._socket, self._walk = sender, walk
        self._loop.watch(self)

    def end(self) -> None:
        self._walk = None
        if self._socket is not None:
            self._loop.forget(self)
            self._socket.close()
            self._socket = None

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def on_error(self) -> None:
        if self._socket is None:
            return
        for item in error_queue(self._socket, _BATCH):
            if isinstance(item, IcmpError) and item.destination == self._flow.destination and self._quotes(item.quoted):
                self._on_icmp(item)
                return

    def _quotes(self, quoted: bytes) -> bool:
        """Whether an ICMP error may be about our last packet: a router may quote none of it (RFC 792)."""
        return len(quoted) < _HEADER.size or _HEADER.unpack_from(quoted)[:4] == (
            _OPCODE,
            _TRANSPORT_VERSION,
            0,
            self._number,
        )

    def _on_icmp(self, error: IcmpError) -> None:
        walk = self._walk
        if walk is None or error.kind == "too_big":
            return
        self.end()
        if error.kind == "time_exceeded":
            walk.on_hop(error.offender)
        elif error.offender == self._flow.destination_address:
            walk.on_destination()  # no RoCE device there any more, but the way is known
        else:
            walk.on_unreachable(error.offender)

    def on_input(self) -> None:
        """Nobody answers but by ICMP; what else arrives is thrown away."""
        if self._socket is not None:
            for _ in receive(self._socket, _BATCH):
                pass

    def on_output(self) -> None:
        """Never asked for."""


class RoceTraces:
    """The tracer of a host's RDMA paths: which of them are traced, and how far."""

    def __init__(self, loop: Loop, settings: TraceSettings, store: Store, sysfs: FilePath = SYSFS) -> None:
        self._loop = loop
        self._sysfs = sysfs
        self._ends: dict[tuple[str, str], LastSwitch] = {}
        self._traced: set[Path] = set()
        self._tracer = Tracer(
            loop,
            store.writer(ROUTE),
            store.writer(FAILING_TRACE),
            store.writer(RDMA_TRACING).add(()),
            period_seconds=settings.period_seconds,
            max_hops=settings.max_hops,
            packets_per_second_per_switch=settings.packets_per_second_per_switch,
            switches=settings.switches,
            spraying=settings.spraying,
            changes=RouteChanges(loop, store.writer(ROUTE_CHANGE)),
            columns=_COLUMNS,
        )

    def follow(self, ways: Iterable[Way]) -> None:
        """What the topology says of the ways of the plan's paths; a path without one is not traced."""
        self._ends = {
            (way.source_address, way.destination_address): LastSwitch(way.hops, frozenset(way.last_addresses))
            for way in ways
        }

    def add(self, path: Path, device: str, netdev: str, queue_pair: int) -> None:
        """Trace ``path``, probed from this queue pair, if it is known how."""
        flow = path.flow
        end = self._ends.get((flow.source_address, flow.destination_address))
        port = source_port(device, flow.source_port, queue_pair, self._sysfs)
        if end is None or port is None or ":" in flow.destination_address:
            return
        carrier = RoceCarrier(self._loop, flow, port, netdev, path.target.traffic_class)
        self._tracer.add(path, carrier, end)
        self._traced.add(path)

    def remove(self, path: Path) -> None:
        if path in self._traced:
            self._traced.remove(path)
            self._tracer.remove(path)
