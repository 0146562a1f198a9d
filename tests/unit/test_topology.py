"""What a topology file may not say, each with its line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from exporter.contracts.codec import ContractError
from exporter.contracts.topology import check_topology, read_topology
from tests.unit.fabrics import leaf_spine

HEAD = "version: 1\n"
HOST = "hosts: [{name: h, rnics: [{name: r, ip: 10.0.0.1}]}]\n"
LEAF = "switches: [{name: leaf, tier: leaf, ports: [{name: e0}]}]\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('hosts: [{name: "", rnics: []}]\nswitches: []\nlinks: []', "node has an empty name"),
        (
            "hosts: [{name: h, rnics: []}]\nswitches: [{name: h, tier: leaf}]\nlinks: []",
            "node 'h' appears twice (names must be unique)",
        ),
        (
            'hosts: [{name: "h:1", rnics: []}]\nswitches: []\nlinks: []',
            "node 'h:1' holds a colon (ports are split at the first colon)",
        ),
        (
            "hosts: [{name: h, rnics: [{name: r, ip: 1.1.1.1}, {name: r, ip: 1.1.1.2}]}]\nswitches: []\nlinks: []",
            "rnic 'h:r' appears twice (names must be unique)",
        ),
        (
            "hosts: [{name: h, rnics: [{name: r, ip: 1.1.1.1}, {name: s, ip: 1.1.1.1}]}]\nswitches: []\nlinks: []",
            "rnic address '1.1.1.1' appears twice (names must be unique)",
        ),
        (
            "hosts: [{name: h, rnics: [{name: r, ip: 1.1.1.1}, {name: s, ip: 1.1.1.2, ips: [1.1.1.1]}]}]\n"
            "switches: []\nlinks: []",
            "rnic address '1.1.1.1' appears twice (names must be unique)",
        ),
        (
            'hosts: [{name: h, rnics: [{name: r, ip: "fd00::1"}, {name: s, ip: "FD00:0::1"}]}]\n'
            "switches: []\nlinks: []",
            "rnic address 'fd00::1' appears twice (names must be unique)",
        ),
        (
            'hosts: [{name: h, rnics: [{name: r, ip: "fd00::1%eth0"}]}]\nswitches: []\nlinks: []',
            "address of an RNIC of host 'h': 'fd00::1%eth0' has a zone, which no other host knows",
        ),
        (
            'hosts: [{name: h, vteps: ["fd00::x"], rnics: [{name: r, ip: 1.1.1.1}]}]\nswitches: []\nlinks: []',
            "address of a VTEP of host 'h': 'fd00::x' does not appear to be an IPv4 or IPv6 address",
        ),
        (
            "hosts: []\nswitches: [{name: s, tier: leaf, ports: [{name: e}, {name: e}]}]\nlinks: []",
            "port 's:e' appears twice (names must be unique)",
        ),
        (
            HOST + LEAF + 'links: [{a: "h:r", b: "leaf:e0"}, {b: "h:r", a: "leaf:e0"}]',
            "link 'h:r -- leaf:e0' appears twice (names must be unique)",
        ),
        (
            HOST + LEAF + 'links: [{a: "h:r", b: "leaf"}]',
            "field 'links[0]': port 'leaf' is not written switch:port or host:rnic",
        ),
        (
            HOST + LEAF + 'links: [{a: "h:r", b: "spine:e0"}]',
            "field 'links[0]': 'spine:e0' is on no known host or switch (add the node)",
        ),
        (
            HOST + LEAF + 'links: [{a: "h:x", b: "leaf:e0"}]',
            "field 'links[0]': 'h:x' is no RNIC of its host (add the RNIC)",
        ),
        (
            HOST + LEAF + 'links: [{a: "h:r", b: "leaf:e0"}, {a: "leaf:e0", b: "leaf:e1"}]',
            "field 'links[1]': 'leaf:e0' is an end of two links",
        ),
        ("hosts: [{name: h}]\nswitches: []\nlinks: []", "field 'hosts[0]': Object missing required field `rnics`"),
        (
            "hosts: [{name: h, rnics: [], state: asleep}]\nswitches: []\nlinks: []",
            "field 'hosts[0].state': 'asleep' is none of active, drained",
        ),
    ],
)
def test_a_wrong_topology_is_refused_with_its_entry(body: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(HEAD + body)
    with pytest.raises(ContractError) as refusal:
        read_topology(path)
    assert str(refusal.value) == f"{path}: {message}"


def test_parallel_links_and_switches_without_listed_ports_are_legal(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(
        HEAD + "hosts: []\nswitches: [{name: a, tier: leaf}, {name: b, tier: spine}]\n"
        'links: [{a: "a:1", b: "b:1"}, {a: "b:2", b: "a:2"}]\n'
    )
    assert [link.id for link in read_topology(path).links] == ["a:1 -- b:1", "a:2 -- b:2"]


def test_a_drawn_fabric_survives_yaml(tmp_path: Path) -> None:
    topology = leaf_spine()
    check_topology(topology, "drawn")
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(msgspec.to_builtins(topology)))
    assert read_topology(tmp_path / "t.yaml") == topology


def refusal_of(directory: Path, body: str) -> str:
    (directory / "t.yaml").write_text(HEAD + body)
    with pytest.raises(ContractError) as refusal:
        read_topology(directory / "t.yaml")
    return str(refusal.value).removeprefix(f"{directory / 't.yaml'}: ")


@pytest.mark.parametrize(
    "switches",
    [
        "[{name: s, tier: leaf, ports: [{name: a, addresses: [10.9.0.1]}, {name: b, addresses: [10.9.0.1]}]}]",
        "[{name: s, tier: leaf, ports: [{name: a, addresses: [10.9.0.1]}]}, {name: t, tier: leaf, "
        "ports: [{name: a, addresses: [10.9.0.1]}]}]",
        "[{name: s, tier: leaf, addresses: [10.9.0.1], ports: [{name: a, addresses: [10.9.0.1]}]}]",
    ],
)
def test_one_address_on_two_switch_ports_is_refused(switches: str, tmp_path: Path) -> None:
    """The later port used to win, and routes crossed links that they do not take."""
    assert refusal_of(tmp_path, f"hosts: []\nswitches: {switches}\nlinks: []") == (
        "switch address '10.9.0.1' appears twice (names must be unique)"
    )


def test_a_link_to_a_port_that_its_switch_does_not_list_is_refused(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, HOST + LEAF + 'links: [{a: "h:r", b: "leaf:e1"}]') == (
        "field 'links[0]': 'leaf:e1' is no port of its switch (list the port)"
    )


def test_ipv6_addresses_are_read_in_one_spelling(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        HEAD + 'hosts: [{name: h, rnics: [{name: r, ip: "FD00:0::1", ips: ["::ffff:10.0.0.1"]}]}]\n'
        "switches: []\nlinks: []"
    )
    (host,) = read_topology(path).hosts
    assert host.rnics[0].addresses == ("fd00::1", "10.0.0.1")
