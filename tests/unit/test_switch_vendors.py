"""What each profile makes of the MIBs of its vendor, in walks made by hand: units, offsets and names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.switches.ber import Tag
from lab.switches.walk import Walk
from tests.unit.polled import IF, IF_X, PERIOD, Switch, oid, put, system, with_ports

Plug = Callable[..., Switch]
NXOS = {"description": "Cisco NX-OS(tm) n3000", "object_id": "1.3.6.1.4.1.9.12.3.1.3.1"}
PFC_EXT, QOS = "1.3.6.1.4.1.9.9.813.1", "1.3.6.1.4.1.9.9.580.1"
ARISTA, ONYX, HUAWEI = "1.3.6.1.4.1.30065.3", "1.3.6.1.4.1.33049.15.1", "1.3.6.1.4.1.2011.5.25.32.4.1"
H3C, JUNIPER, DELL, CUMULUS = (
    "1.3.6.1.4.1.25506.2",
    "1.3.6.1.4.1.2636.3.15.4.1",
    "1.3.6.1.4.1.6027.3",
    "1.3.6.1.4.1.40310",
)
BGP4, CISCO_BGP, ARISTA_BGP = "1.3.6.1.2.1.15.3.1", "1.3.6.1.4.1.9.9.187.1.2.5.1", "1.3.6.1.4.1.30065.4.1.1.2.1"
PEER_6 = "32.1.13.184.0.0.0.0.0.0.0.0.0.0.0.1"  # 2001:db8::1


@pytest.fixture
def plug() -> Iterator[Plug]:
    """Makes switches that have been read, and are unplugged when the test is over."""
    made: list[Switch] = []

    def plug(walk: Walk, **changes: Any) -> Switch:
        made.append(Switch(walk, **changes))
        made[-1].poll_all()
        return made[-1]

    yield plug
    for switch in made:
        switch.close()


def ports(object_id: str, *names: str, description: str = "a switch") -> Walk:
    return with_ports(system(description, object_id), dict(enumerate(names, start=1)))


def test_nxos(plug: Plug) -> None:
    walk = ports(NXOS["object_id"], "Ethernet1/1", "mgmt0", description=NXOS["description"])
    put(walk, f"{PFC_EXT}.2.1.3", {"1.3": 30, "2.3": 99})
    put(walk, f"{PFC_EXT}.2.1.2", {"1.3": 20})
    put(walk, f"{PFC_EXT}.3.1.2", {"1.3": 2, "1.4": 1, "1.5": 3}, Tag.INTEGER)
    put(walk, f"{PFC_EXT}.3.1.3", {"1.3": 7})
    put(walk, f"{PFC_EXT}.3.1.4", {"1.3": 6})
    put(walk, f"{PFC_EXT}.3.1.5", {"1.3": 5000})
    put(walk, f"{PFC_EXT}.4.1.2", {"1.3": 1_500_000})
    put(walk, f"{PFC_EXT}.4.1.3", {"1.3": 250})
    put(
        walk,
        f"{QOS}.5.5.1.4",
        {"1.2.3.1": 10, "1.2.3.2": 999, "1.2.3.5": 4, "1.2.3.6": 512, "1.1.3.1": 77, "1.2.64.1": 1},
    )
    put(walk, f"{QOS}.5.6.1.3", {"1.3": 10}, Tag.GAUGE32)
    put(walk, f"{QOS}.5.6.1.6", {"1.3": 20}, Tag.GAUGE32)
    put(walk, f"{QOS}.5.6.1.7", {"1.3": 30}, Tag.GAUGE32)
    put(walk, f"{QOS}.1.6", {"0": 208}, Tag.GAUGE32)
    put(walk, f"{QOS}.4.8.1.6", {"1.1.3": 2, "1.1.0": 1, "1.1.7": 3, "1.2.4": 2}, Tag.INTEGER)
    switch = plug(walk)
    one = ("Ethernet1/1", "3")
    assert switch.of("port_pfc_receive_frames_total") == {one: 30}  # mgmt0 is no port of the fabric
    assert switch.of("port_pfc_transmit_frames_total") == {one: 20}
    assert switch.of("port_pfc_watchdog_shut") == {one: 1, ("Ethernet1/1", "4"): 0}
    assert switch.of("port_pfc_watchdog_stuck_total") == {one: 7}
    assert switch.of("port_pfc_watchdog_recovered_total") == {one: 6}
    assert switch.of("port_pfc_watchdog_dropped_packets_total") == {one: 5000}
    assert switch.of("port_pfc_receive_pause_seconds_total") == {one: 1.5}  # microseconds
    assert switch.of("port_pfc_transmit_pause_seconds_total") == {one: 0.00025}
    assert switch.of("port_queue_transmit_packets_total") == {one: 10}
    assert switch.of("port_queue_dropped_packets_total") == {one: 4}
    assert switch.of("port_queue_transmit_bytes_total") == {}  # not without being asked for
    assert switch.of("port_priority_group_used_bytes") == {one: 2080}  # cells
    assert switch.of("port_priority_group_peak_bytes") == {one: 4160}
    assert switch.of("port_priority_group_headroom_peak_bytes") == {one: 6240}
    assert switch.of("port_priority_lossless") == {one: 1, ("Ethernet1/1", "0"): 0}
    states = switch.device.coverage()
    told = ("ports", "pfc", "pfc_watchdog", "pfc_duration", "queues", "queue_drops", "buffers", "settings")
    assert {signal for signal, state in states.items() if state == "supported"} == set(told)


def test_cells_of_an_unknown_size_are_no_bytes(plug: Plug) -> None:
    walk = ports(NXOS["object_id"], "Ethernet1/1", description=NXOS["description"])
    put(walk, f"{QOS}.5.6.1.3", {"1.3": 10}, Tag.GAUGE32)
    assert plug(walk.copy()).of("port_priority_group_used_bytes") == {}
    put(walk, f"{QOS}.1.6", {"0": 0}, Tag.GAUGE32)
    assert plug(walk).of("port_priority_group_used_bytes") == {}


def test_onyx(plug: Plug) -> None:
    walk = ports("1.3.6.1.4.1.33049.1.1.1.2700", "Eth1/1")
    for column, value in ((3, 30), (5, 20), (4, 1500), (6, 250)):
        put(walk, f"{ONYX}.2.1.{column}", {"1.3": value})
    put(walk, f"{ONYX}.3.1.6", {"1.3": 8})
    put(walk, f"{ONYX}.3.1.5", {"1.3": 4096})
    for column, value in ((3, 100), (8, 5), (9, 6), (6, 2048)):
        put(walk, f"{ONYX}.4.1.{column}", {"1.3": value})
    put(walk, f"{ONYX}.5.1.5", {"1": 2_500_000})
    put(walk, "1.3.6.1.4.1.33049.8.1.1.3.1.5", {"1": 1}, Tag.INTEGER)
    switch = plug(walk)
    one = ("Eth1/1", "3")
    expected = {
        "pfc_receive_frames_total": 30, "pfc_transmit_frames_total": 20, "pfc_receive_pause_seconds_total": 1.5,
        "pfc_transmit_pause_seconds_total": 0.25, "priority_group_discards_total": 8,
        "priority_group_used_bytes": 4096, "queue_transmit_packets_total": 100, "queue_dropped_packets_total": 5,
        "queue_wred_dropped_packets_total": 6, "queue_depth_bytes": 2048,
    }  # fmt: skip
    assert {name: switch.of(f"port_{name}") for name in expected} == {n: {one: v} for n, v in expected.items()}
    assert switch.of("port_transmit_wait_seconds_total") == {("Eth1/1",): 2.5}
    assert switch.of("port_pfc_enabled") == {("Eth1/1",): 1}


def test_juniper(plug: Plug) -> None:
    walk = ports("1.3.6.1.4.1.2636.1.1.1.4.1", "et-0/0/1", "em0")
    for column, value in ((7, 100), (53, 5), (13, 6), (58, 2048), (59, 4096)):
        put(walk, f"{JUNIPER}.{column}", {"1.3": value, "2.3": 1})
    switch = plug(walk)
    names = (
        "transmit_packets_total",
        "dropped_packets_total",
        "wred_dropped_packets_total",
        "depth_bytes",
        "depth_peak_bytes",
    )
    assert [switch.of(f"port_queue_{name}") for name in names] == [
        {("et-0/0/1", "3"): value} for value in (100, 5, 6, 2048, 4096)
    ]


def test_huawei(plug: Plug) -> None:
    """Service classes are counted from 1, and the ninth is their sum; buffers in kilobytes."""
    walk = ports("1.3.6.1.4.1.2011.2.239.1", "100GE1/0/1")
    put(walk, f"{HUAWEI}.1.31.1.7", {"1.2.1": 1, "1.2.8": 8, "1.2.9": 9, "1.1.1": 77})
    put(walk, f"{HUAWEI}.4.5.3.1.4", {"1.3": 2})
    put(walk, f"{HUAWEI}.4.5.3.1.6", {"1.3": 4})
    switch = plug(walk)
    dropped = switch.of("port_queue_dropped_packets_total")
    assert {queue: value for (_, queue), value in dropped.items()} == {"0": 1, "7": 8}
    assert switch.of("port_queue_depth_bytes") == {("100GE1/0/1", "3"): 2048}
    assert switch.of("port_queue_depth_peak_bytes") == {("100GE1/0/1", "3"): 4096}


def test_h3c(plug: Plug) -> None:
    walk = ports("1.3.6.1.4.1.25506.1.1", "HundredGigE1/0/1")
    put(walk, f"{H3C}.40.2.2.5.1.2", {"1.1": 10, "1.8": 80}, Tag.GAUGE32)
    put(walk, f"{H3C}.40.2.2.5.1.3", {"1.4": 40}, Tag.GAUGE32)
    put(walk, f"{H3C}.65.1.1.2.1.1.1", {"1.3": 100})
    switch = plug(walk)
    received = switch.of("port_pfc_receive_frame_rate")
    assert {priority: value for (_, priority), value in received.items()} == {"0": 10, "7": 80}
    assert switch.of("port_pfc_transmit_frame_rate") == {("HundredGigE1/0/1", "3"): 40}
    assert switch.of("port_queue_transmit_packets_total") == {("HundredGigE1/0/1", "3"): 100}


def test_dell_os9(plug: Plug) -> None:
    walk = ports("1.3.6.1.4.1.6027.1.5.1", "hundredGigE 1/1")
    put(walk, f"{DELL}.27.1.19.1.3", {"1.1": 10, "1.8": 80, "1.9": 1, "1.0": 1})
    put(walk, f"{DELL}.27.1.19.1.2", {"1.4": 40})
    put(walk, f"{DELL}.27.1.21.2.1.1.1", {"1.4": 2}, Tag.COUNTER32)
    put(walk, f"{DELL}.10.1.2.9.1.3", {"1": 57}, Tag.GAUGE32)
    switch = plug(walk)
    received = switch.of("port_pfc_receive_frames_total")
    assert {priority: value for (_, priority), value in received.items()} == {"0": 10, "7": 80}
    assert switch.of("port_pfc_transmit_frames_total") == {("hundredGigE 1/1", "3"): 40}
    assert switch.of("port_pfc_watchdog_stuck_total") == {("hundredGigE 1/1", "3"): 2}
    assert switch.of("cpu_used_ratio") == {("1",): 0.57}
    assert switch.refused("pfc") == 2


def test_cumulus_has_the_priority_in_the_column_and_peers_without_address(plug: Plug) -> None:
    walk = ports(CUMULUS, "swp1", "swp2", "vlan10")
    put(walk, f"{CUMULUS}.2.2.3.1.4", {"1": 100})
    put(walk, f"{CUMULUS}.2.2.3.1.10", {"1": 103, "2": 203, "3": 303})
    put(walk, f"{CUMULUS}.2.2.3.1.19", {"1": 907})
    peers = {"254.0.0.0.0.2": 6, "254.1.10.0.0.1": 3, f"254.2.{PEER_6}": 6, "1001.1.10.0.0.1": 1, "254.0.0.0.1.1": 6}
    put(walk, f"{CUMULUS}.7.3.1.1.2", peers, Tag.INTEGER)
    put(walk, f"{CUMULUS}.7.3.1.1.9", {"254.0.0.0.0.2": 4_200_000_001}, Tag.GAUGE32)
    switch = plug(walk)
    assert switch.of("port_pfc_receive_frames_total") == {
        ("swp1", "0"): 100, ("swp1", "3"): 103, ("swp2", "3"): 203,
    }  # fmt: skip
    assert switch.of("port_pfc_transmit_frames_total") == {("swp1", "7"): 907}
    assert switch.of("bgp_session_state") == {
        ("swp2",): 6, ("10.0.0.1",): 3, ("2001:db8::1",): 6, ("vrf-1001/10.0.0.1",): 1, ("ifindex-257",): 6,
    }  # fmt: skip
    assert switch.of("bgp_session_established")["10.0.0.1",] == 0
    assert switch.of("bgp_remote_as") == {("swp2",): 4_200_000_001}


def test_arista_says_whether_its_ecn_counters_count(plug: Plug) -> None:
    walk = ports("1.3.6.1.4.1.30065.1.3011", "Ethernet1", "Ethernet2")
    put(walk, f"{ARISTA}.13.1.9.1.3", {"1.3": 2, "2.3": 2}, Tag.INTEGER)
    put(walk, f"{ARISTA}.13.1.9.1.4", {"1.3": 0, "2.3": 0})
    switch = plug(walk)
    assert switch.of("port_queue_ecn_marked_packets_total") == {}
    assert switch.device.coverage()["ecn"] == "disabled"
    walk.set(oid(f"{ARISTA}.13.1.9.1.3.1.3"), 1)
    walk.set(oid(f"{ARISTA}.13.1.9.1.4.1.3"), 17)
    for _ in range(21):
        switch.poll(PERIOD)
    assert switch.of("port_queue_ecn_marked_packets_total") == {("Ethernet1", "3"): 17}
    assert switch.device.coverage()["ecn"] == "supported"


def test_arista_queues_watchdog_and_flaps(plug: Plug) -> None:
    walk = ports("1.3.6.1.4.1.30065.1.3011", "Ethernet1")
    put(walk, f"{ARISTA}.11.1.2.1.4", {"1.0.3": 5}, Tag.INTEGER)
    put(walk, f"{ARISTA}.6.1.2.1.4", {"1.3.0": 10, "1.3.1": 11})
    put(walk, f"{ARISTA}.15.1.1.1.8", {"1": 6}, Tag.COUNTER32)
    switch = plug(walk)
    assert switch.of("port_pfc_watchdog_stuck_total") == {("Ethernet1", "3"): 5}
    assert switch.of("port_queue_transmit_packets_total") == {("Ethernet1", "3"): 10}  # unicast
    assert switch.of("port_status_changes_total") == {("Ethernet1",): 6}  # the switch's own count


def test_a_peer_of_two_mibs_has_its_whole_as_number(plug: Plug) -> None:
    """BGP4-MIB has 16 bits for it, and 23456 stands for more."""
    walk = ports("1.3.6.1.4.1.30065.1.3011", "Ethernet1")
    put(walk, f"{BGP4}.2", {"10.0.0.1": 6, "10.0.0.9": 3}, Tag.INTEGER)
    put(walk, f"{BGP4}.9", {"10.0.0.1": 23456, "10.0.0.9": 65001}, Tag.INTEGER)
    put(walk, f"{BGP4}.14", {"10.0.0.1": bytes([4, 0]), "10.0.0.9": b""}, Tag.OCTET_STRING)
    put(walk, f"{ARISTA_BGP}.13", {"1.1.4.10.0.0.1": 6, f"1.2.16.{PEER_6}": 6, "1.2.16.1.2": 6}, Tag.INTEGER)
    put(walk, f"{ARISTA_BGP}.10", {"1.1.4.10.0.0.1": 4_200_000_001}, Tag.GAUGE32)
    switch = plug(walk)
    assert switch.of("bgp_session_established") == {("10.0.0.1",): 1, ("10.0.0.9",): 0, ("2001:db8::1",): 1}
    assert switch.of("bgp_remote_as") == {("10.0.0.1",): 4_200_000_001, ("10.0.0.9",): 65001}
    assert switch.of("bgp_last_error_code") == {("10.0.0.1",): 4}  # hold timer expired
    assert switch.of("bgp_last_error_subcode") == {("10.0.0.1",): 0}


def test_peers_of_cisco_have_both_families(plug: Plug) -> None:
    walk = ports(NXOS["object_id"], "Ethernet1/1", description=NXOS["description"])
    put(walk, f"{CISCO_BGP}.3", {"1.4.10.0.0.1": 6, f"2.16.{PEER_6}": 1, "2.16.1": 1, "1.4.10.0.0.300": 1}, Tag.INTEGER)
    put(walk, f"{CISCO_BGP}.17", {f"2.16.{PEER_6}": bytes([6, 2])}, Tag.OCTET_STRING)
    switch = plug(walk)
    assert switch.of("bgp_session_state") == {("10.0.0.1",): 6, ("2001:db8::1",): 1}
    assert switch.of("bgp_last_error_subcode") == {("2001:db8::1",): 2}
    assert switch.refused("cisco_bgp") == 4  # in both metrics of its column


def test_sonic_counts_queues_from_one_and_its_ifindex_is_only_right_in_the_index(plug: Plug) -> None:
    walk = ports("1.3.6.1.4.1.8072.3.2.10", "etp1", "eth0", description="SONiC Software Version: x")
    put(walk, ".".join(map(str, (*IF, 1))), {"1": 0, "2": 10000}, Tag.INTEGER)
    put(walk, f"{QOS}.5.5.1.4", {"1.2.1.1": 10, "1.2.4.1": 40, "1.2.4.5": 4, "1.2.4.3": 99})
    switch = plug(walk, aliases={"etp1": "Ethernet0"})
    assert switch.of("port_queue_transmit_packets_total") == {("Ethernet0", "0"): 10, ("Ethernet0", "3"): 40}
    assert switch.of("port_queue_dropped_packets_total") == {("Ethernet0", "3"): 4}
    assert switch.of("port_up") == {("Ethernet0",): 1}


def test_optics_of_cisco_are_in_decibels_and_become_watts(plug: Plug) -> None:
    walk = ports(NXOS["object_id"], "Ethernet1/1", "Ethernet1/10", description=NXOS["description"])
    receive, transmit = b" Transceiver Receive Power Sensor", b" Transceiver Transmit Power Sensor"
    names = {
        "11": b"Ethernet1/1 Lane 1" + receive,
        "12": b"Ethernet1/1 Lane 1" + transmit,
        "13": b"Ethernet1/10 Lane 1" + receive,
        "14": b"Ethernet1/10 Lane 2" + receive,
    }
    put(walk, "1.3.6.1.2.1.47.1.1.1.1.2", dict(names), Tag.OCTET_STRING)
    sensor = "1.3.6.1.4.1.9.9.91.1.1.1.1"
    put(walk, f"{sensor}.1", dict.fromkeys(names, 14), Tag.INTEGER)
    put(walk, f"{sensor}.2", dict.fromkeys(names, 9), Tag.INTEGER)
    put(walk, f"{sensor}.3", dict.fromkeys(names, 2), Tag.INTEGER)
    put(walk, f"{sensor}.4", {"11": -1000, "12": 0, "13": -4000, "14": 2_000_000_000}, Tag.INTEGER)
    put(walk, f"{sensor}.5", dict.fromkeys(names, 1), Tag.INTEGER)
    switch = plug(walk)
    received = switch.of("port_optics_receive_power_watts")
    # -10 dBm; -40 is no light; a sensor that lies ended the process (10 to the power of 2,000,000)
    assert received == {
        ("Ethernet1/1", "1"): pytest.approx(1e-4), ("Ethernet1/10", "1"): 0, ("Ethernet1/10", "2"): 1000,
    }  # fmt: skip
    assert switch.of("port_optics_transmit_power_watts") == {("Ethernet1/1", "1"): pytest.approx(1e-3)}


# ---- ports and what they are called


def test_of_two_ports_of_one_name_the_first_has_it(plug: Plug) -> None:
    switch = plug(with_ports(system(), {1: "eth1", 2: "eth1", 3: "eth2"}))
    assert switch.of("port_receive_bytes_total") == {("eth1",): 1000, ("eth2",): 3000}
    assert plug(with_ports(system(), {1: "a", 2: "b"}), aliases={"a": "x", "b": "x"}).of("port_up") == {("x",): 1}


def test_names_are_cleaned_and_cut(plug: Plug) -> None:
    names = {1: b"eth\x1b[31m1\x00", 2: b'quo"te\\s', 3: b"n" * 1024, 4: b"", 5: b"\xff\xfe", 6: "口".encode() * 64}
    switch = plug(with_ports(system(), dict(names)))
    assert set(switch.of("port_up")) == {("eth[31m1",), ('quo"te\\s',), ("n" * 64,), ("\ufffd\ufffd",), ("口" * 21,)}


def test_a_device_without_64_bit_counters_has_those_of_32(plug: Plug) -> None:
    walk = with_ports(system(), {1: "eth1"})
    walk.remove(IF_X)
    put(walk, ".".join(map(str, (*IF, 10))), {"1": 4_000_000_000}, Tag.COUNTER32)
    put(walk, ".".join(map(str, (*IF, 5))), {"1": 1_000_000_000}, Tag.GAUGE32)
    switch = plug(walk)
    assert switch.of("port_receive_bytes_total") == {("eth1",): 4_000_000_000}
    assert switch.of("port_speed_bytes_per_second") == {("eth1",): 125_000_000}
    walk.set((*IF, 10, 1), 1_000_000_000)
    switch.poll(PERIOD)
    assert switch.of("port_receive_bytes_total") == {("eth1",): 2**32 + 1_000_000_000}


def test_a_device_without_types_of_interfaces_has_its_ports_by_their_names(plug: Plug) -> None:
    walk = with_ports(system(), {1: "eth1", 2: "lo", 3: "Vlan10"}, kind=None)
    assert set(plug(walk).of("port_up")) == {("eth1",)}
    assert set(plug(with_ports(system(), {1: "eth1", 2: "lo0"}, kind=24)).of("port_up")) == set()


def test_vlans_are_counted_by_bridge_port(plug: Plug) -> None:
    walk = with_ports(system(), {101: "eth1", 102: "eth2"})
    put(walk, "1.3.6.1.2.1.17.1.4.1.2", {"1": 101, "2": 102, "3": 999}, Tag.INTEGER)
    put(walk, "1.3.6.1.2.1.17.7.1.4.6.1.1", {"1.10": 5, "2.4094": 6, "3.10": 7, "9.10": 8, "1.4095": 9}, Tag.COUNTER32)
    switch = plug(walk)
    assert switch.of("port_vlan_receive_frames_total") == {("eth1", "10"): 5, ("eth2", "4094"): 6}
    assert switch.refused("vlans") == 1
