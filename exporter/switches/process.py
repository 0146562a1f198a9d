"""The SNMP process: two tasks a switch, so that a dead or slow one, or a slow table, delays no other.

Started as ``python -m exporter.switches.process STORE CONTROL``. It ends when the pipe closes.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from exporter.contracts.codec import ContractError
from exporter.contracts.metric import Metric, Table
from exporter.contracts.switch_counters import (
    SWITCH,
    SWITCH_COVERAGE_TABLE,
    SWITCH_INFO_TABLE,
    SWITCH_NEIGHBOR_TABLE,
    SWITCH_POLL_DURATION,
    SWITCH_POLL_FAILURES,
    SWITCH_POLL_LATE,
    SWITCH_POLL_ROWS,
    SWITCH_POLL_TIME,
    SWITCH_POLLS,
    SWITCH_REACHABLE,
    SWITCH_READING,
    SWITCH_RESTARTS,
    SWITCH_UPTIME,
    TABLE_DURATION,
    TABLE_FAILURES,
    TABLE_REFUSED,
    TABLE_ROWS,
    TABLE_TIME,
)
from exporter.inheritance import inherit
from exporter.store import RowWriter, Store, StoreFullError, TableWriter
from exporter.switches.block import Blocks, StoreTable
from exporter.switches.decoding import clean
from exporter.switches.device import Device, TableState, Turn
from exporter.switches.profile import read_profiles
from exporter.switches.sessions import Opener, opener, resolved
from exporter.switches.settings import PollerSettings, SwitchSettings, share_of, switch_tables
from exporter.switches.snmp import Session, SnmpError

_REPORTED = (SWITCH, SWITCH_READING, SWITCH_INFO_TABLE, SWITCH_COVERAGE_TABLE, SWITCH_NEIGHBOR_TABLE)
"""Tables that say how switches are read; the others hold what they told."""
NEIGHBOR_PERIODS = 20
"""Periods between two readings of LLDP: cables are moved by hand."""
_LATE = 1.0  # seconds
_FIRST_POLL = 0.1
"""Seconds of a processor for a switch's first poll, in which all names, indexes and rows are new: ten times a later
one's. The first ones of many switches are spread over as long as they take, or all others would wait for them."""
_MOST_FACTS = 512
"""Rows of one kind that say something of one switch by their labels: neighbours, above all."""
_DESCRIPTION = 96  # characters of sysDescr that a label shows


class _InfoRows:
    """Rows whose labels are what they say: added and removed as that changes."""

    def __init__(self, writer: TableWriter, switch: str) -> None:
        self._writer = writer
        self._switch = switch
        self._rows: dict[tuple[str, ...], RowWriter] = {}

    def say(self, facts: Sequence[tuple[str, ...]]) -> None:
        wanted = {(self._switch, *fact) for fact in facts[:_MOST_FACTS]}
        for labels in self._rows.keys() - wanted:
            self._writer.remove(self._rows.pop(labels))
        for labels in sorted(wanted - self._rows.keys()):
            row = self._rows[labels] = self._writer.add(labels)
            row.begin()
            row.set(0, 1.0)
            row.end()


class _Report:
    """What the metrics say of reading one switch."""

    def __init__(self, writers: Mapping[Table, TableWriter], switch: str) -> None:
        own = writers[SWITCH]
        self._row = own.add((switch,))
        self._column = {metric: own.column(metric.name) for metric in SWITCH.metrics}
        self._readings = writers[SWITCH_READING]
        self._reading_column = {metric: self._readings.column(metric.name) for metric in SWITCH_READING.metrics}
        self._tables: dict[str, RowWriter] = {}
        self._switch = switch
        self.info = _InfoRows(writers[SWITCH_INFO_TABLE], switch)
        self.coverage = _InfoRows(writers[SWITCH_COVERAGE_TABLE], switch)
        self.neighbors = _InfoRows(writers[SWITCH_NEIGHBOR_TABLE], switch)

    def begin(self, late: bool) -> None:
        self._row.begin()
        self._row.add(self._column[SWITCH_POLLS])
        self._row.add(self._column[SWITCH_POLL_LATE], float(late))
        self._row.end()

    def turn(self, turn: Turn, device: Device) -> None:
        row, column = self._row, self._column
        row.begin()
        row.set(column[SWITCH_REACHABLE], float(turn.reachable))
        row.set(column[SWITCH_POLL_DURATION], turn.duration)
        row.set(column[SWITCH_POLL_ROWS], float(turn.rows))
        row.set(column[SWITCH_UPTIME], device.uptime if turn.reachable else math.nan)
        row.set(column[SWITCH_RESTARTS], float(device.restarts))
        if turn.whole:
            row.set(column[SWITCH_POLL_TIME], time.time())
        else:
            row.add(column[SWITCH_POLL_FAILURES])
        row.end()

    def tables(self, device: Device) -> None:
        for name in self._tables.keys() - {table.profile.name for table in device.tables}:
            self._readings.remove(self._tables.pop(name))
        for table in device.tables:
            self._table(table)

    def _table(self, table: TableState) -> None:
        name = table.profile.name
        row = self._tables.get(name)
        if row is None:
            row = self._tables[name] = self._readings.add((self._switch, name))
        values: dict[Metric, float] = {
            TABLE_DURATION: table.duration,
            TABLE_ROWS: float(table.rows),
            TABLE_TIME: table.read_at,
            TABLE_FAILURES: float(table.failures),
            TABLE_REFUSED: float(table.refused),
        }
        row.begin()
        for metric, value in values.items():
            row.set(self._reading_column[metric], value)
        row.end()


class Poller:
    """Polls one switch for ever."""

    def __init__(
        self, device: Device, report: _Report, open_session: Opener, say: Callable[[str], None], ramp: float
    ) -> None:
        """``ramp`` is the time over which all switches of the process are polled for the first time, seconds."""
        self._device = device
        self._ramp = ramp
        self._report = report
        self._open = open_session
        self._say = say
        self._told: dict[str, str] = {}
        """What has been said of the switch and of its tables, so that it is said once."""
        self._rare = asyncio.Event()

    async def run(self) -> None:
        """Both of its tasks; ends only with an error that is a bug."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._each_period())
            group.create_task(self._rarely())

    async def _each_period(self) -> None:
        device = self._device
        loop = asyncio.get_running_loop()
        due = planned = loop.time() + device.phase() * self._ramp
        session: Session | None = None
        polls = 0
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._report.begin(loop.time() - planned > _LATE)
            if session is None:
                session = await self._open_or_say()
            if session is not None:
                turn = await self._guarded(device.poll(session))
                if turn.reachable and polls % NEIGHBOR_PERIODS == 0:
                    await self._neighbors(session)
                polls = polls + 1 if turn.reachable else 0
                self._tell(turn)
                if not turn.reachable:  # its socket may be bound to a way that is no more
                    session.close()
                    session = None
            # A little of chance, so that many pollers do not fall into step; what is missed is not made up for.
            planned = due + device.period * (1 + random.uniform(-0.01, 0.01))  # noqa: S311
            due = max(planned, loop.time())

    async def _rarely(self) -> None:
        device = self._device
        session: Session | None = None
        while True:
            await self._rare.wait()
            wait = device.rare_due() - time.monotonic()
            if wait > 0:
                await asyncio.sleep(min(wait, device.period))
                continue
            if session is None:
                session = await self._open_or_say()
            turn = Turn(reachable=False) if session is None else await self._guarded(device.poll_rare(session))
            if session is not None:
                self._tell_tables(turn)
            if session is None or turn.error is not None:
                if session is not None:
                    session.close()
                    session = None
                self._rare.clear()  # until the other task finds the switch well
                await asyncio.sleep(device.period)

    async def _guarded(self, polling: Awaitable[Turn]) -> Turn:
        """A turn; whatever a device does to us, it does to itself alone."""
        try:
            return await polling
        except Exception as error:  # noqa: BLE001 - a bug that one device's answers meet must not blind all others
            self._device.lose()
            where = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno}; please report it)"
            return Turn(reachable=False, error=problem)

    async def _open_or_say(self) -> Session | None:
        try:
            return self._open(await resolved(self._device.settings), self._device.profile)
        except (OSError, SnmpError) as error:
            self._tell(Turn(reachable=False, error=str(error)))
            return None

    async def _neighbors(self, session: Session) -> None:
        try:
            async with asyncio.timeout(self._device.period):
                await self._device.learn_neighbors(session)
        except (SnmpError, TimeoutError, ValueError) as error:
            self._once("lldp", f"neighbours: {error or 'no end in time'}")
            return
        self._once("lldp", None)
        try:
            told = [(each.port, clean(each.name), clean(each.port_name)) for each in self._device.neighbors]
            self._report.neighbors.say(told)
        except StoreFullError as error:
            self._once("lldp", str(error))

    def _tell(self, turn: Turn) -> None:
        device = self._device
        self._report.turn(turn, device)
        if not turn.reachable:
            device.neighbors = []
            self._report.neighbors.say([])
        self._once("", turn.error)
        if turn.reachable and device.profile is not None:
            self._rare.set()
            profile = device.profile
            described = clean(device.description.replace("\r", " ").replace("\n", " "))[:_DESCRIPTION]
            self._report.info.say([(profile.name, profile.vendor, described, "snmp")])
        self._tell_tables(turn)

    def _tell_tables(self, turn: Turn) -> None:
        for table in turn.failed:
            self._once(table.profile.name, f"table {table.profile.name}: {table.error}")
        for table in turn.read:
            self._once(table.profile.name, None)
        self._report.tables(self._device)
        if self._device.identified:  # of a switch that has never answered nothing is known
            self._report.coverage.say(list(self._device.coverage().items()))

    def _once(self, what: str, problem: str | None) -> None:
        """Say a problem when it is new, and when it is over."""
        settings = self._device.settings
        before = self._told.get(what)
        if problem is None:
            if before is not None:
                del self._told[what]
                self._say(f"switch {settings.name} ({settings.address}): {what or 'answers'} again")
            return
        self._told[what] = problem
        if before is None:
            self._say(f"switch {settings.name} ({settings.address}): {problem}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def pollers(settings: PollerSettings, store: Store) -> list[Poller]:
    """A poller for each switch, on ``store``; raise ContractError for profiles that are wrong."""
    # One writer a table: each knows which rows are free.
    writers = {table: store.writer(table) for table in _REPORTED}
    stored = {table: StoreTable(store, table) for table in store.tables if table not in _REPORTED}
    profiles = read_profiles(settings.profiles)
    open_session = opener(settings)
    ramp = max(settings.period_seconds, _FIRST_POLL * len(settings.switches))

    def poller(switch: SwitchSettings) -> Poller:
        device = Device(
            switch,
            profiles,
            settings.period_seconds,
            settings.priorities,
            settings.tables,
            settings.without,
            Blocks(stored, switch.name, share_of(len(settings.switches))),
        )
        return Poller(device, _Report(writers, switch.name), open_session, _say, ramp)

    return [poller(switch) for switch in settings.switches]


async def poll(settings: PollerSettings, store: Store, control: socket.socket) -> None:
    store.clear()
    tasks = [asyncio.create_task(poller.run()) for poller in pollers(settings, store)]
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
    given = inherit(PollerSettings, many_files=True)  # two sockets a switch
    store = Store(switch_tables(len(given.settings.switches)), *given.memory)
    try:
        asyncio.run(poll(given.settings, store, given.control))
    except ContractError as error:
        sys.exit(f"fabric-exporter: {error}")


if __name__ == "__main__":
    main()
