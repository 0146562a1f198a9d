"""Changes of a path's route: told by traces at once, for an hour, in names that a person knows, and not without end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import joins
from exporter.contracts.catalogue import MOST_ROUTE_CHANGES, PATH, PROBER_SPRAYED, PROBER_TRACES, ROUTE_CHANGE
from exporter.contracts.fabric import Fabric as Topology
from exporter.joins import RouteChangeTimes
from exporter.probing.paths import ROUTE_CHANGES
from exporter.probing.tracing import changes
from exporter.probing.tracing.changes import KEPT_SECONDS, RouteChanges, SeenRoute
from exporter.probing.tracing.tracer import FREEZE_SECONDS
from exporter.routetext import MOST_BYTES, MOST_HOPS, change_text
from exporter.store import Store
from tests.unit.test_fabric import FABRIC, PORTS, address
from tests.unit.test_tracing import FAR_LEAF, LEAF, OTHER_SPINE, PERIOD, SPINE, Fabric
from tests.unit.test_walk import Clock

OLD, NEW = [LEAF, SPINE, FAR_LEAF], [LEAF, OTHER_SPINE, FAR_LEAF]


# ---- what the tracer sees


def test_a_change_is_told_with_its_time_and_the_change_back_is_another() -> None:
    fabric = Fabric()
    small, _ = fabric.add(50_000)
    big, _ = fabric.add(50_000, "mtu")
    fabric.add(50_001)
    fabric.clock.pass_by(4)
    assert fabric.changes() == {}, "the first route is no change"
    for before, after in ((OLD, NEW), (NEW, OLD)):
        fabric.ways[50_000] = list(after)
        began = fabric.clock.now_ns / 1e9
        fabric.clock.pass_by(PERIOD)
        told = fabric.changes()
        assert told.keys() == {small.target.path, big.target.path}
        for at, *routes in told.values():
            assert routes == [before, after]
            assert began < at <= began + PERIOD
    fabric.clock.pass_by(2 * PERIOD)
    assert fabric.changes() == told, "nothing else has changed"


def test_a_change_to_a_way_that_loses_packets_is_told_while_the_route_is_frozen() -> None:
    fabric = Fabric()
    path, _ = fabric.add(50_000)
    fabric.clock.pass_by(4)
    fabric.ways[50_000] = NEW
    began = fabric.clock.now_ns / 1e9
    fabric.lose(path, 3)
    at, before, after = fabric.changes()[path.target.path]
    assert began < at < began + 3
    assert (before, after) == (OLD, NEW)
    assert fabric.routes() == [OLD], "the votes do not move"
    assert path.row.get(ROUTE_CHANGES) == 0
    fabric.lose(path, 40)
    fabric.clock.pass_by(FREEZE_SECONDS + PERIOD + 10)
    assert (path.row.get(ROUTE_CHANGES), fabric.routes()) == (1, [NEW])
    assert fabric.changes()[path.target.path][0] == at, "what is counted later was told already"


def test_a_way_that_lost_packets_and_was_left_again_is_told_though_it_is_never_counted() -> None:
    fabric = Fabric()
    path, _ = fabric.add(50_000)
    fabric.clock.pass_by(4)
    fabric.ways[50_000] = NEW
    fabric.lose(path, 10)
    fabric.ways[50_000] = OLD
    fabric.clock.pass_by(PERIOD)
    assert fabric.changes()[path.target.path][1:] == (NEW, OLD)
    assert path.row.get(ROUTE_CHANGES) == 0


def test_an_incomplete_trace_changes_nothing() -> None:
    fabric = Fabric()
    fabric.add(50_000)
    fabric.clock.pass_by(4)
    fabric.ways[50_000] = [LEAF, None, FAR_LEAF]
    fabric.clock.pass_by(PERIOD)
    fabric.ways[50_000], fabric.dead = NEW, True
    fabric.clock.pass_by(PERIOD)
    assert fabric.changes() == {}


def test_a_path_that_leaves_takes_its_change_along() -> None:
    fabric = Fabric()
    path, _ = fabric.add(50_000)
    fabric.clock.pass_by(4)
    fabric.ways[50_000] = NEW
    fabric.clock.pass_by(PERIOD)
    assert fabric.changes()
    fabric.tracer.remove(path)
    assert list(fabric.store.read(ROUTE_CHANGE)) == []
    fabric.clock.pass_by(1)
    assert not any(fabric.clock.loop._slots.values()), "no timer is left of it"


def test_a_sprayed_flow_has_no_change() -> None:
    fabric = Fabric()
    path, _ = fabric.add(50_000)
    fabric.clock.pass_by(4)
    for number in range(6):
        fabric.ways[50_000] = (NEW, OLD)[number % 2]
        fabric.clock.pass_by(PERIOD)
        if number < 2:
            assert fabric.changes()
    assert path.row.get(ROUTE_CHANGES) == 3
    assert fabric.changes() == {}


def test_a_flow_that_goes_back_and_forth_and_loses_probes_is_told_a_few_times_and_no_more() -> None:
    """Losses keep it from being taken for sprayed: its series would be another after each trace."""
    ways = cycle((NEW, OLD))
    fabric = Fabric(on_trace=lambda flow, _: fabric.ways.__setitem__(flow.source_port, next(ways)))
    path, _ = fabric.add(50_000)
    fabric.clock.pass_by(4)
    times = set()
    for _ in range(60):
        fabric.lose(path, 10)
        times |= {at for at, *_ in fabric.changes().values()}
    assert fabric.count(PROBER_TRACES) > 20
    assert fabric.count(PROBER_SPRAYED) == 0
    assert len(times) == 2
    assert fabric.changes(), "the last that was told stays"


def seen(routes: str) -> str:
    """The route before at each trace of a flow that shows a change, else a dot."""
    one = SeenRoute()
    return "".join((one.take([route], number * 10**9) or ["."])[0] for number, route in enumerate(routes, start=1))


@pytest.mark.parametrize(
    ("routes", "changes"),
    [
        ("aaa", "..."),
        ("abb", ".a."),
        ("aba", ".ab"),
        ("abaaaaaab", ".ab.....a"),
        ("abab", ".ab."),
        ("ababababcccc", ".ab........."),
        ("abab" + "b" * 9, ".ab" + "." * 9 + "a"),  # steady again, elsewhere than it was told to be
        ("abab" + "a" * 12, ".ab" + "." * 13),
    ],
)
def test_a_change_is_one_from_what_was_told_last_and_waits_until_the_flow_is_steady(routes: str, changes: str) -> None:
    assert seen(routes) == changes


# ---- how long, and how many


class Kept:
    """Changes of paths that are nothing but their rows."""

    def __init__(self, paths: int) -> None:
        self.clock, self.store = Clock(), Store([(PATH, paths), (ROUTE_CHANGE, paths)])
        writer = self.store.writer(PATH)
        self.paths = [self.Path(writer.add((f"p{n:04d}", "h", "r", "h", "r", "udp", *"abcde"))) for n in range(paths)]
        self.changes = RouteChanges(self.clock.loop, self.store.writer(ROUTE_CHANGE), lambda: self.clock.now_ns / 1e9)
        self.join = RouteChangeTimes(None)

    class Path:
        def __init__(self, row: object) -> None:
            self.row = row

    def book(self, path: int, before: Sequence[str] = OLD, after: Sequence[str] = NEW) -> None:
        row = self.paths[path].row
        self.changes.book(self.paths[path], (str(row.identity),), before, after)  # type: ignore[attr-defined]

    def samples(self) -> list[tuple[Sequence[str], float]]:
        (series,) = self.join.series(self.store)
        return list(series.samples)


def test_a_change_is_told_for_an_hour_from_the_last_one_on() -> None:
    kept = Kept(2)
    kept.book(0)
    kept.clock.pass_by(KEPT_SECONDS - 100, step=1)
    kept.book(0, NEW, OLD)
    kept.book(1)
    kept.clock.pass_by(200, step=1)
    assert len(kept.samples()) == 2, "the hour of the change before is over, that of the last one is not"
    assert kept.samples()[0][1] == KEPT_SECONDS - 100
    kept.changes.forget(kept.paths[1])  # type: ignore[arg-type]
    kept.clock.pass_by(KEPT_SECONDS - 250, step=1)
    ((labels, _),) = kept.samples()
    assert labels == ("p0000", " > ".join(NEW), " > ".join(OLD), SPINE)
    kept.clock.pass_by(100, step=1)
    assert kept.samples() == []


def test_of_too_many_changes_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOST_ROUTE_CHANGES", 4)
    kept = Kept(6)
    for path in (0, 1, 2, 3, 0, 4, 5):
        kept.clock.pass_by(1, step=1)
        kept.book(path)
    assert [labels[0] for labels, _ in kept.samples()] == ["p0003", "p0000", "p0004", "p0005"]
    monkeypatch.setattr(joins, "MOST_ROUTE_CHANGES", 2)
    join = RouteChangeTimes(None)
    assert [labels[0] for labels, _ in join.series(kept.store)[0].samples] == ["p0004", "p0005"], "of all processes"
    assert MOST_ROUTE_CHANGES == 4096


def test_a_change_of_a_path_that_is_gone_and_one_of_another_process() -> None:
    """Rows are numbered by store."""
    one, other = Kept(1), Kept(2)
    one.book(0)
    other.clock.pass_by(1, step=1)
    other.book(1)
    (series,) = one.join.series(one.store, other.store)
    assert [(labels[0], at) for labels, at in series.samples] == [("p0000", 0), ("p0001", 1)]
    assert one.join.series(one.store, other.store)[0] is series, "renderers keep what they made of it"
    one.store.writer(PATH).remove(one.paths[0].row)  # type: ignore[arg-type]
    (series,) = one.join.series(one.store, other.store)
    assert [labels[0] for labels, _ in series.samples] == ["p0001"]


def test_the_longest_routes_of_the_longest_addresses_fit_into_a_row() -> None:
    kept = Kept(1)
    longest = [f"2001:db8:1111:2222:3333:4444:5555:{n:04x}" for n in range(64)]
    kept.book(0, longest[:32], longest[32:])
    ((labels, _),) = kept.samples()
    assert labels[3] == longest[32]


# ---- as text


OTHER = ("leaf-p0-r0:Ethernet8", "spine-0:Ethernet0", "leaf-p1-r0:Ethernet0")


def test_switches_are_named_and_the_first_hop_that_is_new() -> None:
    told = change_text(FABRIC, [address(port) for port in PORTS], [address(port) for port in OTHER])
    assert told == ("leaf-p0-r0 > spine-1 > leaf-p1-r0", "leaf-p0-r0 > spine-0 > leaf-p1-r0", "spine-0")


def test_a_hop_that_nobody_knows_is_its_address() -> None:
    old = [address("leaf-p0-r0"), "203.0.113.1", address("leaf-p1-r0")]
    new = [address("leaf-p0-r0"), "203.0.113.2", address("leaf-p1-r0")]
    told = change_text(FABRIC, old, new)
    assert told == ("leaf-p0-r0 > 203.0.113.1 > leaf-p1-r0", "leaf-p0-r0 > 203.0.113.2 > leaf-p1-r0", "203.0.113.2")
    assert change_text(None, ["10.0.0.1"], ["10.0.0.2"]) == ("10.0.0.1", "10.0.0.2", "10.0.0.2")


def test_a_route_that_only_became_shorter_has_no_new_hop() -> None:
    assert change_text(None, OLD, OLD[1:]) == (" > ".join(OLD), " > ".join(OLD[1:]), "")
    assert change_text(None, ["10.0.0.1"], []) == ("10.0.0.1", "", "")


def test_between_the_same_switches_ports_tell_the_routes_apart_and_addresses_at_last() -> None:
    old, new = [address("spine-1:Ethernet0")], [address("spine-1:Ethernet8")]
    assert change_text(FABRIC, old, new) == ("spine-1:Ethernet0", "spine-1:Ethernet8", "spine-1:Ethernet8")
    (node,) = [switch for switch in FABRIC.topology.switches if switch.name == "spine-1"]
    assert node.addresses
    twice = Topology(FABRIC.topology)
    port = next(port for port in node.ports if port.name == "Ethernet0")
    twice._port_by_address["198.51.99.99"] = "spine-1:Ethernet0"  # a port with two addresses
    told = change_text(twice, list(port.addresses), ["198.51.99.99"])
    assert told == (port.addresses[0], "198.51.99.99", "198.51.99.99")


NAMES = st.lists(st.text(max_size=600), max_size=40)


@given(NAMES, NAMES)
def test_whatever_a_trace_tells_the_labels_are_short_and_printable(before: list[str], after: list[str]) -> None:
    for text in change_text(None, before, after):
        assert len(text.encode()) <= MOST_BYTES
        assert text.isprintable()


def test_a_long_route_says_that_it_goes_on() -> None:
    hops = [f"10.0.0.{n}" for n in range(32)]
    old, new, hop = change_text(None, hops, [*hops[:31], "10.9.9.9"])
    assert old == new == " > ".join([*hops[:MOST_HOPS], "..."])
    assert hop == "10.9.9.9"
    old, _, _ = change_text(None, ["x" * 100] * 8, [])
    assert old == " > ".join(["x" * 100] * 4 + ["..."])
