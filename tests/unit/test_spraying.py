"""Which flows are taken to be sprayed: traces that keep changing, and lose nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import pytest

from exporter.contracts.catalogue import FAILING_TRACE, PATH, PROBER, PROBER_SPRAYED, ROUTE, RTT_TABLE
from exporter.probing.loop import Loop
from exporter.probing.packet import Codec
from exporter.probing.paths import ROUTE_CHANGES, Path
from exporter.probing.settings import prober_tables
from exporter.probing.tracing.spraying import RecentRoutes
from exporter.probing.tracing.tracer import FREEZE_SECONDS, Tracer
from exporter.probing.tracing.udp import UdpCarrier, UdpTraces
from exporter.probing.tracing.walk import Walk
from exporter.probing.udp import FlowSocket, UdpProber
from exporter.results import ResultRing
from exporter.store import Store
from tests.unit.test_plan_contract import TARGET


def judged(routes: str, losses: Sequence[int] = ()) -> list[bool]:
    """After each trace, a second apart, whether its flow is sprayed; ``losses`` are seconds after which it lost one."""
    recent, found = RecentRoutes(), []
    for second, route in enumerate(routes, start=1):
        last_loss = max((loss for loss in losses if loss < second), default=0)
        recent.add([route], second * 10**9, int((last_loss + 0.5) * 10**9) if last_loss else 0)
        found.append(recent.sprayed)
    return found


@pytest.mark.parametrize(
    ("routes", "sprayed"),
    [
        ("aaaaaaaa", False),
        ("aaabbbbb", False),
        ("aabbaabb", False),  # two changes in any five
        ("abab", True),
        ("abcabc", True),
        ("aababa", True),
        ("abab" + "b" * 8, True),
        ("abab" + "b" * 9, False),
        ("abab" + "b" * 8 + "a" + "b" * 9, True),
    ],
)
def test_three_changes_in_five_traces_are_spraying_until_ten_in_a_row_are_the_same(routes: str, sprayed: bool) -> None:
    assert judged(routes)[-1] is sprayed


def test_changes_around_a_loss_are_the_routing_protocols() -> None:
    assert not any(judged("ababcdcd", losses=[1, 3, 5, 7]))
    assert not any(judged("abba", losses=[2]))
    assert judged("abab", losses=[1]) == [False] * 4


@pytest.mark.parametrize("paths", [2, 4, 16])
def test_spraying_over_few_paths_is_found_and_mostly_stays_found(paths: int) -> None:
    """Over two paths every other trace is the same as the one before, so that even ten in a row come about."""
    draw = random.Random(paths)  # noqa: S311 - a simulation
    found = judged("".join(draw.choice("abcdefghijklmnop"[:paths]) for _ in range(2000)))
    assert found.index(True) < 30
    assert sum(found) > 0.95 * len(found)


class Traced:
    """A flow whose traces end as they are told to, and what is published of it."""

    def __init__(self, flow: FlowSocket, loop: Loop, prober: UdpProber, *, spraying: bool = False) -> None:
        self._loop = loop
        self.store = Store(prober_tables(4))
        self.counters = self.store.writer(PROBER).add(())
        self.tracer = Tracer(
            loop, self.store.writer(ROUTE), self.store.writer(FAILING_TRACE), self.counters,
            period_seconds=60, max_hops=8, spraying=spraying,
        )  # fmt: skip
        rows = self.store.writer(PATH).add(("p",)), self.store.writer(RTT_TABLE).add(("h",))
        target = msgspec.structs.replace(TARGET, source_address="127.0.0.2", destination_address="127.0.0.3")
        self.path = Path(target, 1, *rows, ResultRing(16))
        self.tracer.add(self.path, UdpCarrier(UdpTraces(prober), self.path.flow, 106, flow))

    def trace(self, *routes: str) -> None:
        flow = self.tracer._flows[self.path.flow]
        for route in routes:
            self.tracer._begin(flow)
            walk = Walk(self._loop, lambda _: 0.0, lambda walk: self.tracer._on_end(flow, walk), max_hops=8)
            walk.hops += route
            walk.on_destination()

    @property
    def published(self) -> list[object]:
        return [json.loads(row.labels[-1]) for row in self.store.read(ROUTE)]

    @property
    def sprayed(self) -> float:
        return self.counters.get(PROBER.metrics.index(PROBER_SPRAYED))


@contextmanager
def traced(now: list[int], *, spraying: bool = False) -> Iterator[Traced]:
    loop = Loop(clock=lambda: now[0])
    prober = UdpProber(loop, Codec(b"k" * 32), 0.5)
    flow = prober.acquire("127.0.0.2", TARGET.source_ports[0])
    try:
        yield Traced(flow, loop, prober, spraying=spraying)
    finally:
        prober.release(flow)


def test_a_sprayed_flow_has_no_route_and_its_traces_are_no_more_changes() -> None:
    now = [10**9]
    with traced(now) as one:
        assert (one.published, one.sprayed) == ([], 0)
        for route in ("ax", "bx", "ax"):
            one.trace(route)
            now[0] += 60 * 10**9
        assert (one.published, one.sprayed) == ([["a", "x"]], 0)
        one.trace("bx")
        assert (one.published, one.sprayed) == ([None], 1)
        changes = one.path.row.get(ROUTE_CHANGES)
        one.trace("cx", "ax", "bx")
        assert (one.published, one.path.row.get(ROUTE_CHANGES)) == ([None], changes)
        one.trace(*["bx"] * 9)
        assert (one.published, one.sprayed) == ([["b", "x"]], 0)


def test_a_flow_that_loses_stays_what_it_was() -> None:
    now = [10**9]
    with traced(now) as one:
        one.trace("a", "b", "a", "b")
        one.path.book_loss(1, now[0] + 1)
        now[0] += 5 * 10**9
        one.trace(*["b"] * 10)
        assert (one.published, one.sprayed) == ([None], 1)
        now[0] += int(2 * FREEZE_SECONDS * 1e9)
        one.trace("b")
        assert (one.published, one.sprayed) == ([["b"]], 0)


def test_where_the_site_says_that_it_sprays_no_flow_is_traced() -> None:
    now = [10**9]
    with traced(now, spraying=True) as one:
        assert (one.published, one.sprayed) == ([None], 1)
        assert one.tracer._flows[one.path.flow].timer is None
        one.tracer.remove(one.path)
        assert (one.published, one.sprayed) == ([], 0)
