"""The underlay process: learns outer tuples and traces them, for the flows that the control process sends down a pipe.

Started as ``python -m exporter.underlay.process STORE CONTROL`` with two descriptors. It is no part of the prober: what
it does comes in bursts, which would be seen in round trips, and it alone may look at packets. It ends when the pipe
closes.
"""

from __future__ import annotations

import socket

import msgspec

from exporter.contracts.catalogue import UNDERLAY, UNDERLAY_ROUTE, UNDERLAY_ROUTE_CHANGE
from exporter.inheritance import inherit
from exporter.probing.loop import Loop
from exporter.probing.pipe import ControlPipe
from exporter.probing.tracing.changes import RouteChanges
from exporter.store import Store
from exporter.underlay.learning import Learner
from exporter.underlay.looks import Looks
from exporter.underlay.settings import OverlayFlow, UnderlaySettings, underlay_tables
from exporter.underlay.tracing import UnderlayTracer


class UnderlayProcess:
    def __init__(self, settings: UnderlaySettings, store: Store, control: socket.socket) -> None:
        store.clear()
        self._loop = Loop()
        counters = store.writer(UNDERLAY).add(())
        self._learner = Learner(settings.port, settings.tenants, self._loop.clock)
        changes = RouteChanges(self._loop, store.writer(UNDERLAY_ROUTE_CHANGE))
        self._tracer = UnderlayTracer(self._loop, settings, store.writer(UNDERLAY_ROUTE), changes, counters)
        self._looks = Looks(
            self._loop,
            self._learner,
            counters,
            devices=settings.devices,
            port=settings.port,
            period_seconds=settings.trace_period_seconds,
        )
        self._loop.watch(ControlPipe(self._loop, control, self._on_message))

    def run(self) -> None:
        self._loop.run()

    def _on_message(self, message: bytes) -> None:
        flows = msgspec.msgpack.decode(message, type=list[OverlayFlow])
        self._learner.follow(flows)
        self._tracer.follow(self._learner.flows)
        self._looks.follow(max((flow.period_seconds for flow in flows), default=0.0))


def main() -> None:
    given = inherit(UnderlaySettings)
    store = Store(underlay_tables(given.settings.max_flows), *given.memory)
    UnderlayProcess(given.settings, store, given.control).run()


if __name__ == "__main__":
    main()
