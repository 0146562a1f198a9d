"""Routes in time, and the ways of packets that nobody traced."""

from __future__ import annotations

import pytest

from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis.geometry import NOWHERE, UNKNOWN, Between, Geometry
from skeleton_service.diagnosis.observations import Egresses, Flow, Trace
from tests.unit.fabrics import leaf_spine

FABRIC = Fabric(leaf_spine(pods=2, rails=1, spines=2, hosts_per_pod=2))
SOURCE, DESTINATION = "host-p0-0:mlx5_0", "host-p1-0:mlx5_0"
FLOW = Flow(SOURCE, DESTINATION, 49152, 65300, False, False)


def over(spine: int) -> Egresses:
    route = FABRIC.egresses_of_route(SOURCE, ["leaf-p0-r0", f"spine-{spine}", "leaf-p1-r0"], DESTINATION)
    assert route is not None
    return route


def learnt(*spines: tuple[float, int]) -> Geometry:
    geometry = Geometry(FABRIC)
    geometry.learn([Trace(time, FLOW, over(spine)) for time, spine in spines])
    return geometry


def named(geometry: Geometry, way: int | Between) -> dict[str, float]:
    """{end: probability to leave by it} of a way, with its first and last ends."""
    number = way.way if isinstance(way, Between) else way
    row = geometry.matrix()[number]
    found = {geometry.ends[end]: share for end, share in zip(row.indices.tolist(), row.data.tolist(), strict=True)}
    if isinstance(way, Between):
        found |= {geometry.ends[end]: 1.0 for end in way[1:] if end >= 0}
    return found


def test_a_flow_keeps_its_route_until_another_is_seen() -> None:
    geometry = learnt((10, 0), (20, 0), (30, 1))
    assert [geometry.route_at(FLOW, time) for time in (10, 29.9, 30, 99)] == [over(0), over(0), over(1), over(1)]


def test_before_any_trace_the_first_route_is_supposed_and_without_one_none() -> None:
    assert learnt((10, 1)).route_at(FLOW, 0) == over(1)
    assert learnt().route_at(FLOW, 0) is None
    assert learnt((10, 1)).route_at(FLOW._replace(destination_port=4791), 20) is None, (
        "ECMP hashes what tells flows apart"
    )


def test_a_route_seen_again_is_no_change() -> None:
    geometry = Geometry(FABRIC)
    assert set(geometry.learn([Trace(0, FLOW, over(0))])) == {FLOW}
    assert not geometry.learn([Trace(9, FLOW, over(0))])
    assert set(geometry.learn([Trace(10, FLOW, over(1))])) == {FLOW}
    assert geometry.routes(FLOW) == [(0, over(0)), (10, over(1))]


def test_a_change_is_told_by_when_it_was_seen_and_the_last_one_first() -> None:
    geometry = learnt((0, 0), (10, 1), (20, 0))
    assert geometry.changed(FLOW, 5, 15) == (10, over(0), over(1))
    assert geometry.changed(FLOW, 0, 30) == (20, over(1), over(0))
    assert geometry.changed(FLOW, 11, 19) is None
    assert geometry.changed(FLOW, -5, 5) is None, "the first route is no change"
    assert learnt().changed(FLOW, 0, 99) is None


def test_a_traced_packet_leaves_by_each_end_of_its_route_for_sure() -> None:
    geometry = learnt((0, 1))
    assert named(geometry, geometry.along(over(1))) == dict.fromkeys(over(1), 1.0)


def test_a_packet_that_nobody_traced_has_the_shares_of_equal_cost_routing() -> None:
    geometry = Geometry(FABRIC)
    shares = named(geometry, geometry.between(SOURCE, DESTINATION))
    assert shares[SOURCE] == 1.0
    assert shares[over(0)[1]] == shares[over(1)[1]] == pytest.approx(0.5)
    assert shares == pytest.approx(FABRIC.egress_shares(SOURCE, DESTINATION))


def test_the_way_back_leaves_by_other_ends_than_the_way_there() -> None:
    geometry = Geometry(FABRIC)
    there, back = (named(geometry, geometry.between(*ends)) for ends in ((SOURCE, DESTINATION), (DESTINATION, SOURCE)))
    assert not set(there) & set(back)
    assert {FABRIC.link_of(end) for end in there} == {FABRIC.link_of(end) for end in back}


def test_between_rnics_that_nothing_connects_there_are_no_ways() -> None:
    topology = leaf_spine(pods=1, rails=2, spines=0)
    geometry = Geometry(Fabric(topology))
    assert named(geometry, geometry.between("host-p0-0:mlx5_0", "host-p0-0:mlx5_1")) == {}
    assert len(named(geometry, geometry.between("host-p0-0:mlx5_0", "host-p0-1:mlx5_0"))) == 2


def test_a_trace_that_tells_no_destination_port_serves_flows_to_any() -> None:
    geometry = Geometry(FABRIC)
    geometry.learn([Trace(0, FLOW._replace(destination_port=None), over(1))])
    assert geometry.route_at(FLOW, 5) == over(1)
    assert geometry.route_at(FLOW._replace(tcp=True), 5) is None


def test_the_mirror_of_a_route_is_over_the_same_links_the_other_way() -> None:
    geometry = learnt((10, 1))
    way = geometry.along(over(1))
    mirror = int(geometry.mirrors()[way])
    back = FABRIC.egresses_of_route(DESTINATION, ["leaf-p1-r0", "spine-1", "leaf-p0-r0"], SOURCE)
    assert named(geometry, mirror) == dict.fromkeys(back or (), 1.0)


def test_what_nobody_traced_to_its_end_has_no_mirror() -> None:
    geometry = learnt((10, 0))
    shares, broken_off = geometry.between(SOURCE, DESTINATION).way, geometry.along(over(0)[:2])
    mirrors = geometry.mirrors()
    assert mirrors[shares] == mirrors[broken_off] == mirrors[NOWHERE] == UNKNOWN


def test_routes_learnt_later_have_mirrors_too_and_others_keep_theirs() -> None:
    geometry = learnt((10, 0))
    first = geometry.along(over(0))
    before = int(geometry.mirrors()[first])
    second = geometry.along(over(1))
    assert int(geometry.mirrors()[first]) == before
    assert geometry.mirrors()[second] not in (UNKNOWN, before)
