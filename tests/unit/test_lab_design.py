"""The lab's design: what is drawn, that it is drawn afresh, and that it fits the contracts."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import check_topology
from lab.errors import LabError
from lab.network import design as drawn


def test_the_same_seed_draws_the_same_lab_and_another_seed_another() -> None:
    assert drawn.draw(7) == drawn.draw(7)
    one, other = drawn.draw(7), drawn.draw(8)
    assert {host.name for host in one.hosts} != {host.name for host in other.hosts}
    assert {link.id for link in one.links}.isdisjoint(link.id for link in other.links)


def test_default_sizes() -> None:
    design = drawn.draw(1)
    assert len(design.hosts) == 8
    assert len(design.leaves) == 4
    assert len(design.spines) == 2
    assert len(design.links) == 8 * 2 + 4 * 2


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2, 2, 4), (3, 4, 5, 7), (4, 8, 8, 64)])
def test_every_size_fits_the_topology_contract(sizes: tuple[int, int, int, int]) -> None:
    design = drawn.draw(3, *sizes)
    topology = design.topology()
    check_topology(topology, "drawn")
    pods, _, spines, hosts_per_pod = sizes
    assert len(topology.hosts) == pods * hosts_per_pod
    fabric = Fabric(topology)
    ends = sorted(fabric.interfaces)
    for end in ends[1:20]:
        interface, first = fabric.interfaces[end], fabric.interfaces[ends[0]]
        if interface.host.name == first.host.name:
            continue
        one_leaf = interface.host.pod == first.host.pod and interface.rnic.rail == first.rnic.rail
        assert fabric.path_count(ends[0], end) == (1 if one_leaf else spines)
    assert all(rnic.name == f"mlx5_{rnic.rail}" for host in topology.hosts for rnic in host.rnics)
    assert all(len(port.name) <= 15 for switch in topology.switches for port in switch.ports)
    assert all(len(rnic.netdev or "") <= 15 for host in topology.hosts for rnic in host.rnics)


def test_links_are_slash_31_and_no_address_is_used_twice() -> None:
    design = drawn.draw(11, 3, 2, 4, 8)
    addresses = [end.address for link in design.links for end in link.ends]
    addresses += [switch.loopback for switch in design.switches] + [node.management for node in design.nodes]
    addresses.append(str(drawn.MANAGEMENT_GATEWAY))
    assert len(set(addresses)) == len(addresses)
    for link in design.links:
        assert IPv4Address(link.a.address) in IPv4Network(f"{link.b.address}/31", strict=False)


def test_leaf_r_of_a_pod_serves_rail_r() -> None:
    design = drawn.draw(5, pods=2, rails=3)
    leaves = {leaf.name: leaf for leaf in design.leaves}
    hosts = {host.name: host for host in design.hosts}
    for link in design.links:
        if link.a.node in hosts:
            leaf = leaves[link.b.node]
            assert leaf.pod == hosts[link.a.node].pod
            assert link.a.port == f"mlx5_{leaf.rail}"


def test_a_design_survives_its_file() -> None:
    design = drawn.draw(2)
    assert drawn.load(drawn.dump(design)) == design


def test_a_damaged_file_is_refused_in_one_line() -> None:
    with pytest.raises(LabError, match="cannot be read") as caught:
        drawn.load(b"{}")
    assert "\n" not in str(caught.value)


def test_a_link_is_found_with_its_ends_in_either_order() -> None:
    design = drawn.draw(2)
    link = design.links[-1]
    assert design.link(f"{link.b.id} -- {link.a.id}") == design.link(link.id) == link


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    design = drawn.draw(2)
    link = design.links[0]
    with pytest.raises(LabError, match="perhaps") as caught:
        design.link(link.id[:-1] + "x")
    assert link.id in str(caught.value)
    with pytest.raises(LabError, match=design.hosts[0].name):
        design.node(design.hosts[0].name + "0")


@pytest.mark.parametrize("sizes", [(0, 2, 2, 4), (2, 2, 2, 600)])
def test_sizes_that_cannot_be_built_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(LabError):
        drawn.draw(1, *sizes)
