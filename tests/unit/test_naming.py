"""From suspects to names: what no probe tells apart shares the probability."""

from __future__ import annotations

import pytest

from exporter.contracts.diagnosis import Symptom
from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import Host, Link, Rnic, Switch, Topology
from skeleton_service.diagnosis.naming import Name, component, layer_of, names_of, rank
from skeleton_service.diagnosis.suspects import Filter, Suspect
from tests.unit.fabrics import leaf_spine

FABRIC = Fabric(leaf_spine(pods=2, rails=1, spines=2, hosts_per_pod=2))
RNIC = "host-p0-0:mlx5_0"
CABLE = Suspect("cable", RNIC)
LINKS = sorted(link.id for link in FABRIC.topology.links if "spine" in link.id)
LINK = Suspect("link", LINKS[0])
SYMPTOMS: list[Symptom] = ["unreachable", "loss", "latency", "flap", "mtu", "congestion"]
SUSPECTS = [
    CABLE,
    CABLE._replace(way=RNIC),
    CABLE._replace(filter=Filter(rdma=True)),
    LINK,
    LINK._replace(way=LINKS[0].split(" -- ")[0]),
    Suspect("switch", "spine-0"),
    Suspect("host", "host-p0-0"),
    Suspect("host", "host-p0-0", filter=Filter(overlay=False)),
    Suspect("vswitch", "host-p0-0"),
    Suspect("container", "c"),
    Suspect("pair", f"{RNIC} host-p1-0:mlx5_0"),
    Suspect("hosts", "host-p0-0 host-p1-0"),
]


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_the_names_of_a_suspect_share_its_probability(symptom: Symptom) -> None:
    for suspect in SUSPECTS:
        names = names_of(suspect, symptom, FABRIC)
        assert sum(share for _, share in names) == pytest.approx(1.0)
        assert len({name for name, _ in names}) == len(names)


def test_an_rnic_its_cable_and_its_port_are_names_of_one_suspect() -> None:
    names = dict(names_of(CABLE, "loss", FABRIC))
    assert set(names) >= {Name("rnic", RNIC), Name("link", FABRIC.link_of(RNIC) or "")}
    assert all(name.name in (RNIC, FABRIC.link_of(RNIC), FABRIC.far_end(RNIC)) for name in names)


def test_what_hurts_rdma_alone_or_makes_slow_is_no_cable() -> None:
    for suspect, symptom in ((CABLE._replace(filter=Filter(rdma=True)), "unreachable"), (CABLE, "latency")):
        assert names_of(suspect, symptom, FABRIC) == [(Name("rnic", RNIC), 1.0)]


def test_an_rnic_without_a_cable_in_the_topology_is_named_by_itself() -> None:
    bare = Topology(version=1, hosts=(Host(name="h", rnics=(Rnic(name="n", ip="10.0.0.1"),)),), switches=(), links=())
    assert {name for name, _ in names_of(Suspect("cable", "h:n"), "loss", Fabric(bare))} == {Name("rnic", "h:n")}


def test_who_should_answer_is_missing_where_the_overlay_alone_lives() -> None:
    (named,) = names_of(Suspect("host", "host-p0-0", filter=Filter(overlay=False)), "unreachable", FABRIC)
    assert named == (Name("agent", "host-p0-0"), 1.0)


def test_a_queue_that_stands_full_is_that_of_the_port_that_sends() -> None:
    end = LINKS[0].split(" -- ")[0]
    first, *_ = rank([(LINK._replace(way=end), 30.0)], "latency", FABRIC)
    assert first.name == Name("port", end)
    assert rank([(LINK._replace(way=end), 30.0)], "loss", FABRIC)[0].name == Name("link", LINKS[0])


def test_probabilities_add_up_and_fall() -> None:
    ranked = rank([(suspect, 30.0 - 2 * place) for place, suspect in enumerate(SUSPECTS)], "loss", FABRIC)
    assert sum(each.probability for each in ranked) == pytest.approx(1.0)
    rest = [each.probability for each in ranked[1:]]
    assert rest == sorted(rest, reverse=True)
    assert len({each.name for each in ranked}) == len(ranked)


def test_two_suspects_alike_share_and_a_far_better_one_takes_all() -> None:
    other = Suspect("link", LINKS[1])
    even = rank([(LINK, 20.0), (other, 20.0)], "loss", FABRIC)
    assert [each.probability for each in even] == pytest.approx([0.5, 0.5])
    sure = rank([(other, 20.0), (LINK, 50.0)], "loss", FABRIC)
    assert sure[0].name == Name("link", LINKS[0])
    assert sure[0].probability > 0.99


def test_one_component_suspected_in_several_ways_counts_once() -> None:
    """Broken one way, both ways, for RDMA alone: its best score is its own, and the rest no probability more."""
    ways = [(LINK._replace(way=end), 20.0) for end in LINKS[0].split(" -- ")]
    worse = LINK._replace(filter=Filter(rdma=True)), 9.0
    ranked = rank([*ways, (LINK, 20.0), worse, (Suspect("link", LINKS[1]), 20.0)], "loss", FABRIC)
    assert {each.name.name: each.probability for each in ranked} == pytest.approx({LINKS[0]: 0.5, LINKS[1]: 0.5})


def test_the_likeliest_suspects_first_name_is_first_even_if_it_shares() -> None:
    ranked = rank([(CABLE, 20.0), (Suspect("switch", "leaf-p0-r0"), 19.9)], "loss", FABRIC)
    assert ranked[0].name in [name for name, _ in names_of(CABLE, "loss", FABRIC)]


def test_some_slow_flows_are_what_a_virtual_switch_does() -> None:
    scores = [(Suspect("container", "c"), 20.0), (Suspect("vswitch", "host-p0-0"), 19.0)]
    assert rank(scores, "latency", FABRIC)[0].name.kind == "container"
    assert rank(scores, "latency", FABRIC, some_flows=True)[0].name.kind == "vswitch"
    assert rank(scores, "unreachable", FABRIC, some_flows=True)[0].name.kind == "container"


def test_the_place_says_where_to_walk_to() -> None:
    topology = Topology(
        version=1,
        hosts=(Host(name="h", rnics=(Rnic(name="n", ip="10.0.0.1"),), rack="r7", zone="z1"),),
        switches=(Switch(name="leaf", tier="leaf"),),
        links=(Link(a="h:n", b="leaf:Ethernet0"),),
    )
    fabric = Fabric(topology)
    assert component(Name("rnic", "h:n"), fabric).location == "rack r7, zone z1"
    assert component(Name("link", "h:n -- leaf:Ethernet0"), fabric).location == "rack r7, zone z1, leaf leaf"
    assert component(Name("container", "c"), fabric).location is None


def test_layers_are_those_of_the_kind() -> None:
    assert [layer_of(kind) for kind in ("link", "rnic", "host", "vswitch", "agent", "switch")] == [
        "underlay", "rnic", "host", "overlay", "service", "underlay",
    ]  # fmt: skip
