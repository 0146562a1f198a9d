"""From what switches see by LLDP to a topology: links found, differences told, nothing guessed."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.contracts.codec import ContractError, encode
from exporter.contracts.neighbors import Neighbor, NeighborPort, Neighbors, NeighborSwitch, address, mac
from exporter.contracts.topology import Host, Link, Port, Rnic, Switch, Topology, check_topology, read_topology
from skeleton_service.cli import main
from skeleton_service.discovery.discover import Discovery, discover
from skeleton_service.discovery.topologyfile import topology_file
from tests.unit.fabrics import leaf_spine
from tests.unit.lldp import chassis, neighbor_at, told, with_port

EXAMPLES = Path(__file__).parents[2] / "examples"
FILE = read_topology(EXAMPLES / "topology.yaml")
TOLD = told(FILE)
LEAF, SPINE, HOST = "leaf-p0-r0", "spine-0", "host-p0-0"
UPLINK, DOWNLINK, SPINE_PORT = f"{LEAF}:Ethernet0", f"{LEAF}:Ethernet8", f"{SPINE}:Ethernet0"


def found(switches: Sequence[NeighborSwitch], operator: Topology | None = FILE) -> Discovery:
    """What is discovered; it is always a topology that can be read."""
    result = discover(switches, operator)
    check_topology(result.topology, "discovered")
    assert all(line.isprintable() for line in result.differences)
    return result


def differences(switches: Sequence[NeighborSwitch], operator: Topology | None = FILE) -> list[str]:
    return list(found(switches, operator).differences)


def links(topology: Topology) -> list[str]:
    return [link.id for link in topology.links]


def changed(topology: Topology, name: str, **other: object) -> Topology:
    """With something else about a host or switch."""
    return msgspec.structs.replace(
        topology,
        hosts=tuple(msgspec.structs.replace(each, **other) if each.name == name else each for each in topology.hosts),
        switches=tuple(
            msgspec.structs.replace(each, **other) if each.name == name else each for each in topology.switches
        ),
    )


def test_a_fabric_cabled_as_the_file_says_has_no_difference_and_keeps_the_file() -> None:
    result = found(TOLD)
    assert result.differences == ()
    assert links(result.topology) == links(FILE)
    assert result.topology.hosts == FILE.hosts
    assert [port.ifindex for port in result.topology.switches[0].ports] == [1000, 1001, 1002, 1003]


def test_without_a_file_the_switches_their_tiers_and_links_are_found_and_the_hosts_are_told() -> None:
    fabric = leaf_spine(pods=2, rails=1, spines=2, hosts_per_pod=1)
    result = found(told(fabric), None)
    assert {switch.name: switch.tier for switch in result.topology.switches} == {
        switch.name: switch.tier for switch in fabric.switches
    }
    assert set(links(result.topology)) == {link.id for link in fabric.links if "host" not in link.id}
    assert result.topology.hosts == ()  # LLDP knows no address of an RNIC
    port = chassis("host-p0-0:mlx5_0")
    assert result.differences[0] == (
        f"leaf-p0-r0:Ethernet8: sees host-p0-0.example.net port {port} mlx5_0, "
        "which is not among those asked (poll it, or put it in your file)"
    )


def test_what_lldp_can_not_know_is_kept_and_what_the_file_leaves_open_is_filled() -> None:
    ports = (
        Port(name="Ethernet0", linecard="lc1", breakout_group="1", lag="PortChannel1"),
        *FILE.switches[0].ports[1:],
    )
    operator = changed(FILE, LEAF, ports=ports)
    switches = with_port(
        TOLD, UPLINK, neighbor_at(FILE, SPINE_PORT), mtu=9100, speed_mbps=400_000, lag="PortChannel9", aliases=("etp1",)
    )
    result = found(switches, operator)
    assert result.differences == (f"{UPLINK}: LAG PortChannel1 in the file, PortChannel9 told: the file's is kept",)
    assert result.topology.switches[0].ports[0] == Port(
        name="Ethernet0",
        aliases=("etp1",),
        ifindex=1000,
        mtu=9100,
        speed_mbps=400_000,
        linecard="lc1",
        breakout_group="1",
        lag="PortChannel1",
    )


# ---- differences, a line each


def test_an_mtu_that_changed_is_told_and_does_not_become_the_promise() -> None:
    result = found(with_port(TOLD, UPLINK, neighbor_at(FILE, SPINE_PORT), mtu=1500))
    assert result.differences == (f"{UPLINK}: MTU 9216 in the file, 1500 told: the file's is kept",)
    assert result.topology.switches[0].ports[0].mtu == 9216


def test_a_link_of_the_file_that_no_end_sees() -> None:
    switches = with_port(with_port(TOLD, UPLINK), SPINE_PORT)
    result = found(switches)
    assert result.differences == (f"{UPLINK} -- {SPINE_PORT}: in the file, not seen",)
    assert links(result.topology) == links(FILE)  # it may be down


def test_a_link_that_is_seen_and_not_in_the_file_is_taken_in_with_its_ports() -> None:
    one, other = f"{LEAF}:Ethernet16", f"{SPINE}:Ethernet8"
    far = neighbor_at(FILE, one), neighbor_at(FILE, other)
    switches = with_port(with_port(TOLD, one, far[1], mtu=9216), other, far[0])
    result = found(switches)
    assert result.differences == (f"{one} -- {other}: seen, and not in the file",)
    assert links(result.topology) == [*links(FILE), f"{one} -- {other}"]
    assert result.topology.switches[0].ports[-1] == Port(name="Ethernet16", mtu=9216)


def test_another_port_than_the_file_says_takes_the_place_in_the_file() -> None:
    """Two cables were exchanged at the spines."""
    a, b = UPLINK, f"{LEAF}:Ethernet4"
    c, d = SPINE_PORT, "spine-1:Ethernet0"
    switches = with_port(TOLD, a, neighbor_at(FILE, d))
    switches = with_port(switches, b, neighbor_at(FILE, c))
    switches = with_port(switches, c, neighbor_at(FILE, b))
    switches = with_port(switches, d, neighbor_at(FILE, a))
    result = found(switches)
    assert list(result.differences) == [
        f"{a}: the file says {c}, seen is {d}",
        f"{c}: the file says {a}, seen is {b}",
        f"{b}: the file says {d}, seen is {c}",
        f"{d}: the file says {b}, seen is {a}",
    ]
    assert links(result.topology) == [f"{a} -- {d}", f"{b} -- {c}", *links(FILE)[2:]]


def test_a_port_that_is_now_called_otherwise_keeps_its_name_and_links() -> None:
    operator = changed(FILE, LEAF, ports=(Port(name="Ethernet0", aliases=("etp1",)), *FILE.switches[0].ports[1:]))
    switches = tuple(
        msgspec.structs.replace(
            each,
            ports=tuple(
                msgspec.structs.replace(port, name="etp1") if port.name == "Ethernet0" else port for port in each.ports
            ),
        )
        if each.name == LEAF
        else each
        for each in TOLD
    )
    switches = with_port(switches, SPINE_PORT, neighbor_at(FILE, f"{LEAF}:etp1"))
    result = found(switches, operator)
    assert list(result.differences) == [f"{UPLINK}: now called etp1: the file's name is kept, the other is an alias"]
    assert links(result.topology) == links(FILE)


def test_a_port_that_its_switch_no_longer_has() -> None:
    operator = changed(FILE, LEAF, ports=(*FILE.switches[0].ports, Port(name="Ethernet99")))
    assert differences(TOLD, operator) == [f"{LEAF}:Ethernet99: in the file, and the switch has no such port"]


def test_a_link_that_only_one_end_sees_is_taken_and_told() -> None:
    result = found(with_port(TOLD, SPINE_PORT))
    assert result.differences == (f"{UPLINK} -- {SPINE_PORT}: one way, only {UPLINK} sees it",)
    assert links(result.topology) == links(FILE)


def test_ends_that_contradict_each_other_are_not_used() -> None:
    """The leaf's cable goes to a spine port that sees another leaf."""
    other = f"{LEAF}:Ethernet16"
    result = found(with_port(TOLD, other, neighbor_at(FILE, SPINE_PORT)))
    assert result.differences == (f"{other}: sees {SPINE_PORT}, which sees {UPLINK}: not used",)
    assert links(result.topology) == links(FILE)


def test_two_ports_that_see_one_rnic_are_not_used() -> None:
    other = f"{LEAF}:Ethernet16"
    result = found(with_port(TOLD, other, neighbor_at(FILE, f"{HOST}:mlx5_0")))
    assert list(result.differences) == [
        f"{DOWNLINK}: sees {HOST}:mlx5_0, as does {other}: not used; the file says {HOST}:mlx5_0",
        f"{other}: sees {HOST}:mlx5_0, as does {DOWNLINK}: not used",
    ]
    assert links(result.topology) == links(FILE)


def test_a_switch_that_tells_nothing_or_no_neighbour_is_blind_and_keeps_its_links() -> None:
    silent = [switch for switch in TOLD if switch.name != SPINE]
    result = found(silent)
    assert (result.differences, result.blind) == ((), (f"1 of 4 switches tell nothing: {SPINE}",))
    assert links(result.topology) == links(FILE)
    result = found(with_port(with_port(TOLD, SPINE_PORT), f"{SPINE}:Ethernet4"))
    assert (result.differences, result.blind) == ((), (f"{SPINE}: tells no neighbour at all: is LLDP on?",))
    assert found(silent, changed(FILE, SPINE, state="drained")).blind == ()


def test_hosts_that_send_nothing_are_one_line_a_switch_and_one_of_them_is_a_difference() -> None:
    silent = with_port(TOLD, DOWNLINK)
    assert differences(silent) == [f"{HOST}:mlx5_0 -- {DOWNLINK}: in the file, not seen"]
    result = found(with_port(silent, f"{LEAF}:Ethernet12"))
    assert (result.differences, result.blind) == ((), (f"{LEAF}: sees none of its 2 hosts: do they send LLDP?",))
    assert links(result.topology) == links(FILE)


def test_a_switch_that_is_not_in_the_file_is_taken_in_with_a_tier() -> None:
    without = msgspec.structs.replace(
        FILE,
        switches=tuple(each for each in FILE.switches if each.name != "spine-1"),
        links=tuple(link for link in FILE.links if "spine-1" not in link.id),
    )
    result = found(TOLD, without)
    assert list(result.differences) == [
        f"{LEAF}:Ethernet4 -- spine-1:Ethernet0: seen, and not in the file",
        "leaf-p1-r0:Ethernet4 -- spine-1:Ethernet4: seen, and not in the file",
        "spine-1: not in the file, taken in as spine",
    ]
    assert set(links(result.topology)) == set(links(FILE))


def test_a_neighbour_that_is_in_no_file_is_named_as_it_names_itself() -> None:
    stranger = Neighbor(
        chassis_id="9C0591AABBCC", chassis_id_subtype=4, port_id="eth0\n", port_id_subtype=5, system_name="bmc-7"
    )
    assert differences(with_port(TOLD, f"{LEAF}:Ethernet16", stranger)) == [
        f"{LEAF}:Ethernet16: sees bmc-7 port eth0?, which is in no file"
    ]
    nameless = msgspec.structs.replace(stranger, system_name=None)
    assert differences(with_port(TOLD, DOWNLINK, nameless)) == [
        f"{DOWNLINK}: sees chassis 9c:05:91:aa:bb:cc port eth0?, which is in no file; the file says {HOST}:mlx5_0"
    ]


# ---- who is it


def test_two_switches_of_one_name_are_not_used_and_one_told_twice_is_one() -> None:
    twin = NeighborSwitch(name=SPINE, chassis_id=chassis("twin"), ports=TOLD[2].ports)
    one, other = sorted((chassis("twin"), chassis(SPINE)))
    lines = differences([*TOLD, twin])
    assert lines[0] == f"{SPINE}: two switches bear this name, chassis {one} and {other}: none is used"
    assert differences([*TOLD, *TOLD]) == []


def test_a_neighbour_with_a_known_name_and_another_chassis_is_another_device() -> None:
    impostor = neighbor_at(FILE, SPINE_PORT, chassis_id=chassis("impostor"))
    result = found(with_port(TOLD, UPLINK, impostor))
    assert result.differences[0] == (
        f"{UPLINK}: sees {SPINE} port Ethernet0, which bears the name of {SPINE} and is another chassis; "
        f"the file says {SPINE_PORT}"
    )


def test_a_switch_that_sees_itself_is_told() -> None:
    assert differences(with_port(TOLD, f"{LEAF}:Ethernet16", neighbor_at(FILE, UPLINK))) == [
        f"{LEAF}:Ethernet16: sees its own switch as {LEAF} port Ethernet0: not used"
    ]


def test_several_neighbours_on_a_port_are_told_and_the_files_is_taken_if_it_is_among_them() -> None:
    both = neighbor_at(FILE, SPINE_PORT), neighbor_at(FILE, "spine-1:Ethernet0")
    said = f"{SPINE} port Ethernet0, spine-1 port Ethernet0"
    assert differences(with_port(TOLD, UPLINK, *both)) == [
        f"{UPLINK}: sees several neighbours: {said}: the file's is taken; the file says {SPINE_PORT}"
    ]
    stale = with_port(with_port(TOLD, f"{LEAF}:Ethernet16", *both), f"{LEAF}:Ethernet20")
    assert differences(stale) == [
        f"{LEAF}:Ethernet16: sees several neighbours, a hub or an old entry: {said}: none is taken"
    ]


def test_an_rnic_that_speaks_beside_its_host_is_one_neighbour() -> None:
    """Firmware of RNICs sends LLDP of its own, with nothing but MAC addresses."""
    host = neighbor_at(FILE, f"{HOST}:mlx5_0")
    firmware = Neighbor(
        chassis_id=host.port_id, chassis_id_subtype=4, port_id=host.port_id.replace(":", "-"), port_id_subtype=3
    )
    assert differences(with_port(TOLD, DOWNLINK, firmware, host)) == []
    assert differences(with_port(TOLD, DOWNLINK, host, host)) == []


@pytest.mark.parametrize(
    "other",
    [
        {"system_name": SPINE},
        {"system_name": f"{SPINE}.fabric.example.net"},
        {"system_name": None},  # the chassis is that of one switch
        {"chassis_id": chassis(SPINE).replace(":", "").upper()},
        {"chassis_id": bytes.fromhex(chassis(SPINE).replace(":", "")).decode("latin-1")},
        {"chassis_id": "spine", "chassis_id_subtype": 7},
        {"port_id": "1000", "port_id_subtype": 7},  # the index of its interface
        {"port_id": chassis("x"), "port_id_subtype": 3, "port_description": "Ethernet0"},
        {"port_id": chassis("x"), "port_id_subtype": 3},  # the spine says which port sees the leaf
    ],
)
def test_switches_are_known_by_name_chassis_port_and_by_what_they_see(other: dict[str, object]) -> None:
    assert differences(with_port(TOLD, UPLINK, neighbor_at(FILE, SPINE_PORT, **other))) == []


ONE = changed(
    FILE, HOST, rnics=(Rnic(name="mlx5_0", ip="10.0.0.1", netdev="eth0", ips=("fe80::9e05:91ff:feaa:bb01",)),)
)


@pytest.mark.parametrize(
    "other",
    [
        {"port_id": "eth0", "port_id_subtype": 5, "port_description": None},
        {"port_id": "eth0", "port_id_subtype": 7, "port_description": None},
        {"port_id": "mlx5_0", "port_id_subtype": 1, "port_description": None},
        {"port_id": chassis("x"), "port_id_subtype": 3, "port_description": "eth0"},
        {"port_id": "9c:05:91:aa:bb:01", "port_id_subtype": 3, "port_description": None},  # of its link-local address
        {"port_id": "\x01\x0a\x00\x00\x01", "port_id_subtype": 4, "port_description": None},
        {"system_name": HOST},
        {"system_name": "localhost", "management_addresses": ("10.0.0.1",)},
        {"system_name": None, "management_addresses": ("10.0.0.1",)},
    ],
)
def test_rnics_are_known_by_device_name_mac_and_address(other: dict[str, object]) -> None:
    # Without the link in the file: nothing but what was seen may tell it.
    operator = msgspec.structs.replace(ONE, links=tuple(link for link in ONE.links if HOST not in link.id))
    (line,) = differences(with_port(TOLD, DOWNLINK, neighbor_at(ONE, f"{HOST}:mlx5_0", **other)), operator)
    assert line == f"{HOST}:mlx5_0 -- {DOWNLINK}: seen, and not in the file"


TWO = changed(
    FILE, HOST, rnics=(Rnic(name="mlx5_0", ip="10.0.0.1", netdev="a"), Rnic(name="mlx5_1", ip="10.0.0.2", netdev="b"))
)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"port_description": None}, f"which is no RNIC of {HOST} by name"),
        ({"port_id": "a", "port_id_subtype": 5, "port_description": "b"}, f"which may be mlx5_0 or mlx5_1 of {HOST}"),
    ],
)
def test_an_rnic_that_is_not_clear_is_told_and_never_guessed(other: dict[str, object], problem: str) -> None:
    seen = neighbor_at(TWO, f"{HOST}:mlx5_0", **other)
    operator = msgspec.structs.replace(TWO, links=tuple(link for link in TWO.links if HOST not in link.id))
    result = found(with_port(TOLD, DOWNLINK, seen), operator)
    (line,) = result.differences
    assert line.startswith(f"{DOWNLINK}: sees {HOST}.example.net port ")
    assert line.endswith(problem)
    assert links(result.topology) == links(operator)
    assert differences(with_port(TOLD, DOWNLINK, seen), TWO) == []  # the file knows which one, and nobody objects


def test_a_short_name_that_two_hosts_have_is_not_guessed() -> None:
    hosts = tuple(Host(name=f"gpu.{site}", rnics=(Rnic(name="eth0", ip=f"10.7.0.{n}"),)) for n, site in enumerate("ab"))
    operator = msgspec.structs.replace(FILE, hosts=(*FILE.hosts, *hosts))
    seen = Neighbor(chassis_id="x", chassis_id_subtype=7, port_id="eth0", port_id_subtype=5, system_name="gpu")
    assert differences(with_port(TOLD, f"{LEAF}:Ethernet16", seen), operator) == [
        f"{LEAF}:Ethernet16: sees gpu port eth0, which may be gpu.a or gpu.b"
    ]
    clear = msgspec.structs.replace(seen, system_name="gpu.b")
    assert differences(with_port(TOLD, f"{LEAF}:Ethernet16", clear), operator) == [
        f"gpu.b:eth0 -- {LEAF}:Ethernet16: seen, and not in the file"
    ]
    reached = msgspec.structs.replace(seen, management_addresses=("10.7.0.0",))
    assert differences(with_port(TOLD, f"{LEAF}:Ethernet16", reached), operator) == [
        f"gpu.a:eth0 -- {LEAF}:Ethernet16: seen, and not in the file"
    ]


def test_a_switch_that_is_asked_at_the_files_address_is_the_files() -> None:
    operator = changed(FILE, LEAF, management="192.0.2.7")
    renamed = tuple(
        msgspec.structs.replace(each, name="other", sys_name="other", address="192.0.2.7")
        if each.name == LEAF
        else each
        for each in TOLD
    )
    assert differences(renamed, operator) == [f"{LEAF}: called other by what tells of it: the file's name is kept"]


def test_a_port_of_a_switch_that_is_known_by_its_name_alone() -> None:
    operator = msgspec.structs.replace(changed(FILE, SPINE, ports=(), state="drained"), links=FILE.links[1:])
    seen = [switch for switch in TOLD if switch.name != SPINE]
    assert differences(seen, operator) == [f"{UPLINK} -- {SPINE_PORT}: seen, and not in the file"]


def test_parallel_links_are_told_apart_by_their_ports() -> None:
    switches = tuple(Switch(name=name, tier="leaf", ports=tuple(Port(name=f"e{n}") for n in range(4))) for name in "ab")
    fabric = Topology(
        version=1, hosts=(), switches=switches, links=tuple(Link(a=f"a:e{n}", b=f"b:e{3 - n}") for n in range(4))
    )
    result = found(told(fabric), None)
    assert set(links(result.topology)) == set(links(fabric))
    assert {switch.tier for switch in result.topology.switches} == {"unknown"}  # no host says where the bottom is


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9c:05:91:AA:bb:01", "9c:05:91:aa:bb:01"),
        ("9C-05-91-AA-BB-01", "9c:05:91:aa:bb:01"),
        ("9c05.91aa.bb01", "9c:05:91:aa:bb:01"),
        ("0x9c0591aabb01", "9c:05:91:aa:bb:01"),
        ("9c 05 91 aa bb 01 ", "9c:05:91:aa:bb:01"),
        ("\x9c\x05\x91\xaa\xbb\x01", "9c:05:91:aa:bb:01"),
        ("Ethernet0", None),
        ("9c:05:91:aa:bb", None),
        ("", None),
    ],
)
def test_a_mac_address_has_one_spelling(text: str, expected: str | None) -> None:
    assert mac(text) == expected


def test_an_address_may_be_text_or_octets() -> None:
    assert address("\x01\xc0\x00\x02\x01") == address(" 192.0.2.1") == "192.0.2.1"
    assert address("\x02" + "\x20\x01" + "\x00" * 13 + "\x01") == "2001::1"
    assert address("leaf") is None
    assert address("\x03\xc0\x00\x02\x01") is None


WORDS = st.sampled_from(
    [*(s.name for s in FILE.switches), HOST, "Ethernet0", "Ethernet4", "Ethernet8", "mlx5_0", "x", "é\n", ""]
)
MACS = st.sampled_from([chassis(LEAF), chassis(SPINE), chassis("x"), "\x00\x01\x02\x03\x04\x05", "x"])
NEIGHBORS = st.builds(
    Neighbor,
    chassis_id=WORDS | MACS,
    chassis_id_subtype=st.integers(0, 8),
    port_id=WORDS | MACS,
    port_id_subtype=st.integers(0, 8),
    port_description=st.none() | WORDS,
    system_name=st.none() | WORDS,
    management_addresses=st.lists(st.sampled_from(["10.0.0.1", "x", "::1"]), max_size=1).map(tuple),
)
PORTS = st.builds(
    NeighborPort,
    name=st.sampled_from(["Ethernet0", "Ethernet4", "Ethernet8", "etp1", "y"]),
    aliases=st.lists(WORDS, max_size=2).map(tuple),
    ifindex=st.none() | st.integers(1, 3),
    mtu=st.none() | st.integers(0, 9999),
    neighbors=st.lists(NEIGHBORS, max_size=2).map(tuple),
)
SWITCHES = st.builds(
    NeighborSwitch,
    name=st.sampled_from([*(s.name for s in FILE.switches), "new"]),
    address=st.none() | st.just("192.0.2.7"),
    chassis_id=st.none() | MACS,
    sys_name=st.none() | WORDS,
    ports=st.lists(PORTS, max_size=4, unique_by=lambda port: port.name).map(tuple),
)


@given(st.lists(SWITCHES, max_size=4), st.sampled_from([FILE, ONE, None, msgspec.structs.replace(FILE, links=())]))
@settings(max_examples=300, deadline=None)
def test_whatever_switches_tell_makes_a_topology_that_can_be_read(
    switches: list[NeighborSwitch], operator: Topology | None
) -> None:
    result = found(switches, operator)
    if operator is not None:
        assert result.topology.hosts == operator.hosts
        assert [each.name for each in result.topology.switches][: len(operator.switches)] == [
            each.name for each in operator.switches
        ]
    again = found(switches, result.topology)  # what was found is no news
    assert links(again.topology) == links(result.topology)
    assert not [line for line in again.differences if "not in the file" in line or "seen is" in line]


# ---- the command


@pytest.fixture
def neighbors(tmp_path: Path) -> Path:
    path = tmp_path / "neighbors.json"
    path.write_bytes(encode(Neighbors(version=1, switches=TOLD)))
    return path


def test_the_command_writes_a_topology_that_reads_back(
    neighbors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("t.yaml", "t.json"):
        output = tmp_path / name
        options = ["--discovered", str(neighbors), "--operator", str(EXAMPLES / "topology.yaml")]
        assert main(["topology", *options, "--output", str(output)]) == 0
        assert read_topology(output) == found(TOLD).topology
        assert capsys.readouterr().out == f"{output}: 4 switches, 4 hosts, 8 links, 0 differences\n"
    assert (tmp_path / "t.json").read_bytes().startswith(b"{")
    assert yaml.safe_load((tmp_path / "t.yaml").read_text())["version"] == 1


def test_check_writes_nothing_and_is_1_where_the_two_differ(
    neighbors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["topology", "--operator", str(EXAMPLES / "topology.yaml"), "--check"]
    assert main([*options, "--discovered", str(neighbors)]) == 0
    assert capsys.readouterr().out == ""
    neighbors.write_bytes(encode(Neighbors(version=1, switches=with_port(TOLD, SPINE_PORT))))
    assert main([*options, "--discovered", str(neighbors), "--output", str(tmp_path / "no.yaml")]) == 1
    assert capsys.readouterr().out == f"{UPLINK} -- {SPINE_PORT}: one way, only {UPLINK} sees it\n"
    assert not (tmp_path / "no.yaml").exists()


def test_check_fails_for_who_tells_nothing_only_if_it_is_strict(
    neighbors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the swap of one card, its switch alone may be asked."""
    neighbors.write_bytes(encode(Neighbors(version=1, switches=TOLD[:1])))
    options = ["topology", "--operator", str(EXAMPLES / "topology.yaml"), "--check", "--discovered", str(neighbors)]
    assert main(options) == 0
    assert capsys.readouterr().out == "not told: 3 of 4 switches tell nothing: leaf-p1-r0, spine-0, spine-1\n"
    assert main([*options, "--strict"]) == 1


CHECK = ["topology", "--operator", str(EXAMPLES / "topology.yaml"), "--check", "--discovered"]


@pytest.mark.parametrize("document", ["nobody", "a topology file", "another fabric", "no LLDP"])
def test_where_nothing_was_compared_the_exit_code_is_2(
    document: str, neighbors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = leaf_spine(pods=1, rails=1, spines=1, hosts_per_pod=1)
    renamed = msgspec.json.decode(encode(Neighbors(version=1, switches=told(other))).replace(b"p0", b"q0"))
    blind = tuple(
        msgspec.structs.replace(each, ports=tuple(msgspec.structs.replace(port, neighbors=()) for port in each.ports))
        for each in TOLD
    )
    bodies = {
        "nobody": b'{"version": 1, "switches": []}',
        "a topology file": encode(FILE),
        "another fabric": encode(
            {**renamed, "switches": [each for each in renamed["switches"] if each["name"] == "leaf-q0-r0"]}
        ).replace(b"spine-0", b"core-9"),
        "no LLDP": encode(Neighbors(version=1, switches=blind)),
    }
    neighbors.write_bytes(bodies[document])
    assert main([*CHECK, str(neighbors)]) == 2
    assert capsys.readouterr().err == (
        f"skeleton-service: {neighbors}: tells no neighbour of any switch of {EXAMPLES / 'topology.yaml'}, "
        "so nothing was compared (is LLDP on, and is it what fabric-exporter switch neighbors wrote?)\n"
    )


def test_check_of_one_switch_counts_its_links_alone(neighbors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = "leaf-p1-r0:Ethernet0 -- spine-0:Ethernet4"
    switches = with_port(TOLD, "spine-0:Ethernet4")
    neighbors.write_bytes(encode(Neighbors(version=1, switches=switches)))
    for names in ([LEAF], ["spine-1"], [LEAF, "spine-1"]):
        assert main([*CHECK, str(neighbors), "--switch", *names, "--strict"]) == 0
        assert capsys.readouterr().out == ""
    for more in (["--switch", LEAF, "--switch", "spine-0"], ["--switch", "leaf-p1-r0"], []):
        assert main([*CHECK, str(neighbors), *more]) == 1
        assert capsys.readouterr().out == f"{other}: one way, only leaf-p1-r0:Ethernet0 sees it\n"


def test_a_cable_moved_away_from_a_switch_is_a_difference_of_it(
    neighbors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    switches = with_port(with_port(TOLD, UPLINK, neighbor_at(FILE, "spine-1:Ethernet8")), SPINE_PORT)
    neighbors.write_bytes(encode(Neighbors(version=1, switches=switches)))
    for name in (LEAF, SPINE):
        assert main([*CHECK, str(neighbors), "--switch", name]) == 1
        assert UPLINK in capsys.readouterr().out


@pytest.mark.parametrize("is_there", [True, False])
def test_a_switch_named_that_tells_nothing_is_a_difference(
    is_there: bool, neighbors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = with_port(with_port(TOLD, SPINE_PORT), f"{SPINE}:Ethernet4")
    switches = silent if is_there else tuple(each for each in TOLD if each.name != SPINE)
    for told_at_all in (switches, [each for each in switches if each.name == SPINE]):
        neighbors.write_bytes(encode(Neighbors(version=1, switches=tuple(told_at_all))))
        assert main([*CHECK, str(neighbors), "--switch", SPINE]) == 1
        assert capsys.readouterr().out == f"{SPINE}: tells no neighbour: was it asked, and is LLDP on?\n"


@pytest.fixture
def exporter() -> Iterator[str]:
    """Serves the spines' neighbours."""
    body = encode(Neighbors(version=1, switches=TOLD[2:]))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/neighbors"
        server.shutdown()


def test_files_and_exporters_are_read_together_and_a_silent_one_is_left_out(
    exporter: str, neighbors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neighbors.write_bytes(encode(Neighbors(version=1, switches=TOLD[:2])))
    options = ["topology", "--operator", str(EXAMPLES / "topology.yaml"), "--check", "--discovered"]
    assert main([*options, exporter, str(neighbors)]) == 0
    silent = "http://127.0.0.1:9/v1/neighbors"
    capsys.readouterr()
    assert main([*options, exporter, str(neighbors), silent]) == 0
    assert capsys.readouterr().err.startswith(f"left out: {silent}: cannot be fetched: ")
    assert main([*options, silent]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "field 'version' is missing (add version: 1)"),
        ('{"version": 1}', "Object missing required field `switches`"),
        ('{"version": 1, "switches": [{"name": ""}]}', "field 'switches[0].name': Expected `str` of length >= 1"),
        (
            '{"version": 1, "switches": [{"name": "a:b"}]}',
            "field 'switches[0]': 'a:b' holds a colon (ports are split at the first colon)",
        ),
        (
            '{"version": 1, "switches": [{"name": "a", "ports": [{"name": "e"}, {"name": "e"}]}]}',
            "field 'switches[0]': port 'e' of 'a' appears twice (names must be unique)",
        ),
        (
            '{"version": 1, "switches": [{"name": "host-p0-0"}]}',
            "node 'host-p0-0' appears twice (names must be unique)",
        ),
    ],
)
def test_wrong_neighbours_are_exit_2_with_one_line(
    text: str, message: str, neighbors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neighbors.write_text(text)
    options = ["--operator", str(EXAMPLES / "topology.yaml"), "--check"]
    assert main(["topology", *options, "--discovered", str(neighbors)]) == 2
    assert capsys.readouterr().err == f"skeleton-service: {neighbors}: {message}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--check"], "--check: compares with the operator's file (give it as --operator)"),
        (["--strict"], "--strict: has no meaning without --check (add it, or leave --strict out)"),
        (["--switch", LEAF], "--switch: has no meaning without --check (add it, or leave --switch out)"),
        (
            ["--check", "--operator", str(EXAMPLES / "topology.yaml"), "--switch", "leaf-p0-rO"],
            f"--switch: no switch 'leaf-p0-rO' in {EXAMPLES / 'topology.yaml'} (did you mean 'leaf-p0-r0'?)",
        ),
        ([], "--output: is missing (name a file, or give --check, which writes none)"),
    ],
)
def test_what_is_missing_on_the_command_line_is_one_line(
    options: list[str], message: str, neighbors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["topology", "--discovered", str(neighbors), *options]) == 2
    assert capsys.readouterr().err == f"skeleton-service: {message}\n"


def test_a_topology_survives_yaml_whatever_its_names_look_like() -> None:
    odd = Topology(
        version=1,
        hosts=(Host(name="1e3", rnics=(Rnic(name="yes", ip="10.0.0.1"),)),),
        switches=(Switch(name="0x1f", tier="null", ports=(Port(name="12:30", breakout_group="1"),)),),
        links=(Link(a="1e3:yes", b="0x1f:12:30"),),
    )
    for name in ("t.yml", "t.json"):
        assert msgspec.convert(yaml.safe_load(topology_file(odd, name)), Topology) == odd


def test_no_source_at_all_is_a_contract_error() -> None:
    with pytest.raises(ContractError):
        discover([NeighborSwitch(name=HOST)], FILE)
