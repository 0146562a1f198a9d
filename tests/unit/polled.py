"""Simulated switches read turn by turn, with a clock that the test moves: agent, session, device and store of one."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from exporter.contracts.metric import Table
from exporter.exposition import Renderer
from exporter.store import Store
from exporter.switches.block import Blocks, StoreTable
from exporter.switches.device import Device, Turn
from exporter.switches.profile import Profile, read_profiles
from exporter.switches.sessions import opener
from exporter.switches.settings import PollerSettings, SwitchSettings, switch_tables
from exporter.switches.snmp import Community, Credentials, Session
from lab.switches.agent import Agent
from lab.switches.ber import Oid, Tag, Value
from lab.switches.serve import Serving
from lab.switches.walk import UPTIME, Entry, Walk

RECORDED = Path(__file__).parents[2] / "../shared/data/snmprec"
SYNTHETIC = Path(__file__).parents[1] / "data" / "switches"
EPOCH = 1_700_000_000.0
"""Unix time when a test's clock is at 0."""
PERIOD = 15.0
T = TypeVar("T")

DESCRIPTION: Oid = (1, 3, 6, 1, 2, 1, 1, 1, 0)
OBJECT_ID: Oid = (1, 3, 6, 1, 2, 1, 1, 2, 0)
IF: Oid = (1, 3, 6, 1, 2, 1, 2, 2, 1)
IF_X: Oid = (1, 3, 6, 1, 2, 1, 31, 1, 1, 1)


def oid(text: str) -> Oid:
    return tuple(map(int, text.split(".")))


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def settings_of(switches: Sequence[SwitchSettings], **changes: Any) -> PollerSettings:
    basis: dict[str, Any] = {
        "period_seconds": PERIOD, "timeout_seconds": 1.0, "retries": 0, "engine": "fast", "priorities": (),
        "tables": (), "without": (), "max_repetitions": None, "profiles": None,
    }  # fmt: skip
    return PollerSettings(**{**basis, **changes}, switches=tuple(switches))


class Switch:
    """One switch: what it holds (``walk``), who answers of it (``agent``), who reads it (``device``)."""

    def __init__(
        self,
        walk: Walk,
        *,
        agent: type[Agent] = Agent,
        name: str = "leaf-1",
        credentials: Credentials | None = None,
        store: Store | None = None,
        beside: Switch | None = None,
        profiles: Sequence[Profile] | None = None,
        aliases: dict[str, str] | None = None,
        profile: str | None = None,
        cnp_queue: int | None = None,
        priorities: Sequence[int] = (),
        tables: Sequence[str] = (),
        without: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.walk = walk
        self.agent = agent(walk, clock=self.clock)
        self._serving = Serving([self.agent])
        self._serving.start(self.loop)
        switch = SwitchSettings(
            name=name,
            address="127.0.0.1",
            port=self._serving.ports[0],
            credentials=credentials or Community("public"),
            aliases=aliases or {},
            profile=profile,
            cnp_queue=cnp_queue,
        )
        self.settings = settings_of([switch], **settings)
        self._open = opener(self.settings)
        self.store = beside.store if beside is not None else store or Store(switch_tables(1))
        # A process has one writer of each table of its store.
        self._stored: dict[Table, StoreTable] = (
            beside._stored
            if beside is not None
            else {table: StoreTable(self.store, table) for table in self.store.tables}
        )
        self._renderer = Renderer()
        self.device = Device(
            switch,
            read_profiles() if profiles is None else profiles,
            self.settings.period_seconds,
            priorities,
            tables,
            without,
            Blocks(self._stored, name),
            monotonic=self.clock,
            clock=lambda: EPOCH + self.clock(),
        )
        self.session = self.open()
        self._rare = self.open()

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def open(self) -> Session:
        return self._open(self.settings.switches[0], self.device.profile if hasattr(self, "device") else None)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        """Unplug it."""

        async def end() -> None:
            self.session.close()
            self._rare.close()
            self._serving.stop(self.loop)

        self.run(end())
        with warnings.catch_warnings():  # pysnmp leaves its socket to the collector
            warnings.simplefilter("ignore", ResourceWarning)
            self.loop.close()

    # ---- turns

    def poll(self, after: float = 0.0) -> Turn:
        """The tables of each period, ``after`` so many seconds."""
        self.clock.now += after
        return self.run(self.device.poll(self.session))

    def poll_rare(self, after: float = 0.0) -> Turn:
        self.clock.now += after
        return self.run(self.device.poll_rare(self._rare))

    def poll_all(self, after: float = 0.0) -> Turn:
        """Both turns; what the first gave. Neither may fail."""
        first = self.poll(after)
        assert first.error is None, first.error
        assert not first.failed, [table.error for table in first.failed]
        second = self.poll_rare()
        assert second.error is None, second.error
        assert not second.failed, [table.error for table in second.failed]
        return first

    # ---- what came of them

    def page(self) -> str:
        return self._renderer.render([self.store]).decode()

    def samples(self) -> dict[str, dict[tuple[str, ...], float]]:
        """{metric: {labels but for the switch: value}}."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(self.page()):
            for sample in family.samples:
                labels = tuple(value for name, value in sample.labels.items() if name != "switch")
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    def of(self, metric: str) -> dict[tuple[str, ...], float]:
        return self.samples().get(f"fabric_switch_{metric}", {})

    def refused(self, table: str) -> int:
        return next(state.refused for state in self.device.tables if state.profile.name == table)


# ---- walks


def system(description: str = "a switch", object_id: str = "1.3.6.1.4.1.99999", uptime: int | None = 100_000) -> Walk:
    walk = Walk()
    walk.add(DESCRIPTION, Tag.OCTET_STRING, description.encode())
    walk.add(OBJECT_ID, Tag.OID, oid(object_id))
    if uptime is not None:
        walk.add(UPTIME, Tag.TIME_TICKS, uptime)
    return walk


def with_ports(walk: Walk, names: dict[int, str | bytes], kind: int | None = 6) -> Walk:
    """Ports that are up, with what every switch tells of them."""
    for index, name in names.items():
        octets = name if isinstance(name, bytes) else name.encode()
        walk.add((*IF_X, 1, index), Tag.OCTET_STRING, octets)
        walk.add((*IF, 2, index), Tag.OCTET_STRING, octets)
        if kind is not None:
            walk.add((*IF, 3, index), Tag.INTEGER, kind)
        walk.add((*IF, 4, index), Tag.INTEGER, 9216)
        walk.add((*IF, 7, index), Tag.INTEGER, 1)
        walk.add((*IF, 8, index), Tag.INTEGER, 1)
        walk.add((*IF_X, 6, index), Tag.COUNTER64, 1000 * index)
    return walk


def put(walk: Walk, column: str, rows: dict[str, Value], tag: Tag = Tag.COUNTER64) -> Walk:
    """Rows of a column by the rest of their OIDs."""
    for index, value in rows.items():
        walk.add(oid(f"{column}.{index}"), tag, value)
    return walk


def entries(walk: Walk, without: Iterable[str] = ()) -> list[Entry]:
    """What a walk holds, but for what is below these OIDs."""
    left_out = [oid(prefix) for prefix in without]
    return [entry for entry in walk if not any(entry[0][: len(prefix)] == prefix for prefix in left_out)]
