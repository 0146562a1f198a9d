"""Counter samples in the file contract: ``python -m lab.counters.record DIRECTORY --output FILE`` inside a lab.

Reads what any collector would: the switches' agents by SNMP, the hosts' trees and their interfaces. Whatever does
not answer has no row.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import csv
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from exporter.contracts.catalogue import RNIC_MTU, RNIC_RECEIVE, RNIC_TRANSMIT, RNIC_UP
from exporter.contracts.counters import (
    ECN_MARKED,
    FCS_ERRORS,
    FRAME_TOO_LONGS,
    PFC_PAUSED,
    PFC_PAUSING,
    PFC_RECEIVED,
    PFC_SENT,
    QUEUE_BYTES,
    QUEUE_DROPPED,
    QUEUE_DROPPED_BYTES,
    QUEUE_PACKETS,
    RNIC_ETHTOOL,
    RNIC_HW,
    RNIC_PFC_PAUSED,
    RNIC_PFC_PAUSING,
    RNIC_PFC_RECEIVED,
    RNIC_PFC_SENT,
    RNIC_PRIORITY_DISCARDS,
    RNIC_STALLED_READ_RATIO,
    RNIC_STALLED_WRITE_RATIO,
    STATUS_CHANGES,
    SYMBOL_ERRORS,
    WATCHDOG_DROPPED,
    WATCHDOG_RECOVERED,
    WATCHDOG_STUCK,
)
from exporter.contracts.tables import CounterSample
from exporter.switches.interfaces import read_interfaces
from exporter.switches.snmp import Oid, Value, walk
from lab.counters import dialects
from lab.counters.kernel import Kernel
from lab.counters.names import LOSSLESS
from lab.counters.trees import ETHTOOL, SYSFS
from lab.network import design as drawn
from lab.network.design import Design, Host, Switch
from lab.network.snmp import Agents
from lab.sandbox import environment
from lab.sandbox.netns import inside

COLUMNS = CounterSample.__struct_fields__
WALK = ("snmpbulkwalk", "-Cr50", "-t", "1", "-r", "1", "-On", "-Oe", "-OQ", "-Ot")

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

# Column -> metric, where priority or queue stands in the index (None: nowhere), whether it is a queue, and the factor.
_Column = tuple[str, int | None, bool, float]
_SWITCH: dict[Oid, _Column] = {
    dialects.A_PFC_REQUESTS: (PFC_SENT, 1, False, 1),
    dialects.A_PFC_INDICATIONS: (PFC_RECEIVED, 1, False, 1),
    dialects.A_QUEUE_PKTS: (QUEUE_PACKETS, 1, True, 1),
    dialects.A_QUEUE_BYTES: (QUEUE_BYTES, 1, True, 1),
    dialects.A_QUEUE_PKTS_DROPPED: (QUEUE_DROPPED, 1, True, 1),
    dialects.A_QUEUE_BYTES_DROPPED: (QUEUE_DROPPED_BYTES, 1, True, 1),
    dialects.A_ECN_MARKED: (ECN_MARKED, 1, True, 1),
    dialects.A_WATCHDOG_STUCK: (WATCHDOG_STUCK, 2, True, 1),
    dialects.A_WATCHDOG_RECOVERED: (WATCHDOG_RECOVERED, 2, True, 1),
    dialects.A_STATUS_CHANGES: (STATUS_CHANGES, None, False, 1),
    dialects.C_PRIORITY_REQUESTS: (PFC_SENT, 1, False, 1),
    dialects.C_PRIORITY_INDICATIONS: (PFC_RECEIVED, 1, False, 1),
    dialects.C_WAIT_RX: (PFC_PAUSED, 1, False, 1e-6),
    dialects.C_WAIT_TX: (PFC_PAUSING, 1, False, 1e-6),
    dialects.C_WATCHDOG_SHUTDOWNS: (WATCHDOG_STUCK, 1, True, 1),
    dialects.C_WATCHDOG_RESTORES: (WATCHDOG_RECOVERED, 1, True, 1),
    dialects.C_WATCHDOG_TOTAL_DROPPED: (WATCHDOG_DROPPED, 1, True, 1),
    dialects.DOT3_HC_FCS_ERRORS: (FCS_ERRORS, None, False, 1),
    dialects.DOT3_HC_TOO_LONGS: (FRAME_TOO_LONGS, None, False, 1),
    dialects.DOT3_HC_SYMBOL_ERRORS: (SYMBOL_ERRORS, None, False, 1),
}
_QOS_GROUP = {
    dialects.C_SENT_PKTS: QUEUE_PACKETS,
    dialects.C_SENT_BYTES: QUEUE_BYTES,
    dialects.C_DROPPED_PKTS: QUEUE_DROPPED,
    dialects.C_DROPPED_BYTES: QUEUE_DROPPED_BYTES,
}
_INTERFACES: tuple[Oid, ...] = ((1, 3, 6, 1, 2, 1, 2, 2), (1, 3, 6, 1, 2, 1, 31, 1, 1))
_IF_NAME: Oid = (1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 1)
COLUMNS_READ = (dialects.A_ECN_COUNTER_ENABLED, dialects.C_QOS_GROUP_STATS, *_SWITCH)
_TRUE = 1


class Recorder:
    """Reads all counters of one lab. Inside its sandbox, in one thread."""

    def __init__(self, design: Design, directory: Path) -> None:
        self._design, self._directory = design, directory
        self._environment = environment(Agents(directory / "snmp").client_environment())
        self._switches = [switch for switch in design.switches if switch.tier != "carrier"]  # nobody polls a provider's
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
        answers: dict[Oid, Value] = {}
        for subtree in (*_INTERFACES, *dialects.TABLES):
            rows = await self._walk(switch.management, subtree)
            if rows is None:
                return []
            answers |= rows
        now = time.time()
        session = _Answers(answers)
        ports, _ = await read_interfaces(session, {})
        columns = await walk(session, (_IF_NAME, *COLUMNS_READ))
        wanted = {end.port for end in switch.ports}
        samples = [
            sample(now, metric.name, switch.name, port, value)
            for port, values in ports.items()
            if port in wanted
            for metric, value in values.items()
        ]
        names = {index: name.decode() for index, name in columns[_IF_NAME].items() if isinstance(name, bytes)}
        return samples + [row for row in switch_rows(now, switch.name, names, columns) if row.port in wanted]

    async def _walk(self, address: str, subtree: Oid) -> dict[Oid, Value] | None:
        """One subtree of an agent, by net-snmp's own program: a tenth of the cost of decoding it here.

        None when the agent does not answer.
        """
        process = await asyncio.create_subprocess_exec(
            *WALK,
            address,
            ".".join(map(str, subtree)),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        return parse_walk(output.decode(errors="replace")) if process.returncode == 0 else None

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


class _Answers:
    """Rows that have been walked, to be read like a device (``exporter.switches.snmp.Session``)."""

    def __init__(self, rows: dict[Oid, Value]) -> None:
        self._rows, self._order = rows, sorted(rows)

    async def bulk(self, oids: Sequence[Oid], repetitions: int) -> list[tuple[Oid, Value]]:
        starts = [bisect.bisect_right(self._order, oid) for oid in oids]
        found = []
        for step in range(repetitions):
            for start, oid in zip(starts, oids, strict=True):
                at = self._order[start + step] if start + step < len(self._order) else None
                found.append((oid, None) if at is None else (at, self._rows[at]))
        return found


def parse_walk(output: str) -> dict[Oid, Value]:
    """Read ``snmpbulkwalk -On -Oe -OQ -Ot``: numbers, and strings in quotes; other types are kept as empty strings."""
    rows: dict[Oid, Value] = {}
    for line in output.splitlines():
        name, _, text = line.partition(" = ")
        if not name.startswith(".") or not text or text.startswith("No "):  # No Such Object, No more variables
            continue
        value = text.strip()
        number = value.lstrip("-").isdecimal()
        rows[tuple(map(int, name[1:].split(".")))] = int(value) if number else value.strip('"').encode()
    return rows


def switch_rows(
    now: float, switch: str, ports: Mapping[Oid, str], columns: Mapping[Oid, Mapping[Oid, Value]]
) -> Iterator[CounterSample]:
    """The rows behind columns of the MIBs of either dialect. Marks that a switch does not count have none."""
    counts_marks = columns[dialects.A_ECN_COUNTER_ENABLED]
    for column, (metric, at, queued, factor) in _SWITCH.items():
        for index, value in columns[column].items():
            if not isinstance(value, int) or index[:1] not in ports:
                continue
            if metric == ECN_MARKED and counts_marks.get(index) != _TRUE:
                continue
            place = None if at is None else index[at]
            yield sample(now, metric, switch, ports[index[:1]], value * factor, place, queued)
    for (interface, _, queue, kind), value in columns[dialects.C_QOS_GROUP_STATS].items():
        if isinstance(value, int) and kind in _QOS_GROUP and (interface,) in ports:
            yield sample(now, _QOS_GROUP[kind], switch, ports[interface,], value, queue, True)


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
