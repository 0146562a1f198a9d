"""Families made by joining: which links a path crosses, by the route of its own flow alone."""

from __future__ import annotations

import json

import pytest

from exporter.contracts.catalogue import FAILING_TRACE, PATH, PATH_LINK_INFO, PATH_MTU_LIMIT, ROUTE
from exporter.contracts.topology import Rnic
from exporter.exposition import Series
from exporter.joins import JobPaths, LastHops, LinkJoin, MtuLimitJoin, PathInfo, RouteTexts, rnic_info
from exporter.planfile import JobPath
from exporter.store import Store
from tests.unit.test_fabric import FABRIC, FAR, LINKS, NEAR, PORTS, address
from tests.unit.test_plan_contract import TARGET

SPRAYED: list[str] = []


def store(*paths: tuple[str, str, str], hops: list[str] | None = None, protocol: str = "udp") -> Store:
    """Paths of (name, probe, source port) between NEAR and FAR, and a route of the flow from port 49152."""
    made = Store([(PATH, 8), (ROUTE, 8)])
    near, far = (FABRIC.interfaces[end].rnic.ip for end in (NEAR, FAR))
    writer = made.writer(PATH)
    for name, probe, port in paths:
        writer.add((name, "h", "r", "h", "r", probe, near, port, far, "65300", "106"))
    route = None if hops is SPRAYED else hops or [address(port) for port in PORTS]
    made.writer(ROUTE).add((near, "49152", far, "65300", protocol, json.dumps(route)))
    return made


def samples(*made: Store) -> list[tuple[str, str]]:
    return [(labels[0], labels[1]) for labels, _ in LinkJoin(FABRIC).series(*made)[0].samples]


def test_a_traced_path_has_a_series_for_each_link() -> None:
    assert samples(store(("p", "udp", "49152"))) == [("p", link) for link in LINKS]


def test_a_route_is_told_in_one_label_where_it_is_one_of_few_links() -> None:
    (links, *_), texts = LinkJoin(FABRIC).series(store(("p", "udp", "49152"), ("q", "mtu", "49152"))), RouteTexts()
    route, shares = texts.series(links)
    assert [(labels, value) for labels, value in route.samples] == [((path, " | ".join(LINKS)), 1.0) for path in "pq"]
    assert list(shares.samples) == []
    assert texts.series(links)[0] is route, "renderers keep what they made of it"
    (sprayed, *_) = LinkJoin(FABRIC).series(store(("p", "udp", "49152"), hops=SPRAYED))
    route, shares = texts.series(sprayed)
    assert (list(route.samples), list(shares.samples)) == ([], list(sprayed.samples))


@pytest.mark.parametrize("links", [[f"a{hop} -- b{hop}" for hop in range(9)], ["a -- b | c", "b | c -- d"]])
def test_a_route_that_no_label_can_tell_is_told_link_by_link(links: list[str]) -> None:
    crossed = Series(PATH_LINK_INFO, [(("p", link), 1.0) for link in links])
    route, shares = RouteTexts().series(crossed)
    assert (list(route.samples), list(shares.samples)) == ([], list(crossed.samples))


def test_an_mtu_path_shares_the_route_of_its_flow_and_another_port_does_not() -> None:
    made = samples(store(("p", "mtu", "49152"), ("q", "udp", "49153")))
    assert {path for path, _ in made} == {"p"}


def test_a_route_is_that_of_its_protocol_since_ecmp_hashes_it_too() -> None:
    paths = ("p", "tcp", "49152"), ("q", "udp", "49152")
    assert {path for path, _ in samples(store(*paths))} == {"q"}
    assert {path for path, _ in samples(store(*paths, protocol="tcp"))} == {"p"}


def test_a_route_the_topology_contradicts_makes_no_series() -> None:
    assert samples(store(("p", "udp", "49152"), hops=[address(port) for port in PORTS[:2]])) == []
    assert samples(store(("p", "udp", "49152"), hops=["203.0.113.1"] * 3)) == []


@pytest.mark.parametrize(
    ("last", "outcome", "hop"),
    [
        (address(PORTS[1]), "silent", PORTS[1]),
        (FABRIC.interfaces[FAR].rnic.ip, "reached", FAR),
        ("203.0.113.1", "unreachable", "203.0.113.1"),
        ("", "silent", "none"),
    ],
)
def test_where_a_failing_path_ends_is_named_by_the_topology(last: str, outcome: str, hop: str) -> None:
    made = Store([(PATH, 8), (FAILING_TRACE, 8)])
    rows = [made.writer(PATH).add((path, "h", "r", "h", "r", "udp", *"abcde")) for path in ("p",)]
    failing, join = made.writer(FAILING_TRACE), LastHops(FABRIC)
    (none,) = join.series(made)
    assert list(none.samples) == []
    row = failing.add((str(rows[0].identity), "[]", last, outcome))
    failing.add(("99", "[]", last, outcome))  # of a path that is gone
    (first,) = join.series(made)
    assert list(first.samples) == [(("p", hop, outcome), 1.0)]
    assert join.series(made)[0] is first
    failing.remove(row)
    (none,) = join.series(made)
    assert list(none.samples) == []


def test_without_a_topology_a_hop_is_its_address() -> None:
    made = Store([(PATH, 8), (FAILING_TRACE, 8)])
    row = made.writer(PATH).add(("p", "h", "r", "h", "r", "udp", *"abcde"))
    made.writer(FAILING_TRACE).add((str(row.identity), "[]", "10.9.0.1", "silent"))
    (found,) = LastHops(None).series(made)
    assert [labels for labels, _ in found.samples] == [("p", "10.9.0.1", "silent")]


def test_an_rnic_without_rail_or_device_leaves_the_labels_empty() -> None:
    assert list(rnic_info("h", [Rnic(name="r", ip="10.0.0.1")]).samples) == [(("h", "r", "", ""), 1.0)]


def test_what_limits_a_path_is_named_by_port_or_rnic_and_by_its_address_where_nobody_knows_it() -> None:
    made = Store([(PATH_MTU_LIMIT, 8)])
    writer = made.writer(PATH_MTU_LIMIT)
    limits = MtuLimitJoin(FABRIC, "h", [Rnic(name="r", ip="10.9.9.9")])
    assert list(limits.series(made)[0].samples) == []
    known = address(PORTS[0])
    rows = [("a", "frag_needed", known), ("b", "frag_needed", "203.0.113.1"), ("c", "black_hole", "")]
    writers = [writer.add(row) for row in [*rows, ("d", "local", "10.9.9.9")]]
    named = ["", "203.0.113.1", PORTS[0], "h:r"]
    (series,) = limits.series(made)
    assert sorted(labels[2] for labels, _ in series.samples) == sorted(named)
    assert limits.series(made)[0] is series, "renderers keep what they made of it"
    for each in writers[1:]:
        writer.remove(each)
    assert [labels for labels, _ in limits.series(made)[0].samples] == [("a", "frag_needed", PORTS[0])]
    assert [labels[2] for labels, _ in MtuLimitJoin(None, "h", []).series(made)[0].samples] == [known]


def test_no_plan_is_no_job() -> None:
    assert list(JobPaths().series(store(("p", "udp", "49152")))[0].samples) == []


def test_a_path_is_bound_to_its_job_with_its_ends_while_it_is_probed() -> None:
    made = store()
    writer = made.writer(PATH)
    jobs = JobPaths()
    jobs.follow({TARGET.path: (JobPath.of("j", TARGET),), "waits": (JobPath.of("j", TARGET),)})
    assert list(jobs.series(made)[0].samples) == []
    for name in (TARGET.path, "of another plan"):
        writer.add((name, "h", "r", "g", "s", "udp", "10.0.0.1", "1", "10.0.0.2", "2", "106"))
    first = jobs.series(made)
    bound = ("j", TARGET.path, "h", "r", "g", "s", "udp", "basic", str(TARGET.traffic_class >> 2))
    assert [labels for labels, _ in first[0].samples] == [bound]
    assert jobs.series(made) is first
    jobs.follow({TARGET.path: (JobPath.of("j", TARGET), JobPath.of("k", TARGET))})
    assert [labels for labels, _ in jobs.series(made)[0].samples] == [bound, ("k", *bound[1:])]
    jobs.follow({})
    assert list(jobs.series(made)[0].samples) == []


def test_a_sprayed_path_has_each_link_that_it_may_cross_with_its_share() -> None:
    made = store(("p", "udp", "49152"), ("t", "tcp", "49152"), hops=SPRAYED)
    shares = {(path, link): share for (path, link), share in LinkJoin(FABRIC).series(made)[0].samples}
    assert shares == {("p", link): share for link, share in FABRIC.link_shares(NEAR, FAR).items()}
    assert sorted(shares.values()) == [0.5] * 4 + [1.0] * 2


@pytest.mark.parametrize(("hops", "covered"), [(None, 4), (SPRAYED, 6), (["203.0.113.1"], 0)])
def test_an_rnic_says_how_many_of_the_links_on_its_pairs_paths_it_crosses(hops: list[str] | None, covered: int) -> None:
    made = store(("p", "udp", "49152"), ("q", "udp", "49153"), hops=hops)
    _, possible, crossed = LinkJoin(FABRIC).series(made)
    assert [tuple(sample) for sample in possible.samples] == [(("h", "r"), 6)]
    assert [tuple(sample) for sample in crossed.samples] == [(("h", "r"), covered)]


def test_an_rnic_outside_the_topology_covers_nothing_that_anybody_knows() -> None:
    made = Store([(PATH, 1), (ROUTE, 1)])
    made.writer(PATH).add(("p", "h", "r", "h", "r", "udp", "203.0.113.1", "1", "203.0.113.2", "2", "106"))
    assert [list(series.samples) for series in LinkJoin(FABRIC).series(made)] == [[], [], []]


def test_a_paths_class_and_port_are_in_an_info_series() -> None:
    made = Store([(PATH, 2)])
    writer, ends = made.writer(PATH), ("h", "r", "h", "r", "udp")
    writer.add(("p", *ends, "10.0.0.1", "49152", "10.0.0.2", "65300", "106"))
    info = PathInfo()
    first = info.series(made)
    assert [labels for labels, _ in first[0].samples] == [("p", "26", "49152")]
    assert info.series(made) is first
    writer.add(("d", *ends, "10.0.0.1", "49153", "10.0.0.2", "65300", "2"))
    assert [labels for labels, _ in info.series(made)[0].samples] == [("p", "26", "49152"), ("d", "0", "49153")]


def test_paths_of_two_processes_are_joined_each_with_its_own_traces() -> None:
    """Rows are numbered by store: the trace of one path used to be another's."""
    prober, rdma = store(("p", "udp", "49152")), store(("q", "rdma", "49152"))
    assert {path for path, _ in samples(prober, rdma)} == {"p", "q"}
    (own, *_), (_, possible, covered) = LinkJoin(FABRIC).series(rdma), LinkJoin(FABRIC).series(prober, rdma)
    assert len(own.samples) == len(LINKS)
    assert [value for _, value in covered.samples] == [len(LINKS)]
    assert len(possible.samples) == 1
    stores = [Store([(PATH, 8), (FAILING_TRACE, 8)]) for _ in range(2)]
    for each, (name, last) in zip(stores, (("p", PORTS[0]), ("q", PORTS[1])), strict=True):
        row = each.writer(PATH).add((name, "h", "r", "h", "r", "udp", *"abcde"))
        each.writer(FAILING_TRACE).add((str(row.identity), "[]", address(last), "silent"))
    (found,) = LastHops(FABRIC).series(*stores)
    assert {labels for labels, _ in found.samples} == {("p", PORTS[0], "silent"), ("q", PORTS[1], "silent")}
