"""The switch benchmark's own parts: the rival is asked for what ours is, and pages are read as they are written."""

from __future__ import annotations

from benchmarks.switch import _stale
from benchmarks.switch_agents import Page, _by_switch
from benchmarks.switch_rows import Asked, module
from exporter.contracts.switch_counters import SWITCH
from exporter.exposition import Renderer
from exporter.store import Store

QUEUES, BYTES, PEERS = "1.3.6.1.4.1.9.9.580.1.5.5.1.4", "1.3.6.1.2.1.31.1.1.1.6", "1.3.6.1.2.1.15.3.1.2"
NAMES = "1.3.6.1.2.1.31.1.1.1.1"


def test_the_rival_walks_the_columns_that_ours_found_rows_in_and_names_ports_as_ours_does() -> None:
    made = module([Asked(NAMES, 64), Asked(BYTES, 64), Asked(QUEUES, 2048), Asked(PEERS, 0)])
    walk, metrics = made["walk"], made["metrics"]
    assert isinstance(walk, list)
    assert isinstance(metrics, list)
    assert sorted(walk) == sorted([BYTES, QUEUES, NAMES])
    assert {metric["oid"]: len(metric["indexes"]) for metric in metrics} == {BYTES: 1, QUEUES: 4}
    assert all(metric["type"] == "counter" and metric["lookups"][0]["oid"] == NAMES for metric in metrics)


def test_what_the_poller_says_of_each_switch_is_found_on_its_page() -> None:
    store = Store([(SWITCH, 2)])
    writer = store.writer(SWITCH)
    for name, seconds in (("leaf-0", 0.25), ("leaf-1", 3.0)):
        writer.add((name,)).set(writer.column("fabric_switch_poll_duration_seconds"), seconds)
    body = b"target_info 1\n" + Renderer().render([store])
    assert _by_switch(body, b"fabric_switch_poll_duration_seconds") == {"leaf-0": 0.25, "leaf-1": 3.0}
    assert _by_switch(body, b"fabric_switch_poll_late_total") == {"leaf-0": 0.0, "leaf-1": 0.0}
    assert _by_switch(body, b"fabric_switch_uptime_seconds") == {}


def test_a_switch_is_stale_after_one_and_a_half_periods_or_when_it_was_never_read() -> None:
    page = Page(1000.0, 0.1, 1, 1, {"fabric_switch_poll_timestamp_seconds": {"leaf-0": 980.0, "leaf-1": 977.0}})
    assert _stale(page, {"leaf-0", "leaf-1", "leaf-2"}, 15.0) == {"leaf-1", "leaf-2"}
