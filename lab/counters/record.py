"""Counter samples in the file contract: ``python -m lab.counters.record DIRECTORY --output FILE`` inside a lab.

Reads what any collector would: the switches' agents by SNMP, the hosts' trees and their interfaces. Whatever does
not answer has no row.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import math
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from exporter.contracts.catalogue import RNIC_MTU, RNIC_RECEIVE, RNIC_TRANSMIT, RNIC_UP
from exporter.contracts.counters import (
    RNIC_ETHTOOL,
    RNIC_HW,
    RNIC_PFC_PAUSED,
    RNIC_PFC_PAUSING,
    RNIC_PFC_RECEIVED,
    RNIC_PFC_SENT,
    RNIC_PRIORITY_DISCARDS,
    RNIC_STALLED_READ_RATIO,
    RNIC_STALLED_WRITE_RATIO,
)
from exporter.contracts.switch_counters import (
    SWITCH_BGP,
    SWITCH_CONTROL_PLANE,
    SWITCH_CPU,
    SWITCH_OPTICS,
    SWITCH_PORT,
    SWITCH_PRIORITY,
    SWITCH_QUEUE,
    SWITCH_VLAN,
)
from exporter.contracts.tables import CounterSample
from exporter.store import Store
from exporter.switches.block import Blocks, StoreTable
from exporter.switches.device import Device
from exporter.switches.fast import FastSession
from exporter.switches.profile import read_profiles
from exporter.switches.settings import SwitchSettings
from exporter.switches.snmp import Community
from lab.counters import dialects
from lab.counters.kernel import Kernel
from lab.counters.names import LOSSLESS
from lab.counters.timeline import FILE, Timeline
from lab.counters.trees import ETHTOOL, SYSFS
from lab.network import design as drawn
from lab.network.design import Design, Host, Switch
from lab.network.snmp import PORT, Agents
from lab.sandbox.netns import inside

COLUMNS = CounterSample.__struct_fields__

_PCI_STALLED = {
    "outbound_pci_stalled_rd": RNIC_STALLED_READ_RATIO,
    "outbound_pci_stalled_wr": RNIC_STALLED_WRITE_RATIO,
}
_PRIORITY = {
    "rx_prio{}_pause": RNIC_PFC_RECEIVED,
    "tx_prio{}_pause": RNIC_PFC_SENT,
    "rx_prio{}_pause_duration": RNIC_PFC_PAUSED,
    "tx_prio{}_pause_duration": RNIC_PFC_PAUSING,
    "rx_prio{}_discards": RNIC_PRIORITY_DISCARDS,
}

_SAMPLED = (SWITCH_PORT, SWITCH_PRIORITY, SWITCH_QUEUE, SWITCH_BGP)
_NOT_SAMPLED = (SWITCH_VLAN, SWITCH_OPTICS, SWITCH_CPU, SWITCH_CONTROL_PLANE)
"""What the lab's switches do not tell."""
_ROWS = 4096
_PERIOD = 1.0  # seconds: a device is read whenever a sample is taken
_PLACES = {"switch_port": "port", "priority": "priority", "queue": "queue", "vlan": "vlan", "peer": "peer"}
"""{label of a metric: column of a sample}."""


class Recorder:
    """Reads all counters of one lab. Inside its sandbox, in one thread."""

    def __init__(self, design: Design, directory: Path) -> None:
        self._design, self._directory = design, directory
        agents = Agents(directory / "snmp")
        self._switches = [switch for switch in design.switches if switch.tier != "carrier"]  # nobody polls a provider's
        spoken = Timeline.load((directory / FILE).read_bytes()).dialects
        community = agents.community_file.read_text().strip()
        self._readers = {
            switch.name: SwitchReader(
                SwitchSettings(
                    name=switch.name,
                    address=switch.management,
                    port=PORT,
                    credentials=Community(community),
                    aliases={},
                    profile=dialects.PROFILES[spoken.get(switch.name, dialects.DEFAULT)],
                ),
                {end.port for end in switch.ports},
            )
            for switch in self._switches
        }
        self._kernels = {}
        for host in design.hosts:
            with inside(host.namespace):
                self._kernels[host.name] = Kernel()

    async def sample(self) -> list[CounterSample]:
        """One reading of everything; each row has the time at which its device answered."""
        answers = await asyncio.gather(*(self._switch(switch) for switch in self._switches))
        rows = [row for answer in answers for row in answer]
        for host in self._design.hosts:
            rows += self._host(host)
        return rows

    async def _switch(self, switch: Switch) -> list[CounterSample]:
        """What the poller itself makes of a switch; nothing of one that does not answer."""
        reader = self._readers[switch.name]
        return await reader.sample(time.time)

    def _host(self, host: Host) -> Iterator[CounterSample]:
        links = self._kernels[host.name].links()
        now = time.time()
        for rnic in host.rnics:
            link = links.get(rnic.netdev)
            if link is not None:
                for metric, value in (
                    (RNIC_RECEIVE, link.rx_bytes),
                    (RNIC_TRANSMIT, link.tx_bytes),
                    (RNIC_MTU, link.mtu),
                    (RNIC_UP, link.up),
                ):
                    yield sample(now, metric.name, host.name, rnic.name, value)
            device = self._directory / SYSFS / host.name / "class/infiniband" / rnic.name
            try:
                lines = (self._directory / ETHTOOL / host.name / rnic.netdev).read_text()
                files = {
                    path.name: path.read_text()
                    for path in (device / "ports/1/hw_counters").iterdir()
                    if path.name != "lifespan" and not path.name.startswith(".")
                }
            except FileNotFoundError:  # the RNIC is gone
                continue
            yield from rnic_rows(time.time(), host.name, rnic.name, files, lines)


class SwitchReader:
    """One switch, read as the exporter reads it (exporter/switches), whose metrics become samples."""

    def __init__(self, settings: SwitchSettings, ports: Collection[str]) -> None:
        """Of ``ports`` alone are there samples."""
        self._wanted = ports
        self._settings = settings
        self._store = Store([(table, _ROWS) for table in (*_SAMPLED, *_NOT_SAMPLED)])
        blocks = Blocks({table: StoreTable(self._store, table) for table in self._store.tables}, settings.name)
        self._device = Device(settings, read_profiles(), _PERIOD, tables=("queue_bytes",), blocks=blocks)
        self._session: FastSession | None = None

    async def sample(self, clock: Callable[[], float]) -> list[CounterSample]:
        if self._session is None:
            settings = self._settings
            self._session = FastSession(settings.address, settings.port, settings.credentials, timeout=1, retries=1)
        turn = await self._device.poll(self._session)
        if not turn.reachable:
            self._session.close()
            self._session = None
            return []
        return list(samples(self._store, clock(), self._wanted))


def samples(store: Store, now: float, wanted: Collection[str]) -> Iterator[CounterSample]:
    """What tables of the store hold of these ports, as counter samples."""
    for table in store.tables:
        for row in store.read(table):
            places = {
                _PLACES[label]: value for label, value in zip(table.labels, row.labels, strict=True) if label in _PLACES
            }
            if "port" in places and places["port"] not in wanted:
                continue
            numbers = {name: int(places[name]) for name in ("priority", "queue", "vlan") if name in places}
            for metric, value in zip(table.metrics, row.values, strict=True):
                if not math.isnan(value):
                    yield CounterSample(
                        time=now,
                        metric=metric.name,
                        node=row.labels[0],
                        port=places.get("port"),
                        priority=numbers.get("priority"),
                        queue=numbers.get("queue"),
                        vlan=numbers.get("vlan"),
                        peer=places.get("peer"),
                        value=value,
                    )


def rnic_rows(now: float, host: str, rnic: str, files: Mapping[str, str], lines: str) -> Iterator[CounterSample]:
    """The rows behind the files of ``hw_counters`` and the lines of ``ethtool -S``."""
    for name, text in sorted(files.items()):
        yield sample(now, RNIC_HW.format(name), host, rnic, int(text))
    values = {name.strip(): int(value) for name, _, value in (line.partition(":") for line in lines.splitlines()[1:])}
    for name, value in values.items():
        if name in _PCI_STALLED:
            yield sample(now, _PCI_STALLED[name], host, rnic, value / 100)
        elif "_prio" not in name:
            yield sample(now, RNIC_ETHTOOL.format(name), host, rnic, value)
    for priority in LOSSLESS:
        for pattern, metric in _PRIORITY.items():
            factor = 1e-6 if pattern.endswith("duration") else 1
            yield sample(now, metric, host, rnic, values[pattern.format(priority)] * factor, priority)


def sample(
    now: float, metric: str, node: str, port: str, value: float, place: int | None = None, queued: bool = False
) -> CounterSample:
    return CounterSample(
        time=now,
        metric=metric,
        node=node,
        port=port,
        priority=None if queued else place,
        queue=place if queued else None,
        value=float(value),
    )


def write(file: TextIO, rows: list[CounterSample]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    for row in rows:
        cells = [getattr(row, column) for column in COLUMNS]
        writer.writerow(
            "" if cell is None else f"{cell:.6f}".rstrip("0").rstrip(".") if isinstance(cell, float) else cell
            for cell in cells
        )
    file.flush()


async def record(design: Design, directory: Path, file: TextIO, period: float, seconds: float) -> None:
    """Sample every ``period`` seconds for ``seconds``, or until a signal; the file ends with a whole sample."""
    recorder = Recorder(design, directory)
    csv.writer(file, lineterminator="\n").writerow(COLUMNS)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    start = time.monotonic()
    due = 0.0
    while not stop.is_set() and due <= seconds:
        write(file, await recorder.sample())
        due += period
        try:
            await asyncio.wait_for(stop.wait(), max(0.0, start + due - time.monotonic()))
        except TimeoutError:
            continue


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.counters.record", description="Record all counters of a lab.")
    parser.add_argument("directory", type=Path, help="the lab's directory")
    parser.add_argument("--output", type=Path, required=True, help="CSV of counter samples")
    parser.add_argument("--period", type=float, default=5.0, help="seconds between samples (default: 5)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long (default: until a signal)")
    arguments = parser.parse_args()
    design = drawn.load((arguments.directory / "design.json").read_bytes())
    with open(arguments.output, "w", newline="") as file:
        asyncio.run(record(design, arguments.directory, file, arguments.period, arguments.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
