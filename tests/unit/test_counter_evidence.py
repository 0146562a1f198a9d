"""What counters show: every kind of anomaly by hand, by the lab's effects, and nothing from a healthy job."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.contracts import catalogue, counters, switch_counters
from exporter.contracts.fabric import Fabric
from exporter.contracts.names import split_link
from lab.counters import effects
from lab.counters.names import COUNTERS
from lab.counters.timeline import Timeline
from lab.network.design import draw
from skeleton_service.diagnosis.counters import _KNOWN, LIKELIHOODS, Anomaly, Kind, anomalies, moves_traffic
from skeleton_service.reading.counters import KINDS
from tests.unit.fabrics import leaf_spine
from tests.unit.sampled import (
    BEGIN,
    FAULT,
    READINGS,
    STEP,
    Of,
    Readings,
    become,
    healthy,
    rise,
    silence,
    table,
    time_of,
)

FABRIC = Fabric(leaf_spine())
LEAF, SPINE = "leaf-p0-r0", "spine-0"
UPLINK, DOWNLINK = f"{LEAF}:Ethernet0", f"{LEAF}:Ethernet8"
RNIC = next(iter(set(split_link(FABRIC.link_of(DOWNLINK) or "")) - {DOWNLINK}))
HOST = RNIC.partition(":")[0]
FAR = next(iter(set(split_link(FABRIC.link_of(UPLINK) or "")) - {UPLINK}))
FULL_SHUT = 400e9 / (65535 * 512) * STEP
"""PFC frames between two readings that keep a priority of a 400 Gb/s port shut."""


def found(readings: Readings, until: float = inf, fabric: Fabric = FABRIC) -> list[Anomaly]:
    return anomalies(table(readings), fabric, until=until)


def named(anomaly: Anomaly) -> tuple[Kind, str, str]:
    return anomaly.kind, anomaly.component.kind, anomaly.component.name


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_job_shows_nothing(seed: int) -> None:
    """Stray FCS errors, and bursts of discards, drops, pauses and marks in each iteration."""
    assert found(healthy(FABRIC, seed)) == []


class Case(NamedTuple):
    kind: Kind
    component: tuple[str, str]
    spoil: Callable[[Readings], None]
    proven: int = FAULT
    """The reading after which it is beyond doubt."""
    others: tuple[tuple[Kind, str], ...] = ()
    """(kind, component) that it shows besides."""


def counting(metric: str, end: str, a_reading: float, **key: int) -> Callable[[Readings], None]:
    return lambda readings: rise(readings, Of(metric, end, **key), a_reading)


def reading(metric: str, end: str, value: float | None, **key: str) -> Callable[[Readings], None]:
    return lambda readings: become(readings, Of(metric, end, **key), value)


def all_of(*spoils: Callable[[Readings], None]) -> Callable[[Readings], None]:
    def spoil(readings: Readings) -> None:
        for each in spoils:
            each(readings)

    return spoil


def flaps(readings: Readings) -> None:
    for number in range(FAULT, READINGS, 2):
        become(readings, Of(switch_counters.PORT_UP.name, UPLINK), 0, number, number + 1)


def drops_vlan(readings: Readings) -> None:
    readings[Of(counters.QUEUE_DROPPED, UPLINK, queue=3, vlan=100)] = [0.0] * READINGS
    rise(readings, Of(counters.QUEUE_DROPPED, UPLINK, queue=3, vlan=100), 500)


def ports_of(switch: str) -> list[str]:
    return [f"{switch}:{port.name}" for port in FABRIC.switches[switch].ports]


def congested(readings: Readings) -> None:
    """All but one port of the leaf pause, and no queue of it marks more than before."""
    for end in ports_of(LEAF):
        if end != DOWNLINK:
            rise(readings, Of(counters.PFC_SENT, end, 3), FULL_SHUT * 0.4)


def stands_still(readings: Readings) -> None:
    packets = readings[Of(counters.QUEUE_PACKETS, DOWNLINK, queue=3)]
    packets[FAULT:] = [packets[FAULT - 1]] * (READINGS - FAULT)


def of_the_device(of: Of) -> bool:
    """Whether a series is of the RDMA device; its network device is still there."""
    netdev = (catalogue.RNIC_UP, catalogue.RNIC_MTU, catalogue.RNIC_TRANSMIT, catalogue.RDMA_GID_CHANGES)
    return of.end == RNIC and of.metric not in {metric.name for metric in netdev}


CASES = (
    Case("port_down", ("port", UPLINK), reading(switch_counters.PORT_UP.name, UPLINK, 0)),
    Case("port_flapping", ("port", UPLINK), flaps, FAULT + 2),
    Case("port_flapping", ("port", UPLINK), counting(counters.STATUS_CHANGES, UPLINK, 2), FAULT + 1),
    Case("bit_errors", ("port", UPLINK), counting(counters.FCS_ERRORS, UPLINK, 131)),
    Case("bit_errors", ("port", RNIC), counting(counters.RNIC_CRC_ERRORS, RNIC, 20)),
    Case("receive_errors", ("port", UPLINK), counting(switch_counters.PORT_RECEIVE_ERRORS.name, UPLINK, 50)),
    Case("frames_too_long", ("port", UPLINK), counting(counters.FRAME_TOO_LONGS, UPLINK, 40)),
    Case("discards", ("port", UPLINK), counting(switch_counters.PORT_RECEIVE_DISCARDS.name, UPLINK, 900), FAULT + 1),
    Case("queue_drops", ("vlan", f"{LEAF}:100"), drops_vlan, FAULT + 1),
    Case("mtu_mismatch", ("port", UPLINK), reading(switch_counters.PORT_MTU.name, UPLINK, 1500)),
    Case("ecn_surge", ("port", DOWNLINK), counting(counters.ECN_MARKED, DOWNLINK, 1e5, queue=3), FAULT + 1),
    Case("cnp_surge", ("rnic", RNIC), counting(counters.RNIC_CNP_SENT, RNIC, 1e5), FAULT + 1),
    Case("cnp_ignored", ("rnic", RNIC), counting(counters.RNIC_CNP_IGNORED, RNIC, 1e3), FAULT + 1),
    Case("retransmission", ("rnic", RNIC), counting(counters.RNIC_OUT_OF_SEQUENCE, RNIC, 200), FAULT + 1),
    Case("pcie_stall", ("rnic", RNIC), reading(counters.RNIC_STALLED_WRITE_RATIO, RNIC, 0.6), FAULT + 1),
    Case("gid_change", ("rnic", RNIC), lambda r: rise(r, Of(catalogue.RDMA_GID_CHANGES.name, RNIC), 1, last=FAULT + 1)),
    Case("mtu_change", ("rnic", RNIC), reading(catalogue.RNIC_MTU.name, RNIC, 1500)),
    Case("rnic_down", ("rnic", RNIC), reading(catalogue.RNIC_UP.name, RNIC, 0)),
    Case("rnic_flapping", ("rnic", RNIC), counting(counters.RNIC_LINK_DOWNS, RNIC, 1), FAULT + 1),
    Case("rnic_pausing", ("rnic", RNIC), counting(counters.RNIC_PFC_PAUSING, RNIC, 0.3 * STEP, priority=3), FAULT + 1),
    Case(
        "pfc_storm",
        ("rnic", RNIC),
        all_of(
            counting(counters.PFC_RECEIVED, DOWNLINK, FULL_SHUT, priority=3),
            lambda r: rise(r, Of(counters.WATCHDOG_STUCK, DOWNLINK, queue=3), 1, last=FAULT + 1),
        ),
        FAULT + 1,
        (("watchdog_stuck", DOWNLINK),),
    ),
    Case(
        "pfc_storm",
        ("rnic", RNIC),
        all_of(
            counting(counters.PFC_RECEIVED, DOWNLINK, FULL_SHUT, priority=3),
            stands_still,
        ),
        FAULT + 1,
    ),
    Case("pfc_pausing", ("port", DOWNLINK), congested, FAULT + 1, (("ecn_absent", DOWNLINK),)),
    Case("switch_unreachable", ("switch", LEAF), reading(switch_counters.SWITCH_REACHABLE.name, LEAF, 0), FAULT + 1),
    Case("switch_unreachable", ("switch", LEAF), lambda r: silence(r, lambda of: of.end.startswith(LEAF)), FAULT + 2),
    Case("rnic_absent", ("rnic", RNIC), lambda r: silence(r, of_the_device), FAULT + 2),
    Case("agent_silent", ("agent", HOST), lambda r: silence(r, lambda of: of.end.startswith(f"{HOST}:")), FAULT + 2),
    Case("bgp_down", ("bgp_session", f"{LEAF}:{SPINE}"), reading(counters.BGP_ESTABLISHED, LEAF, 0, peer=SPINE)),
    Case(
        "bgp_flapping",
        ("bgp_session", f"{LEAF}:{SPINE}"),
        lambda r: rise(r, Of(counters.BGP_TRANSITIONS, LEAF, peer=SPINE), 1, last=FAULT + 1),
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} of {case.component[1]}")
def test_every_kind(case: Case) -> None:
    readings = healthy(FABRIC)
    case.spoil(readings)
    (anomaly,) = [each for each in found(readings) if each.kind == case.kind]
    assert (anomaly.component.kind, anomaly.component.name) == case.component
    assert anomaly.start == pytest.approx(time_of(FAULT), abs=1e-3)
    assert anomaly.proven == pytest.approx(time_of(case.proven), abs=1e-3)
    assert {(each.kind, each.component.name) for each in found(readings)} == {
        (case.kind, case.component[1]),
        *case.others,
    }
    assert anomaly.weight > 0
    assert "\n" not in anomaly.evidence
    assert found(readings, until=time_of(FAULT - 1)) == []
    assert case.kind in {each.kind for each in found(readings, until=anomaly.proven)}


def test_every_kind_speaks_for_its_component() -> None:
    assert all(0 < otherwise < broken <= 1 for broken, otherwise in LIKELIHOODS.values())


def test_a_link_of_bad_optics_is_told_so_that_a_person_can_check() -> None:
    """A repaired one has an end; what it shows is hurt as it arrives."""
    readings = healthy(FABRIC)
    readings[Of(counters.FCS_ERRORS, UPLINK)] = [7.0] * READINGS
    rise(readings, Of(counters.FCS_ERRORS, UPLINK), 131, last=FAULT + 3)
    (anomaly,) = found(readings)
    assert anomaly.evidence == (
        f"{UPLINK}: 393 FCS errors in 15 s, none in the 140 s before (fabric_switch_port_fcs_errors_total)"
    )
    assert (anomaly.direction, anomaly.unit, anomaly.magnitude) == ("ingress", "per second", pytest.approx(26.2))
    assert anomaly.end == time_of(FAULT + 2)
    assert [each.end for each in found(readings, until=time_of(FAULT + 2))] == [None]


def test_what_was_broken_from_the_first_reading_is_told_by_its_peers() -> None:
    readings = healthy(FABRIC)
    rise(readings, Of(counters.FCS_ERRORS, UPLINK), 131, first=0)
    assert [named(each) for each in found(readings)] == [("bit_errors", "port", UPLINK)]


def test_errors_that_grow_slowly_are_found() -> None:
    readings = healthy(FABRIC)
    for number in range(FAULT, READINGS):
        rise(readings, Of(counters.FCS_ERRORS, UPLINK), 2, first=number)
    (anomaly,) = found(readings)
    assert named(anomaly) == ("bit_errors", "port", UPLINK)
    assert anomaly.proven <= time_of(FAULT + 5)


@pytest.mark.parametrize(
    "metric",
    [counters.ECN_MARKED, switch_counters.PORT_RECEIVE_DISCARDS.name, counters.QUEUE_DROPPED, counters.PFC_SENT],
)
def test_what_every_port_shows_at_once_is_congestion(metric: str) -> None:
    readings = healthy(FABRIC)
    for of in [of for of in readings if of.metric == metric]:
        rise(readings, of, 20_000)
    assert found(readings) == []


def test_a_checkpoint_that_half_of_the_ports_feel_for_a_minute_shows_nothing() -> None:
    readings = healthy(FABRIC)
    for switch in FABRIC.switches:
        for end in ports_of(switch)[::2]:
            rise(readings, Of(switch_counters.PORT_RECEIVE_DISCARDS.name, end), 2_000, last=FAULT + 12)
            rise(readings, Of(counters.ECN_MARKED, end, queue=3), 90_000, last=FAULT + 12)
    assert found(readings) == []


def test_one_sample_of_each_shows_nothing_but_what_is_down() -> None:
    readings = {of: values[:1] for of, values in healthy(FABRIC).items()}
    assert anomalies(table(readings), FABRIC) == []
    readings[Of(switch_counters.PORT_UP.name, UPLINK)] = [0.0]
    assert [named(each) for each in anomalies(table(readings), FABRIC)] == [("port_down", "port", UPLINK)]


def test_no_samples_at_all() -> None:
    empty = table(healthy(FABRIC)).slice(0, 0)
    assert anomalies(empty, FABRIC) == []
    assert moves_traffic(empty, FABRIC, HOST, BEGIN) is None


def test_metrics_that_nobody_knows_are_ignored() -> None:
    readings = healthy(FABRIC)
    rise(readings, Of("vendor_strange_errors_total", UPLINK), 1e6)
    assert found(readings) == []


def test_ports_that_are_shut_by_hand_are_not_down() -> None:
    readings = healthy(FABRIC)
    become(readings, Of(switch_counters.PORT_UP.name, UPLINK), 0)
    become(readings, Of(switch_counters.PORT_ENABLED.name, UPLINK), 0)
    assert found(readings) == []


def test_a_link_whose_ends_have_always_differed_in_mtu() -> None:
    readings = healthy(FABRIC)
    readings[Of(switch_counters.PORT_MTU.name, FAR)] = [1500.0] * READINGS
    (anomaly,) = found(readings)
    assert named(anomaly) == ("mtu_mismatch", "port", FAR)
    assert f"its far end {UPLINK} has 9216" in anomaly.evidence


def test_a_drained_switch_shows_nothing_and_neither_do_the_ports_that_face_it() -> None:
    readings = healthy(FABRIC)
    for end in (*ports_of(LEAF), FAR, RNIC):
        metric = catalogue.RNIC_UP if end == RNIC else switch_counters.PORT_UP
        become(readings, Of(metric.name, end), 0)
    silence(readings, lambda of: of.end == LEAF)
    topology = leaf_spine()
    switches = tuple(
        msgspec.structs.replace(each, state="drained" if each.name == LEAF else "active") for each in topology.switches
    )
    drained = Fabric(msgspec.structs.replace(topology, switches=switches))
    assert {each.component.name for each in found(readings)} >= {UPLINK, FAR, RNIC}
    assert found(readings, fabric=drained) == []


def test_all_switches_that_fall_silent_at_once_are_the_reader_s_fault() -> None:
    readings = healthy(FABRIC)
    silence(readings, lambda of: of.end.partition(":")[0] in FABRIC.switches, FAULT, FAULT + 8)
    assert found(readings) == []


def test_a_switch_that_comes_back_has_an_end() -> None:
    readings = healthy(FABRIC)
    silence(readings, lambda of: of.end.startswith(LEAF), FAULT, FAULT + 6)
    (anomaly,) = found(readings)
    assert (anomaly.start, anomaly.end) == (time_of(FAULT), time_of(FAULT + 5))


def test_a_dead_host_is_told_from_a_dead_agent_by_its_leaf() -> None:
    readings = healthy(FABRIC)
    silence(readings, lambda of: of.end.startswith(f"{HOST}:"))
    assert moves_traffic(table(readings), FABRIC, HOST, time_of(FAULT)) is True
    for interface in FABRIC.interfaces.values():
        if interface.host.name == HOST:
            (port,) = set(split_link(FABRIC.link_of(interface.id) or "")) - {interface.id}
            values = readings[Of(switch_counters.PORT_RECEIVE.name, port)]
            values[FAULT:] = [values[FAULT - 1]] * (READINGS - FAULT)
    assert [named(each) for each in found(readings)] == [("host_silent", "host", HOST)]
    assert moves_traffic(table(readings), FABRIC, HOST, time_of(FAULT)) is False
    assert moves_traffic(table(readings), FABRIC, HOST, time_of(READINGS)) is None
    silence(readings, lambda of: of.metric == switch_counters.PORT_RECEIVE.name)
    assert moves_traffic(table(readings), FABRIC, HOST, time_of(FAULT)) is None


def test_an_rnic_that_sends_nothing_while_others_do() -> None:
    readings = healthy(FABRIC)
    values = readings[Of(catalogue.RNIC_TRANSMIT.name, RNIC)]
    values[FAULT:] = [values[FAULT - 1]] * (READINGS - FAULT)
    (anomaly,) = found(readings)
    assert named(anomaly) == ("traffic_stopped", "rnic", RNIC)
    for of in [of for of in readings if of.metric == catalogue.RNIC_TRANSMIT.name]:
        others = readings[of]
        others[FAULT:] = [others[FAULT - 1]] * (READINGS - FAULT)
    assert found(readings) == []  # the job stands still


def test_a_bgp_session_falls_with_its_link() -> None:
    readings = healthy(FABRIC)
    rise(readings, Of(counters.BGP_TRANSITIONS, LEAF, peer=SPINE), 1, last=FAULT + 1)
    become(readings, Of(counters.BGP_ESTABLISHED, LEAF, peer=SPINE), 0)
    become(readings, Of(switch_counters.PORT_UP.name, FAR), 0, FAULT - 2, FAULT + 2)
    assert [named(each) for each in found(readings)] == [("port_down", "port", FAR)]


def test_pauses_are_followed_to_their_origin() -> None:
    """An RNIC pauses its leaf, which pauses the spines, which pause the other leaves: the RNIC is to blame."""
    readings = healthy(FABRIC)
    rise(readings, Of(counters.PFC_RECEIVED, DOWNLINK, 3), FULL_SHUT * 0.4)
    for end in ports_of(LEAF):
        rise(readings, Of(counters.PFC_SENT, end, 3), FULL_SHUT * 0.3)
    for switch in (SPINE, "spine-1"):
        for end in ports_of(switch)[1:]:
            rise(readings, Of(counters.PFC_SENT, end, 3), FULL_SHUT * 0.2)
    assert [named(each) for each in found(readings)] == [("rnic_pausing", "rnic", RNIC)]


def test_an_rnic_that_pauses_twice_is_told_twice() -> None:
    readings = healthy(FABRIC)
    rise(readings, Of(counters.RNIC_PFC_PAUSING, RNIC, 3), 0.4 * STEP, first=10, last=14)
    later = {of: [*values, *([values[-1]] * 80)] for of, values in readings.items()}
    values = later[Of(counters.RNIC_PFC_PAUSING, RNIC, 3)]
    values[READINGS + 60 :] = [(values[-1] or 0.0) + 0.4 * STEP * number for number in range(1, 21)]
    told_of = [each for each in found(later) if each.kind == "rnic_pausing"]
    assert [(each.start, each.end) for each in told_of] == [
        (time_of(10), time_of(13)),
        (time_of(READINGS + 60), None),
    ]


def test_a_circle_of_pauses_is_a_deadlock_of_its_switches() -> None:
    readings = healthy(FABRIC)
    ring = [LEAF, "spine-0", "leaf-p0-r1", "spine-1"]
    for here, there in zip(ring, [*ring[1:], ring[0]], strict=True):
        ends = {end: far for link in FABRIC.topology.links for end, far in ((link.a, link.b), (link.b, link.a))}
        end = next(end for end in ports_of(here) if ends[end].startswith(f"{there}:"))
        rise(readings, Of(counters.PFC_SENT, end, 3), FULL_SHUT * 0.9)
    assert {named(each) for each in found(readings)} == {("pfc_deadlock", "switch", name) for name in ring}


# ---- the lab's effects

DESIGN = draw(3)
LAB = Fabric(DESIGN.topology())
_NAMES = {
    "pfc_received": (counters.PFC_RECEIVED, counters.RNIC_PFC_RECEIVED, 1.0),
    "pfc_sent": (counters.PFC_SENT, counters.RNIC_PFC_SENT, 1.0),
    "pfc_received_duration": (counters.PFC_PAUSED, counters.RNIC_PFC_PAUSED, 1e-6),
    "pfc_sent_duration": (counters.PFC_PAUSING, counters.RNIC_PFC_PAUSING, 1e-6),
    "queue_packets": (counters.QUEUE_PACKETS, "", 1.0),
    "queue_dropped_packets": (counters.QUEUE_DROPPED, "", 1.0),
    "ecn_marked": (counters.ECN_MARKED, "", 1.0),
    "watchdog_stuck": (counters.WATCHDOG_STUCK, "", 1.0),
    "watchdog_recovered": (counters.WATCHDOG_RECOVERED, "", 1.0),
    "fcs_errors": (counters.FCS_ERRORS, "", 1.0),
    "symbol_errors": (counters.SYMBOL_ERRORS, "", 1.0),
    "frame_too_longs": (counters.FRAME_TOO_LONGS, "", 1.0),
    "outbound_pci_stalled_wr": ("", counters.RNIC_STALLED_WRITE_RATIO, 0.01),
}


def told(events: effects.Events) -> pa.Table:
    """What a timeline of events from FAULT on makes of every counter that they move, at every port that has it."""
    line = Timeline(event._replace(start=time_of(FAULT) - STEP) for event in events)
    rnics = {host.name: [rnic.name for rnic in host.rnics] for host in DESIGN.hosts}
    ports = {switch.name: [end.port for end in switch.ports] for switch in DESIGN.switches}
    readings: Readings = {}
    for name, slot in {(event.counter, event.slot) for event in events}:
        places = rnics if any(event.counter == name and event.node in rnics for event in events) else {}
        switches = ports if any(event.counter == name and event.node in ports for event in events) else {}
        for side, ends in enumerate((switches, places)):
            for node, own in ends.items():
                for port in own:
                    of, factor = lab_name(name, side, f"{node}:{port}", slot)
                    readings[of] = [value(line, node, port, name, slot, n) * factor for n in range(READINGS)]
    for switch, own in ports.items():
        for port in own:
            readings[Of(switch_counters.PORT_SPEED.name, f"{switch}:{port}")] = [1.25e9] * READINGS  # the lab's 10 Gb/s
    return table(readings)


def value(line: Timeline, node: str, port: str, name: str, slot: int | None, number: int) -> float:
    read = line.total if COUNTERS[name].kind == "counter" else line.level
    return float(read(node, port, name, slot, time_of(number)))


def lab_name(name: str, side: int, end: str, slot: int | None) -> tuple[Of, float]:
    hardware = "fabric_rnic_hw_{}_total" if COUNTERS[name].text == "mlx5 hw_counters" else "fabric_rnic_{}_total"
    *names, factor = _NAMES.get(name, ("", hardware.format(name), 1.0))
    slots = {"priority": slot} if COUNTERS[name].slot == "priority" else {"queue": slot}
    return Of(str(names[side]), end, **slots), float(factor)


LAB_LEAF = DESIGN.switch(next(each.name for each in DESIGN.switches if each.tier == "leaf"))
LAB_PORT = LAB_LEAF.ports[0].id
LAB_RNICS = [f"{host.name}:{host.rnics[0].name}" for host in DESIGN.hosts]
LAB_DOWNLINK = next(iter(set(split_link(LAB.link_of(LAB_RNICS[0]) or "")) - {LAB_RNICS[0]}))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (
            effects.pfc_storm(DESIGN, LAB_RNICS[0]),
            {("pfc_storm", LAB_RNICS[0]), ("watchdog_stuck", LAB_DOWNLINK)},
        ),
        (effects.slow_receiver(DESIGN, LAB_RNICS[0]), {("rnic_pausing", LAB_RNICS[0]), ("pcie_stall", LAB_RNICS[0])}),
        (
            effects.incast(DESIGN, LAB_RNICS[0], LAB_RNICS[1:3]),
            {("ecn_surge", LAB_DOWNLINK)} | {("cnp_surge", rnic) for rnic in LAB_RNICS[:3]},
        ),
        (
            effects.incast(DESIGN, LAB_RNICS[0], LAB_RNICS[1:3], reacts=False),
            {("ecn_surge", LAB_DOWNLINK), ("cnp_surge", LAB_RNICS[0])}
            | {("cnp_ignored", rnic) for rnic in LAB_RNICS[1:3]},
        ),
        (
            effects.queue_drops(DESIGN, LAB_PORT, 100, sender=LAB_RNICS[0], receiver=LAB_RNICS[1]),
            {("queue_drops", LAB_PORT)} | {("retransmission", rnic) for rnic in LAB_RNICS[:2]},
        ),
        (effects.dirty_link(DESIGN, LAB_PORT, 20), {("bit_errors", LAB_PORT)}),
        (effects.dirty_link(DESIGN, LAB_RNICS[0], 20), {("bit_errors", LAB_RNICS[0])}),
        (
            effects.too_long(DESIGN, LAB_PORT, 40, senders=LAB_RNICS[:1]),
            {("frames_too_long", LAB_PORT), ("retransmission", LAB_RNICS[0])},
        ),
    ],
    ids=["storm", "slow receiver", "incast", "incast, CNPs ignored", "drops", "dirty port", "dirty RNIC", "too long"],
)
def test_the_effects_of_the_lab_s_faults(events: effects.Events, expected: set[tuple[Kind, str]]) -> None:
    assert {(each.kind, each.component.name) for each in anomalies(told(events), LAB)} == expected


def test_a_storm_without_watchdog_is_followed_to_its_rnic() -> None:
    events = effects.pfc_storm(DESIGN, LAB_RNICS[0], watchdog=False)
    assert [named(each) for each in anomalies(told(events), LAB)] == [("pfc_storm", "rnic", LAB_RNICS[0])]


# ---- what must hold whatever the samples

SPOILT = healthy(FABRIC)
for spoilt in (CASES[1], CASES[3], CASES[7], CASES[15]):
    spoilt.spoil(SPOILT)
rise(SPOILT, Of(counters.PFC_RECEIVED, DOWNLINK, 3), FULL_SHUT)
silence(SPOILT, lambda of: of.end.startswith("host-p1-0:"))
SPOILT_TABLE = table(
    {of: values for number, (of, values) in enumerate(SPOILT.items()) if number % 3 or "up" in of.metric}
)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_of_rows_means_nothing(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(SPOILT_TABLE))
    halves = [SPOILT_TABLE.take(pa.array(order[:9999])), SPOILT_TABLE.take(pa.array(order[9999:]))]
    assert anomalies(pa.concat_tables(halves), FABRIC) == anomalies(SPOILT_TABLE, FABRIC) != []


def test_samples_that_two_files_both_have_count_once() -> None:
    assert anomalies(pa.concat_tables([SPOILT_TABLE] * 2), FABRIC) == anomalies(SPOILT_TABLE, FABRIC)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, READINGS), st.floats(0, STEP))
def test_what_is_known_at_a_time_depends_on_no_later_sample(number: int, more: float) -> None:
    until = time_of(number) + more
    earlier = SPOILT_TABLE.filter(np.asarray(SPOILT_TABLE["time"]) <= until)
    known = anomalies(SPOILT_TABLE, FABRIC, until=until)
    assert known == anomalies(earlier, FABRIC)
    assert all(each.start <= each.proven <= until for each in known)
    assert all(each.end is None or each.start <= each.end <= until for each in known)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, READINGS - 1), st.integers(0, 3))
def test_a_reset_is_no_anomaly_and_hides_none(number: int, kept: int) -> None:
    """Counters of a port that start again, with or without a few events since, in a healthy or a dirty port."""
    dirty = healthy(FABRIC)
    rise(dirty, Of(counters.FCS_ERRORS, UPLINK), 131)
    for readings, expected in ((healthy(FABRIC), []), (dirty, [("bit_errors", "port", UPLINK)])):
        for of, values in readings.items():
            if of.end == UPLINK and counters.is_counter(of.metric) and of.metric != counters.STATUS_CHANGES:
                base = values[number - 1] or 0.0
                values[number:] = [(each or 0.0) - base + min(kept, base) for each in values[number:]]
        assert [named(each) for each in found(readings)] == expected


@settings(max_examples=10, deadline=None)
@given(st.sets(st.integers(0, READINGS - 1), max_size=6))
def test_readings_that_are_missed_now_and_then_are_no_anomaly_and_hide_none(missed: set[int]) -> None:
    readings = healthy(FABRIC)
    rise(readings, Of(counters.FCS_ERRORS, UPLINK), 131)
    for number in sorted(missed):
        if not {number - 1, number - 2} & missed:
            silence(readings, lambda of: of.end.startswith(LEAF), number, number + 1)
    assert [named(each) for each in found(readings)] == [("bit_errors", "port", UPLINK)]


_SAMPLES = st.fixed_dictionaries(
    {
        "time": st.integers(0, 40).map(float),
        "metric": st.sampled_from(sorted(_KNOWN)),
        "node": st.sampled_from([LEAF, SPINE, HOST, "nobody"]),
        "port": st.sampled_from([None, "", "Ethernet0", "Ethernet8", "mlx5_0", "nothing"]),
        "priority": st.sampled_from([None, 3]),
        "queue": st.sampled_from([None, 3]),
        "vlan": st.sampled_from([None, 100]),
        "peer": st.sampled_from([None, SPINE, "192.0.2.1", ""]),
        "value": st.sampled_from([0.0, 1.0, 7.0, 1e4, 1e12]),
    }
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_SAMPLES, max_size=60), st.floats(0, 45))
def test_whatever_a_file_holds_is_judged_alike_early_and_late(rows: list[dict[str, object]], until: float) -> None:
    samples = pa.Table.from_pylist(rows, schema=pa.schema(KINDS.items()))
    earlier = samples.filter(np.asarray(samples["time"]) <= until)
    known = anomalies(samples, FABRIC, until=until)
    assert known == anomalies(earlier, FABRIC) == anomalies(earlier.take(np.arange(len(earlier))[::-1]), FABRIC)
    assert all(each.start <= each.proven <= until and each.component.name for each in known)
