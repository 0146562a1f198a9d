"""Counters that veth does not have, read as a collector reads them: net-snmp's tools, sysfs, a recorder's file."""

from __future__ import annotations

import csv
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.contracts.counters import ECN_MARKED, PFC_RECEIVED, QUEUE_PACKETS
from exporter.host.netdev import read_netdev
from lab.counters import effects
from lab.counters.control import Counters
from lab.counters.dialects import (
    A_ECN_COUNTER_ENABLED,
    A_ECN_MARKED,
    A_PFC_INDICATIONS,
    A_QUEUE_PKTS,
    A_QUEUE_PKTS_DROPPED,
    A_WATCHDOG_STUCK,
    ARISTA_MIBS,
    C_PRIORITY_INDICATIONS,
    C_WATCHDOG_STATE,
    CISCO,
    CISCO_MIBS,
    DOT3_FCS_ERRORS,
    ETHERLIKE,
    Oid,
)
from lab.counters.names import CNP_QUEUE, CONTROL_QUEUE
from lab.counters.record import COLUMNS
from lab.counters.switch import marked
from lab.counters.timeline import Event
from lab.network.design import Cable, Design, Switch, draw
from lab.network.snmp import Agents
from lab.running import Running

IF_NAME: Oid = (1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 1)
LOSSLESS_TOS = 26 << 2


@pytest.fixture(scope="module")
def fabric(sandbox_possible: None) -> Iterator[Running]:  # noqa: ARG001
    running = Running(f"pytest-counters-{os.getpid()}")
    running.up(draw(os.getpid(), pods=1, rails=2, spines=1, hosts_per_pod=2), die_with_parent=True)
    try:
        yield running
    finally:
        running.down()


@pytest.fixture(scope="module")
def design(fabric: Running) -> Design:
    return fabric.design()


@pytest.fixture
def counters(fabric: Running) -> Iterator[Counters]:
    counters = Counters(fabric.directory)
    yield counters
    counters.clear()


@pytest.fixture
def cable(design: Design) -> Cable:
    """A host's link; its ``b`` end is a leaf's port."""
    return design.links[0]


@pytest.fixture
def leaf(design: Design, cable: Cable) -> Switch:
    return next(switch for switch in design.switches if switch.name == cable.b.node)


def tool(fabric: Running, argv: list[str]) -> str:
    environment = [f"{name}={value}" for name, value in Agents(fabric.directory / "snmp").client_environment().items()]
    return fabric.run(None, ["env", *environment, *argv], check=False).stdout


WALK = ("snmpbulkwalk", "-Cr50", "-t", "1", "-r", "1", "-On", "-Oe", "-OQ", "-Ot")


def parse_walk(output: str) -> dict[Oid, int | bytes | None]:
    """Read what WALK prints: numbers, and strings in quotes; other types are kept as empty strings."""
    rows: dict[Oid, int | bytes | None] = {}
    for line in output.splitlines():
        name, _, text = line.partition(" = ")
        if not name.startswith(".") or not text or text.startswith("No "):  # No Such Object, No more variables
            continue
        value = text.strip()
        number = value.lstrip("-").isdecimal()
        rows[tuple(map(int, name[1:].split(".")))] = int(value) if number else value.strip('"').encode()
    return rows


def walk(fabric: Running, switch: Switch, subtree: Oid) -> dict[Oid, int | bytes | None]:
    return parse_walk(tool(fabric, [*WALK, switch.management, ".".join(map(str, subtree))]))


def get(fabric: Running, switch: Switch, oid: Oid, program: str = "snmpget") -> str:
    return tool(fabric, [program, "-On", switch.management, ".".join(map(str, oid))]).strip()


def interface(fabric: Running, switch: Switch, port: str) -> int:
    names = walk(fabric, switch, IF_NAME)
    return next(oid[-1] for oid, name in names.items() if name == port.encode())


def until(what: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def hardware(fabric: Running, cable: Cable) -> Path:
    return fabric.directory / "sysfs" / cable.a.node / "class/infiniband" / cable.a.port


def file(fabric: Running, cable: Cable, name: str) -> int:
    return int((hardware(fabric, cable) / "ports/1" / name).read_text())


def ethtool(fabric: Running, cable: Cable) -> dict[str, int]:
    lines = (fabric.directory / "ethtool" / cable.a.node / cable.a.netdev).read_text().splitlines()[1:]
    return {name.strip(): int(value) for name, value in (line.split(":") for line in lines)}


def test_every_switch_serves_every_row_in_order_for_its_real_interfaces(fabric: Running, design: Design) -> None:
    for switch in design.switches:
        names = {oid[-1]: name for oid, name in walk(fabric, switch, IF_NAME).items()}
        wanted = {port.port.encode() for port in switch.ports}
        for subtree, rows_a_port in ((ARISTA_MIBS, 67), (ETHERLIKE, 6)):
            rows = list(walk(fabric, switch, subtree))
            assert len(rows) == rows_a_port * len(switch.ports)
            assert all(one < other for one, other in itertools.pairwise(rows))
        assert {names[oid[-2]] for oid in walk(fabric, switch, A_PFC_INDICATIONS)} == wanted


def test_a_healthy_switch_has_no_watchdog_events_and_counts_its_marks(fabric: Running, leaf: Switch) -> None:
    assert set(walk(fabric, leaf, A_WATCHDOG_STUCK).values()) == {0}
    assert set(walk(fabric, leaf, A_ECN_COUNTER_ENABLED).values()) == {1}


def test_an_instance_that_does_not_exist_is_not_0(fabric: Running, leaf: Switch) -> None:
    assert "No Such Instance" in get(fabric, leaf, (*A_PFC_INDICATIONS, 9999, 3))
    following = get(fabric, leaf, (*A_PFC_INDICATIONS, 9999), "snmpgetnext")
    assert "No Such" not in following
    assert not following.startswith("." + ".".join(map(str, A_PFC_INDICATIONS)) + ".")


def test_a_subagent_that_is_killed_is_started_again(fabric: Running, leaf: Switch) -> None:
    oid = (*A_PFC_INDICATIONS, interface(fabric, leaf, leaf.ports[0].port), 3)
    assert "Counter64" in get(fabric, leaf, oid)
    find = f"grep -las subagent.py.{fabric.directory}/snmp/{leaf.name}/ /proc/[0-9]*/cmdline"
    subagents = [line.split("/")[2] for line in fabric.run(None, ["sh", "-c", find]).stdout.split()]
    assert subagents
    fabric.run(None, ["kill", "-KILL", *subagents], check=False)  # the search found itself too
    until(lambda: "Counter64" in get(fabric, leaf, oid))


def test_queues_hold_the_real_packets_by_class(fabric: Running, design: Design, cable: Cable, leaf: Switch) -> None:
    source = next(link.a for link in design.links if link.b.node == leaf.name and link.a.node != cable.a.node)
    index = interface(fabric, leaf, cable.b.port)
    before = walk(fabric, leaf, A_QUEUE_PKTS)
    count = 3000
    ping = f"ping -q -n -f -c {count} -Q {LOSSLESS_TOS} -I {source.address} {cable.a.address}"
    fabric.run(source.node, ping.split())
    time.sleep(1.2)
    after = walk(fabric, leaf, A_QUEUE_PKTS)
    grown = {oid[-2]: after[oid] - before[oid] for oid in after if oid[-3] == index}  # type: ignore[operator]
    assert grown[3] == count
    assert grown[0] <= 20
    assert grown[CNP_QUEUE] in (marked(count), marked(count) + 1)
    assert sum(int(value or 0) for oid, value in after.items() if oid[-2] == CONTROL_QUEUE) > 0  # BGP
    assert file(fabric, cable, "counters/port_rcv_packets") >= count
    # The leaf's marks are the RNIC's, whatever was sent before.
    marks = get(fabric, leaf, (*A_ECN_MARKED, index, 3)).rpartition(" ")[2]
    until(lambda: file(fabric, cable, "hw_counters/np_ecn_marked_roce_packets") == int(marks))


def test_a_queue_drops_real_packets_of_its_class_only_and_counts_them(
    fabric: Running, design: Design, cable: Cable, leaf: Switch
) -> None:
    source = next(link.a for link in design.links if link.b.node == leaf.name and link.a.node != cable.a.node)
    index = interface(fabric, leaf, cable.b.port)

    def lost(tos: int) -> str:
        ping = f"ping -q -n -c 40 -i 0.002 -W 1 -Q {tos} -I {source.address} {cable.a.address}"
        return fabric.run(source.node, ping.split(), check=False).stdout

    def counted(column: Oid) -> int:
        return int(get(fabric, leaf, (*column, index, 3, 0)).rpartition(" ")[2])

    def queues(what: str) -> None:
        load = "import sys, pathlib; from lab.counters import queues; from lab.network.design import load; "
        load += "design = load(pathlib.Path(sys.argv[1], 'design.json').read_bytes()); "
        argv = [sys.executable, "-c", f"{load}queues.{what}", str(fabric.directory)]
        fabric.run(None, argv)

    queues(f"drop(design, {cable.b.id!r}, 3, 50)")
    queues(f"drop(design, {cable.b.id!r}, 3)")
    try:
        time.sleep(0.6)
        sent, dropped = counted(A_QUEUE_PKTS), counted(A_QUEUE_PKTS_DROPPED)
        assert "100% packet loss" in lost(LOSSLESS_TOS)
        assert " 0% packet loss" in lost(0)
        time.sleep(0.6)
        assert (counted(A_QUEUE_PKTS), counted(A_QUEUE_PKTS_DROPPED)) == (sent, dropped + 40)
    finally:
        queues(f"restore(design, {cable.b.id!r}, 3)")
    assert " 0% packet loss" in lost(LOSSLESS_TOS)
    queues(f"restore(design, {cable.b.id!r}, 3)")
    assert counted(A_QUEUE_PKTS_DROPPED) == dropped + 40


def test_a_storm_shows_at_the_switch_and_at_the_rnic_and_stays_counted(
    fabric: Running, design: Design, counters: Counters, cable: Cable, leaf: Switch
) -> None:
    index = interface(fabric, leaf, cable.b.port)
    oid = (*A_PFC_INDICATIONS, index, 3)

    def received() -> int:
        return int(get(fabric, leaf, oid).rpartition(" ")[2])

    before, start = received(), time.monotonic()
    counters.add(*effects.pfc_storm(design, cable.a.id, frames_per_second=2000), fault="storm")
    time.sleep(2)
    seen, seconds = received() - before, time.monotonic() - start
    assert 2000 * (seconds - 1.5) < seen < 2000 * (seconds + 0.5)
    assert int(get(fabric, leaf, (*A_WATCHDOG_STUCK, index, 0, 3)).rpartition(" ")[2]) == 1
    counters.clear("storm")
    time.sleep(1.2)
    after = received()
    assert after >= before + seen
    time.sleep(0.6)
    assert received() == after
    assert ethtool(fabric, cable)["tx_prio3_pause"] == after
    assert int(get(fabric, leaf, (*A_WATCHDOG_STUCK[:-1], 5, index, 0, 3)).rpartition(" ")[2]) == 1


def test_a_switch_of_the_other_dialect(fabric: Running, counters: Counters, cable: Cable, leaf: Switch) -> None:
    index = interface(fabric, leaf, cable.b.port)
    counters.add(Event(leaf.name, cable.b.port, "fcs_errors", once=77))
    counters.speak(leaf.name, CISCO)
    try:
        until(lambda: not walk(fabric, leaf, ARISTA_MIBS))
        assert walk(fabric, leaf, C_WATCHDOG_STATE)[*C_WATCHDOG_STATE, index, 3] == 1
        assert len(walk(fabric, leaf, C_PRIORITY_INDICATIONS)) == 8 * len(leaf.ports)
        assert walk(fabric, leaf, DOT3_FCS_ERRORS)[*DOT3_FCS_ERRORS, index] == 77
    finally:
        counters.speak(leaf.name, "arista-eos")
    until(lambda: not walk(fabric, leaf, CISCO_MIBS))


def test_an_rnic_vanishes_and_comes_back_at_0_and_a_gid_changes(
    fabric: Running, counters: Counters, cable: Cable
) -> None:
    counters.add(Event(cable.a.node, cable.a.port, "out_of_sequence", once=5))
    until(lambda: file(fabric, cable, "hw_counters/out_of_sequence") == 5)
    counters.remove_rnic(cable.a.node, cable.a.port, fault="rnic gone")
    until(lambda: not hardware(fabric, cable).exists())
    until(lambda: not (fabric.directory / "ethtool" / cable.a.node / cable.a.netdev).exists())
    counters.clear("rnic gone")
    until(lambda: hardware(fabric, cable).exists())
    assert file(fabric, cable, "hw_counters/out_of_sequence") == 0
    gid = hardware(fabric, cable) / "ports/1/gids/3"
    old = gid.read_text()
    counters.change_gid(cable.a.node, cable.a.port, 3, "", fault="gid")
    until(lambda: gid.read_text() == "0000:0000:0000:0000:0000:0000:0000:0000\n")
    counters.clear("gid")
    until(lambda: gid.read_text() == old)


def test_the_tree_leads_to_the_real_interface_on_the_host(fabric: Running, cable: Cable) -> None:
    root = fabric.directory / "sysfs" / cable.a.node
    script = (
        "from exporter.host.netdev import read_netdev; "
        f"reading = read_netdev({cable.a.netdev!r}, {str(root)!r}); print(reading.mtu_bytes, reading.up)"
    )
    assert fabric.run(cable.a.node, [sys.executable, "-c", script]).stdout.split() == ["9000", "True"]
    assert read_netdev(cable.a.netdev, str(root)).mtu_bytes is None  # not out here


def test_the_recorder_writes_what_the_agents_say(
    fabric: Running, counters: Counters, cable: Cable, tmp_path: Path
) -> None:
    counters.add(Event(cable.b.node, cable.b.port, "pfc_received", 3, rate=1000))
    output = fabric.directory / f"samples-{tmp_path.name}.csv"
    argv = f"-m lab.counters.record {fabric.directory} --output {output} --period 1 --seconds 1".split()
    fabric.run(None, [sys.executable, *argv])
    with open(output, newline="") as lines:
        assert tuple(next(csv.reader(lines))) == COLUMNS
        rows = list(csv.DictReader(lines, COLUMNS))
    storm = [
        (float(row["time"]), float(row["value"]))
        for row in rows
        if (row["metric"], row["node"], row["port"], row["priority"]) == (PFC_RECEIVED, cable.b.node, cable.b.port, "3")
    ]
    (one, first), (other, second) = storm
    # 1,000 a second; the agent's answers are up to half a second old each, and older on a busy machine.
    assert second > first
    assert second - first == pytest.approx(1000 * (other - one), abs=1000)
    assert {row["queue"] for row in rows if row["metric"] in (ECN_MARKED, QUEUE_PACKETS)} == set("01234567")
    assert {"fabric_switch_port_receive_bytes_total", "fabric_rnic_receive_bytes_total"} <= {
        row["metric"] for row in rows
    }
