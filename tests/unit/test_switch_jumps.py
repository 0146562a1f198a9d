"""Counters that must not jump: between columns, profiles, rows and clocks; and turns that must come to an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from exporter.switches.interfaces import MOST_INTERFACES
from lab.switches.ber import Oid, Tag
from lab.switches.walk import Walk
from tests.unit.polled import EPOCH, IF, IF_X, PERIOD, Switch, oid, put, system, with_ports

IN_ERRORS, LAST_CHANGE = (*IF, 14), (*IF, 9)
HC_OCTETS = ".".join(map(str, (*IF_X, 6)))
OCTETS = ".".join(map(str, (*IF, 10)))
ERRORS = ".".join(map(str, IN_ERRORS))
HC_FCS, FCS = "1.3.6.1.2.1.10.7.11.1.2", "1.3.6.1.2.1.10.7.2.1.3"
DESCRIPTION, OBJECT_ID = (1, 3, 6, 1, 2, 1, 1, 1, 0), (1, 3, 6, 1, 2, 1, 1, 2, 0)
CHANGED: Oid = (1, 3, 6, 1, 2, 1, 31, 1, 5, 0)
BGP = "1.3.6.1.2.1.15.3.1.2"
ARISTA = {"description": "Arista Networks EOS", "object_id": "1.3.6.1.4.1.30065.1.3011"}
WATCHDOG = "1.3.6.1.4.1.30065.3.11.1.2.1.4"
ECN_COUNTED = "1.3.6.1.4.1.30065.3.13.1.9.1.3"
WRAP = 1 << 32

Plug = Callable[..., Switch]


def two_ports(**kind: Any) -> Walk:
    return with_ports(system(**kind), {1: "eth1", 2: "eth2"})


def wrapped(plug: Plug, **kind: Any) -> Switch:
    """A switch whose eth1 has counted 2^32 + 5 errors."""
    switch = plug(put(two_ports(**kind), ERRORS, {"1": WRAP - 10, "2": 1}, Tag.COUNTER32))
    switch.poll()
    switch.walk.set((*IN_ERRORS, 1), 5)
    switch.poll(PERIOD)
    assert errors(switch) == WRAP + 5
    return switch


def errors(switch: Switch) -> float:
    return switch.of("port_receive_errors_total")["eth1",]


def test_a_wrap_is_not_forgotten_when_a_port_appears(plug: Plug) -> None:
    switch = wrapped(plug)
    with_ports(switch.walk, {3: "eth3"})
    put(switch.walk, ERRORS, {"3": 0}, Tag.COUNTER32)
    for _ in range(2):
        switch.poll(PERIOD)
        assert errors(switch) == WRAP + 5


def test_a_wrap_is_not_forgotten_over_a_walk_without_the_row(plug: Plug) -> None:
    switch = wrapped(plug)
    switch.walk.remove((*IN_ERRORS, 1))
    switch.poll(PERIOD)
    put(switch.walk, ERRORS, {"1": 9}, Tag.COUNTER32)
    switch.poll(PERIOD)
    assert errors(switch) == WRAP + 9


def test_an_answer_without_the_description_is_of_no_other_device(plug: Plug) -> None:
    switch = wrapped(plug, **ARISTA)
    assert switch.device.profile is not None
    switch.walk.remove(DESCRIPTION)
    switch.walk.remove(OBJECT_ID)
    switch.poll(PERIOD)
    assert switch.device.profile.name == "arista_eos"
    assert errors(switch) == WRAP + 5


def test_a_counter_is_never_taken_from_another_column_for_a_turn(plug: Plug) -> None:
    walk = put(two_ports(), HC_OCTETS, {"1": 10**15, "2": 10**15})
    switch = plug(put(walk, OCTETS, {"1": 10**15 % WRAP, "2": 10**15 % WRAP}, Tag.COUNTER32))
    switch.poll()
    assert switch.of("port_receive_bytes_total")["eth1",] == 10**15
    switch.walk.remove(oid(HC_OCTETS))
    switch.poll(PERIOD)
    assert switch.of("port_receive_bytes_total") == {}
    put(switch.walk, HC_OCTETS, {"1": 10**15 + 7, "2": 10**15})
    switch.poll(PERIOD)
    assert switch.of("port_receive_bytes_total")["eth1",] == 10**15 + 7


def test_a_port_that_only_the_narrow_column_has_is_read_from_that(plug: Plug) -> None:
    walk = put(two_ports(), HC_FCS, {"1": 5})
    switch = plug(put(walk, FCS, {"1": 4, "2": 3}, Tag.COUNTER32))
    for _ in range(2):
        switch.poll(PERIOD)
        assert switch.of("port_fcs_errors_total") == {("eth1",): 5, ("eth2",): 3}


def test_a_table_that_a_device_empties_is_not_shown_any_more(plug: Plug) -> None:
    switch = plug(put(two_ports(), BGP, {"10.0.0.1": 6}, Tag.INTEGER))
    switch.poll()
    assert switch.of("bgp_session_established") == {("10.0.0.1",): 1}
    switch.walk.remove(oid(BGP))
    switch.poll(PERIOD)
    assert switch.of("bgp_session_established") == {}


def test_a_table_that_is_empty_once_is_asked_in_the_next_turn(plug: Plug) -> None:
    switch = plug(put(two_ports(), BGP, {"10.0.0.1": 6}, Tag.INTEGER))
    switch.poll()
    switch.walk.remove(oid(BGP))
    switch.poll(PERIOD)
    put(switch.walk, BGP, {"10.0.0.1": 6}, Tag.INTEGER)
    switch.poll(PERIOD)
    assert switch.of("bgp_session_established") == {("10.0.0.1",): 1}


def test_the_wrap_of_sysuptime_moves_no_port_and_no_time(plug: Plug) -> None:
    walk = put(two_ports(), ".".join(map(str, LAST_CHANGE)), {"1": WRAP - 100_000, "2": 500}, Tag.TIME_TICKS)
    switch = plug(walk)
    switch.agent.uptime = WRAP - 1000
    switch.poll()
    before = switch.of("port_last_change_timestamp_seconds")
    assert before["eth1",] == pytest.approx(EPOCH + switch.clock() - 990, abs=5)
    switch.poll(PERIOD)
    after = switch.of("port_last_change_timestamp_seconds")
    assert after["eth1",] == pytest.approx(before["eth1",], abs=5)
    assert switch.of("port_status_changes_total") == {("eth1",): 0, ("eth2",): 0}
    assert switch.device.restarts == 0


def test_interfaces_that_were_renumbered_are_learnt_as_soon_as_the_device_says_so(plug: Plug) -> None:
    walk = put(two_ports(), ERRORS, {"1": 11, "2": 22}, Tag.COUNTER32)
    walk.add(CHANGED, Tag.TIME_TICKS, 100)
    switch = plug(walk)
    switch.poll()
    with_ports(switch.walk, {1: "eth2", 2: "eth1"})
    put(switch.walk, ERRORS, {"1": 22, "2": 11}, Tag.COUNTER32)
    switch.walk.set(CHANGED, 4000)
    switch.poll(PERIOD)
    assert switch.of("port_receive_errors_total") == {("eth1",): 11, ("eth2",): 22}


def test_a_watchdog_that_tells_packet_types_apart_is_added_up(plug: Plug) -> None:
    rows = {"1.0.3": 0, "1.2.3": 9, "2.2.3": 4}
    switch = plug(put(two_ports(**ARISTA), WATCHDOG, rows, Tag.INTEGER))
    switch.poll()
    assert switch.of("port_pfc_watchdog_stuck_total") == {("eth1", "3"): 9, ("eth2", "3"): 4}
    switch.walk.set((*oid(WATCHDOG), 1, 0, 3), 2)
    switch.poll(PERIOD)
    assert switch.of("port_pfc_watchdog_stuck_total")["eth1", "3"] == 11


def test_an_index_that_cannot_be_in_the_column_that_says_what_to_believe_is_refused(plug: Plug) -> None:
    switch = plug(put(two_ports(**ARISTA), ECN_COUNTED, {"1.2.3": 1}, Tag.INTEGER))
    assert switch.poll().error is None
    assert switch.refused("ecn") == 1


def test_what_has_more_interfaces_than_a_switch_is_not_read(plug: Plug) -> None:
    walk = system()
    for number in range(1, MOST_INTERFACES + 2):
        walk.add((*IF_X, 1, number), Tag.OCTET_STRING, b"eth%d" % number)
    turn = plug(walk).poll()
    assert turn.error == f"it has {MOST_INTERFACES + 1} interfaces, more than {MOST_INTERFACES}: is it a switch?"
