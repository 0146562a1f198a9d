"""Traces of outer tuples: how many are under way, and what they leave behind."""

from __future__ import annotations

import json

from exporter.contracts.catalogue import UNDERLAY, UNDERLAY_ROUTE, UNDERLAY_ROUTE_CHANGE
from exporter.probing.tracing.changes import RouteChanges
from exporter.store import Store
from exporter.underlay.encapsulation import Outer
from exporter.underlay.learning import LearntFlow
from exporter.underlay.settings import UnderlaySettings, underlay_tables
from exporter.underlay.tracing import UnderlayTracer
from tests.unit.encapsulated import INNER, OUTER
from tests.unit.test_walk import Clock

LAST = "192.0.2.1"


def made(packets_per_second: float, hold_seconds: float = 0.0) -> tuple[Clock, Store, UnderlayTracer]:
    clock, store = Clock(), Store(underlay_tables(4))
    settings = UnderlaySettings(
        devices=(),
        port=4789,
        tenants=((None, b"k" * 32),),
        last_switches={OUTER[2]: ("leaf",)},
        switch_addresses={"leaf": (LAST,)},
        max_flows=4,
        trace_period_seconds=1.0,
        trace_max_hops=8,
        trace_packets_per_second_per_switch=packets_per_second,
        hold_seconds=hold_seconds,
    )
    changes = RouteChanges(clock.loop, store.writer(UNDERLAY_ROUTE_CHANGE), lambda: clock.now_ns / 1e9)
    counters, routes = store.writer(UNDERLAY).add(()), store.writer(UNDERLAY_ROUTE)
    return clock, store, UnderlayTracer(clock.loop, settings, routes, changes, counters, spread=lambda: 0.0)


def test_a_flow_that_has_another_tuple_is_traced_again_when_its_trace_has_ended() -> None:
    """The first trace was lost sight of: it kept its socket, and one of the places that there are for traces."""
    clock, _, tracer = made(0.1)
    learnt = LearntFlow(0)
    learnt.outer = Outer(*OUTER)
    tracer.follow({(0, INNER): learnt})
    clock.pass_by(1)  # it was asked once, and waits ten seconds for its next turn
    learnt.outer = Outer(OUTER[0], OUTER[1] + 1, OUTER[2])
    for _ in range(5):
        clock.pass_by(1)
        assert len(tracer._ports) == len(clock.loop._watched) == 1
    tracer.follow({})
    assert not tracer._ports
    assert not clock.loop._watched


def test_a_change_of_route_is_told_before_the_hold_is_over_and_another_tuple_is_no_change() -> None:
    clock, store, tracer = made(1000.0, hold_seconds=3600.0)
    learnt = LearntFlow(0)
    learnt.outer = Outer(*OUTER)
    tracer.follow({(0, INNER): learnt})

    def trace(*hops: str) -> list[tuple[str, ...]]:
        """Let the next trace meet these hops; the changes that are told then, without whose they are."""
        traced = tracer._flows[0, INNER]
        while traced.trace is None:
            clock.pass_by(0.05)
        for hop in hops:
            traced.trace.walk.on_hop(hop)
        rows = [row.labels for row in store.read(UNDERLAY_ROUTE_CHANGE)]
        assert all(labels[:5] == ("0", *map(str, INNER)) for labels in rows)
        return [labels[6:] for labels in rows]

    one, other = ("192.0.2.8", LAST), ("192.0.2.9", LAST)
    assert trace(*one) == []
    assert trace(*other) == [(" ".join(one), " ".join(other))]
    (row,) = store.read(UNDERLAY_ROUTE)
    assert json.loads(row.labels[7]) == list(one), "held back"
    assert trace(*one) == [(" ".join(other), " ".join(one))]
    learnt.outer = Outer(OUTER[0], OUTER[1] + 1, OUTER[2])
    told = [(" ".join(other), " ".join(one))]
    assert trace(*other) == told, "another tuple takes another way"
    third = ("192.0.2.7", LAST)
    assert trace(*third) == [(" ".join(other), " ".join(third))]
    tracer.follow({})
    assert list(store.read(UNDERLAY_ROUTE_CHANGE)) == []
