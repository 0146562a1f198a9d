"""The prober process with a clock that runs faster, traces that meet switches, and a list of what it holds.

``python -m benchmarks.watched_prober STORE RESULTS CONTROL`` is ``exporter.probing.process`` but for three things:
its loop's clock runs ``FABRIC_BENCH_SPEED`` times as fast; a trace, which meets no router on loopback, is given the
hops of the simulated fabric; and on SIGUSR1 the sizes of its collections go to the file ``FABRIC_BENCH_SIZES``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

from benchmarks.simulated_fleet import route
from exporter.probing import process
from exporter.probing.loop import Loop
from exporter.probing.responder import UdpResponder
from exporter.probing.settings import ProberSettings
from exporter.probing.tcp.responder import TcpResponder
from exporter.probing.tracing.tracer import TracedFlow, Tracer
from exporter.results import ResultRing
from exporter.store import Store

SPEED, SIZES = "FABRIC_BENCH_SPEED", "FABRIC_BENCH_SIZES"


class _Epoll:
    """An epoll that is told fast seconds and waits real ones."""

    def __init__(self, epoll: select.epoll, speed: float) -> None:
        self._epoll = epoll  # with what the loop registered as it was made
        self._speed = speed
        self.register = epoll.register
        self.unregister = epoll.unregister
        self.modify = epoll.modify

    def poll(self, wait: float) -> list[tuple[int, int]]:
        return self._epoll.poll(wait / self._speed)


class FastLoop(Loop):
    def __init__(self, slot_delay: Callable[[int], None]) -> None:
        speed, start = float(os.environ[SPEED]), time.monotonic_ns()
        super().__init__(slot_delay, lambda: start + int((time.monotonic_ns() - start) * speed))
        self._epoll = _Epoll(self._epoll, speed)  # type: ignore[assignment]


class SimulatedTracer(Tracer):
    def _replace(self, flow: TracedFlow, hops: list[str] | None) -> None:  # noqa: ARG002 - none on loopback
        key = flow.key
        super()._replace(flow, list(route(key.source_address, key.source_port, key.destination_address)))


class WatchedProber(process.Prober):
    def __init__(self, settings: ProberSettings, store: Store, results: ResultRing, control: socket.socket) -> None:
        super().__init__(settings, store, results, control)
        signal.signal(signal.SIGUSR1, self._write_sizes)

    def _write_sizes(self, _: int, __: FrameType | None) -> None:
        name = os.environ[SIZES]
        with open(f"{name}.new", "w") as file:
            json.dump(sizes(self), file)
        os.rename(f"{name}.new", name)


def sizes(prober: process.Prober) -> dict[str, int]:
    """Entries of everything that the prober keeps from one event to the next."""
    loop, udp, tracer = prober._loop, prober._udp, prober._tracer
    watched = [item for (item,) in loop._watched.values()]
    responders = [item for item in watched if isinstance(item, UdpResponder)]
    accepted = [item for item in watched if isinstance(item, TcpResponder)]
    return {
        "paths": len(prober._probing),
        "histograms": len(prober._histogram_rows),
        "flow sockets": len(udp._flows),
        "probes outstanding": len(udp._outstanding),
        "probes by age": len(udp._by_age),
        "probes awaiting a timestamp": sum(len(flow._awaiting_time) for flow in udp._flows.values()),
        "traced flows": len(tracer._flows),
        "traces under way": sum(lane.under_way for lane in tracer._lanes.values()),
        "timers": sum(map(len, loop._slots.values())),
        "watched sockets": len(loop._watched),
        "responder streams": len(responders[0]._streams._counts) if responders else 0,
        "connections held": sum(len(item._open) for item in accepted),
    }


def main() -> None:
    vars(process).update(Loop=FastLoop, Tracer=SimulatedTracer, Prober=WatchedProber)
    process.main()


if __name__ == "__main__":
    main()
