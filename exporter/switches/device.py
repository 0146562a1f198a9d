"""One switch: who it is, which of its tables are due, what came of reading them. One request at a time goes to it.

What changes by the second is read each period, in one turn; what a profile reads more rarely has a turn of its own,
with a socket of its own, so that a table that takes an agent half a minute holds up no other. Values are shown when a
turn is over and the agent did not restart meanwhile, so that none is of before and another of after.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from exporter.contracts.switch_counters import (
    PORT_CNP,
    PORT_LAST_CHANGE,
    PORT_STATUS_CHANGES,
    PORT_UP,
    QUEUE_PACKETS,
    SIGNALS,
    SWITCH_PORT,
    SWITCH_QUEUE,
)
from exporter.store import StoreFullError
from exporter.switches.block import Blocks
from exporter.switches.changes import StatusChanges
from exporter.switches.decoding import Names, Selection
from exporter.switches.interfaces import IF_DESCRIPTION, LAST_CHANGE, Interfaces
from exporter.switches.neighbors import Neighbor, read_neighbors
from exporter.switches.policers import PolicerReader
from exporter.switches.profile import Profile, TableProfile, choose, named, tables_of
from exporter.switches.sensors import SensorReader
from exporter.switches.settings import SwitchSettings
from exporter.switches.snmp import DESCRIPTION, OBJECT_ID, UPTIME, NoAnswerError, Session, SnmpError, Value
from exporter.switches.table import WRAP_SECONDS, Started, TableReader, TableReading

_SLACK = 5.0  # seconds: clocks of switches are read over a network
EMPTY_REST = 20
"""Periods of its own between two looks at a table in which a device has nothing."""
_EMPTIED = 3
"""Empty readings in a row, of a table that had rows, before it is looked at so rarely: an agent's part may restart."""
_TURN_PERIODS = 2.0
"""For which a turn may read tables; what is left over then is the first of the next."""
MOST_ROWS_A_TURN = 300_000
"""No switch has as many; what claims to have is not to take the time and memory of others."""
_LONGEST_REST = 16  # periods of a table that keeps failing
_KEPT = 2.5  # periods of its own for which values of a table that fails are shown


class Reader(Protocol):
    profile: TableProfile

    def forget(self) -> None: ...

    async def read(self, session: Session, names: Names, started: Started) -> TableReading: ...


@dataclass(slots=True)
class TableState:
    """One table of the device, as it was last read."""

    place: int
    profile: TableProfile
    reader: Reader
    due: float = 0.0
    """Monotonic time of its next reading."""
    rest: int = 1
    """Periods of its own to the next reading: more while it fails."""
    duration: float = math.nan
    rows: int = 0
    read_at: float = math.nan
    """Unix time of the last success."""
    shown_at: float = -math.inf
    """Monotonic time of it."""
    failures: int = 0
    refused: int = 0
    error: str | None = None
    empty: bool = True
    empties: int = 0
    """Empty readings in a row."""
    disabled: bool = False
    shown: bool = False
    """Whether values of it are in the store."""


@dataclass(slots=True)
class Turn:
    """What one turn came to."""

    reachable: bool = True
    error: str | None = None
    rows: int = 0
    duration: float = 0.0
    read: list[TableState] = field(default_factory=list)
    failed: list[TableState] = field(default_factory=list)
    whole: bool = False
    """Whether every table that was due has been read."""


class RestartedError(SnmpError):
    """The agent restarted in the middle of a turn."""


@dataclass(slots=True)
class _Identity:
    object_id: str = ""
    description: str = ""


class Device:
    """One switch. ``poll`` and ``poll_rare`` may run beside each other, each with a session of its own."""

    def __init__(
        self,
        settings: SwitchSettings,
        profiles: Sequence[Profile],
        period: float,
        priorities: Sequence[int] = (),
        tables: Sequence[str] = (),
        without: Sequence[str] = (),
        blocks: Blocks | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.period = period
        self.profile: Profile | None = None
        self.description = ""
        self.uptime = math.nan
        self.restarts = 0
        self.tables: list[TableState] = []
        self._interfaces = Interfaces(settings.aliases)
        self._profiles = profiles
        self._priorities, self._wanted, self._unwanted = priorities, frozenset(tables), frozenset(without)
        self._blocks = blocks
        self._monotonic, self._clock = monotonic, clock
        self._identity = _Identity()
        self._boot = math.nan
        self._uptime_at = math.nan
        self._epoch = 0
        """Counts restarts and changes of profile: what was begun before is not shown after."""
        self._changes = StatusChanges()
        self.neighbors: list[Neighbor] = []
        """What LLDP told when it was last asked."""

    # ---- who it is

    @property
    def cnp_queue(self) -> int | None:
        if self.settings.cnp_queue is not None:
            return self.settings.cnp_queue
        return self.profile.cnp_queue if self.profile is not None else None

    @property
    def names(self) -> Names:
        return self._interfaces.names

    @property
    def identified(self) -> bool:
        return self.profile is not None

    def phase(self) -> float:
        """Share of the period by which its polls are put off: from the name, so that it stays the same."""
        return zlib.crc32(self.settings.name.encode()) / 2**32

    async def _identify(self, session: Session) -> None:
        """Learn what the device is and how long it runs; raise SnmpError."""
        await session.refresh()
        system = await session.get([UPTIME, OBJECT_ID, DESCRIPTION, LAST_CHANGE])
        if not system and not await session.walk(IF_DESCRIPTION):
            raise SnmpError("it answers and tells nothing (its SNMP view must include 1.3.6.1.2.1)")
        self._check_uptime(system.get(UPTIME), begins=True)
        described, object_id, changed = (system.get(oid) for oid in (DESCRIPTION, OBJECT_ID, LAST_CHANGE))
        self._interfaces.last_changed(changed)
        if self.profile is not None and (described is None or object_id is None):
            return  # left out this once: it is no other device for that
        description = described.decode("utf-8", "replace") if isinstance(described, bytes) else ""
        identity = _Identity(object_id if isinstance(object_id, str) else "", description)
        if self.profile is None or identity != self._identity:
            self._identity = identity
            self.description = description
            self._take(
                named(self._profiles, self.settings.profile)
                if self.settings.profile is not None
                else choose(self._profiles, identity.object_id, identity.description)
            )

    def _take(self, profile: Profile) -> None:
        if self.profile is not None and self.profile.name == profile.name:
            return
        self._drop_all()
        self.profile = profile
        self._epoch += 1
        self._interfaces.hurry()  # which names are ports' the profile says
        selection = Selection()
        if self._priorities:
            queues = {*self._priorities} if self.cnp_queue is None else {*self._priorities, self.cnp_queue}
            selection = Selection(frozenset(self._priorities), frozenset(queues))
        chosen = [
            table
            for table in tables_of(profile)
            if (table.default or table.name in self._wanted) and table.name not in self._unwanted
        ]
        self.tables = [TableState(place, table, _reader(table, selection)) for place, table in enumerate(chosen)]

    def _check_uptime(self, ticks: Value | None, begins: bool = False) -> None:
        """Compare sysUpTime with the last one: less than it should be is a restart, but for the wrap after 497 days.

        A device that hides it restarts unseen.
        """
        if not isinstance(ticks, int) or ticks < 0:
            return
        now, uptime = self._monotonic(), ticks / 100
        if not math.isnan(self._uptime_at):
            expected = self.uptime + (now - self._uptime_at)
            wrapped = expected - WRAP_SECONDS
            if uptime < expected - _SLACK - 0.01 * (now - self._uptime_at) and abs(uptime - wrapped) > 60:
                self._restart()
        self.uptime, self._uptime_at = uptime, now
        # One for the whole of a turn that ``begins``: times of changes are compared with it.
        if begins and (math.isnan(self._boot) or abs(self._clock() - uptime - self._boot) > 2):
            self._boot = self._clock() - uptime

    def _restart(self) -> None:
        self.restarts += 1
        self._epoch += 1
        self._boot = math.nan
        self._interfaces.hurry()
        for table in self.tables:
            table.reader.forget()
            table.due = 0.0

    # ---- turns

    async def poll(self, session: Session) -> Turn:
        """Read what each period brings: names when due, and the tables of every period."""
        return await self._turn(session, rare=False)

    async def poll_rare(self, session: Session) -> Turn:
        """Read those tables that have longer periods of their own and are due."""
        return await self._turn(session, rare=True)

    def rare_due(self) -> float:
        """Monotonic time at which the next of the rare tables is due; never, where there is none."""
        return min((table.due for table in self.tables if table.profile.every > 1), default=math.inf)

    async def _turn(self, session: Session, rare: bool) -> Turn:
        turn = Turn()
        began = self._monotonic()
        try:
            if rare:
                await session.refresh()
            else:
                try:
                    async with asyncio.timeout(self.period):
                        await self.learn(session)
                except TimeoutError:
                    raise SnmpError(f"no end of its names within {self.period:g} s: its agent is slow") from None
            epoch = self._epoch
            readings = await self._read_due(session, rare, turn, began)
            if readings or turn.failed:
                self._check_uptime((await session.get([UPTIME])).get(UPTIME))
            if self._epoch != epoch:
                raise RestartedError("its agent restarted in the middle of a walk: what was read is not shown")
            self._show(readings, turn)
            turn.whole = not turn.failed
        except NoAnswerError as error:
            turn.error = str(error)
            turn.reachable = rare
        except SnmpError as error:
            turn.error = str(error)
            turn.reachable = isinstance(error, RestartedError) or rare
        turn.duration = self._monotonic() - began
        self._age(turn)
        return turn

    async def _read_due(
        self, session: Session, rare: bool, turn: Turn, began: float
    ) -> list[tuple[TableState, TableReading]]:
        readings = []
        due = [table for table in self.tables if (table.profile.every > 1) == rare and table.due <= began]
        # What has waited longest comes first, for when there is not time for all; else in the profile's order.
        for table in sorted(due, key=_waiting):
            now = self._monotonic()
            limit = self.period * table.profile.every
            left = began + _TURN_PERIODS * limit - now
            if left <= 0 or turn.rows > MOST_ROWS_A_TURN:
                table.error = "not reached in time: the agent is slow" if left <= 0 else "the device has too many rows"
                table.failures += 1
                turn.failed.append(table)
                continue
            try:
                async with asyncio.timeout(min(limit, left)):
                    started = Started(self._boot, self.uptime)
                    reading = await table.reader.read(session, self.names, started)
            except (SnmpError, TimeoutError) as error:
                table.error = str(error) or f"no end within {min(limit, left):g} s"
                table.failures += 1
                turn.failed.append(table)
                self._age(turn)
                table.rest = min(2 * table.rest, _LONGEST_REST)
                table.duration = self._monotonic() - now
                table.due = began_next(now, limit * (table.rest - 1))
                if isinstance(error, NoAnswerError) and await self._gone(session):
                    raise
                continue
            table.error, table.rest = None, 1
            table.duration = self._monotonic() - now
            table.empties = table.empties + 1 if reading.empty else 0
            # What it does not tell is asked for now and then: somebody may turn it on.
            if reading.empty and (table.empty or table.empties >= _EMPTIED):
                table.due = began_next(now, limit * EMPTY_REST)
            else:
                table.due = began_next(now, limit if rare else 0.0)
            table.rows = reading.rows
            turn.rows += reading.rows
            turn.read.append(table)
            readings.append((table, reading))
        return readings

    async def _gone(self, session: Session) -> bool:
        """After a table without an answer: whether the device does not answer at all."""
        try:
            await session.get([UPTIME])
        except SnmpError:
            return True
        return False

    def _show(self, readings: Sequence[tuple[TableState, TableReading]], turn: Turn) -> None:
        now = self._clock()
        for table, reading in readings:
            table.refused += reading.refused
            if self._blocks is not None:
                try:
                    self._blocks.put(table.place, reading.columns)
                except (StoreFullError, ValueError) as error:
                    table.error = f"more than there is room for: {error}"
                    table.failures += 1
                    turn.failed.append(table)
                    self._blocks.drop(table.place)
                    table.shown = False
                    continue
                table.shown = True
            table.read_at, table.shown_at = now, self._monotonic()
            table.empty, table.disabled = reading.empty, reading.disabled
        if self._blocks is not None:
            self._derive(turn)
            self._blocks.write()

    def _derive(self, turn: Turn) -> None:
        """What follows from other columns: ups and downs seen, and the packets of the CNP queue."""
        if self._blocks is None:
            return
        names = {table.profile.name for table in turn.read}
        ports = self._blocks.of(SWITCH_PORT)
        labels = ports.labels
        if "interfaces" in names and not any(
            column.metric == PORT_STATUS_CHANGES.name for table in self.tables for column in table.profile.columns
        ):
            # By the switch's own clock: when ours is set, no port has changed. And only when both are of this turn.
            told = any(column.since_boot for table in turn.read for column in table.profile.columns)
            changed = ports.column(PORT_LAST_CHANGE) - (self._boot if told else math.nan)
            seen = self._changes.count(labels, ports.column(PORT_UP), changed)
            ports.put_derived(PORT_STATUS_CHANGES, seen)
        if self.cnp_queue is not None:
            queues = self._blocks.of(SWITCH_QUEUE)
            queue = str(self.cnp_queue)
            sent = {
                own[0]: value
                for own, value in zip(queues.labels, queues.column(QUEUE_PACKETS).tolist(), strict=True)
                if own[1] == queue
            }
            ports.put_derived(PORT_CNP, np.array([sent.get(port, math.nan) for (port,) in labels]))

    def _age(self, turn: Turn) -> None:
        """Take away what is too old to be shown: it would look like health."""
        if self._blocks is None:
            return
        now, dropped = self._monotonic(), False
        for table in self.tables:
            if table.shown and (now - table.shown_at > _KEPT * self.period * table.profile.every or not turn.reachable):
                self._blocks.drop(table.place)
                table.shown, dropped = False, True
        if dropped:
            self._changes = StatusChanges() if not turn.reachable else self._changes
            self._derive(Turn())
            self._blocks.write()

    def _drop_all(self) -> None:
        if self._blocks is not None:
            for table in self.tables:
                self._blocks.drop(table.place)
            self._blocks.write()

    # ---- what it is beside its tables

    async def learn(self, session: Session) -> None:
        """Learn who the device is and what its ports are called, and nothing else; raise SnmpError."""
        await self._identify(session)
        if self.profile is not None:
            bridged = any(part.part == "bridge_port" for table in self.tables for part in table.profile.parts)
            await self._interfaces.learn(session, self.profile, bridged)

    async def learn_neighbors(self, session: Session) -> None:
        """Ask who is at the other end of each cable; raise SnmpError."""
        self.neighbors = await read_neighbors(session, self.names, self.settings.aliases)

    def lose(self) -> None:
        """Forget what is shown of the device: it is not known any more."""
        self._drop_all()
        for table in self.tables:
            table.shown = False
        self.neighbors = []
        self._changes = StatusChanges()

    # ---- what it tells

    def coverage(self) -> dict[str, str]:
        """{signal: supported, disabled, absent or stale}, for every signal that switches may tell."""
        states = dict.fromkeys(SIGNALS, "absent")
        order = ("absent", "disabled", "stale", "supported")
        for table in self.tables:
            shown = table.shown or self._blocks is None
            if table.error is not None and not shown:
                state = "stale"
            elif math.isnan(table.read_at):
                state = "absent"
            elif table.disabled:
                state = "disabled"
            elif table.empty:
                state = "absent"
            else:
                state = "supported" if shown else "stale"
            for signal in table.profile.signals:
                states[signal] = max(states[signal], state, key=order.index)
        if self.neighbors:
            states["neighbors"] = "supported"
        if self.cnp_queue is not None and states["queues"] != "absent":
            states["cnp"] = states["queues"]
        return states


def _waiting(table: TableState) -> tuple[float, int]:
    """Those that failed first, the longest ago first of them; else the profile's order."""
    return (math.inf if table.error is None else table.shown_at), table.place


def began_next(began: float, after: float) -> float:
    """When a reading that began then is due again; a twentieth of chance keeps devices from falling into step."""
    return began + after * (1 - random.random() / 20)  # noqa: S311 - nothing secret


def _reader(table: TableProfile, selection: Selection) -> Reader:
    if table.reader in ("optics", "cisco_optics"):
        return SensorReader(table)
    if table.reader == "control_plane":
        return PolicerReader(table)
    return TableReader(table, selection)
