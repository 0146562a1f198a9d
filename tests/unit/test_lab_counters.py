"""The lab's counters: a timeline that never counts back, the same for every reader, and plausible effects."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts import counters
from exporter.contracts.tables import CounterSample
from exporter.switches.settings import SwitchSettings
from exporter.switches.snmp import Community
from lab.counters import effects, record, rnic, timeline
from lab.counters.control import Counters
from lab.counters.dialects import A_ECN_COUNTER_ENABLED, A_ECN_MARKED, ARISTA, CISCO, PROFILES, rows
from lab.counters.kernel import Link, Packets, Reading
from lab.counters.names import COUNTERS, HW_COUNTERS_32, full_shut_rate
from lab.counters.rnic import RnicPlace
from lab.counters.switch import Port, switch_values
from lab.counters.timeline import Event, Timeline, Watched
from lab.counters.trees import Files
from lab.errors import LabError
from lab.network.design import SPEED_MBPS, Design, draw, dump
from lab.switches.agent import Agent
from lab.switches.ber import Tag
from lab.switches.serve import Serving
from lab.switches.walk import Walk

HOST, RNIC = "host-0001", "mlx5_0"

moments = st.floats(0, 1000, allow_nan=False)
amounts = st.floats(0, 1e6, allow_nan=False)
events = st.builds(
    Event,
    node=st.just("leaf-1"),
    port=st.just("Ethernet0"),
    counter=st.just("pfc_received"),
    slot=st.just(3),
    start=moments,
    end=st.none() | moments,
    rate=amounts,
    ramp=st.floats(0, 100, allow_nan=False),
    once=st.floats(0, 1000, allow_nan=False),
    at_end=st.booleans(),
    delay=st.floats(0, 10, allow_nan=False),
    level=st.just(0.0),
    text=st.just(""),
    fault=st.just("storm"),
)


def total(line: Timeline, t: float) -> int:
    return line.total("leaf-1", "Ethernet0", "pfc_received", 3, t)


@given(st.lists(events, max_size=6), moments, moments)
def test_a_counter_never_goes_back(some: list[Event], one: float, other: float) -> None:
    line = Timeline(some)
    assert total(line, min(one, other)) <= total(line, max(one, other))


@given(st.lists(events, max_size=4), st.lists(events, max_size=4), moments)
def test_events_add_up(some: list[Event], more: list[Event], t: float) -> None:
    together = total(Timeline([*some, *more]), t)
    apart = total(Timeline(some), t) + total(Timeline(more), t)
    assert apart - 1 <= together <= apart + 2  # each of them is rounded down


@given(events, moments, moments)
def test_closing_an_event_changes_nothing_before_its_end(event: Event, end: float, t: float) -> None:
    open_event = event._replace(end=None)
    closed = event._replace(end=max(end, event.start))
    if t < closed.end:
        assert total(Timeline([open_event]), t) == total(Timeline([closed]), t)


@given(st.lists(events, max_size=4), moments)
def test_the_file_holds_the_timeline(some: list[Event], t: float) -> None:
    line = Timeline(some, {"leaf-1": CISCO}, 5.0, 6.0)
    again = Timeline.load(line.dump())
    assert (again.events, again.dialects, again.epoch, again.boot) == (line.events, line.dialects, 5.0, 6.0)
    assert total(again, t) == total(line, t)


def test_the_file_holds_what_is_of_a_switch_as_a_whole() -> None:
    line = Timeline([Event("leaf-1", "", "ecn_counting_off", level=1)])
    assert Timeline.load(line.dump()).events == line.events


def test_another_version_of_the_file_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2"):
        Timeline.load(b'{"version": 2}')
    with pytest.raises(ValueError, match="not a timeline"):
        Timeline.load(json.dumps({"version": 1, "events": [{"nod": "x"}]}).encode())


def test_a_rate_grows_over_its_ramp() -> None:
    event = Event("n", "p", "c", start=10, rate=100, ramp=2)
    assert [event.added(t) for t in (9, 10, 11, 12, 13)] == [0, 0, 25, 100, 200]


def test_a_watchdog_does_not_fire_for_a_pause_shorter_than_its_detection_time() -> None:
    short = Event("n", "p", "watchdog_stuck", 3, start=10, end=10.1, once=1, delay=0.2)
    long = short._replace(end=11)
    assert (short.added(20), long.added(10.1), long.added(10.3)) == (0, 0, 1)


def test_an_rnic_that_comes_back_counts_from_0() -> None:
    line = Timeline(
        [
            Event(HOST, RNIC, "out_of_sequence", start=0, rate=10),
            Event(HOST, RNIC, "rnic_absent", start=50, end=60, level=1),
        ]
    )
    assert [line.absent(HOST, RNIC, t) for t in (49, 50, 60)] == [False, True, False]
    assert line.total(HOST, RNIC, "out_of_sequence", None, 49) == 490
    assert line.total(HOST, RNIC, "out_of_sequence", None, 61) == 10


# ---- the file and its writers


@pytest.fixture
def lab(tmp_path: Path) -> Counters:
    """The counters of a lab that is not running."""
    (tmp_path / "design.json").write_bytes(dump(draw(3, pods=1, rails=2, spines=1, hosts_per_pod=2)))
    counters = Counters(tmp_path)
    counters.begin()
    return counters


def an_rnic(design: Design) -> tuple[str, str]:
    return design.hosts[0].name, design.hosts[0].rnics[0].name


def test_adding_and_clearing_never_takes_a_count_away_whenever_it_is_read(lab: Counters) -> None:
    host, name = an_rnic(lab.design)
    watched = Watched(lab.path)
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            t, line = watched.moment()
            seen.append(line.total(host, name, "out_of_sequence", None, t))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(5):
        lab.add(Event(host, name, "out_of_sequence", rate=1e6), fault="storm")
        done.wait(timeline.LEAD_SECONDS * 1.2)
        lab.clear("storm")
    done.set()
    reader.join()
    assert seen == sorted(seen)
    assert seen[-1] > 0


def test_clear_ends_the_events_of_one_fault_only(lab: Counters) -> None:
    host, name = an_rnic(lab.design)
    lab.add(Event(host, name, "out_of_buffer", rate=10), fault="one")
    lab.add(Event(host, name, "out_of_buffer", rate=100), fault="other")
    (ended,) = lab.clear("one")
    assert ended.fault == "one"
    later = lab.now() + 1000
    rate = lab.timeline().total(host, name, "out_of_buffer", None, later + 1) - lab.timeline().total(
        host, name, "out_of_buffer", None, later
    )
    assert rate == 100
    assert lab.clear("one") == ()
    assert len(lab.clear()) == 1


def test_what_was_read_cannot_change(lab: Counters) -> None:
    host, name = an_rnic(lab.design)
    (event,) = lab.add(Event(host, name, "out_of_buffer", start=1.0, rate=10))
    assert event.start > lab.now()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"counter": "pfc_recieved"}, "no counter is called"),
        ({"counter": "ecn_marked", "slot": 3}, "has no counter"),
        ({"counter": "pfc_sent", "slot": 8}, "has no priority 8"),
        ({"counter": "pfc_sent"}, "has no priority None"),
        ({"slot": 1}, "has no slot 1"),
        ({"port": "mlx5_9"}, "there is no port"),
        ({"rate": -1.0}, "backwards"),
        ({"rate": math.nan}, "backwards"),
        ({"counter": "gid", "slot": 3, "text": "10.0.0.1"}, "is not a GID"),
    ],
)
def test_an_event_that_cannot_be_is_refused(lab: Counters, change: dict[str, object], complaint: str) -> None:
    host, name = an_rnic(lab.design)
    with pytest.raises(LabError, match=complaint):
        lab.add(Event(host, name, "out_of_buffer", rate=1)._replace(**change))


def test_a_lab_that_is_down_has_no_counters(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no counters"):
        Counters(tmp_path, draw(3)).add()


# ---- what readers make of it


def link(ifindex: int, rx_packets: int = 0, tx_packets: int = 0) -> Link:
    mac = bytes.fromhex("02fa00000001")
    return Link(ifindex, 9000, True, True, mac, 2, 0, rx_packets, tx_packets, rx_packets * 4166, tx_packets * 4166)


def reading(packets: int, netdev: str = "Ethernet0") -> Reading:
    classes = {(7, 26): Packets(packets, packets * 4166)}
    return Reading({netdev: link(7, packets, packets)}, classes, classes, {(7, 48): Packets(5, 500)}, {})


PLACE = RnicPlace(HOST, RNIC, "eth0", "10.16.0.1", SPEED_MBPS)


@pytest.mark.parametrize("packets", [0, 1, 1999, 2000, 123_456_789])
def test_a_leaf_and_the_rnic_behind_it_tell_one_story(packets: int) -> None:
    port = switch_values(Timeline(), "leaf-1", [Port("Ethernet0", True)], reading(packets), 0)
    device = rnic.hw_counters(Timeline(), PLACE, reading(packets, "eth0"), 0)
    lines = rnic.ethtool(Timeline(), PLACE, reading(packets, "eth0"), 0)
    assert port["Ethernet0", "ecn_marked", 3] == device["np_ecn_marked_roce_packets"] == device["np_cnp_sent"]
    assert port["Ethernet0", "queue_packets", 6] == device["rp_cnp_handled"]
    assert port["Ethernet0", "pfc_sent", 3] == lines["rx_prio3_pause"]
    assert port["Ethernet0", "pfc_sent_duration", 3] == lines["rx_prio3_pause_duration"]
    assert port["Ethernet0", "queue_packets", 3] == packets == lines["rx_prio3_packets"]
    assert port["Ethernet0", "queue_packets", 7] == 5
    assert port["Ethernet0", "ecn_marked", 3] <= packets * 0.01
    assert all(value == 0 for (_, counter, _), value in port.items() if counter.startswith("watchdog"))


def test_q_counters_are_32_bits_wide_and_cnp_counters_64() -> None:
    line = Timeline([Event(HOST, RNIC, name, once=2**32 + 5) for name in ("out_of_sequence", "np_cnp_sent")])
    values = rnic.hw_counters(line, PLACE, reading(0, "eth0"), 1)
    assert (values["out_of_sequence"], values["np_cnp_sent"]) == (5, 2**32 + 5)
    assert "np_cnp_sent" not in HW_COUNTERS_32


def test_rnic_files_are_laid_out_as_mlx5_does() -> None:
    line = Timeline([Event(HOST, RNIC, "gid", 3, end=10, text="fd00::7")])
    files = rnic.files(line, PLACE, reading(4000, "eth0"), 1)
    assert files["ports/1/gids/2"] == "0000:0000:0000:0000:0000:ffff:0a10:0001"
    assert files["ports/1/gids/3"] == "fd00:0000:0000:0000:0000:0000:0000:0007"
    assert rnic.files(line, PLACE, reading(0, "eth0"), 11)["ports/1/gids/3"] == files["ports/1/gids/2"]
    assert files["ports/1/gid_attrs/types/3"] == "RoCE v2"
    assert files["ports/1/gid_attrs/ndevs/0"] == "eth0"
    assert files["node_guid"] == "00fa:00ff:fe00:0001"
    assert int(files["ports/1/counters/port_rcv_data"]) == 4000 * 4166 // 4
    assert files["ports/1/state"] == "4: ACTIVE"
    assert files["ports/1/rate"] == "10 Gb/sec (1X QDR)"
    text = rnic.ethtool_text(rnic.ethtool(line, PLACE, reading(1, "eth0"), 1))
    assert "     rx_prio3_pause: 0\n" in text
    assert "rx_prio0_pause:" not in text


def test_a_switch_that_does_not_count_marks_says_so() -> None:
    line = Timeline([Event("leaf-1", "", "ecn_counting_off", level=1)])
    ports = [Port("Ethernet0", True)]
    values = switch_values(line, "leaf-1", ports, reading(4000), 1)
    table = rows(line, "leaf-1", ports, reading(4000), values, 1)
    assert table[*A_ECN_COUNTER_ENABLED, 7, 3] == ("integer", 2)
    assert table[*A_ECN_MARKED, 7, 3] == ("counter64", 0)


def test_a_file_keeps_its_inode_while_it_grows_and_is_never_half(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.put({"counter": "9"})
    inode = (tmp_path / "counter").stat().st_ino
    assert files.put({"counter": "10"}) == 1
    assert files.put({"counter": "10"}) == 0
    assert (tmp_path / "counter").stat().st_ino == inode
    files.put({"counter": "7"})  # after a reset
    assert (tmp_path / "counter").read_text() == "7\n"


def test_a_reader_never_sees_half_a_value(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.put({"counter": "1"})
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        descriptor = os.open(tmp_path / "counter", os.O_RDONLY)
        while not done.is_set():
            seen.append(int(os.pread(descriptor, 64, 0)))
        os.close(descriptor)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(2, 3000):
        files.put({"counter": str(number**3)})
    done.set()
    reader.join()
    assert seen == sorted(seen)


_TAGS = {"counter64": Tag.COUNTER64, "counter": Tag.COUNTER32, "integer": Tag.INTEGER}


@pytest.mark.parametrize("dialect", [ARISTA, CISCO])
def test_a_recorder_finds_each_value_again_in_either_dialect(dialect: str) -> None:
    numbers = {"pfc_received": 11, "watchdog_stuck": 13, "queue_dropped_packets": 15}
    line = Timeline([Event("leaf-1", "Ethernet0", name, 3, once=n) for name, n in numbers.items()], {"leaf-1": dialect})
    ports = [Port("Ethernet0", True)]
    values = switch_values(line, "leaf-1", ports, reading(4000), 1)
    served = [
        (oid, _TAGS[kind], value)
        for oid, (kind, value) in rows(line, "leaf-1", ports, reading(4000), values, 1).items()
    ]
    walk = Walk(
        [
            *served,
            ((1, 3, 6, 1, 2, 1, 1, 3, 0), Tag.TIME_TICKS, 100),
            ((1, 3, 6, 1, 2, 1, 2, 2, 1, 3, 7), Tag.INTEGER, 6),
            ((1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 1, 7), Tag.OCTET_STRING, b"Ethernet0"),
        ]
    )

    async def sampled() -> list[CounterSample]:
        async with Serving([Agent(walk)]) as (port,):
            settings = SwitchSettings(
                name="leaf-1",
                address="127.0.0.1",
                port=port,
                credentials=Community("public"),
                aliases={},
                profile=PROFILES[dialect],
            )
            return await record.SwitchReader(settings, {"Ethernet0"}).sample(lambda: 1.0)

    samples = asyncio.run(sampled())
    found = {(row.metric, row.priority, row.queue): row.value for row in samples}
    assert len(found) == len(samples)
    assert {(row.node, row.port) for row in samples} == {("leaf-1", "Ethernet0")}
    assert found[counters.PFC_RECEIVED, 3, None] == 11
    assert found[counters.WATCHDOG_STUCK, None, 3] == 13
    assert found[counters.QUEUE_DROPPED, None, 3] == 15
    assert found[counters.QUEUE_PACKETS, None, 3] == 4000
    assert found[counters.FCS_ERRORS, None, None] == 0
    assert ((counters.ECN_MARKED, None, 3) in found) is (dialect == ARISTA)


# ---- effects


@pytest.fixture
def design() -> Design:
    return draw(3, pods=1, rails=2, spines=1, hosts_per_pod=2)


def of(some: tuple[Event, ...], counter: str) -> list[Event]:
    return [event for event in some if event.counter == counter]


def test_pause_arithmetic() -> None:
    assert [round(full_shut_rate(gigabits * 1e9)) for gigabits in (10, 100, 400)] == [298, 2980, 11921]


def test_every_effect_is_accepted(lab: Counters) -> None:
    design = lab.design
    one, other = (f"{host.name}:{host.rnics[0].name}" for host in design.hosts)
    leaf = next(link.b.id for link in design.links if link.a.id == one)
    everything = (
        *effects.pfc_storm(design, one, dropped_per_second=10),
        *effects.pfc_storm(design, one, watchdog=False),
        *effects.slow_receiver(design, one),
        *effects.incast(design, one, [other], pause_share=0.1),
        *effects.incast(design, one, [other], reacts=False),
        *effects.incast(design, one, [other], notifies=False),
        *effects.queue_drops(design, leaf, 5, sender=other, receiver=one),
        *effects.dirty_link(design, leaf, 5),
        *effects.dirty_link(design, one, 5),
        *effects.too_long(design, leaf, 5, senders=[other]),
        *effects.too_long(design, one, 5),
    )
    assert len(lab.add(*everything, fault="all")) == len(everything) == len(lab.clear("all"))


def test_a_storm_is_seen_at_both_ends_of_the_cable_and_by_the_watchdog(design: Design) -> None:
    link = design.links[0]
    storm = effects.pfc_storm(design, link.a.id)
    (sent,), (received,) = of(storm, "pfc_sent"), of(storm, "pfc_received")
    assert (sent.node, sent.port) == (link.a.node, link.a.port)
    assert (received.node, received.port) == (link.b.node, link.b.port)
    assert sent.rate == received.rate >= full_shut_rate(SPEED_MBPS * 1e6)
    line = Timeline([event._replace(start=100, end=130) for event in storm])
    stuck = [line.total(link.b.node, link.b.port, "watchdog_stuck", 3, t) for t in (100.1, 100.3, 200)]
    recovered = [line.total(link.b.node, link.b.port, "watchdog_recovered", 3, t) for t in (129, 130.1, 130.3)]
    assert (stuck, recovered) == ([0, 1, 1], [0, 0, 1])


def test_no_port_is_paused_for_longer_than_the_time_there_is(design: Design) -> None:
    storm = effects.pfc_storm(design, design.links[0].a.id, watchdog=False)
    assert all(event.rate <= 1e6 for event in storm if event.counter.endswith("duration"))
    with pytest.raises(LabError, match="cannot be paused"):
        effects.pause(design, design.links[0].a.id, 1.5)


def test_as_many_notifications_are_handled_as_sent(design: Design) -> None:
    one, *others = (f"{host.name}:{host.rnics[0].name}" for host in design.hosts)
    incast = effects.incast(design, one, others, marked_per_second=900)
    assert math.isclose(sum(event.rate for event in of(incast, "rp_cnp_handled")), 900)
    assert of(incast, "np_cnp_sent")[0].rate == of(incast, "ecn_marked")[0].rate == 900


def test_every_counter_is_explained() -> None:
    assert all(counter.text for counter in COUNTERS.values())
