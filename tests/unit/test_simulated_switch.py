"""Simulated switches: read by a real client as RFC 3416 says, and broken in each way that a test may ask for."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.switches import ber
from lab.switches.agent import Agent
from lab.switches.ber import Oid, Tag, Value
from lab.switches.generated import PFC_OF_PRIORITY, QUEUES, RECEIVED, index_of, sonic
from lab.switches.serve import Serving, serving
from lab.switches.walk import UPTIME, Walk
from tests.unit.running import free_port

RECORDED = Path(__file__).parents[2] / "../shared/data/snmprec"
SYNTHETIC = RECORDED / "SYNTHETIC_sonic_t0.snmprec"
recorded = pytest.mark.skipif(not RECORDED.exists(), reason="no recorded walks in ../shared/data/snmprec")
net_snmp = pytest.mark.skipif(
    not all(map(shutil.which, ("snmpbulkwalk", "snmpget", "snmpgetnext"))), reason="net-snmp's commands are not on PATH"
)

COLUMN: Oid = (1, 3, 6, 1, 4, 1, 5, 1)
OTHER: Oid = (1, 3, 6, 1, 4, 1, 5, 2)
ROWS = 30


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def agent(clock: Clock) -> Agent:
    """Two columns, the second shorter, and an uptime of a minute."""
    walk = Walk([(UPTIME, Tag.TIME_TICKS, 6000)])
    for row in range(1, ROWS + 1):
        walk.add((*COLUMN, row), Tag.COUNTER64, row)
    for row in range(1, 4):
        walk.add((*OTHER, row), Tag.OCTET_STRING, b"x")
    return Agent(walk, clock=clock)


def request(
    kind: int, *oids: Oid, numbers: tuple[int, int] = (0, 0), community: bytes = b"public", id_: int = 7
) -> bytes:
    names = b"".join(ber.encode_varbind(ber.encode_oid(oid), b"\x05\x00") for oid in oids)
    heads = b"".join(ber.encode_integer(2, number) for number in (id_, *numbers))
    pdu = element(kind, heads + element(0x30, names))
    return element(0x30, b"\x02\x01\x01" + element(4, community) + pdu)


def element(tag: int, body: bytes) -> bytes:
    # A length of three bytes, longer than it need be, as net-snmp may write it.
    return bytes((tag, 0x82, len(body) >> 8, len(body) & 0xFF)) + body


def read(answer: bytes | None) -> tuple[int, int, list[tuple[Oid, int, bytes]]]:
    """Request id, error status, and of each varbind the OID, the tag and the bytes of the value."""
    assert answer is not None
    (message,) = parts(answer)
    _, _, (_, pdu) = parts(message[1])
    (_, id_), (_, status), _, (_, varbinds) = parts(pdu)
    found = []
    for _, varbind in parts(varbinds):
        (_, name), (tag, value) = parts(varbind)
        found.append((ber.decode_oid(b"\x06" + bytes([len(name)]) + name), tag, value))
    return int.from_bytes(id_, "big"), int.from_bytes(status, "big"), found


def parts(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        length, at = data[1], 2
        if length > 0x80:
            at += length - 0x80
            length = int.from_bytes(data[2:at], "big")
        assert at + length <= len(data)
        found.append((data[0], data[at : at + length]))
        data = data[at + length :]
    return found


def names(agent: Agent, *oids: Oid, repetitions: int, once: int = 0) -> list[Oid]:
    answer = agent.answer(request(ber.GET_BULK, *oids, numbers=(once, repetitions)))
    return [oid for oid, _, _ in read(answer)[2]]


def ask(command: str, port: int, *words: str) -> subprocess.CompletedProcess[str]:
    options = ["-v2c", "-c", "public", "-On", "-Oe", "-Ot", "-r0", "-t1"]
    # Nothing outside the test: no MIB that is installed, and no directory of the client's own.
    environment = {**os.environ, "MIBS": "", "SNMP_PERSISTENT_DIR": os.devnull}
    return subprocess.run(
        [command, *options, f"127.0.0.1:{port}", *words],
        env=environment, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip


def walked(port: int, repetitions: int, root: str) -> list[str]:
    """The lines of snmpbulkwalk, without the one that tells the end of all."""
    one = ask("snmpbulkwalk", port, f"-Cr{repetitions}", root)
    assert one.returncode == 0, one.stderr
    return [line for line in one.stdout.splitlines() if "No more variables left" not in line]


def printed(walk: Walk) -> list[str]:
    """As net-snmp prints it without any MIB."""
    return [f".{dotted(oid)} = {shown(tag, value)}" for oid, tag, value in walk]


def dotted(oid: Oid) -> str:
    return ".".join(map(str, oid))


KINDS = {Tag.INTEGER: "INTEGER", Tag.COUNTER32: "Counter32", Tag.GAUGE32: "Gauge32", Tag.COUNTER64: "Counter64"}


def shown(tag: Tag, value: Value) -> str:
    if isinstance(value, bytes):
        return f'STRING: "{value.decode()}"' if value else '""'
    if isinstance(value, tuple):
        return f"OID: .{dotted(value)}" if value != (0, 0) else "OID: .0.0"
    return str(value) if tag == Tag.TIME_TICKS else f"{KINDS[tag]}: {value}"


# ---- a real client


@recorded
@net_snmp
@pytest.mark.parametrize("repetitions", [3, 50, 1000])
def test_a_real_client_reads_the_whole_walk(clock: Clock, repetitions: int) -> None:
    walk = Walk.from_snmprec(SYNTHETIC)
    assert (len(walk), walk.skipped) == (556, 0)
    with serving([Agent(walk, clock=clock)]) as (port,):
        lines = walked(port, repetitions, ".1.0") + walked(port, repetitions, ".1.3")
    assert lines == printed(walk)


@net_snmp
def test_a_real_client_reads_a_generated_switch(clock: Clock) -> None:
    walk = sonic(ports=4)
    with serving([Agent(walk, clock=clock, max_bytes=65507)]) as (port,):
        assert walked(port, 100, ".1.3") == printed(walk)


@net_snmp
def test_a_real_client_gets_values_and_is_told_what_is_missing(agent: Agent) -> None:
    agent.walk.add((*OTHER, 9), Tag.OPAQUE, bytes.fromhex("9f780442280000"))
    agent.walk.add((*OTHER, 10), Tag.IP_ADDRESS, bytes((10, 0, 0, 255)))
    agent.walk.add((*OTHER, 11), Tag.NULL, None)
    agent.walk.add((*OTHER, 12), Tag.INTEGER, -129)
    agent.walk.add((*OTHER, 13), Tag.COUNTER64, (1 << 64) - 1)
    agent.walk.add((*OTHER, 14), Tag.OID, (2, 999, 1 << 31))
    asked = [*((*OTHER, row) for row in range(9, 16)), (*OTHER[:-1], 3, 1), (1, 3, 6, 1, 2, 1, 1, 3)]
    with serving([agent]) as (port,):
        got = ask("snmpget", port, *map(dotted, asked)).stdout.splitlines()
        after = ask("snmpgetnext", port, dotted(COLUMN), dotted((*COLUMN, 3)), dotted((*OTHER, 14))).stdout.splitlines()
    assert [line.split(" = ")[1] for line in got] == [
        "Opaque: Float: 42.000000", "IpAddress: 10.0.0.255", "NULL", "INTEGER: -129",
        "Counter64: 18446744073709551615", "OID: .2.999.2147483648", "No Such Instance currently exists at this OID",
        "No Such Object available on this agent at this OID", "No Such Instance currently exists at this OID",
    ]  # fmt: skip
    assert after[:2] == [f".{dotted((*COLUMN, 1))} = Counter64: 1", f".{dotted((*COLUMN, 4))} = Counter64: 4"]
    assert "No more variables left" in after[2]


@net_snmp
def test_a_real_client_notices_each_fault(agent: Agent) -> None:
    def complaint() -> str:
        one = ask("snmpbulkwalk", port, dotted(COLUMN))
        return "" if one.returncode == 0 else one.stderr + one.stdout

    with serving([agent]) as (port,):
        assert complaint() == ""
        agent.loop_at = (*COLUMN, 20)
        assert "OID not increasing" in complaint()
        agent.loop_at = None
        agent.error_status = ber.GENERAL_ERROR
        assert "genError" in complaint()
        agent.error_status = 0
        agent.drop = 1.0
        assert "No Response" in complaint() or "Timeout" in complaint()
        agent.drop = 0.0
        agent.delay = 0.2
        started = time.monotonic()
        assert complaint() == ""
        assert time.monotonic() - started > 0.2


# ---- requests


def test_columns_of_different_lengths_end_each_on_its_own(agent: Agent) -> None:
    agent.max_bytes = 65507
    walk = [oid for oid, _, _ in agent.walk]
    assert names(agent, COLUMN, OTHER, repetitions=4) == [
        (*COLUMN, 1), (*OTHER, 1), (*COLUMN, 2), (*OTHER, 2), (*COLUMN, 3), (*OTHER, 3), (*COLUMN, 4), (*OTHER, 3),
    ]  # fmt: skip
    tags = [tag for _, tag, _ in read(agent.answer(request(ber.GET_BULK, COLUMN, OTHER, numbers=(0, 4))))[2]]
    assert tags == [0x46, 4, 0x46, 4, 0x46, 4, 0x46, 0x82]
    assert names(agent, COLUMN, repetitions=9999) == [*walk[1:], walk[-1]]
    both = names(agent, COLUMN, OTHER, repetitions=9999)
    assert len(both) == 2 * (ROWS + 3 + 1)
    assert names(agent, UPTIME[:-1], COLUMN, repetitions=2, once=1) == [UPTIME, (*COLUMN, 1), (*COLUMN, 2)]
    assert names(agent, (1, 3), OTHER, repetitions=-1, once=-3) == []


def test_an_answer_has_as_many_varbinds_as_fit(agent: Agent) -> None:
    everything = names(agent, COLUMN, repetitions=ROWS)
    for agent.max_bytes in (400, 130, 60):
        answer = agent.answer(request(ber.GET_BULK, COLUMN, numbers=(0, ROWS)))
        assert answer is not None
        assert agent.max_bytes - 22 < len(answer) <= agent.max_bytes  # one more is of 16 bytes, and of longer lengths
        found = [oid for oid, _, _ in read(answer)[2]]
        assert found == everything[: len(found)]
    agent.max_bytes = 100
    assert read(agent.answer(request(ber.GET, *[(*COLUMN, n) for n in range(1, 20)])))[1:] == (ber.TOO_BIG, [])
    agent.max_bytes, agent.max_varbinds = 1472, 5
    assert names(agent, COLUMN, repetitions=ROWS) == everything[:5]


def test_who_does_not_know_the_community_hears_nothing(agent: Agent) -> None:
    assert agent.answer(request(ber.GET, UPTIME, community=b"private")) is None
    assert agent.answer(request(ber.GET, UPTIME).replace(b"\x02\x01\x01", b"\x02\x01\x00", 1)) is None
    assert agent.answer(request(0xA3, UPTIME)) is None
    assert agent.requests == 0


def test_no_datagram_breaks_an_agent(agent: Agent) -> None:
    chance = random.Random(1)  # noqa: S311
    good = [request(ber.GET_BULK, COLUMN, OTHER, numbers=(1, 20)), request(ber.GET, UPTIME)]
    for number in range(3000):
        datagram = bytearray(good[number % 2])
        for _ in range(chance.randrange(1, 4)):
            datagram[chance.randrange(len(datagram))] = chance.randrange(256)
        agent.answer(bytes(datagram[: chance.randrange(len(datagram) + 1)] if number % 3 else datagram))
    for length in range(60):
        agent.answer(chance.randbytes(length))
    assert read(agent.answer(good[1]))[2] == [(UPTIME, 67, (6000).to_bytes(2, "big"))]


@pytest.mark.parametrize(
    "oid", [(1, 3), (0, 39), (2, 999, 3), (1, 3, 127, 128, 16383, 16384, (1 << 32) - 1), (2, 5, 0)]
)
def test_oids_are_encoded_as_they_are_decoded(oid: Oid) -> None:
    assert ber.decode_oid(ber.encode_oid(oid)) == oid


@pytest.mark.parametrize("oid", [(), (1,), (3, 1), (1, 40), (1, 3, -1)])
def test_what_is_no_oid_is_refused(oid: Oid) -> None:
    with pytest.raises(ValueError, match="is no OID"):
        ber.encode_oid(oid)


# ---- faults


def test_a_walk_that_goes_back(agent: Agent) -> None:
    agent.loop_at = (*COLUMN, 3)
    rows = [oid[-1] for oid in names(agent, COLUMN, repetitions=6)]
    assert rows == [1, 2, 3, 2, 3, 2]
    assert names(agent, (*COLUMN, 3), repetitions=1) == [(*COLUMN, 2)]
    agent.loop_to = (*COLUMN, 3)
    assert [oid[-1] for oid in names(agent, COLUMN, repetitions=5)] == [1, 2, 3, 3, 3]
    agent.loop_to = (*COLUMN, 1)
    assert [oid[-1] for oid in names(agent, COLUMN, repetitions=5)] == [1, 2, 3, 1, 2]
    agent.loop_at = (*OTHER, 9)
    assert names(agent, (*OTHER, 2), repetitions=5) == [(*OTHER, 3), (*OTHER, 3)]


def test_answers_that_are_lost_cut_damaged_or_of_another_request(agent: Agent) -> None:
    good = request(ber.GET, UPTIME)
    agent.wrong_request_id = True
    assert read(agent.answer(good))[0] == 6
    agent.wrong_request_id = False
    agent.truncate = 10
    assert len(agent.answer(good) or b"") == 10
    agent.truncate = None
    agent.corrupt = lambda answer: answer[::-1]
    assert (agent.answer(good) or b"")[-1] == 0x30
    agent.corrupt = None
    agent.error_status = ber.GENERAL_ERROR
    assert read(agent.answer(good)) == (7, 5, [(UPTIME, 5, b"")])
    agent.error_status = 0
    agent.drop = 0.5
    assert 60 < sum(agent.answer(good) is None for _ in range(200)) < 140
    agent.drop = lambda datagram: datagram == good
    assert agent.answer(good) is None
    assert agent.answer(request(ber.GET, UPTIME, id_=8)) is not None


def uptime(agent: Agent) -> int:
    return int.from_bytes(read(agent.answer(request(ber.GET, UPTIME)))[2][0][2], "big")


def test_uptime_advances_and_wraps(agent: Agent, clock: Clock) -> None:
    assert uptime(agent) == agent.uptime == 6000
    clock.now += 1.5
    assert uptime(agent) == 6150
    assert names(agent, (1, 3), repetitions=1) == [UPTIME]
    agent.uptime = (1 << 32) - 100
    clock.now += 2
    assert uptime(agent) == 100


def test_a_restart_in_the_middle_of_a_walk(agent: Agent, clock: Clock) -> None:
    first, last = (*COLUMN, 1), (*COLUMN, ROWS)
    agent.walk.move({first: 10})
    agent.restart_after = 2
    clock.now += 10
    seen = []
    for _ in range(4):
        values = read(agent.answer(request(ber.GET, UPTIME, first, last)))[2]
        seen.append(tuple(int.from_bytes(value, "big") for _, _, value in values))
        clock.now += 1
    assert seen == [(7000, 101, ROWS), (7100, 111, ROWS), (0, 0, 0), (100, 10, 0)]


# ---- walks


def test_values_change_and_keep_their_type(agent: Agent) -> None:
    walk = agent.walk
    walk.set((*COLUMN, 2), 1 << 40)
    assert walk.get((*COLUMN, 2)) == 1 << 40
    assert read(agent.answer(request(ber.GET, (*COLUMN, 2))))[2] == [((*COLUMN, 2), 0x46, (1 << 40).to_bytes(6, "big"))]
    with pytest.raises(ValueError, match="no value of COUNTER64"):
        walk.set((*COLUMN, 2), b"text")
    with pytest.raises(ValueError, match="out of range"):
        walk.set((*COLUMN, 2), -1)
    with pytest.raises(KeyError):
        walk.set((*COLUMN, 999), 1)


def test_oids_come_and_go(agent: Agent) -> None:
    walk = agent.walk
    agent.walk.move({(*COLUMN, 30): 1})
    walk.add((*COLUMN, 1, 5), Tag.INTEGER, 3)
    assert names(agent, COLUMN, repetitions=3) == [(*COLUMN, 1), (*COLUMN, 1, 5), (*COLUMN, 2)]
    assert walk.remove((*COLUMN, 1)) == 2
    assert walk.remove((*COLUMN, 1)) == 0
    assert names(agent, COLUMN, repetitions=1) == [(*COLUMN, 2)]
    assert walk.remove(OTHER) == 3
    assert OTHER not in walk
    assert len(walk) == ROWS
    walk.add(UPTIME, Tag.TIME_TICKS, 5)
    assert len(walk) == ROWS


def test_counters_move_wrap_and_are_set(clock: Clock) -> None:
    small, large = (*COLUMN, 1), (*COLUMN, 2)
    walk = Walk([(small, Tag.COUNTER32, (1 << 32) - 10), (large, Tag.COUNTER64, 5)])
    walk.move({small: 2, large: 0.5})
    walk.refresh_seconds = 5
    other = walk.copy()
    agent = Agent(walk, clock=clock)

    def values() -> list[int]:
        found = read(agent.answer(request(ber.GET_BULK, COLUMN, numbers=(0, 2))))[2]
        assert [int.from_bytes(value, "big") for _, _, value in found] == [walk.get(small), walk.get(large)]
        return [int.from_bytes(value, "big") for _, _, value in found]

    assert values() == [(1 << 32) - 10, 5]
    clock.now += 4.9
    assert values() == [(1 << 32) - 10, 5]  # the switch has not looked again yet
    clock.now += 0.2
    assert values() == [0, 7]
    walk.set(small, 100)
    assert values() == [100, 7]
    clock.now += 5
    assert values() == [110, 10]
    assert other.get(small) == (1 << 32) - 10
    with pytest.raises(ValueError, match="no counter"):
        Walk([(UPTIME, Tag.TIME_TICKS, 5)]).move({UPTIME: 1})


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.snmprec"
    path.write_bytes(
        b"# a comment\n\n1.3.6.1.1.2|4|a|b\r\n1.3.6.1.1.1|4x|c3A9\n1.3.6.1.1.3|64|10.0.0.1\n1.3.6.1.1.4|64x|0a000002\n"
        b"1.3.6.1.1.5|5|\n1.3.6.1.1.6|6|.1.3.6\n1.3.6.1.1.7|2|-5\n1.3.6.1.1.8|4|\xff\x85\n"
        b"1.3.6.1.1.8|4|again\n1.3.6.1.2.1|65:numeric|rate=1\n1.3.6.1.2.2|4e|a\\x00\n1.3.6.1.2.3|65|-1\n1.3.6.1.2.4|2\n"
        b"1.3.6.1.2.5|4x|0g\n1.3.x.2.5|2|5\n1.3.6.1.2.6|99|5\n1.3.6.1.2.7|2x|05\n1.3.6.1.2.8|64|10.0.0\n"
    )
    walk = Walk.from_snmprec(path)
    assert walk.skipped == 10
    assert {oid[-1]: value for oid, _, value in walk} == {
        1: b"\xc3\xa9", 2: b"a|b", 3: b"\x0a\0\0\x01", 4: b"\x0a\0\0\x02", 5: None, 6: (1, 3, 6), 7: -5, 8: b"\xff\x85",
    }  # fmt: skip


@recorded
@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.snmprec")), ids=lambda path: path.stem)
def test_recorded_walks_are_read(path: Path, clock: Clock) -> None:
    walk = Walk.from_snmprec(path)
    lines = [line for line in path.read_bytes().splitlines() if re.match(rb"[0-9.]+\|", line)]
    assert len(walk) + walk.skipped == len(lines)
    assert walk.skipped <= 4
    agent = Agent(walk, clock=clock, max_bytes=65507)
    seen: list[Oid] = []
    position: Oid = (0, 0)
    while True:
        varbinds = read(agent.answer(request(ber.GET_BULK, position, numbers=(0, 500))))[2]
        seen += [oid for oid, tag, _ in varbinds if tag != 0x82]
        position = varbinds[-1][0]
        if varbinds[-1][1] == 0x82:
            break
    assert seen == [oid for oid, _, _ in walk]


def test_a_generated_switch_moves_its_counters(clock: Clock) -> None:
    walk = sonic(ports=8, priorities=4)
    agent = Agent(walk, clock=clock)
    paused, idle = ((*PFC_OF_PRIORITY, RECEIVED, index_of(2), priority) for priority in (3, 1))
    sent = (*QUEUES, index_of(2), 2, 4, 1)
    before = walk.get(paused), walk.get(idle), walk.get(sent)
    clock.now += 30
    agent.answer(request(ber.GET, paused))
    moved = [after - b for after, b in zip((walk.get(paused), walk.get(idle), walk.get(sent)), before, strict=True)]  # type: ignore[operator]
    assert moved[0] == 960
    assert moved[1] == 0
    assert moved[2] > 10_000_000
    assert len([oid for oid, _, _ in walk if oid[: len(QUEUES)] == QUEUES]) == 8 * 4 * 4


# ---- serving


def test_agents_within_an_event_loop() -> None:
    import asyncio

    async def both(agents: Sequence[Agent]) -> list[bytes]:
        answers = []
        async with Serving(agents) as ports:
            for port in ports:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", ASK, str(port), request(ber.GET, COLUMN).hex(), stdout=subprocess.PIPE
                )
                answers.append((await process.communicate())[0])
        return answers

    walk = Walk([(COLUMN, Tag.INTEGER, 5)])
    other = walk.copy()
    other.set(COLUMN, 6)
    answers = asyncio.run(both([Agent(walk), Agent(other)]))
    assert [read(bytes.fromhex(answer.decode()))[2][0][2] for answer in answers] == [b"\5", b"\6"]


ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(bytes.fromhex(sys.argv[2]), ("127.0.0.1", int(sys.argv[1])))
print(s.recv(65535).hex(), end="")
"""


@net_snmp
def test_a_process_of_switches() -> None:
    port = free_port()
    command = [sys.executable, "-m", "lab.switches.serve", "--count", "1", "--ports", "2", "--first-port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert ask("snmpget", port, "1.3.6.1.2.1.1.5.0").stdout == '.1.3.6.1.2.1.1.5.0 = STRING: "leaf-0"\n'
        finally:
            process.terminate()
        assert process.wait(10) == 0
