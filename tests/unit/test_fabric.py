"""Routes and paths on a small leaf-spine fabric: two pods, two rails, two spines."""

from __future__ import annotations

from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import Link, Port, Topology
from tests.unit.fabrics import leaf_spine


def with_addresses(topology: Topology) -> Topology:
    """Every switch and every port gets an address: 192.0.2.<switch>, 198.51.<switch>.<port>."""
    switches = tuple(
        msgspec.structs.replace(
            switch,
            addresses=(f"192.0.2.{s}",),
            ports=tuple(
                msgspec.structs.replace(port, addresses=(f"198.51.{s}.{p}",)) for p, port in enumerate(switch.ports)
            ),
        )
        for s, switch in enumerate(topology.switches)
    )
    return msgspec.structs.replace(topology, switches=switches)


TOPOLOGY = with_addresses(leaf_spine(pods=2, rails=2, spines=2, hosts_per_pod=2))
FABRIC = Fabric(TOPOLOGY)
NEAR, FAR = "host-p0-0:mlx5_0", "host-p1-0:mlx5_0"
PORTS = ("leaf-p0-r0:Ethernet8", "spine-1:Ethernet0", "leaf-p1-r0:Ethernet4")
LINKS = (
    "host-p0-0:mlx5_0 -- leaf-p0-r0:Ethernet8",
    "leaf-p0-r0:Ethernet4 -- spine-1:Ethernet0",
    "leaf-p1-r0:Ethernet4 -- spine-1:Ethernet8",
    "host-p1-0:mlx5_0 -- leaf-p1-r0:Ethernet8",
)


def address(place: str) -> str:
    node, _, name = place.partition(":")
    switch = FABRIC.switches[node]
    return next(port.addresses[0] for port in switch.ports if port.name == name) if name else switch.addresses[0]


@pytest.mark.parametrize(
    "route",
    [
        PORTS,
        tuple(address(port) for port in PORTS),
        tuple(port.partition(":")[0] for port in PORTS),
        tuple(address(port.partition(":")[0]) for port in PORTS),
        (PORTS[0], "spine-1", address(PORTS[2])),
    ],
    ids=["ports", "port addresses", "switch names", "switch addresses", "mixed"],
)
def test_a_complete_route_names_its_links_in_order(route: tuple[str, ...]) -> None:
    assert FABRIC.links_of_route(NEAR, route, FAR) == LINKS


@pytest.mark.parametrize("silent", range(3))
def test_a_silent_hop_makes_a_route_worthless(silent: int) -> None:
    assert FABRIC.links_of_route(NEAR, [None if n == silent else hop for n, hop in enumerate(PORTS)], FAR) is None


@pytest.mark.parametrize("route", [(), PORTS[:1], PORTS[:2], PORTS[1:], (PORTS[0], PORTS[2])])
def test_a_truncated_route_makes_no_links(route: tuple[str, ...]) -> None:
    assert FABRIC.links_of_route(NEAR, route, FAR) is None


@pytest.mark.parametrize("route", [order for order in permutations(PORTS) if order != PORTS])
def test_a_reordered_route_makes_no_links(route: tuple[str, ...]) -> None:
    assert FABRIC.links_of_route(NEAR, route, FAR) is None
    assert FABRIC.links_of_route(NEAR, [hop.partition(":")[0] for hop in route], FAR) is None


def test_a_route_spliced_of_two_paths_makes_no_links() -> None:
    spliced = (PORTS[0], "spine-0:Ethernet0", PORTS[2])  # the last hop came in from spine-1
    assert FABRIC.links_of_route(NEAR, spliced, FAR) is None


def test_a_route_that_turns_back_makes_no_links() -> None:
    turned = ("leaf-p0-r0", "spine-0", "leaf-p0-r0", "spine-1", "leaf-p1-r0")
    assert FABRIC.links_of_route(NEAR, turned, FAR) is None


@pytest.mark.parametrize("hop", ["203.0.113.9", "nobody", "leaf-p0-r0:Ethernet999", "", "host-p0-1:mlx5_0"])
def test_a_hop_that_is_no_switch_of_the_fabric_makes_no_links(hop: str) -> None:
    assert FABRIC.links_of_route(NEAR, (hop, *PORTS[1:]), FAR) is None


@given(st.lists(st.sampled_from([*PORTS, None, "spine-0", "leaf-p0-r1", "10.0.0.1", FAR, NEAR]), max_size=6))
def test_whatever_the_route_says_links_join_the_two_ends(route: list[str | None]) -> None:
    links = FABRIC.links_of_route(NEAR, route, FAR)
    if links is not None:
        assert NEAR in links[0]
        assert FAR in links[-1]
        assert len(set(links)) == len(links)


def parallel() -> Fabric:
    """A second cable between leaf-p0-r0 and spine-1."""
    topology = TOPOLOGY
    switches = tuple(
        msgspec.structs.replace(switch, ports=(*switch.ports, Port(name="Ethernet100", addresses=(f"100.0.0.{n}",))))
        for n, switch in enumerate(topology.switches)
    )
    extra = Link(a="spine-1:Ethernet100", b="leaf-p0-r0:Ethernet100")
    return Fabric(msgspec.structs.replace(topology, switches=switches, links=(*topology.links, extra)))


def test_a_switch_name_after_parallel_links_leaves_the_choice_open() -> None:
    fabric = parallel()
    assert fabric.links_of_route(NEAR, (PORTS[0], "spine-1", PORTS[2]), FAR) is None
    assert fabric.links_of_route(NEAR, PORTS, FAR) == LINKS
    links = fabric.links_of_route(NEAR, (PORTS[0], "spine-1:Ethernet100", PORTS[2]), FAR)
    assert links is not None
    assert links[1] == "leaf-p0-r0:Ethernet100 -- spine-1:Ethernet100"


def test_paths_are_counted_with_parallel_links() -> None:
    assert FABRIC.path_count(NEAR, FAR) == 2
    assert FABRIC.path_count(NEAR, "host-p0-1:mlx5_0") == 1
    assert parallel().path_count(NEAR, FAR) == 3


def test_rails_do_not_meet_below_the_spines() -> None:
    assert FABRIC.path_count(NEAR, "host-p0-1:mlx5_1") == 2


def test_there_is_no_path_to_what_is_not_cabled() -> None:
    cut = msgspec.structs.replace(TOPOLOGY, links=tuple(link for link in TOPOLOGY.links if FAR not in (link.a, link.b)))
    assert Fabric(cut).path_count(NEAR, FAR) == 0
    assert Fabric(cut).possible_links(NEAR, FAR) == frozenset()
    assert FABRIC.path_count(NEAR, "nobody:mlx5_0") == 0


def test_possible_links_are_those_of_every_shortest_path() -> None:
    by_spine = {
        f"leaf-p{pod}-r0:Ethernet{4 * spine} -- spine-{spine}:Ethernet{8 * pod}" for pod in (0, 1) for spine in (0, 1)
    }
    assert FABRIC.possible_links(NEAR, FAR) == {LINKS[0], LINKS[3], *by_spine}
    assert FABRIC.possible_links(NEAR, "host-p0-1:mlx5_0") == {LINKS[0], "host-p0-1:mlx5_0 -- leaf-p0-r0:Ethernet12"}


def test_a_path_never_crosses_a_host() -> None:
    """Two RNICs of one host do not forward to one another: without spines the rails are islands."""
    island = leaf_spine(pods=1, rails=2, spines=0, hosts_per_pod=2)
    assert Fabric(island).path_count("host-p0-0:mlx5_0", "host-p0-1:mlx5_1") == 0


def test_an_address_finds_its_rnic_port_or_switch() -> None:
    assert FABRIC.by_address["10.1.0.1"].id == FAR
    assert FABRIC.locate(address("spine-1:Ethernet0")) == "spine-1:Ethernet0"
    assert FABRIC.locate(address("spine-1")) == "spine-1"
    assert FABRIC.locate("203.0.113.1") is None


def test_an_end_knows_its_link() -> None:
    assert FABRIC.link_of("spine-1:Ethernet0") == LINKS[1]
    assert FABRIC.link_of("spine-1:Ethernet999") is None


def test_the_switches_between_two_rnics_are_counted() -> None:
    near, beside, far, alone = (f"host-p{pod}-{n}:mlx5_0" for pod, n in ((0, 0), (0, 1), (1, 0), (1, 1)))
    topology = leaf_spine(pods=2, rails=1, spines=2, hosts_per_pod=2)
    cut = msgspec.structs.replace(
        topology, links=tuple(link for link in topology.links if alone not in (link.a, link.b))
    )
    fabric = Fabric(cut)
    assert fabric.switch_count(near, beside) == 1
    assert fabric.switch_count(near, far) == fabric.switch_count(far, near) == 3
    assert fabric.switch_count(near, alone) == fabric.switch_count(alone, near) == 0, "not cabled"
