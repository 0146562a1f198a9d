"""Sessions by either engine: what they read of a simulated agent and of a real one, and say of broken ones."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from exporter.switches import snmp
from exporter.switches.sessions import opener
from exporter.switches.settings import SwitchSettings
from exporter.switches.snmp import (
    OBJECT_ID,
    UPTIME,
    Community,
    Credentials,
    NoAnswerError,
    RefusedError,
    Session,
    SnmpError,
    User,
    planned_repetitions,
)
from lab.switches.agent import Agent
from lab.switches.ber import GET_BULK, Oid, Tag, decode_request
from lab.switches.serve import Serving
from lab.switches.walk import Walk
from tests.unit.polled import settings_of, system
from tests.unit.running import free_port

COLUMN = "1.3.6.1.4.1.5.1"
NUMBERS: Oid = (1, 3, 6, 1, 4, 1, 5, 1)
ROWS = 120
engines = pytest.mark.parametrize("engine", ["fast", "pysnmp"])


def column(rows: int = ROWS) -> Walk:
    """A column with another on each side."""
    walk = system(object_id="1.3.6.1.4.1.5")
    for before_and_after in ((*NUMBERS[:-1], 0), (*NUMBERS[:-1], 2)):
        walk.add((*before_and_after, 1), Tag.INTEGER, -1)
    for row in range(1, rows + 1):
        walk.add((*NUMBERS, row), Tag.COUNTER64, row)
    return walk


WHOLE = [(f"{COLUMN}.{row}", row) for row in range(1, ROWS + 1)]


def open_session(engine: str, port: int, who: Credentials, address: str = "127.0.0.1", **changes: Any) -> Session:
    switch = SwitchSettings(name="s", address=address, port=port, credentials=who, aliases={})
    return opener(settings_of([switch], engine=engine, **{"timeout_seconds": 0.3, **changes}))(switch, None)


@asynccontextmanager
async def asking(engine: str, agent: Agent, community: str = "public", **changes: Any) -> AsyncIterator[Session]:
    async with Serving([agent]) as ports:
        with closing(open_session(engine, ports[0], Community(community), **changes)) as session:
            yield session


def ask(engine: str, agent: Agent, question: Callable[[Session], Awaitable[Any]], **changes: Any) -> Any:
    """What the question came to, by a session of its own with the agent."""

    async def main() -> Any:
        async with asking(engine, agent, **changes) as session:
            return await question(session)

    return asyncio.run(main())


def walked(engine: str, agent: Agent, **changes: Any) -> Any:
    return ask(engine, agent, lambda session: session.walk(COLUMN), **changes)


# ---- an agent that does what it should


@engines
def test_a_walk_gives_the_rows_of_its_column_and_no_others(engine: str) -> None:
    assert walked(engine, Agent(column())) == WHOLE
    assert walked(engine, Agent(column(), max_varbinds=7)) == WHOLE
    assert walked(engine, Agent(column(), max_bytes=484)) == WHOLE
    assert walked(engine, Agent(column(0))) == []
    assert walked(engine, Agent(Walk([((1, 3, 6, 1, 2, 1, 1, 3, 0), Tag.TIME_TICKS, 5)]))) == []


@engines
def test_a_get_gives_what_there_is_of_what_was_asked_for(engine: str) -> None:
    asked = [UPTIME, OBJECT_ID, f"{COLUMN}.999", "1.3.6.1.4.1.77.0", *(oid for oid, _ in WHOLE[:100])]
    agent = Agent(column())
    agent.uptime = 4711
    found = ask(engine, agent, lambda session: session.get(asked))
    assert {**found, UPTIME: found[UPTIME] // 100} == {UPTIME: 47, OBJECT_ID: "1.3.6.1.4.1.5", **dict(WHOLE[:100])}
    assert agent.requests == 3  # an answer stays below a frame


@engines
def test_a_walk_of_a_known_column_takes_one_request(engine: str) -> None:
    repetitions = []

    class Counting(Agent):
        def answer(self, datagram: bytes) -> bytes | None:
            request = decode_request(datagram)
            if request.kind == GET_BULK:
                repetitions.append(request.max_repetitions)
            return super().answer(datagram)

    known = [oid for oid, _ in WHOLE[:20]]
    agent = Counting(column(20))
    assert ask(engine, agent, lambda session: session.walk(COLUMN, known)) == WHOLE[:20]
    assert repetitions == [21]  # one more says where the column ends
    assert planned_repetitions(known, 10) == 10
    assert planned_repetitions([], 50) == 50


@engines
def test_rows_that_came_and_went_since_the_last_walk_are_seen(engine: str) -> None:
    known = [oid for oid, _ in WHOLE[:20]]
    for rows in (0, 3, 19, 21, ROWS):
        assert ask(engine, Agent(column(rows)), lambda session: session.walk(COLUMN, known)) == WHOLE[:rows]


@engines
def test_a_value_that_is_null_is_left_out_and_ends_nothing(engine: str) -> None:
    for null in (1, 3, 50):
        walk = column(60)
        walk.add((*NUMBERS, null), Tag.NULL, None)
        expected = [row for number, row in enumerate(WHOLE[:60], start=1) if number != null]
        assert walked(engine, Agent(walk), max_repetitions=3) == expected, null
        assert walked(engine, Agent(walk)) == expected, null


@engines
def test_ipv6_is_spoken(engine: str) -> None:
    try:
        bound = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        bound.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error}")
    agent = Agent(column())

    async def main() -> Any:
        def answer() -> None:
            datagram, asker = bound.recvfrom(65535)
            bound.sendto(agent.answer(datagram) or b"", asker)

        asyncio.get_running_loop().add_reader(bound, answer)
        with closing(open_session(engine, bound.getsockname()[1], Community("public"), "::1")) as session:
            return await session.walk(COLUMN)

    with bound:
        assert asyncio.run(main()) == WHOLE


# ---- an agent that does what it should not


@engines
def test_a_wrong_community_hears_nothing_and_the_message_says_what_it_may_be(engine: str) -> None:
    with pytest.raises(NoAnswerError, match=r"no answer from 127\.0\.0\.1") as refused:
        walked(engine, Agent(column()), community="s3cret-and-wrong")
    assert "s3cret" not in str(refused.value)
    if engine == "fast":
        assert str(refused.value).endswith("asked 1 times (down, filtered, or a wrong community)")


def test_a_closed_port_is_told_from_silence() -> None:
    with pytest.raises(NoAnswerError, match=r"nothing listens at 127.0.0.1:\d+ \(ICMP port unreachable\)"):
        asyncio.run(_walk_port("fast", free_port(socket.SOCK_DGRAM, "127.0.0.1")))


def test_a_closed_port_is_no_answer_to_pysnmp() -> None:
    with pytest.raises(NoAnswerError):
        asyncio.run(_walk_port("pysnmp", free_port(socket.SOCK_DGRAM, "127.0.0.1")))


async def _walk_port(engine: str, port: int) -> None:
    with closing(open_session(engine, port, Community("public"))) as session:
        await session.walk(COLUMN)


def test_what_is_no_address_is_an_error_of_the_operating_system() -> None:
    with pytest.raises(OSError, match="invalid address"):
        open_session("fast", 161, Community("public"), "switch.example")


@engines
def test_an_agent_that_goes_round_in_circles_is_left(engine: str) -> None:
    agent = Agent(column())
    for turn, back in ((60, None), (60, 3), (60, 60), (1, 1), (7, 6)):
        agent.loop_at, agent.loop_to = (*NUMBERS, turn), None if back is None else (*NUMBERS, back)
        with pytest.raises(SnmpError, match="goes round in circles"):
            walked(engine, agent)


@engines
def test_a_table_without_end_is_left(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snmp, "MAX_ROWS", 100)
    with pytest.raises(SnmpError, match=r"^more than 100 rows in 1\.3\.6\.1\.4\.1\.5\.1$"):
        walked(engine, Agent(column()))


@engines
def test_a_truncated_answer_is_no_answer_or_one_that_cannot_be_read(engine: str) -> None:
    agent = Agent(column())
    whole = len(agent.answer(_request()) or b"")
    for length in (0, 1, 2, 10, 200, whole - 1) if engine == "fast" else (2, whole - 1):
        agent.truncate = length
        with pytest.raises(SnmpError, match=r"cannot be read|no answer"):
            walked(engine, agent, timeout_seconds=0.05)


def _request() -> bytes:
    """A GETBULK of the column, as net-snmp sends it."""
    return bytes.fromhex("302702010104067075626c6963a51a020101020100020132300f300d06092b06010401050100000500")


@engines
@pytest.mark.parametrize(
    "answer", ["3082", "30", "", "3081", "02", "ff" * 20, "30847fffffff", "3080", "30820005020101"]
)
def test_a_datagram_that_is_none_of_snmp_raises_nothing_but_an_error_of_snmp(engine: str, answer: str) -> None:
    """The fast engine's library panicked on "3082", which no "except Exception" catches."""
    agent = Agent(column())
    agent.corrupt = lambda _: bytes.fromhex(answer)
    with pytest.raises(SnmpError):
        walked(engine, agent, timeout_seconds=0.05)


@engines
def test_an_answer_to_another_request_is_none(engine: str) -> None:
    agent = Agent(column())
    agent.wrong_request_id = True
    with pytest.raises(NoAnswerError):
        walked(engine, agent, timeout_seconds=0.1)


@engines
def test_an_error_that_the_device_answers_is_one(engine: str) -> None:
    agent = Agent(column())
    agent.error_status = 5
    with pytest.raises(SnmpError, match=r"^the device answered genErr$"):
        walked(engine, agent)
    with pytest.raises(SnmpError, match=r"^the device answered genErr$"):
        ask(engine, agent, lambda session: session.get([UPTIME]))


@engines
def test_what_is_too_much_for_one_answer_is_asked_for_in_pieces(engine: str) -> None:
    walk = system()
    for row in range(1, 101):
        walk.add((*NUMBERS, row), Tag.OCTET_STRING, b"a name of some length %d" % row)
    names = [f"{COLUMN}.{row}" for row in range(1, 101)]
    found = ask(engine, Agent(walk, max_bytes=484), lambda session: session.get(names))
    assert list(found) == names
    with pytest.raises(SnmpError, match=r"^the device answered tooBig$"):
        ask(engine, Agent(walk, max_bytes=50), lambda session: session.get(names[:3]))


@engines
def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(engine: str) -> None:
    agent = Agent(column(3))
    delay = 0.5 if engine == "fast" else 1.5  # pysnmp looks at its clock twice a second

    async def late(session: Session) -> Any:
        agent.delay = delay
        with pytest.raises(NoAnswerError):
            await session.get([f"{COLUMN}.1"])
        agent.delay = 0.0
        first = await session.get([f"{COLUMN}.2"])
        await asyncio.sleep(delay)  # the late one arrives while nobody asks
        return first, await session.get([f"{COLUMN}.3"]), await session.walk(COLUMN)

    assert ask(engine, agent, late, timeout_seconds=0.3) == ({f"{COLUMN}.2": 2}, {f"{COLUMN}.3": 3}, WHOLE[:3])


@engines
def test_a_lost_request_is_asked_again(engine: str) -> None:
    agent = Agent(column())
    every_other = cycle((True, False))
    agent.drop = lambda _: next(every_other)
    assert walked(engine, agent, retries=1, timeout_seconds=0.3) == WHOLE


# ---- net-snmp's agent, over v2c and v3

USER = User(
    name="poller", authentication="sha256", authentication_key="auth-secret-1", privacy="aes", privacy_key="priv-secret"
)


class Snmpd:
    """A real agent on loopback that serves this machine's interfaces."""

    def __init__(self, directory: Path) -> None:
        program = shutil.which("snmpd", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            pytest.skip("snmpd is not on PATH (apt: snmpd)")
        self.port = free_port(socket.SOCK_DGRAM, "127.0.0.1")
        (directory / "snmpd.conf").write_text(
            f"agentAddress udp:127.0.0.1:{self.port}\nrocommunity public 127.0.0.1\nrouser poller priv\n"
            f"createUser poller SHA-256 {USER.authentication_key} AES {USER.privacy_key}\n"
        )
        environment = {**os.environ, "SNMP_PERSISTENT_DIR": str(directory / "state"), "MIBS": ""}
        argv = [program, "-f", "-Ln", "-C", "-c", str(directory / "snmpd.conf"), "-I", "-smux"]
        self._start: Callable[[], subprocess.Popen[bytes]] = lambda: subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL
        )
        self._process = self._start()
        asyncio.run(self._answers())

    async def _answers(self) -> None:
        for _ in range(100):
            with closing(open_session("fast", self.port, Community("public"), timeout_seconds=0.1)) as session:
                try:
                    await session.get([UPTIME])
                    return
                except NoAnswerError:
                    await asyncio.sleep(0.05)
        raise AssertionError("snmpd does not answer")

    def restart(self) -> None:
        self.stop()
        self._process = self._start()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def snmpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snmpd]:
    agent = Snmpd(tmp_path_factory.mktemp("snmpd"))
    yield agent
    agent.stop()


async def _interfaces(engine: str, port: int, who: Credentials) -> set[str]:
    with closing(open_session(engine, port, who, timeout_seconds=1.0)) as session:
        await session.refresh()
        assert len(await session.get([UPTIME, OBJECT_ID, "1.3.6.1.2.1.1.99.0"])) == 2
        rows = await session.walk("1.3.6.1.2.1.31.1.1.1.1")
        return {value.decode() for _, value in rows if isinstance(value, bytes)}


@engines
@pytest.mark.parametrize("who", [Community("public"), USER], ids=["v2c", "v3"])
def test_a_real_agent_is_read(snmpd: Snmpd, engine: str, who: Credentials) -> None:
    assert "lo" in asyncio.run(_interfaces(engine, snmpd.port, who))  # others come and go with other tests


def _user(**changes: str) -> User:
    return User(**{name: changes.get(name, getattr(USER, name)) for name in USER.__struct_fields__})


@engines
def test_a_wrong_authentication_key_is_refused(snmpd: Snmpd, engine: str) -> None:
    with pytest.raises(RefusedError) as refused:
        asyncio.run(_interfaces(engine, snmpd.port, _user(authentication_key="another-key")))
    assert "another-key" not in str(refused.value)


@engines
def test_an_unknown_user_is_refused(snmpd: Snmpd, engine: str) -> None:
    with pytest.raises(RefusedError):
        asyncio.run(_interfaces(engine, snmpd.port, _user(name="nobody")))


@engines
def test_a_wrong_privacy_key_is_named_as_what_may_be_wrong(snmpd: Snmpd, engine: str) -> None:
    with pytest.raises(SnmpError, match="wrong privacy key" if engine == "fast" else "no answer") as refused:
        asyncio.run(_interfaces(engine, snmpd.port, _user(privacy_key="another-key")))
    assert "another-key" not in str(refused.value)


@engines
def test_an_agent_that_restarted_is_read_by_the_next_poll(snmpd: Snmpd, engine: str) -> None:
    """Over v3 its boots are others, and its time begins again (RFC 3414)."""

    async def main() -> None:
        with closing(open_session(engine, snmpd.port, USER, timeout_seconds=0.5, retries=2)) as session:
            await session.refresh()
            before = await session.get([UPTIME])
            assert before
            restarted = time.monotonic()
            snmpd.restart()
            for _ in range(50):
                try:
                    await session.refresh()
                    after = await session.get([UPTIME])
                    break
                except SnmpError:
                    await asyncio.sleep(0.05)
            assert after[UPTIME] <= 100 * (time.monotonic() - restarted)  # type: ignore[operator]

    asyncio.run(main())
