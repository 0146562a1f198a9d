"""A running Alertmanager with the shipped configuration: what arrives where, how often, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.alertmanager import (
    MISSING,
    REASON,
    ROOT,
    SHIPPED,
    Alertmanager,
    Listener,
    alert,
    at_speed,
    quiet,
)
from tests.unit.running import until

pytestmark = pytest.mark.skipif(bool(MISSING), reason=REASON)

Start = Callable[..., Alertmanager]
LINK = "leaf-28:Ethernet88 -- spine-56:Ethernet40"
ON_LINK = {"component": LINK, "suspect": LINK, "training_job": "llm-7b"}
BEGAN = datetime(2026, 8, 22, 3, 12, 9, tzinfo=UTC)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def start(tmp_path: Path, listener: Listener) -> Iterator[Start]:
    started: list[Alertmanager] = []

    def start(change: Callable[[dict[str, Any]], dict[str, Any]] = at_speed) -> Alertmanager:
        started.append(Alertmanager(tmp_path / "alertmanager", listener, change))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def deadlock_and_its_consequences() -> list[dict[str, str]]:
    """What fires within half a minute of a PFC deadlock: 30 alerts, of which the first is the one to be told."""
    links = [f"leaf-{number}:Ethernet88 -- spine-1:Ethernet{number}" for number in range(4)]
    return [
        alert("FabricPfcDeadlock", component="spine-1", suspect="pfc deadlock", switch="spine-1"),
        *(alert("FabricPfcCongestion", component=f"leaf-{n}", suspect=f"leaf-{n}") for n in range(4)),
        *(alert("FabricLosslessDrops", component=f"leaf-{n}:E", suspect=links[n]) for n in range(4)),
        alert("FabricCnpSurge", component="h1:mlx5_0", suspect="h1:mlx5_0 -- leaf-0:E"),
        *(alert("FabricLinkLoss", component=link, suspect=link, training_job="llm-7b") for link in links),
        *(alert("FabricPathLoss", path=f"p{n}", training_job="llm-7b", component=links[n % 4]) for n in range(8)),
        *(alert("FabricPathSlow", path=f"p{n}", training_job="llm-7b") for n in range(6)),
        alert("FabricRdmaRetriesExhausted", component="h1:r0 > h2:r0", suspect="rdma connections"),
        alert("FabricRdmaRetransmits", component="h1 > h2", suspect="rdma connections"),
    ]


def test_thirty_alerts_of_one_incident_are_one_notification(start: Start, listener: Listener) -> None:
    alertmanager = start()
    storm = deadlock_and_its_consequences()
    assert len(storm) == 30
    alertmanager.post(storm)
    (call,) = quiet(listener, 4.5)
    assert (call.path, call.names) == ("/", ["FabricPfcDeadlock"])


def dead_leaf_and_its_consequences() -> list[dict[str, str]]:
    """What fires within minutes of a leaf's death: by 24 RNICs, four uplinks, the job and the poller."""
    cables = [f"h{number}:mlx5_0 -- leaf-0:E{number}" for number in range(24)]
    uplinks = [f"leaf-0:U{number} -- spine-{number}:E0" for number in range(4)]
    on = [{"component": f"h{n}:mlx5_0", "host": f"h{n}", "rnic": "mlx5_0", "suspect": cables[n]} for n in range(24)]
    leaf = {"switch": "leaf-0", "component": "leaf-0", "suspect": "leaf-0"}
    return [
        alert("FabricSwitchDown", **leaf),
        *(alert("FabricSwitchDownCable", switch="leaf-0", component=link, suspect=link) for link in cables + uplinks),
        *(alert("FabricRnicDown", **each) for each in on),
        *(alert("FabricRdmaDown", **each) for each in on[:8]),
        *(alert("FabricLinkLoss", component=link, suspect=link, training_job="llm-7b") for link in uplinks),
        *(
            alert("FabricSwitchPortDown", switch=f"spine-{n}", component=f"spine-{n}:E0", suspect=uplinks[n])
            for n in range(4)
        ),
        *(
            alert("FabricBgpSessionDown", switch=f"spine-{n}", component=f"spine-{n}:b", suspect=uplinks[n])
            for n in range(4)
        ),
        *(alert("FabricPathLoss", path=f"p{n}", training_job="llm-7b", suspect="paths of llm-7b") for n in range(8)),
        alert("FabricSwitchUnreachable", **leaf),
        alert("FabricHostsSilent", **leaf),
        alert("FabricRdmaRetriesExhausted", component="h1:r0 > h2:r0", suspect="rdma connections"),
    ]


def test_a_dead_leaf_is_one_notification_and_what_is_down_elsewhere_another(start: Start, listener: Listener) -> None:
    alertmanager = start()
    alertmanager.post(dead_leaf_and_its_consequences())
    elsewhere = "h99:mlx5_0 -- leaf-9:E1"
    alertmanager.post([alert("FabricRnicDown", component="h99:mlx5_0", host="h99", rnic="mlx5_0", suspect=elsewhere)])
    calls = quiet(listener, 4.5)
    assert sorted(call.names for call in calls) == [["FabricRnicDown"], ["FabricSwitchDown"]]
    assert {call.path for call in calls} == {"/"}
    assert {call.body["groupLabels"]["suspect"] for call in calls} == {"leaf-0", elsewhere}


def test_warnings_wait_for_the_cause_that_silences_them(start: Start, listener: Listener) -> None:
    alertmanager = start()
    alertmanager.post([alert("FabricPathLoss", path=f"p{number}", **ON_LINK) for number in range(29)])
    assert quiet(listener, 1.5) == []
    alertmanager.post([alert("FabricLinkLoss", **ON_LINK)])
    (call,) = quiet(listener, 4.5)
    assert (call.path, call.names) == ("/", ["FabricLinkLoss"])


def test_what_is_found_out_later_about_the_same_suspect_updates_its_notification(
    start: Start, listener: Listener
) -> None:
    alertmanager = start()
    alertmanager.post([alert("FabricLinkLoss", **ON_LINK), alert("FabricLinkLoss", **ON_LINK | {"training_job": "b"})])
    until(lambda: listener.calls)
    alertmanager.post([alert("FabricLinkMtuMismatch", **ON_LINK)])
    until(lambda: len(listener.calls) > 1)
    first, second = quiet(listener, 3)
    assert first.names == ["FabricLinkLoss"] * 2
    assert sorted(second.names) == ["FabricLinkLoss"] * 2 + ["FabricLinkMtuMismatch"]
    assert first.body["groupKey"] == second.body["groupKey"]
    assert first.body["groupLabels"] == {"cluster": "c1", "suspect": LINK}


def test_two_suspects_are_two_notifications_and_so_is_one_of_another_cluster(start: Start, listener: Listener) -> None:
    other = {"component": "leaf-1:E", "suspect": "leaf-1:E"}
    alertmanager = start()
    alertmanager.post(
        [
            alert("FabricLinkLoss", **ON_LINK),
            alert("FabricLinkLoss", **ON_LINK | other),
            alert("FabricLinkLoss", **ON_LINK | {"cluster": "c2"}),
        ]
    )
    until(lambda: len(listener.calls) == 3)
    assert {tuple(call.body["groupLabels"].values()) for call in quiet(listener, 2)} == {
        ("c1", LINK), ("c1", "leaf-1:E"), ("c2", LINK),
    }  # fmt: skip


SILENCES = [
    # (of docs/alertmanager.md, what it keeps quiet, what is told all the same)
    (
        "switch=leaf-28",
        alert("FabricSwitchUnreachable", switch="leaf-28", suspect="leaf-28"),
        alert("FabricSwitchUnreachable", switch="leaf-29", suspect="leaf-29"),
    ),
    (
        "host=h1",
        alert("FabricRdmaDown", host="h1", rnic="mlx5_0", component="h1:mlx5_0", suspect="h1:mlx5_0"),
        alert("FabricRdmaDown", host="h10", rnic="mlx5_0", component="h10:mlx5_0", suspect="h10:mlx5_0"),
    ),
    (
        f'suspect="{LINK}"',
        alert("FabricLinkLoss", **ON_LINK),
        alert("FabricLinkLoss", **ON_LINK | {"suspect": "leaf-1:E"}),
    ),
    # All cables of a switch, and the switch.
    (
        'suspect=~"(.* -- )?leaf-28(:.*)?"',
        alert("FabricLinkLoss", **ON_LINK),
        alert("FabricLinkLoss", **ON_LINK | {"suspect": "leaf-2:E -- spine-28:E"}),
    ),
]


def test_a_silence_for_what_is_worked_on_keeps_that_quiet_alone(start: Start, listener: Listener) -> None:
    alertmanager = start()
    told = []
    for number, (silence, quieted, bystander) in enumerate(SILENCES):
        cluster = f"c{number}"
        words = ("--author=on-call", "--duration=2h", "--comment=line card swap", silence, f"cluster={cluster}")
        alertmanager.amtool("silence", "add", *words)
        told.append({**bystander, "cluster": cluster})
        alertmanager.post([{**quieted, "cluster": cluster}, told[-1]])
    until(lambda: listener.calls)
    labels = [each["labels"] for call in quiet(listener, 5) for each in call.body["alerts"]]
    assert sorted(labels, key=lambda each: each["cluster"]) == told
    page = (ROOT / "docs/alertmanager.md").read_text()
    for silence, _, _ in SILENCES:
        assert silence in page, "not the recipe that is documented"


def test_a_cause_that_is_silenced_goes_on_silencing_what_follows(start: Start, listener: Listener) -> None:
    alertmanager = start()
    alertmanager.amtool("silence", "add", "--author=on-call", "--comment=known", "alertname=FabricLinkLoss")
    path = alert("FabricPathLoss", path="p1", **ON_LINK)
    alertmanager.post([alert("FabricLinkLoss", **ON_LINK), path, {**path, "cluster": "c2"}])
    until(lambda: listener.calls)
    assert [each["labels"]["cluster"] for call in quiet(listener, 3) for each in call.body["alerts"]] == ["c2"]


def test_where_no_alert_has_a_cluster_all_works(start: Start, listener: Listener) -> None:
    alertmanager = start()
    names = ("FabricLinkLoss", "FabricPathLoss", "FabricSwitchPortDown")
    alertmanager.post(
        [
            {name: value for name, value in alert(each, **ON_LINK).items() if name != "cluster"}
            for each in (*names, "FabricPcieStalled")
        ]
    )
    until(lambda: len(listener.calls) > 1)
    assert sorted(call.names for call in quiet(listener, 3)) == [["FabricLinkLoss"], ["FabricPcieStalled"]]
    assert "FabricPathLoss" in alertmanager.amtool("alert", "query", "--inhibited")


def test_a_maintenance_window_pages_nobody(start: Start, listener: Listener) -> None:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        always = [{"times": [{"start_time": "00:00", "end_time": "24:00"}]}]
        assert [each["name"] for each in document["time_intervals"]] == ["fabric-maintenance"]
        return at_speed(document) | {"time_intervals": [{"name": "fabric-maintenance", "time_intervals": always}]}

    alertmanager = start(change)
    alertmanager.post([alert("FabricLinkLoss", **ON_LINK), alert("FabricSwitchUnreachable", switch="leaf-28")])
    alertmanager.post([alert("FabricWatchdog")])
    until(lambda: len(listener.at("/watchdog")) > 3, 20)
    assert {call.path for call in listener.calls} == {"/watchdog"}


def test_the_watchdog_is_told_again_and_again_and_to_its_own_receiver(start: Start, listener: Listener) -> None:
    alertmanager = start()
    alertmanager.post([alert("FabricWatchdog")])
    until(lambda: len(listener.calls) > 2, 20)
    assert {(call.path, *call.names) for call in listener.calls} == {("/watchdog", "FabricWatchdog")}


def test_what_is_only_to_be_looked_up_is_not_told(start: Start, listener: Listener) -> None:
    alertmanager = start()
    alertmanager.post(
        [
            alert("FabricTransitPathChanged", hop="carrier-b", suspect="carrier-b"),
            {"alertname": "Helper", "severity": "none"},
        ]
    )
    assert quiet(listener, 4.5) == []
    assert "FabricTransitPathChanged" in alertmanager.amtool("alert", "query")


def with_example_receivers(listener: Listener) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The receivers of receivers.yaml, led to the listener; pages go by PagerDuty alone, and chat repeats."""

    def change(document: dict[str, Any]) -> dict[str, Any]:
        document = at_speed(document) | yaml.safe_load((SHIPPED / "receivers.yaml").read_text())
        page, chat, _, _ = document["receivers"]
        del page["email_configs"]
        del page["pagerduty_configs"][0]["routing_key_file"]
        page["pagerduty_configs"][0] |= {"routing_key": "key", "url": f"{listener.url}/pagerduty"}
        del chat["slack_configs"][0]["api_url_file"]
        chat["slack_configs"][0]["api_url"] = f"{listener.url}/slack"
        for route in document["route"]["routes"]:
            if route["receiver"] == "fabric-chat":
                route |= {"group_wait": "1s", "repeat_interval": "3s"}
        return document

    return change


ANNOTATIONS = {
    "summary": "A switch port that was in use is down.",
    "description": "Port leaf-28:Ethernet88 is enabled and down, at < 1 Gb/s before.",
    "location": f"{LINK}, line card lc1",
    "jobs": "llm-70b, llm-7b",
    "runbook_url": "https://runbooks.example/FabricSwitchPortDown.md",
    "dashboard_url": "https://grafana.example/d/fabric-switch?var-cluster=c1&var-switch=leaf-28",
}
PORT = alert(
    "FabricSwitchPortDown",
    component="leaf-28:Ethernet88",
    switch="leaf-28",
    switch_port="Ethernet88",
    suspect=LINK,
)
HEADLINE = f"A switch port that was in use is down: port leaf-28:Ethernet88 ({LINK}, line card lc1; cluster c1)"
DASHBOARD = f"<{ANNOTATIONS['dashboard_url']}|Dashboard>"
SLACK_FIRING = f"""\
Port leaf-28:Ethernet88 is enabled and down, at &lt; 1 Gb/s before.
*Jobs hurt:* llm-70b, llm-7b
*Began:* 2026-08-22 03:12:09 UTC
<https://runbooks.example/FabricSwitchPortDown.md|Runbook> · {DASHBOARD}"""
SLACK_RESOLVED = f"""\
*Jobs hurt:* llm-70b, llm-7b
*Began:* 2026-08-22 03:12:09 UTC
*Ended:* 2026-08-22 04:14:12 UTC
<https://runbooks.example/FabricSwitchPortDown.md|Runbook> · {DASHBOARD}"""


def test_slack_is_told_repeatedly_and_that_it_is_over_in_exact_words(start: Start, listener: Listener) -> None:
    alertmanager = start(with_example_receivers(listener))
    alertmanager.post([PORT], ANNOTATIONS, BEGAN)
    until(lambda: len(listener.at("/slack")) > 1, 20)
    first, again = (call.body for call in listener.at("/slack")[:2])
    assert first == again, "a repetition has other words"
    assert first["channel"] == "#network"
    (attachment,) = first["attachments"]
    assert {name: attachment[name] for name in ("title", "fallback", "text", "color", "title_link")} == {
        "title": f"WARNING: {HEADLINE}",
        "fallback": f"WARNING: {HEADLINE}",
        "text": SLACK_FIRING,
        "color": "warning",
        "title_link": ANNOTATIONS["runbook_url"],
    }
    alertmanager.post([PORT], ANNOTATIONS, BEGAN, BEGAN + timedelta(hours=1, minutes=2, seconds=3))
    until(lambda: listener.at("/slack")[-1].body["attachments"][0]["color"] == "good", 20)
    (attachment,) = listener.at("/slack")[-1].body["attachments"]
    assert attachment["title"] == f"RESOLVED after 1h2m3s: {HEADLINE}"
    assert attachment["text"] == SLACK_RESOLVED
    count = len(listener.calls)
    assert len(quiet(listener, 5)) == count, "what is over is told again"


def test_pagerduty_has_one_incident_a_suspect_and_closes_it(start: Start, listener: Listener) -> None:
    alertmanager = start(with_example_receivers(listener))
    loss = alert("FabricLinkLoss", **ON_LINK)
    alertmanager.post([loss], {"summary": "A link loses packets of a training job."}, BEGAN)
    until(lambda: listener.at("/pagerduty"))
    alertmanager.post([loss], {"summary": "It is over."}, BEGAN, BEGAN + timedelta(seconds=90))
    until(lambda: len(listener.at("/pagerduty")) > 1, 20)
    opened, closed = (call.body for call in listener.at("/pagerduty"))
    assert (opened["event_action"], closed["event_action"]) == ("trigger", "resolve")
    assert opened["dedup_key"] == closed["dedup_key"]
    title = f"CRITICAL: A link loses packets of a training job: link {LINK} (cluster c1)"
    assert opened["payload"]["summary"] == title
    assert (opened["payload"]["severity"], opened["payload"]["component"]) == ("critical", LINK)
    assert opened["payload"]["custom_details"]["text"] == (
        f"{title}\n\nJobs hurt: llm-7b\nBegan:     2026-08-22 03:12:09 UTC"
    )
