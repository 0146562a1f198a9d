"""What is worked out from several readings or columns of a switch, and what of it is chosen to be read."""

from __future__ import annotations

import pytest

from exporter.contracts.switch_counters import SIGNALS
from exporter.switches.table import REDISCOVERED
from lab.switches.ber import Tag
from lab.switches.generated import index_of, sonic
from lab.switches.walk import UPTIME, Walk
from tests.unit.polled import EPOCH, IF, NXOS, PERIOD, SYNTHETIC, Plug, Switch, oid, put, two_ports

OPER_STATUS, LAST_CHANGE = (*IF, 8), (*IF, 9)
PFC_RECEIVED = "1.3.6.1.4.1.9.9.813.1.2.1.3"


def coverage(switch: Switch, signal: str) -> str:
    return switch.device.coverage()[signal]


# ---- ups and downs


def test_ups_and_downs_are_counted_from_poll_to_poll(plug: Plug) -> None:
    switch = plug(two_ports())

    def changes() -> dict[tuple[str, ...], float]:
        switch.poll(PERIOD)
        return switch.of("port_status_changes_total")

    assert changes() == {("eth1",): 0, ("eth2",): 0}
    switch.walk.set((*OPER_STATUS, 1), 2)
    assert changes() == {("eth1",): 1, ("eth2",): 0}
    assert changes() == {("eth1",): 1, ("eth2",): 0}
    switch.walk.set((*OPER_STATUS, 1), 1)
    assert changes() == {("eth1",): 2, ("eth2",): 0}


def test_a_flap_between_two_polls_is_seen_by_the_time_of_the_last_change(plug: Plug) -> None:
    walk = put(two_ports(), ".".join(map(str, LAST_CHANGE)), {"1": 500, "2": 500}, Tag.TIME_TICKS)
    switch = plug(walk)
    switch.poll(PERIOD)
    assert switch.of("port_last_change_timestamp_seconds")["eth1",] == EPOCH + 1000 - 1000 + 5  # up for 1,000 s
    walk.set((*LAST_CHANGE, 1), 101_000)
    switch.poll(PERIOD)
    assert switch.of("port_status_changes_total") == {("eth1",): 2, ("eth2",): 0}


def test_a_host_whose_clock_is_set_sees_no_flap(plug: Plug) -> None:
    walk = put(two_ports(), ".".join(map(str, LAST_CHANGE)), {"1": 500, "2": 500}, Tag.TIME_TICKS)
    switch = plug(walk)
    switch.poll(PERIOD)
    for step in (3600.0, -3600.0, 10.0):
        switch.device._clock = lambda: EPOCH + switch.clock() + step  # noqa: B023
        switch.poll(PERIOD)
        assert switch.of("port_status_changes_total") == {("eth1",): 0, ("eth2",): 0}
        assert switch.of("port_last_change_timestamp_seconds")["eth1",] == pytest.approx(
            EPOCH + 20 - PERIOD + step, abs=16
        )


# ---- what is chosen, and derived


def test_only_the_priorities_that_are_wanted_are_asked_for_and_new_rows_are_found(plug: Plug) -> None:
    switch = plug(sonic(ports=4), priorities=(3,))
    switch.poll()
    assert {labels[1] for labels in switch.of("port_pfc_receive_frames_total")} == {"3"}
    assert {labels[1] for labels in switch.of("port_queue_transmit_packets_total")} == {"3"}
    requests = switch.agent.requests
    first = switch.poll(PERIOD)
    assert switch.agent.requests - requests < 40
    assert first.rows < 200
    new = sonic(ports=5)
    for entry in new:
        if entry[0] != UPTIME:
            switch.walk.add(*entry)
    polls = 0
    while ("etp5", "3") not in switch.of("port_pfc_receive_frames_total"):
        switch.poll(PERIOD)
        polls += 1
        assert polls <= REDISCOVERED + 1
    assert len(switch.of("port_pfc_receive_frames_total")) == 5


def test_an_exact_reading_of_a_row_that_went_leaves_it_out(plug: Plug) -> None:
    switch = plug(sonic(ports=4), priorities=(3,))
    switch.poll()
    switch.walk.remove(oid(f"{PFC_RECEIVED}.{index_of(1)}.3"))
    switch.poll(PERIOD)
    assert ("etp2", "3") not in switch.of("port_pfc_receive_frames_total")
    assert len(switch.of("port_pfc_receive_frames_total")) == 3


def test_notifications_of_congestion_are_derived_from_the_queue_that_is_named(plug: Plug) -> None:
    walk = Walk.from_snmprec(SYNTHETIC / "SYNTHETIC_sonic_t0.snmprec")
    plain = plug(walk.copy())
    plain.poll()
    assert (coverage(plain, "cnp"), plain.of("port_cnp_derived_packets_total")) == ("absent", {})
    switch = plug(walk, cnp_queue=6, priorities=(3,))
    switch.poll()
    queues = switch.of("port_queue_transmit_packets_total")
    expected = {(port,): value for (port, queue), value in queues.items() if queue == "6"}
    assert switch.of("port_cnp_derived_packets_total") == expected
    assert len(expected) == 4
    assert coverage(switch, "cnp") == "supported"


def test_tables_are_read_as_the_operator_wants_them(plug: Plug) -> None:
    walk = Walk.from_snmprec(SYNTHETIC / "SYNTHETIC_sonic_t0.snmprec")
    switch = plug(walk, tables=("queue_bytes",), without=("cisco_bgp", "cpu"))
    switch.poll_all()
    assert switch.of("port_queue_transmit_bytes_total")
    assert not switch.of("bgp_session_state")
    assert not switch.of("cpu_used_ratio")
    assert not {"cisco_bgp", "cpu"} & {table.profile.name for table in switch.device.tables}


def test_every_signal_has_a_state_and_a_profile_changes_with_the_device(plug: Plug) -> None:
    switch = plug(put(two_ports(**NXOS), PFC_RECEIVED, {"1.3": 5}))
    switch.poll_all()
    assert list(switch.device.coverage()) == list(SIGNALS)
    assert switch.device.profile is not None
    assert switch.device.profile.name == "cisco_nxos"
    switch.walk.set((1, 3, 6, 1, 2, 1, 1, 2, 0), oid("1.3.6.1.4.1.2636.1"))
    switch.walk.set((1, 3, 6, 1, 2, 1, 1, 1, 0), b"another")
    switch.poll_all(PERIOD)
    assert switch.device.profile.name == "juniper_junos"
    assert switch.of("port_pfc_receive_frames_total") == {}


def test_a_storm_and_a_lost_session_are_seen_between_two_walks(plug: Plug) -> None:
    before, after = (plug(Walk.from_snmprec(SYNTHETIC / f"SYNTHETIC_sonic_t{t}.snmprec")) for t in (0, 30))
    before.poll()
    after.poll()

    def grown(metric: str, *labels: str) -> float:
        return after.of(metric)[labels] - before.of(metric)[labels]

    assert grown("port_pfc_receive_frames_total", "etp2", "3") > 30 * 2000
    assert grown("port_queue_transmit_packets_total", "etp2", "3") == 0
    assert grown("port_queue_transmit_packets_total", "etp1", "3") > 0
    assert sum(before.of("bgp_session_established").values()) - sum(after.of("bgp_session_established").values()) == 1
