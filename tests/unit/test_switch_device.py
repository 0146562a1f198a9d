"""One switch, turn by turn: counters that wrap, agents that restart or fail, tables that are slow, empty or gone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from exporter.contracts.switch_counters import SWITCH_PORT, SWITCH_PRIORITY
from exporter.store import Store
from exporter.switches.device import EMPTY_REST
from exporter.switches.settings import switch_tables
from lab.switches.agent import Agent
from lab.switches.ber import Oid, Tag, encode_oid
from lab.switches.walk import Walk
from tests.unit.polled import (
    IF,
    IF_X,
    NXOS,
    PERIOD,
    Plug,
    Switch,
    oid,
    put,
    system,
    two_ports,
    with_ports,
)

IN_ERRORS = (*IF, 14)
FCS = "1.3.6.1.2.1.10.7.2.1.3"
PFC_RECEIVED = "1.3.6.1.4.1.9.9.813.1.2.1.3"
WRAP = 1 << 32


def losing(column: str) -> Callable[[bytes], bool]:
    """Whether a request asks for what is below this OID, for an agent that does not answer it."""
    asked = encode_oid(oid(column))[2:]
    return lambda datagram: asked in datagram


def coverage(switch: Switch, signal: str) -> str:
    return switch.device.coverage()[signal]


# ---- counters


def test_a_counter_of_32_bits_goes_on_past_its_wrap_and_begins_anew_after_a_reset(plug: Plug) -> None:
    walk = put(two_ports(), ".".join(map(str, IN_ERRORS)), {"1": WRAP - 10}, Tag.COUNTER32)
    switch = plug(walk)

    def after(value: int) -> float:
        walk.set((*IN_ERRORS, 1), value)
        switch.poll(PERIOD)
        return switch.of("port_receive_errors_total")["eth1",]

    assert after(WRAP - 10) == WRAP - 10
    assert after(5) == WRAP + 5
    assert after(7) == WRAP + 7
    assert after(3 * WRAP // 4) == WRAP + 3 * WRAP // 4
    assert after(0) == 2 * WRAP
    assert after(1_000_000) == 2 * WRAP + 1_000_000
    assert after(5) == 5  # it was cleared: nothing says by how much it would have grown


def test_a_wrap_is_not_forgotten_when_a_row_comes_or_goes(plug: Plug) -> None:
    walk = put(two_ports(), ".".join(map(str, IN_ERRORS)), {"1": WRAP - 10, "2": 1}, Tag.COUNTER32)
    switch = plug(walk)
    switch.poll()
    walk.set((*IN_ERRORS, 1), 5)
    switch.poll(PERIOD)
    walk.remove((*IN_ERRORS, 2))
    switch.poll(PERIOD)
    assert switch.of("port_receive_errors_total") == {("eth1",): WRAP + 5}


def test_a_counter_of_64_bits_is_shown_as_it_is_and_starts_again_where_it_is_cleared(plug: Plug) -> None:
    switch = plug(put(two_ports(**NXOS), PFC_RECEIVED, {"1.3": 2**64 - 1, "1.4": 7}))
    switch.poll()
    assert switch.of("port_pfc_receive_frames_total") == {("eth1", "3"): float(2**64), ("eth1", "4"): 7}
    switch.walk.clear_counters()
    switch.poll(PERIOD)
    assert set(switch.of("port_pfc_receive_frames_total").values()) == {0}


def test_a_value_of_a_wrong_type_is_left_out_and_counted(plug: Plug) -> None:
    walk = put(two_ports(), FCS, {"1": 5}, Tag.COUNTER32)
    put(walk, FCS, {"2": b"five"}, Tag.OCTET_STRING)
    switch = plug(walk)
    switch.poll()
    assert switch.of("port_fcs_errors_total") == {("eth1",): 5}
    assert switch.refused("ethernet") == 1
    put(walk, FCS, {"1": -3}, Tag.INTEGER)  # no counter is below 0
    switch.poll(PERIOD)
    assert switch.of("port_fcs_errors_total") == {}
    assert switch.refused("ethernet") == 3


def test_an_index_that_cannot_be_is_left_out_and_counted(plug: Plug) -> None:
    rows = {"1.3": 1, "1": 2, "1.8": 3, "1.3.0": 4, "2.4294967295": 5, "1.4": 6}
    switch = plug(put(two_ports(**NXOS), PFC_RECEIVED, rows))
    switch.poll()
    assert switch.of("port_pfc_receive_frames_total") == {("eth1", "3"): 1, ("eth1", "4"): 6}
    assert switch.refused("cisco_pfc") == 4


def test_a_value_that_one_of_several_columns_no_longer_tells_is_gone(plug: Plug) -> None:
    """Cumulus has a column for each priority; the old value stayed."""
    walk = with_ports(system(object_id="1.3.6.1.4.1.40310"), {1: "swp1", 2: "swp2"})
    for column in (10, 12):
        put(walk, f"1.3.6.1.4.1.40310.2.2.3.1.{column}", {"1": 5})
    switch = plug(walk)
    switch.poll()
    assert switch.of("port_pfc_receive_frames_total") == {("swp1", "3"): 5, ("swp1", "4"): 5}
    put(walk, "1.3.6.1.4.1.40310.2.2.3.1.10", {"1": b"?"}, Tag.OCTET_STRING)
    switch.poll(PERIOD)
    assert switch.of("port_pfc_receive_frames_total") == {("swp1", "4"): 5}


# ---- restarts


def test_a_restart_in_the_middle_of_a_turn_shows_nothing_of_it_and_is_counted(plug: Plug) -> None:
    switch = plug(two_ports())
    switch.poll()
    before = switch.of("port_receive_bytes_total")
    switch.walk.set((*IF_X, 6, 2), 999_999)
    switch.agent.restart_after = 3
    turn = switch.poll(PERIOD)
    assert turn.error == "its agent restarted in the middle of a walk: what was read is not shown"
    assert turn.reachable
    assert (switch.device.restarts, switch.of("port_receive_bytes_total")) == (1, before)
    turn = switch.poll(PERIOD)
    assert (turn.error, turn.whole, switch.device.restarts) == (None, True, 1)
    assert set(switch.of("port_receive_bytes_total").values()) == {0}


def test_a_restart_between_two_polls_is_counted_once(plug: Plug) -> None:
    switch = plug(two_ports())
    for _ in range(3):
        switch.poll(PERIOD)
    switch.agent.restart()
    for _ in range(3):
        assert switch.poll(PERIOD).error is None
    assert switch.device.restarts == 1


def test_uptime_wraps_after_497_days_and_that_is_no_restart(plug: Plug) -> None:
    switch = plug(two_ports(uptime=WRAP - 1000))
    switch.poll()
    assert switch.device.uptime > 42_949_000
    switch.poll(PERIOD)
    assert switch.device.uptime < 10
    switch.poll(PERIOD)
    assert switch.device.restarts == 0


def test_a_device_without_uptime_restarts_unseen(plug: Plug) -> None:
    walk = two_ports(uptime=None)
    switch = plug(put(walk, FCS, {"1": 5}, Tag.COUNTER32))
    for _ in range(3):
        assert switch.poll(PERIOD).whole
    assert math.isnan(switch.device.uptime)
    walk.set(oid(f"{FCS}.1"), 0)
    assert switch.poll(PERIOD).error is None
    assert (switch.device.restarts, switch.of("port_fcs_errors_total")["eth1",]) == (0, 0)


def test_ports_that_are_numbered_anew_by_a_restart_keep_their_names(plug: Plug) -> None:
    switch = plug(two_ports())
    switch.poll()
    assert switch.of("port_receive_bytes_total") == {("eth1",): 1000, ("eth2",): 2000}
    switch.walk.remove((1, 3, 6, 1, 2, 1, 2))
    switch.walk.remove((1, 3, 6, 1, 2, 1, 31))
    with_ports(switch.walk, {7: "eth2", 8: "eth1", 9: "eth3"})
    switch.agent.uptime = 0
    switch.poll(PERIOD)
    assert switch.of("port_receive_bytes_total") == {("eth1",): 8000, ("eth2",): 7000, ("eth3",): 9000}
    assert set(switch.of("port_up")) == {("eth1",), ("eth2",), ("eth3",)}


def test_ports_that_come_without_a_restart_are_named_with_the_next_poll(plug: Plug) -> None:
    switch = plug(two_ports())
    switch.poll()
    with_ports(switch.walk, {3: "eth3"})
    switch.poll(PERIOD)
    switch.poll(PERIOD)
    assert ("eth3",) in switch.of("port_up")
    for column in (1, 6):
        switch.walk.remove((*IF_X, column, 1))
    for column in (2, 3, 4, 7, 8):
        switch.walk.remove((*IF, column, 1))
    switch.poll(PERIOD)
    assert set(switch.of("port_up")) == set(switch.of("port_status_changes_total")) == {("eth2",), ("eth3",)}


# ---- a device that is gone, and tables that fail


def test_a_dead_switch_loses_its_rows_at_once_and_has_them_back(plug: Plug) -> None:
    """The changes that we count ourselves stayed, and the ports with them."""
    switch = plug(two_ports(), timeout_seconds=0.2)
    switch.poll()
    alive = switch.samples()
    assert "fabric_switch_port_status_changes_total" in alive
    switch.agent.drop = 1.0
    turn = switch.poll(PERIOD)
    assert not turn.reachable
    assert "no answer from 127.0.0.1" in str(turn.error)
    assert switch.page() == ""
    assert coverage(switch, "ports") == "stale"
    switch.agent.drop = 0.0
    assert switch.poll(PERIOD).error is None
    assert switch.samples() == alive
    assert coverage(switch, "ports") == "supported"


def test_a_table_without_an_answer_leaves_the_others_alone_and_is_shown_for_a_while(plug: Plug) -> None:
    switch = plug(put(two_ports(**NXOS), PFC_RECEIVED, {"1.3": 5}), timeout_seconds=0.2)
    switch.poll_all()
    switch.agent.drop = losing("1.3.6.1.4.1.9.9.813.1.2.1")
    for _ in range(2):
        turn = switch.poll(PERIOD)
        assert (turn.reachable, turn.error, turn.whole) == (True, None, False)
        assert [table.profile.name for table in turn.failed] == ["cisco_pfc"]
        assert switch.of("port_pfc_receive_frames_total") == {("eth1", "3"): 5}
        assert coverage(switch, "pfc") == "supported"
    switch.poll(PERIOD)
    assert switch.of("port_pfc_receive_frames_total") == {}
    assert coverage(switch, "pfc") == "stale"
    assert switch.of("port_up") == {("eth1",): 1, ("eth2",): 1}
    switch.agent.drop = 0.0
    for _ in range(8):
        switch.poll(PERIOD)
    assert switch.of("port_pfc_receive_frames_total") == {("eth1", "3"): 5}
    assert coverage(switch, "pfc") == "supported"


def test_a_slow_table_with_a_turn_of_its_own_holds_up_no_other(plug: Plug) -> None:
    """Processors are read each second period, over a socket of their own."""
    walk = put(two_ports(), "1.3.6.1.2.1.25.3.3.1.2", {"1": 57}, Tag.INTEGER)

    class Slow(Agent):
        def answer(self, datagram: bytes) -> bytes | None:
            self.delay = 0.4 if losing("1.3.6.1.2.1.25.3.3.1.2")(datagram) else 0.0
            return super().answer(datagram)

    switch = plug(walk, agent=Slow)
    switch.poll()

    async def both() -> list[str]:
        order: list[str] = []

        async def rare() -> None:
            assert (await switch.device.poll_rare(switch.open())).error is None
            order.append("rare")

        async def often() -> None:
            await asyncio.sleep(0.05)  # the other waits for its answer
            assert (await switch.device.poll(switch.session)).whole
            order.append("often")

        await asyncio.gather(rare(), often())
        return order

    assert switch.run(both()) == ["often", "rare"]
    assert switch.of("cpu_used_ratio") == {("1",): 0.57}
    assert switch.device.rare_due() > switch.clock()


def test_a_turn_of_rare_tables_that_a_restart_fell_into_is_not_shown(plug: Plug) -> None:
    walk = put(two_ports(), "1.3.6.1.2.1.25.3.3.1.2", {"1": 57}, Tag.INTEGER)
    switch = plug(walk)
    switch.poll()
    switch.agent.restart_after = 1
    turn = switch.poll_rare(PERIOD)
    assert "restarted in the middle" in str(turn.error)
    assert switch.of("cpu_used_ratio") == {}
    switch.poll(PERIOD)
    assert switch.poll_rare().error is None
    assert switch.of("cpu_used_ratio") == {("1",): 0.57}
    assert switch.device.restarts == 1


def test_a_table_that_keeps_failing_is_asked_ever_more_rarely(plug: Plug) -> None:
    class Counting(Agent):
        asked = 0

        def answer(self, datagram: bytes) -> bytes | None:
            Counting.asked += losing(FCS)(datagram)
            return super().answer(datagram)

    switch = plug(put(two_ports(), FCS, {"1": 5}, Tag.COUNTER32), agent=Counting, timeout_seconds=0.3)
    switch.poll()
    Counting.asked = 0
    switch.agent.drop = losing(FCS)
    failed = [bool(switch.poll(PERIOD).failed) for _ in range(40)]
    assert failed[:8] == [True, True, False, False, True, False, False, False]
    assert 4 <= sum(failed) <= 8
    assert Counting.asked == sum(failed)


def test_what_a_device_does_not_tell_is_asked_for_rarely_until_somebody_turns_it_on(plug: Plug) -> None:
    switch = plug(two_ports(**NXOS))
    switch.poll()
    assert coverage(switch, "pfc") == "absent"
    put(switch.walk, PFC_RECEIVED, {"1.3": 5})
    found = [bool(switch.poll(PERIOD) and switch.of("port_pfc_receive_frames_total")) for _ in range(EMPTY_REST + 1)]
    assert EMPTY_REST - 2 <= found.index(True) <= EMPTY_REST
    assert coverage(switch, "pfc") == "supported"


def test_a_table_that_ends_with_an_error_is_not_taken_for_an_empty_one(plug: Plug) -> None:
    """net-snmp answers genErr for a subagent that takes too long, as SONiC's and FRR's are."""

    class Failing(Agent):
        below: Oid = (1,)

        def answer(self, datagram: bytes) -> bytes | None:
            self.error_status = 5 if losing(".".join(map(str, self.below)))(datagram) else 0
            return super().answer(datagram)

    switch = plug(put(two_ports(**NXOS), PFC_RECEIVED, {"1.3": 5}), agent=Failing)
    Failing.below = (1, 3, 6, 1, 4, 1, 99)
    switch.poll()
    Failing.below = oid(PFC_RECEIVED)
    turn = switch.poll(PERIOD)
    assert [(table.profile.name, table.error) for table in turn.failed] == [("cisco_pfc", "the device answered genErr")]
    assert switch.of("port_pfc_receive_frames_total") == {("eth1", "3"): 5}


def test_a_device_that_tells_nothing_is_told_what_it_lacks(plug: Plug) -> None:
    turn = plug(Walk([((1, 3, 6, 1, 6, 3, 1), Tag.INTEGER, 1)])).poll()
    assert turn.error == "it answers and tells nothing (its SNMP view must include 1.3.6.1.2.1)"
    assert not turn.reachable


def test_a_full_store_is_a_clear_error_and_other_switches_go_on(plug: Plug) -> None:
    few = {SWITCH_PORT: 5, SWITCH_PRIORITY: 4}
    store = Store([(table, few.get(table, rows)) for table, rows in switch_tables(1)])
    first = plug(two_ports(), store=store, name="leaf-1")
    large = plug(with_ports(system(), {n: f"eth{n}" for n in range(1, 9)}), beside=first, name="leaf-2")
    for _ in range(3):
        assert first.poll(PERIOD).error is None
        failed = {table.profile.name: table.error for table in large.poll(PERIOD).failed}
        assert failed["interfaces"] == "more than there is room for: table 'switch_port' is full: 5 rows"
    shown = {line.partition("{")[2].partition('"')[2].partition('"')[0] for line in first.page().splitlines()}
    assert "leaf-1" in shown
    assert "leaf-2" not in shown  # what found room has no value


def test_rows_that_found_no_room_are_given_back_and_well_switches_are_shown_as_they_are(plug: Plug) -> None:
    few = {SWITCH_PORT: 6}
    store = Store([(table, few.get(table, rows)) for table, rows in switch_tables(1)])
    first = plug(put(two_ports(), ".".join(map(str, IN_ERRORS)), {"1": 1}, Tag.COUNTER32), store=store, name="leaf-1")
    large = plug(with_ports(system(), {n: f"eth{n}" for n in range(1, 9)}), beside=first, name="leaf-2")
    first.poll(PERIOD)
    large.poll(PERIOD)
    put(with_ports(first.walk, {3: "eth3"}), ".".join(map(str, IN_ERRORS)), {"1": 7}, Tag.COUNTER32)
    assert first.poll(PERIOD).error is None
    assert first.of("port_receive_errors_total")["eth1",] == 7
