"""Which flow is traced when, what a trace may replace, what a failing one tells, and how gentle it is with switches."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise

import msgspec
import pytest

from exporter.contracts.catalogue import (
    FAILING_TRACE,
    PATH,
    PROBER,
    PROBER_TRACES,
    PROBER_TRACES_DELAYED,
    ROUTE,
    ROUTE_CHANGE,
    RTT_TABLE,
)
from exporter.contracts.metric import Metric
from exporter.probing.paths import ROUTE_CHANGES, ROUTE_HASH, Path
from exporter.probing.settings import prober_tables
from exporter.probing.tracing.changes import RouteChanges
from exporter.probing.tracing.tracer import FREEZE_LIMIT_SECONDS, FREEZE_SECONDS, LastSwitch, Tracer, route_hash
from exporter.probing.tracing.walk import Walk
from exporter.results import ResultRing
from exporter.store import Row, Store
from tests.unit.test_plan_contract import TARGET
from tests.unit.test_walk import Clock

LEAF, SPINE, OTHER_SPINE, FAR_LEAF = "10.9.0.1", "10.9.1.1", "10.9.1.2", "10.9.0.2"
PERIOD = 60.0


class Carrying:
    """A carrier over a fabric that answers at once: ``ways`` gives the hops of a flow now, None for silence."""

    def __init__(self, fabric: Fabric, path: Path) -> None:
        self._fabric = fabric
        self._path = path
        self.taken = 0.0
        self.ended = 0

    def busy(self) -> float:
        return self.taken

    def ask(self, walk: Walk, hop_limit: int) -> None:
        fabric = self._fabric
        hops = fabric.ways[self._path.target.source_ports[0]]
        hop = hops[hop_limit - 1] if hop_limit <= len(hops) else "destination"
        fabric.asked[hop].append(fabric.clock.now_ns)
        if hop == "destination" and not fabric.dead:
            fabric.clock.loop.after(0.001, walk.on_destination)
        elif hop not in (None, "destination"):
            fabric.clock.loop.after(0.001, lambda: walk.on_hop(str(hop), 1000))

    def end(self) -> None:
        self.ended += 1


class Fabric:
    def __init__(self, **options: object) -> None:
        self.clock = Clock()
        self.clock.now_ns = 10**12
        self.store = Store(prober_tables(512))
        self.ways: defaultdict[int, list[str | None]] = defaultdict(lambda: [LEAF, SPINE, FAR_LEAF])
        self.asked: defaultdict[str | None, list[int]] = defaultdict(list)
        self.dead = False
        self.paths = self.store.writer(PATH)
        self.histogram = self.store.writer(RTT_TABLE).add(("h",))
        self.counters = self.store.writer(PROBER).add(())
        basis: dict[str, object] = {"packets_per_second_per_switch": 1000.0, "spread": lambda: 0.5}
        changes = RouteChanges(self.clock.loop, self.store.writer(ROUTE_CHANGE), lambda: self.clock.now_ns / 1e9)
        self.tracer = Tracer(
            self.clock.loop, self.store.writer(ROUTE), self.store.writer(FAILING_TRACE), self.counters,
            period_seconds=PERIOD, max_hops=8, changes=changes, **(basis | options),
        )  # fmt: skip

    def add(
        self, port: int, probe: str = "udp", destination: str = "10.0.1.1", last: LastSwitch | None = None
    ) -> tuple[Path, Carrying]:
        target = msgspec.structs.replace(
            TARGET, path=f"{probe} {destination} {port}", probe=probe, source_ports=(port,),
            destination_address=destination, source_address="10.0.0.1",
        )  # fmt: skip
        path = Path(target, 1, self.paths.add((target.path,)), self.histogram, ResultRing(16))
        carrier = Carrying(self, path)
        self.tracer.add(path, carrier, last)
        return path, carrier

    def lose(self, path: Path, seconds: float = 0.0) -> None:
        """Lose a probe now, and one a second for so long."""
        path.book_loss(0, self.clock.now_ns)
        for _ in range(int(seconds)):
            self.clock.pass_by(1)
            path.book_loss(0, self.clock.now_ns)

    def routes(self) -> list[list[str]]:
        return [json.loads(row.labels[-1]) for row in self.store.read(ROUTE)]

    def failing(self) -> list[Row]:
        return list(self.store.read(FAILING_TRACE))

    def changes(self) -> dict[str, tuple[float, list[str], list[str]]]:
        """{path: when its route changed last, from what, to what}."""
        names = {str(row.identity): row.labels[0] for row in self.store.read(PATH)}
        rows = [row.labels for row in self.store.read(ROUTE_CHANGE)]
        return {names[path]: (float(at), before.split(), after.split()) for path, at, before, after in rows}

    def count(self, metric: Metric) -> int:
        return int(self.counters.get(PROBER.metrics.index(metric)))


def test_a_flow_is_traced_soon_then_each_period_and_paths_that_share_it_share_the_trace() -> None:
    fabric = Fabric()
    small, _ = fabric.add(50_000)
    big, _ = fabric.add(50_000, "mtu")
    fabric.clock.pass_by(4)
    assert fabric.routes() == [[LEAF, SPINE, FAR_LEAF]]
    assert fabric.count(PROBER_TRACES) == 1
    fabric.clock.pass_by(PERIOD)
    assert fabric.count(PROBER_TRACES) == 2
    assert small.row.get(ROUTE_HASH) == big.row.get(ROUTE_HASH) == route_hash([LEAF, SPINE, FAR_LEAF])
    late, _ = fabric.add(50_000, "trace")
    assert late.row.get(ROUTE_HASH) == small.row.get(ROUTE_HASH), "the route is known already"


def test_a_tcp_flow_is_another_than_the_udp_one_of_the_same_ports() -> None:
    fabric = Fabric()
    fabric.add(50_000)
    fabric.add(50_000, "tcp")
    fabric.clock.pass_by(4)
    assert sorted(row.labels[4] for row in fabric.store.read(ROUTE)) == ["tcp", "udp"]


def test_a_change_and_a_change_back_are_counted_and_the_hash_is_the_first_one_again() -> None:
    fabric = Fabric()
    path, _ = fabric.add(50_000)
    fabric.clock.pass_by(4)
    hashes = [path.row.get(ROUTE_HASH)]
    for spine in (OTHER_SPINE, SPINE):
        fabric.ways[50_000] = [LEAF, spine, FAR_LEAF]
        fabric.clock.pass_by(PERIOD)
        hashes.append(path.row.get(ROUTE_HASH))
    assert hashes[0] == hashes[2] != hashes[1]
    assert path.row.get(ROUTE_CHANGES) == 2


@pytest.mark.parametrize("hops", [[], [LEAF], [LEAF, SPINE], [SPINE, LEAF], [LEAF + SPINE]], ids=str)
def test_a_route_hash_is_a_whole_number_that_a_float_holds_exactly(hops: list[str]) -> None:
    value = route_hash(hops)
    assert 0 < value < 2**52
    assert int(float(value)) == value
    assert [route_hash(other) for other in ([], [LEAF], [LEAF, SPINE], [SPINE, LEAF], [LEAF + SPINE])].count(value) == 1


def test_a_loss_brings_a_trace_that_tells_where_it_ended_and_replaces_no_route() -> None:
    fabric = Fabric()
    path, _ = fabric.add(50_000)
    fabric.clock.pass_by(4)
    before = path.row.get(ROUTE_HASH)
    fabric.ways[50_000], fabric.dead = [LEAF, OTHER_SPINE, None, None, None], True
    fabric.lose(path, 5)
    (row,) = fabric.failing()
    assert row.labels[0] == str(path.row.identity)
    assert json.loads(row.labels[1]) == [LEAF, OTHER_SPINE, None, None, None]
    assert row.labels[2:] == (OTHER_SPINE, "silent")
    fabric.ways[50_000], fabric.dead = [LEAF, OTHER_SPINE, FAR_LEAF], False  # rerouted, and still losing
    fabric.lose(path, 35)
    (row,) = fabric.failing()
    assert row.labels[2:] == ("10.0.1.1", "reached")
    assert (fabric.routes(), path.row.get(ROUTE_HASH)) == ([[LEAF, SPINE, FAR_LEAF]], before)
    fabric.clock.pass_by(FREEZE_SECONDS * 1.5)
    assert fabric.failing() == [], "it fails no more"
    fabric.clock.pass_by(PERIOD)
    assert fabric.routes() == [[LEAF, OTHER_SPINE, FAR_LEAF]]


def test_a_route_is_frozen_for_so_long_only() -> None:
    fabric = Fabric()
    path, _ = fabric.add(50_000)
    fabric.clock.pass_by(4)
    fabric.ways[50_000] = [LEAF, OTHER_SPINE, FAR_LEAF]
    fabric.lose(path, FREEZE_LIMIT_SECONDS - PERIOD)
    assert fabric.routes() == [[LEAF, SPINE, FAR_LEAF]]
    fabric.lose(path, 3 * PERIOD)
    assert fabric.routes() == [[LEAF, OTHER_SPINE, FAR_LEAF]]


def test_a_router_without_a_way_on_ends_the_trace_and_is_named() -> None:
    fabric = Fabric()
    path, carrier = fabric.add(50_000)
    fabric.clock.pass_by(4)

    def ask(walk: Walk, hop_limit: int) -> None:
        answer = (lambda: walk.on_hop(LEAF)) if hop_limit == 1 else (lambda: walk.on_unreachable(SPINE))
        fabric.clock.loop.after(0.001, answer)

    carrier.ask = ask  # type: ignore[method-assign]
    fabric.lose(path, 4)
    assert [row.labels[2:] for row in fabric.failing()] == [(SPINE, "unreachable")]


def test_a_dead_host_has_a_few_of_its_flows_traced_at_once_not_all() -> None:
    fabric = Fabric()
    dead = [fabric.add(port)[0] for port in range(50_000, 50_100)]
    other, _ = fabric.add(50_000, destination="10.0.2.1")
    fabric.clock.pass_by(10)
    before = fabric.count(PROBER_TRACES)
    for path in [*dead, other]:
        fabric.lose(path)
    fabric.clock.pass_by(4)
    assert fabric.count(PROBER_TRACES) - before == 4 + 1, "the other destination's is not kept waiting for them"
    for _ in range(70):
        fabric.clock.pass_by(0.5)
        for path in dead:
            fabric.lose(path)
    traced = fabric.count(PROBER_TRACES) - before
    assert 8 <= traced <= 11, "one more every 7.5 s"


def test_a_trace_for_a_loss_goes_before_those_that_wait_their_turn() -> None:
    fabric = Fabric(packets_per_second_per_switch=2.0)
    paths = [fabric.add(port)[0] for port in range(50_000, 50_060)]
    fabric.clock.pass_by(8)
    assert len(fabric.routes()) < 30
    last = next(path for path in reversed(paths) if path.row.get(ROUTE_HASH) != path.row.get(ROUTE_HASH))
    fabric.lose(last)
    fabric.clock.pass_by(8)
    assert [row.labels[0] for row in fabric.failing()] == [str(last.row.identity)]


def rates(times: list[int]) -> Counter[int]:
    """Packets in each second that they were sent in."""
    return Counter(time // 10**9 for time in times)


def test_no_switch_is_asked_more_often_than_it_may_be_and_nobody_is_left_out() -> None:
    """Also at first, when nobody knows which switch stands where."""
    fabric = Fabric(packets_per_second_per_switch=5.0)
    for port in range(50_000, 50_100):
        fabric.ways[port] = [LEAF, (SPINE, OTHER_SPINE)[port % 2], FAR_LEAF]
        fabric.add(port)
    fabric.clock.pass_by(130)
    assert len(fabric.routes()) == 100
    for switch in (LEAF, SPINE, OTHER_SPINE, FAR_LEAF):
        times = fabric.asked[switch]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert min(gaps) > 0.18e9, f"{switch}: turns are 0.2 s apart, and slots 10 ms wide"
        assert max(rates(times).values()) <= 6
    assert fabric.count(PROBER_TRACES_DELAYED) > 100
    assert fabric.count(PROBER_TRACES) >= 190, "the second round came too"


def test_a_switch_with_several_addresses_is_one_switch() -> None:
    fabric = Fabric(packets_per_second_per_switch=5.0, switches={SPINE: "spine", OTHER_SPINE: "spine"})
    for port in range(50_000, 50_020):
        fabric.ways[port] = [LEAF, (SPINE, OTHER_SPINE)[port % 2], FAR_LEAF]
        fabric.add(port)
    fabric.clock.pass_by(10)
    for hop in fabric.asked:
        fabric.asked[hop].clear()
    fabric.clock.pass_by(PERIOD)
    times = sorted(fabric.asked[SPINE] + fabric.asked[OTHER_SPINE])
    assert len(times) >= 20
    assert max(rates(times).values()) <= 6


def test_a_stall_is_not_followed_by_a_clump() -> None:
    fabric = Fabric(packets_per_second_per_switch=1.0)
    for port in range(50_000, 50_040):
        fabric.add(port)
    fabric.clock.pass_by(6)
    fabric.clock.pass_by(30, step=30)  # stood still: all turns that were given have passed
    fabric.asked[LEAF].clear()
    fabric.clock.pass_by(10)
    assert max(rates(fabric.asked[LEAF]).values()) <= 2
    assert len(fabric.asked[LEAF]) >= 5


def test_where_nothing_can_be_sent_traces_end_without_end() -> None:
    """Each end begins the next one: hundreds within each other would be too deep for Python."""
    fabric = Fabric()

    def fail(_: Walk, __: int) -> None:
        raise OSError(1, "Operation not permitted")

    for port in range(50_000, 50_500):
        _, carrier = fabric.add(port)
        carrier.ask = fail  # type: ignore[method-assign]
    fabric.clock.pass_by(20)
    assert fabric.count(PROBER_TRACES) == 500
    assert all(lane.under_way == 0 for lane in fabric.tracer._lanes.values())


def test_a_port_that_is_never_free_does_not_hold_a_trace_for_ever() -> None:
    fabric = Fabric()
    _, carrier = fabric.add(50_000, "tcp")
    carrier.taken = 0.02
    fabric.clock.pass_by(70)
    assert fabric.count(PROBER_TRACES) == 1
    carrier.taken = 0.0
    fabric.clock.pass_by(PERIOD)
    assert fabric.routes() == [[LEAF, SPINE, FAR_LEAF]]


def test_a_trace_gives_way_and_asks_again_without_taking_the_hop_for_silent() -> None:
    fabric = Fabric()
    path, carrier = fabric.add(50_000, "tcp")
    asked: list[int] = []
    carrier.ask = lambda _, hop_limit: asked.append(hop_limit)  # type: ignore[method-assign]
    fabric.clock.pass_by(1.75)
    assert asked == [1]
    carrier.taken = 0.02
    fabric.tracer.give_way(path)
    assert carrier.ended == 1
    fabric.clock.pass_by(0.1)
    assert asked == [1]
    carrier.taken = 0.0
    fabric.clock.pass_by(0.05)
    assert asked == [1, 1]


def test_a_path_that_leaves_takes_all_that_was_kept_of_it_along() -> None:
    fabric = Fabric()
    small, _ = fabric.add(50_000)
    big, _ = fabric.add(50_000, "mtu")
    fabric.clock.pass_by(4)
    fabric.dead = True
    for path in (small, big):
        fabric.lose(path)
    fabric.clock.pass_by(3)
    assert len(fabric.failing()) == 2
    fabric.tracer.remove(small)
    assert [row.labels[0] for row in fabric.failing()] == [str(big.row.identity)]
    fabric.lose(big)
    fabric.tracer.remove(big)
    assert (fabric.failing(), fabric.routes(), fabric.tracer._flows) == ([], [], {})
    fabric.clock.pass_by(0.05)
    assert not any(fabric.clock.loop._slots.values())
    small.book_loss(0, fabric.clock.now_ns)


def test_a_low_ceiling_makes_traces_slow_and_no_worse() -> None:
    fabric = Fabric(packets_per_second_per_switch=0.02)
    for port in range(50_000, 50_003):
        fabric.add(port)
    fabric.clock.pass_by(800, step=0.05)
    assert len(fabric.routes()) == 3


def test_a_failing_flow_whose_way_is_known_is_not_kept_waiting_by_hops_that_are_silent() -> None:
    """What does not arrive ends at the switches that were met before: no distance of its own has to be paced."""
    fabric = Fabric(packets_per_second_per_switch=1.0)
    path, _ = fabric.add(50_000)
    fabric.clock.pass_by(10)
    fabric.ways[50_000], fabric.dead = [LEAF, None, None, None, None], True
    fabric.lose(path, 8)
    assert [row.labels[2:] for row in fabric.failing()] == [(LEAF, "silent")]


LAST = LastSwitch(3, frozenset({FAR_LEAF, "10.9.9.2"}))


def test_a_trace_that_must_not_reach_its_destination_is_whole_at_the_last_switch() -> None:
    fabric = Fabric()
    path, _ = fabric.add(50_000, "rdma", last=LAST)
    fabric.clock.pass_by(4)
    assert fabric.routes() == [[LEAF, SPINE, FAR_LEAF]]
    assert path.row.get(ROUTE_HASH) == route_hash([LEAF, SPINE, FAR_LEAF])
    fabric.lose(path)
    fabric.clock.pass_by(4)
    ((_, hops, last_hop, outcome),) = (row.labels for row in fabric.failing())
    assert (json.loads(hops), last_hop, outcome) == ([LEAF, SPINE, FAR_LEAF], FAR_LEAF, "reached")
    assert not fabric.asked["destination"]


@pytest.mark.parametrize(
    "way", [[LEAF, SPINE, None], [LEAF, SPINE, "203.0.113.9"], [LEAF, SPINE, OTHER_SPINE, FAR_LEAF]]
)
def test_a_last_switch_that_is_silent_unknown_or_farther_than_it_should_be_makes_no_route(
    way: list[str | None],
) -> None:
    fabric = Fabric()
    fabric.ways[50_000] = way
    fabric.add(50_000, "rdma", last=LAST)
    fabric.clock.pass_by(2 * PERIOD)
    assert fabric.count(PROBER_TRACES) >= 1
    assert fabric.routes() == []
    assert not fabric.asked["destination"]
    assert not fabric.asked[FAR_LEAF]
