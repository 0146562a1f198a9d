"""Traces of outer tuples: how many are under way, and what they leave behind."""

from __future__ import annotations

from exporter.contracts.catalogue import UNDERLAY, UNDERLAY_ROUTE
from exporter.store import Store
from exporter.underlay.encapsulation import Outer
from exporter.underlay.learning import LearntFlow
from exporter.underlay.settings import UnderlaySettings, underlay_tables
from exporter.underlay.tracing import UnderlayTracer
from tests.unit.encapsulated import INNER, OUTER
from tests.unit.test_walk import Clock


def test_a_flow_that_has_another_tuple_is_traced_again_when_its_trace_has_ended() -> None:
    """The first trace was lost sight of: it kept its socket, and one of the places that there are for traces."""
    clock, store = Clock(), Store(underlay_tables(4))
    settings = UnderlaySettings(
        devices=(),
        port=4789,
        tenants=((None, b"k" * 32),),
        last_switches={OUTER[2]: ("leaf",)},
        switch_addresses={"leaf": ("192.0.2.1",)},
        max_flows=4,
        trace_period_seconds=1.0,
        trace_max_hops=8,
        trace_packets_per_second_per_switch=0.1,
        hold_seconds=0.0,
    )
    counters = store.writer(UNDERLAY).add(())
    tracer = UnderlayTracer(clock.loop, settings, store.writer(UNDERLAY_ROUTE), counters, spread=lambda: 0.0)
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
