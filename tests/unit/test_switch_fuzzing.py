"""Both engines read the same of any walk, and no datagram makes either raise what is no error of SNMP, or hang."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from exporter.switches.sessions import opener
from exporter.switches.settings import SwitchSettings
from exporter.switches.snmp import Community, Rows, Session, SnmpError, error_status
from lab.switches.agent import Agent
from lab.switches.ber import Oid, Tag, Value
from lab.switches.serve import Serving
from lab.switches.walk import UPTIME, Walk
from tests.unit.polled import settings_of

COLUMN: Oid = (1, 3, 6, 1, 4, 1, 5, 1)
DOTTED = ".".join(map(str, COLUMN))
TICKS = ".".join(map(str, UPTIME))

sub_identifiers = st.one_of(st.integers(0, 300), st.sampled_from([2**14, 2**28, 2**31 - 1, 2**31, 2**32 - 1]))
suffixes = st.lists(sub_identifiers, min_size=1, max_size=8).map(tuple)
whole_oids = st.tuples(st.just(1), st.integers(0, 39), sub_identifiers, sub_identifiers)
typed_values: st.SearchStrategy[tuple[Tag, Value]] = st.one_of(
    st.tuples(st.just(Tag.INTEGER), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.sampled_from([Tag.COUNTER32, Tag.GAUGE32, Tag.TIME_TICKS]), st.integers(0, 2**32 - 1)),
    st.tuples(st.just(Tag.COUNTER64), st.one_of(st.integers(0, 2**64 - 1), st.just(2**64 - 1), st.just(2**63))),
    st.tuples(st.just(Tag.OCTET_STRING), st.binary(max_size=300)),
    st.tuples(st.just(Tag.IP_ADDRESS), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(Tag.OID), whole_oids),
    st.tuples(st.just(Tag.OPAQUE), st.binary(max_size=20)),
)
tables = st.dictionaries(suffixes, typed_values, max_size=40)
mutations = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "drop", "insert", "flip"]),
        st.integers(0, 400),
        st.sampled_from([0, 1, 2, 4, 5, 6, 9, 0x30, 0x40, 0x44, 0x46, 0x7F, 0x80, 0x81, 0x82, 0x84, 0x88, 0xA2, 0xFF]),
    ),
    min_size=1,
    max_size=6,
)


def mutated(datagram: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    data = bytearray(datagram)
    for what, place, byte in changes:
        at = place % (len(data) + 1)
        if what == "cut":
            del data[at:]
        elif what == "drop":
            del data[at : at + 1 + byte % 4]
        elif what == "insert":
            data[at:at] = bytes([byte])
        elif at < len(data):
            data[at] = byte if what == "set" else data[at] ^ (1 << byte % 8)
    return bytes(data)


class Engines:
    """A session of each engine with one agent, on one loop."""

    def __init__(self, timeout: float) -> None:
        self.loop = asyncio.new_event_loop()
        self.agent = Agent(Walk())
        self._serving = Serving([self.agent])
        self._serving.start(self.loop)
        self.fast = self._open("fast", timeout)
        self.standard = self._open("pysnmp", timeout)

    def _open(self, engine: str, timeout: float) -> Session:
        port = self._serving.ports[0]
        switch = SwitchSettings(name="s", address="127.0.0.1", port=port, credentials=Community("public"), aliases={})

        async def open_session() -> Session:
            return opener(settings_of([switch], engine=engine, timeout_seconds=timeout))(switch, None)

        return self.loop.run_until_complete(open_session())

    def run(self, work: Awaitable[Any], seconds: float = 5.0) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(work, seconds)

        return self.loop.run_until_complete(bounded())

    def close(self) -> None:
        async def end() -> None:
            self.fast.close()
            self._serving.stop(self.loop)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        self.loop.run_until_complete(end())
        self.loop.close()


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    made = Engines(2.0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def hurried() -> Iterator[Engines]:
    made = Engines(0.02)
    yield made
    made.close()


def ours(tag: Tag, value: Value) -> int | bytes | str:
    """What a session makes of a value (exporter/switches/snmp.py)."""
    if isinstance(value, tuple) or (tag == Tag.IP_ADDRESS and isinstance(value, bytes)):
        return ".".join(map(str, value))
    assert value is not None
    return value


def walk_of(table: Mapping[tuple[int, ...], tuple[Tag, Value]]) -> Walk:
    """The table, and a column on each side."""
    walk = Walk([(UPTIME, Tag.TIME_TICKS, 5)])
    for outside in ((*COLUMN[:-1], 0), (*COLUMN[:-1], 10), (*COLUMN[:-1], 11, 1)):
        walk.add((*outside, 7), Tag.INTEGER, 7)
    for suffix, (tag, value) in table.items():
        walk.add((*COLUMN, *suffix), tag, value)
    return walk


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables, known=st.integers(0, 60), bytes_of_an_answer=st.sampled_from([1472, 1472, 600]))
@example(table={(1,): (Tag.COUNTER64, 2**64 - 1), (2,): (Tag.INTEGER, -(2**31)), (3,): (Tag.OCTET_STRING, b"")}, known=0,
         bytes_of_an_answer=1472)  # fmt: skip
def test_both_engines_read_the_same_rows(
    engines: Engines, table: dict[tuple[int, ...], tuple[Tag, Value]], known: int, bytes_of_an_answer: int
) -> None:
    expected: Rows = [
        (".".join(map(str, (*COLUMN, *suffix))), ours(*table[suffix])) for suffix in sorted(table)
    ]  # fmt: skip
    engines.agent.walk, engines.agent.max_bytes = walk_of(table), bytes_of_an_answer
    before = [oid for oid, _ in expected][:known]
    assert engines.run(engines.fast.walk(DOTTED, before)) == expected
    assert engines.run(engines.standard.walk(DOTTED, before)) == expected
    asked = [oid for oid, _ in expected] + [f"{DOTTED}.4.4.4.4.4.4.4.4.4"]
    assert engines.run(engines.fast.get(asked)) == dict(expected)
    assert engines.run(engines.standard.get(asked)) == dict(expected)


def _survives(engines: Engines, session: Session, answer: Callable[[bytes], bytes]) -> None:
    """Nothing but SnmpError for broken answers, in a bounded time; and the next answer is read as ever."""
    engines.agent.walk = walk_of(
        {(1,): (Tag.COUNTER64, 2**40), (2,): (Tag.OCTET_STRING, b"two"), (3,): (Tag.INTEGER, 3)}
    )
    said: list[str] = []
    for ask in (lambda: session.walk(DOTTED), lambda: session.get([f"{DOTTED}.1", TICKS])):
        engines.agent.corrupt = answer
        try:
            engines.run(ask(), 3.0)
        except SnmpError as error:
            said.append(str(error))
        finally:
            engines.agent.corrupt = None
    assert not [text for text in said if "\n" in text]
    for _ in range(20):  # a busy machine may take longer than the time-out
        try:
            assert engines.run(session.get([f"{DOTTED}.3"])) == {f"{DOTTED}.3": 3}
            return
        except SnmpError:
            continue
    raise AssertionError("a sound answer is no longer read")


PANICS = ["3082", "30", "3081", "308204", "3081b802010104067075626c6963a281aa0204", "30820005020101", "9f", "bf"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=mutations)
def test_the_fast_engine_survives_answers_that_were_damaged(
    hurried: Engines, changes: list[tuple[str, int, int]]
) -> None:
    _survives(hurried, hurried.fast, lambda datagram: mutated(datagram, changes))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=64))
@example(garbage=bytes.fromhex(PANICS[0]))
@example(garbage=bytes.fromhex(PANICS[4]))
def test_the_fast_engine_survives_garbage(hurried: Engines, garbage: bytes) -> None:
    _survives(hurried, hurried.fast, lambda _: garbage)


@pytest.mark.parametrize("datagram", PANICS)
def test_the_fast_engine_survives_what_its_library_panics_on(hurried: Engines, datagram: str) -> None:
    _survives(hurried, hurried.fast, lambda _: bytes.fromhex(datagram))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=mutations)
def test_pysnmp_survives_answers_that_were_damaged(hurried: Engines, changes: list[tuple[str, int, int]]) -> None:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    _survives(hurried, hurried.standard, lambda datagram: mutated(datagram, changes))


@settings(max_examples=300, deadline=None)
@given(head=st.binary(max_size=80), changes=mutations)
def test_the_error_status_of_any_datagram_is_a_word(head: bytes, changes: list[tuple[str, int, int]]) -> None:
    answer = bytes.fromhex(
        "302002010104067075626c6963a2130201010201050201013008300606012b0500".replace("06012b", "06022b06")
    )
    assert error_status(answer) == "genErr"
    for data in (head, mutated(answer, changes)):
        assert "\n" not in error_status(data)
