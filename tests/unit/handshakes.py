"""TCP probes from one loopback address to another: a path that is probed, and a responder in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import msgspec

from exporter.contracts.catalogue import PATH as PATH_TABLE
from exporter.contracts.catalogue import PROBER, PROBER_ANSWERED, PROBER_LIMITED, PROBER_REJECTED, RTT_TABLE
from exporter.probing.limits import SourceLimit
from exporter.probing.loop import Loop
from exporter.probing.packet import PACKET_BYTES, Codec
from exporter.probing.paths import Path
from exporter.probing.tcp.handshake import Handshake
from exporter.probing.tcp.responder import TcpResponder
from exporter.results import ResultRing
from exporter.store import RowWriter, Store
from tests.unit.test_plan_contract import TARGET

SOURCE, FAR = "127.0.0.2", "127.0.0.3"
CODEC = Codec(b"k" * 32)
TIMEOUT = 0.2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((SOURCE, 0))
        return int(probe.getsockname()[1])


class Probed:
    """A TCP path, probed one handshake at a time."""

    def __init__(self, port: int, payload: int = PACKET_BYTES, codec: Codec | None = CODEC) -> None:
        store = Store([(PATH_TABLE, 1), (RTT_TABLE, 1)])
        self.loop = Loop()
        self.row, histogram = store.writer(PATH_TABLE).add(("p",)), store.writer(RTT_TABLE).add(("h",))
        self.results = ResultRing(64)
        target = msgspec.structs.replace(
            TARGET,
            probe="tcp",
            source_address=SOURCE,
            destination_address=FAR,
            destination_port=port,
            source_ports=(free_port(),),
            payload_bytes=payload,
            traffic_class=104,
        )
        self.path = Path(target, 7, self.row, histogram, self.results)
        self.starved: list[bool] = []
        self._codec = codec

    def probe(self, timeout: float = TIMEOUT, during: Callable[[], None] = lambda: None) -> None:
        """Send one probe and run the loop until it has ended."""
        handshake = Handshake(self.loop, self.path, timeout, self.starved.append, self._codec)

        def look() -> None:
            if handshake.under_way:
                self.loop.after(0.01, look)
            else:
                self.loop.stop()

        during()
        look()
        self.loop._running = True
        self.loop.run()
        handshake.abandon()
        assert not self.loop._watched, "nothing is left behind"

    def __getitem__(self, name: str) -> float:
        names = [metric.otel_name.removeprefix("fabric.path.") for metric in PATH_TABLE.metrics]
        return self.row.get(names.index(name))

    @property
    def outcomes(self) -> list[int]:
        return [result.outcome for result in self.results.read(0)[0]]

    @property
    def booked(self) -> tuple[float, ...]:
        """(lost, refused, resets, SYNs sent again, segments sent again)."""
        names = ("probes.lost", "probes.refused", "tcp.resets", "tcp.syn.retransmits", "tcp.retransmits")
        return tuple(self[name] for name in names)


class Serving:
    """A responder of ours in a thread."""

    def __init__(self, epoch: int = 1, per_second: float = 1000, port: int = 0) -> None:
        self.counters: RowWriter = Store([(PROBER, 1)]).writer(PROBER).add(())
        self.loop = Loop()
        self.responder = TcpResponder(self.loop, CODEC, FAR, port, epoch, SourceLimit(per_second), self.counters)
        with socket.socket(fileno=socket.dup(self.responder.fileno())) as bound:
            self.port: int = bound.getsockname()[1]
        self.loop.watch(self.responder)
        self._tick()
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        self.loop.after(0.02, self._tick)

    def close(self) -> None:
        self.loop.stop()
        self._thread.join(5)
        self.responder.close()

    def counted(self) -> tuple[float, ...]:
        """(answered, rejected, limited)."""
        metrics = (PROBER_ANSWERED, PROBER_REJECTED, PROBER_LIMITED)
        return tuple(self.counters.get(PROBER.metrics.index(metric)) for metric in metrics)
