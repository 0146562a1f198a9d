"""The SNMP process: one task a switch, so that a dead or slow one delays no other.

Started as ``python -m exporter.switches.process STORE CONTROL``. It ends when the pipe closes.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
import zlib

import msgspec
from pysnmp.hlapi.v1arch.asyncio import SnmpDispatcher

from exporter.contracts.metric import Metric
from exporter.contracts.switch_counters import (
    SWITCH,
    SWITCH_POLL_DURATION,
    SWITCH_POLL_FAILURES,
    SWITCH_POLL_ROWS,
    SWITCH_POLL_TIME,
    SWITCH_POLLS,
    SWITCH_PORT,
    SWITCH_REACHABLE,
)
from exporter.messages import receive_message
from exporter.store import RowWriter, Store, StoreFullError, TableWriter
from exporter.switches.interfaces import PortValues, read_interfaces
from exporter.switches.settings import PollerSettings, SwitchSettings, switch_tables
from exporter.switches.snmp import PysnmpSession, SnmpError


class _Rows:
    """Rows of one switch: written whole after a poll, gone when their port is."""

    def __init__(self, ports: TableWriter, own: TableWriter, switch: str) -> None:
        self._ports = ports
        self._switch = switch
        self._own = own.add((switch,))
        self._own_column = {metric: own.column(metric.name) for metric in SWITCH.metrics}
        self._rows: dict[str, RowWriter] = {}

    def set(self, values: dict[Metric, float]) -> None:
        self._own.begin()
        for metric, value in values.items():
            self._own.set(self._own_column[metric], value)
        self._own.end()

    def count(self, metric: Metric) -> None:
        self._own.begin()
        self._own.add(self._own_column[metric])
        self._own.end()

    def put_ports(self, ports: dict[str, PortValues]) -> None:
        for name in [name for name in self._rows if name not in ports]:
            self._ports.remove(self._rows.pop(name))
        for name, values in ports.items():
            row = self._rows.get(name)
            if row is None:
                row = self._rows[name] = self._ports.add((self._switch, name))
            row.begin()
            for column, metric in enumerate(SWITCH_PORT.metrics):
                row.set(column, values.get(metric, float("nan")))
            row.end()

    def drop_ports(self) -> None:
        """A switch that does not answer has no port values: stale ones would look like health."""
        self.put_ports({})


async def poll_for_ever(
    settings: PollerSettings, switch: SwitchSettings, dispatcher: SnmpDispatcher, rows: _Rows
) -> None:
    session = PysnmpSession(
        dispatcher, switch.address, switch.port, switch.community, settings.timeout_seconds, settings.retries
    )
    # A phase from the name spreads the polls over the period and stays the same after a restart.
    await asyncio.sleep(zlib.crc32(switch.name.encode()) / 2**32 * settings.period_seconds)
    was_reachable = True
    while True:
        started = time.monotonic()
        rows.count(SWITCH_POLLS)
        try:
            async with asyncio.timeout(settings.period_seconds):
                ports, values = await read_interfaces(session, switch.aliases)
            rows.put_ports(ports)
        except (SnmpError, TimeoutError, OSError, ValueError, StoreFullError) as error:
            rows.count(SWITCH_POLL_FAILURES)
            rows.set({SWITCH_REACHABLE: 0.0})
            rows.drop_ports()
            if was_reachable:
                reason = str(error) or f"no end within {settings.period_seconds:g} s"
                print(f"switch {switch.name} ({switch.address}): {reason}", file=sys.stderr, flush=True)
            was_reachable = False
        else:
            was_reachable = True
            rows.set(
                {
                    SWITCH_REACHABLE: 1.0,
                    SWITCH_POLL_DURATION: time.monotonic() - started,
                    SWITCH_POLL_TIME: time.time(),
                    SWITCH_POLL_ROWS: float(values),
                }
            )
        await asyncio.sleep(max(0.0, settings.period_seconds - (time.monotonic() - started)))


async def poll(settings: PollerSettings, store: Store, control: socket.socket) -> None:
    store.clear()
    ports, own = store.writer(SWITCH_PORT), store.writer(SWITCH)
    dispatcher = SnmpDispatcher()
    tasks = [
        asyncio.create_task(poll_for_ever(settings, switch, dispatcher, _Rows(ports, own, switch.name)))
        for switch in settings.switches
    ]
    # The pipe carries nothing more; it becomes readable when the control process is gone. A task only
    # ends by a bug: then we die loudly, and the control process starts us again.
    control.setblocking(False)
    closed = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(control, 1))
    await asyncio.wait([closed, *tasks], return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    for task in failed:
        task.result()


def main() -> None:
    store_descriptor, control_descriptor = map(int, sys.argv[1:3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=control_descriptor)
    first = receive_message(control)
    if first is None:
        return
    settings = msgspec.msgpack.decode(first, type=PollerSettings)
    asyncio.run(poll(settings, Store(switch_tables(len(settings.switches)), store_descriptor), control))


if __name__ == "__main__":
    main()
