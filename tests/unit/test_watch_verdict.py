"""What was told of a scenario is judged as its truth has it."""

from __future__ import annotations

from lab.demo.notifications import Notification
from lab.scenarios import moved, verdict

RIGHT = {("port", "spine-1:Ethernet4"), ("link", "leaf-1:Ethernet0 -- spine-1:Ethernet4")}
OWN = ("FabricLinkMtuMismatch", "FabricSwitchPortMtuLow")
INJECTED = 1000.0


def notification(
    name: str, component: str, *, kind: str = "link", after: float = 5.0, group: str = "a", status: str = "firing"
) -> Notification:
    labels = {"alertname": name, "component": component, "component_kind": kind, "severity": "critical"}
    return Notification(INJECTED + after, status, labels, {}, group, "fabric-page")


LINK = "leaf-1:Ethernet0 -- spine-1:Ethernet4"


def judged(*told: Notification) -> verdict.Verdict:
    return verdict.judge(OWN, RIGHT, verdict.groups(told), INJECTED)


def test_one_group_with_the_own_alert_is_good() -> None:
    found = judged(
        notification("FabricPathLoss", "", kind="path", after=3),
        notification("FabricLinkMtuMismatch", LINK, after=5),
        notification("FabricPathLoss", "", kind="path", after=9, status="resolved"),
        notification("FabricLinkMtuMismatch", LINK, after=9, status="resolved"),
    )
    assert found.good
    assert found == verdict.Verdict("FabricLinkMtuMismatch", ("link", LINK), True, 1, 5.0, True)


def test_another_link_is_wrong_and_a_second_group_is_one_too_many() -> None:
    wrong = judged(notification("FabricLinkMtuMismatch", "leaf-2:Ethernet0 -- spine-1:Ethernet8"))
    assert (wrong.own, wrong.right, wrong.good) == ("FabricLinkMtuMismatch", False, False)
    twice = judged(notification("FabricLinkMtuMismatch", LINK), notification("FabricPathLoss", "", group="b"))
    assert (twice.right, twice.groups, twice.good) == (True, 2, False)


def test_of_several_own_alerts_the_first_that_is_right_counts() -> None:
    found = judged(
        notification("FabricLinkMtuMismatch", "leaf-2:Ethernet0 -- spine-1:Ethernet8", after=2),
        notification("FabricSwitchPortMtuLow", "spine-1:Ethernet4", kind="port", after=4),
    )
    assert (found.own, found.seconds, found.right) == ("FabricSwitchPortMtuLow", 4.0, True)


def test_silence_and_what_only_shows_that_something_is_told_are_no_notification() -> None:
    watchdog = Notification(INJECTED, "firing", {"alertname": "FabricWatchdog", "severity": "none"}, {}, "w", "")
    assert judged(watchdog) == verdict.Verdict("", ("", ""), False, 0, None, False)


def test_a_group_is_over_when_its_last_alert_is() -> None:
    told = [
        notification("A", "x"),
        notification("B", "y", after=6),
        notification("A", "x", after=8, status="resolved"),
    ]
    assert verdict.groups(told)[0].resolved is None
    over = [*told, notification("B", "y", after=9, status="resolved")]
    assert verdict.groups(over)[0].resolved == INJECTED + 9
    again = [*over, notification("A", "x", after=10)]
    assert verdict.groups(again)[0].resolved is None
    assert verdict.groups(again)[0].messages == 3


def test_alerts_of_a_range_query_last_from_their_first_sample_to_their_last() -> None:
    labels = {"__name__": "ALERTS", "alertname": "A", "alertstate": "pending", "component": "x", "severity": "warning"}
    info = {**labels, "alertname": "I", "severity": "info"}
    found = verdict.alerts([(labels, [(1.0, 1.0), (4.0, 1.0)]), (info, [(1.0, 1.0)])])
    assert [(each.name, each.state, each.first, each.last) for each in found] == [("A", "pending", 1.0, 4.0)]


def test_what_moved_is_told_and_what_always_moves_is_not() -> None:
    def samples(drops: float, bytes_sent: float, mtu: float) -> list[tuple[dict[str, str], float]]:
        return [
            ({"__name__": "fabric_switch_port_queue_dropped_packets_total", "switch": "leaf-1"}, drops),
            ({"__name__": "fabric_rnic_transmit_bytes_total", "host": "h"}, bytes_sent),
            ({"__name__": "fabric_switch_port_mtu_bytes", "switch": "leaf-1"}, mtu),
        ]

    lines = list(moved.moved(samples(0, 1, 9000), samples(0, 9, 9000), samples(200, 99, 1500), 10, 10))
    assert lines == [
        "fabric_switch_port_mtu_bytes: 1 series",
        "  9000 -> 1500  {switch=leaf-1}",
        "fabric_switch_port_queue_dropped_packets_total: 1 series",
        "  +200 in 10 s (0/s before)  {switch=leaf-1}",
    ]
    steady = list(moved.moved(samples(0, 1, 9000), samples(100, 9, 9000), samples(200, 99, 9000), 10, 10))
    assert steady == []
