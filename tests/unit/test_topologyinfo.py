"""What an exporter tells of the topology: of its own switches, their ports and addresses, and the hosts on them."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from exporter.contracts.catalogue import (
    HOST_DRAINED,
    HOST_INFO,
    LINK_INFO,
    RNIC_ATTACHMENT_INFO,
    SWITCH_ADDRESS_INFO,
    SWITCH_DRAINED,
    SWITCH_PORT_INFO,
)
from exporter.contracts.metric import Metric
from exporter.contracts.topology import Host, Link, Port, Rnic, Switch, Topology, check_topology
from exporter.topologyinfo import link_info, topology_info
from tests.unit.test_fabric import FABRIC, TOPOLOGY

RACKED = Topology(
    version=1,
    hosts=(
        Host(
            name="both", rack="r12", pod="p1", zone="c", state="drained",
            rnics=(
                Rnic(name="late", rail=1, ip="10.0.0.2"),
                Rnic(name="first", rail=0, ip="10.0.0.1"),
                Rnic(name="loose", rail=2, ip="10.0.0.3"),
            ),
        ),
        Host(name="unplaced", zone="c", rnics=(Rnic(name="n", ip="10.0.1.1"), Rnic(name="m", ip="10.0.1.2"))),
        Host(name="uncabled", rack="r1", rnics=(Rnic(name="n", ip="10.0.2.1"),)),
    ),
    switches=(
        Switch(
            name="leaf-0", tier="leaf", addresses=("192.0.2.1",), state="drained",
            ports=(
                Port(name="e0", linecard="lc1", breakout_group="1", lag="PortChannel1", addresses=("10.9.0.1",)),
                Port(name="e1", addresses=("2001:DB8:0::1", "is:no:address")),
                Port(name="e2", breakout_group="1"),
            ),
        ),
        Switch(name="leaf-1", tier="leaf"),
    ),
    links=(
        Link(a="leaf-0:e0", b="leaf-1:e0"),
        Link(a="both:late", b="leaf-0:e1"),
        Link(a="leaf-1:e1", b="both:first"),
        Link(a="unplaced:n", b="leaf-1:e2"),
        Link(a="unplaced:m", b="leaf-0:e2"),
    ),
)  # fmt: skip

Samples = dict[tuple[str, ...], float]


def told(metric: Metric, switches: Collection[str], topology: Topology = RACKED) -> Samples:
    (series,) = (each for each in topology_info(topology, switches) if each.metric is metric)
    samples = {tuple(labels): value for labels, value in series.samples}
    assert len(samples) == len(series.samples), "no label set twice"
    assert all(len(labels) == len(metric.labels) for labels in samples)
    return samples


def test_the_topology_of_these_tests_is_one_that_is_taken() -> None:
    check_topology(RACKED, "racked")


def test_each_switch_end_of_a_link_is_named_once() -> None:
    made = list(told(LINK_INFO, FABRIC.switches, TOPOLOGY))
    ends = {end for link in TOPOLOGY.links for end in (link.a, link.b) if end.partition(":")[0] in FABRIC.switches}
    assert {f"{switch}:{port}" for _, switch, port in made} == ends
    assert len(made) == len(ends)
    assert all(FABRIC.link_of(f"{switch}:{port}") == link for link, switch, port in made)


def test_a_poller_names_the_ends_of_its_own_switches_only() -> None:
    own = min(FABRIC.switches)
    made = [labels for labels, _ in link_info(TOPOLOGY, {own}).samples]
    assert {switch for _, switch, _ in made} == {own}


def test_an_rnic_is_told_by_whoever_follows_the_switch_that_it_is_plugged_into() -> None:
    assert told(RNIC_ATTACHMENT_INFO, {"leaf-0"}) == {
        ("both", "late", "leaf-0", "e1", "both:late -- leaf-0:e1"): 1.0,
        ("unplaced", "m", "leaf-0", "e2", "leaf-0:e2 -- unplaced:m"): 1.0,
    }
    assert told(RNIC_ATTACHMENT_INFO, {"leaf-1"}) == {
        ("both", "first", "leaf-1", "e1", "both:first -- leaf-1:e1"): 1.0,
        ("unplaced", "n", "leaf-1", "e2", "leaf-1:e2 -- unplaced:n"): 1.0,
    }


@pytest.mark.parametrize("shard", [{"leaf-0"}, {"leaf-1"}, {"leaf-0", "leaf-1"}], ids=str)
def test_a_host_on_two_leaves_is_the_same_series_in_the_shards_of_both(shard: set[str]) -> None:
    assert told(HOST_INFO, shard) == {
        ("both", "leaf-1", "rack r12, pod p1, zone c"): 1.0,  # its lowest rail is not the first in the file
        ("unplaced", "leaf-1", "zone c"): 1.0,  # without rails the first in the file
    }
    assert told(HOST_DRAINED, shard) == {("both",): 1.0, ("unplaced",): 0.0}


def test_a_host_is_not_told_of_by_whoever_follows_none_of_its_leaves() -> None:
    hosts = {labels[0] for labels in told(HOST_INFO, {"leaf-p0-r0"}, TOPOLOGY)}
    assert hosts == {"host-p0-0", "host-p0-1"}
    assert {labels[2] for labels in told(HOST_INFO, {"leaf-p0-r0"}, TOPOLOGY)} == {""}
    assert told(HOST_DRAINED, {"spine-0"}, TOPOLOGY) == {}


def test_a_host_whose_first_rnic_has_no_cable_is_where_its_next_one_is() -> None:
    links = tuple(link for link in RACKED.links if "both:first" not in link.id)
    loose = Topology(version=1, hosts=RACKED.hosts[:1], switches=RACKED.switches, links=links[:2])
    assert [labels[:2] for labels in told(HOST_INFO, {"leaf-0", "leaf-1"}, loose)] == [("both", "leaf-0")]


def test_a_host_cabled_to_a_host_is_on_no_switch() -> None:
    ends = (("a", "10.0.0.1"), ("b", "10.0.0.2"))
    hosts = tuple(Host(name=name, rnics=(Rnic(name="n", ip=ip),)) for name, ip in ends)
    direct = Topology(version=1, hosts=hosts, switches=(), links=(Link(a="a:n", b="b:n"),))
    for metric in (RNIC_ATTACHMENT_INFO, HOST_INFO, HOST_DRAINED):
        assert told(metric, {"a", "b"}, direct) == {}


def test_a_switch_is_drained_where_the_topology_says_so() -> None:
    assert told(SWITCH_DRAINED, {"leaf-0", "leaf-1", "unknown"}) == {("leaf-0",): 1.0, ("leaf-1",): 0.0}
    assert told(SWITCH_DRAINED, {"leaf-1"}) == {("leaf-1",): 0.0}


def test_a_port_says_what_it_belongs_to_and_nothing_where_that_is_nothing() -> None:
    assert told(SWITCH_PORT_INFO, {"leaf-0", "leaf-1"}) == {
        ("leaf-0", "e0", "lc1", "1", "PortChannel1"): 1.0,
        ("leaf-0", "e1", "", "", ""): 1.0,
        ("leaf-0", "e2", "", "1", ""): 1.0,
    }
    assert told(SWITCH_PORT_INFO, {"leaf-1"}) == {}


def test_addresses_are_spelled_as_the_sessions_of_other_switches_have_them() -> None:
    assert list(told(SWITCH_ADDRESS_INFO, {"leaf-0"})) == [
        ("leaf-0", "", "192.0.2.1"),
        ("leaf-0", "e0", "10.9.0.1"),
        ("leaf-0", "e1", "2001:db8::1"),
        ("leaf-0", "e1", "is:no:address"),
    ]
    assert told(SWITCH_ADDRESS_INFO, {"leaf-1"}) == {}


def test_a_location_leaves_out_what_nobody_wrote_down() -> None:
    bare = Host(name="h", rnics=())
    assert [bare.location, Host(name="h", pod="p1", rnics=()).location] == ["", "pod p1"]


def test_an_rnics_rail_is_its_place_in_the_list_where_none_is_named() -> None:
    rnics = (Rnic(name="named", rail=5, ip="10.0.0.1"), Rnic(name="second", ip="10.0.0.2"))
    mixed = Topology(
        version=1,
        hosts=(Host(name="h", rnics=rnics),),
        switches=(Switch(name="a", tier="leaf"), Switch(name="b", tier="leaf")),
        links=(Link(a="h:named", b="a:e0"), Link(a="h:second", b="b:e0")),
    )
    assert list(told(HOST_INFO, {"a"}, mixed)) == [("h", "b", "")]
