"""Who is at the other end of each cable: LLDP of the synthetic SONiC and of two recorded switches."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.switches.neighbors import Neighbor, identifier, read_neighbors
from lab.switches.ber import Tag
from lab.switches.walk import Walk
from tests.unit.polled import RECORDED, SYNTHETIC, Switch, put, system, with_ports

REMOTE, LOCAL = "1.0.8802.1.1.2.1.4.1.1", "1.0.8802.1.1.2.1.3.7.1"
MANAGEMENT = "1.0.8802.1.1.2.1.4.2.1.4"


def neighbors_of(walk: Walk) -> list[Neighbor]:
    with Switch(walk) as switch:
        assert switch.poll().error is None
        return switch.run(read_neighbors(switch.session, switch.device.names))


def recorded(name: str) -> list[Neighbor]:
    path = RECORDED / name
    if not Path(path).exists():
        pytest.skip(f"{name} is not in ../shared/data/snmprec")
    return neighbors_of(Walk.from_snmprec(path))


def remote(walk: Walk, index: str, **columns: tuple[int, int | bytes]) -> Walk:
    """A row of lldpRemTable, by column and value."""
    for column, value in columns.values():
        put(walk, f"{REMOTE}.{column}", {index: value}, Tag.INTEGER if isinstance(value, int) else Tag.OCTET_STRING)
    return walk


def test_the_neighbours_of_sonic() -> None:
    found = neighbors_of(Walk.from_snmprec(SYNTHETIC / "SYNTHETIC_sonic_t0.snmprec"))
    assert [(each.port, each.name, each.port_name) for each in found] == [
        ("etp1", "gpu-node-01", "eth0"),
        ("etp2", "gpu-node-02", "eth0"),
        ("etp3", "spine-1", "Ethernet0"),
        ("etp4", "spine-2", "Ethernet0"),
    ]
    assert [each.chassis_id for each in found[:2]] == ["9c:05:91:00:00:01", "9c:05:91:00:00:02"]  # told as text
    assert {each.chassis_id_subtype for each in found} == {4}


def test_the_neighbours_of_a_recorded_arista() -> None:
    found = recorded("arista-dcs-7150s-52-cl.snmprec")
    assert [(each.port, each.port_name) for each in found] == [
        ("Ethernet47", "Ethernet23"),
        ("Ethernet48", "Ethernet24"),
    ]
    for each in found:
        assert each.chassis_id.count(":") == 5
        assert each.chassis_id == each.chassis_id.lower()
        assert each.management_addresses


def test_the_neighbours_of_a_recorded_nexus() -> None:
    """Its local port numbers are none of its interfaces': lldpLocPortTable says which is which."""
    found = recorded("nxos_n3k-3064pq.snmprec")
    assert found
    for each in found:
        assert each.port.startswith("Ethernet1/")
        assert each.port_name


def two_ports() -> Walk:
    return with_ports(system(), {1: "eth1", 2: "eth2"})


CHASSIS = (5, bytes.fromhex("001122AABBCC"))


def test_the_time_mark_of_a_row_is_no_part_of_who_it_is() -> None:
    """Columns of one row may be read on either side of a change of the mark."""
    walk = remote(two_ports(), "0.1.1", kind=(4, 4), port_kind=(6, 5), port=(7, b"swp1"))
    remote(walk, "98765.1.1", chassis=CHASSIS, name=(9, b"spine-1"))
    (neighbor,) = neighbors_of(walk)
    assert (neighbor.port, neighbor.name, neighbor.port_name) == ("eth1", "spine-1", "swp1")
    assert neighbor.chassis_id == "00:11:22:aa:bb:cc"


def test_a_port_that_tells_a_mac_address_is_called_by_its_description() -> None:
    mac = bytes.fromhex("0011223344ff")
    walk = remote(
        two_ports(), "0.1.1", kind=(4, 4), chassis=CHASSIS, port_kind=(6, 3), port=(7, mac), text=(8, b"mlx5_0")
    )
    remote(walk, "0.2.1", kind=(4, 4), chassis=CHASSIS, port_kind=(6, 3), port=(7, mac))
    first, second = neighbors_of(walk)
    assert (first.port_id, first.port_name) == ("00:11:22:33:44:ff", "mlx5_0")
    assert (second.port_name, second.name) == ("00:11:22:33:44:ff", "00:11:22:aa:bb:cc")


def test_local_ports_are_found_by_name_and_else_by_number() -> None:
    walk = put(two_ports(), f"{LOCAL}.3", {"77": b"eth2", "2": b"00:11:22:33:44:55"}, Tag.OCTET_STRING)
    for number in (77, 2, 1, 5):
        remote(walk, f"0.{number}.1", kind=(4, 7), chassis=(5, b"%d" % number), port=(7, b"p"))
    assert [(each.port, each.chassis_id) for each in neighbors_of(walk)] == [
        ("eth1", "1"),
        ("eth2", "2"),
        ("eth2", "77"),
    ]


def test_management_addresses_are_parts_of_the_index() -> None:
    walk = remote(two_ports(), "0.1.1", kind=(4, 4), chassis=CHASSIS, port=(7, b"p"))
    rows = [
        "0.1.1.1.4.10.0.0.1", "55.1.1.2.16.32.1.13.184.0.0.0.0.0.0.0.0.0.0.0.1", "0.1.1.1.4.10.0.0.999",
        "0.1.1.1.5.10.0.0.1", "0.1.1.6.6.0.17.34.51.68.85", "0.1", "0.2.1.1.4.10.9.9.9",
    ]  # fmt: skip
    put(walk, MANAGEMENT, dict.fromkeys(rows, 1), Tag.INTEGER)
    (neighbor,) = neighbors_of(walk)
    assert sorted(neighbor.management_addresses) == ["10.0.0.1", "2001:db8::1"]


def test_rows_that_cannot_be_are_left_out() -> None:
    walk = remote(two_ports(), "0.1", kind=(4, 4))
    remote(walk, "0.1.1.1", kind=(4, 4))
    remote(walk, "0.1.2", chassis=(5, 7), port=(7, 8), name=(9, 9))  # of types that they cannot have
    (neighbor,) = neighbors_of(walk)
    assert (neighbor.port, neighbor.name, neighbor.port_name, neighbor.chassis_id_subtype) == ("eth1", "", "", 0)


@pytest.mark.parametrize(
    ("value", "mac", "address", "text"),
    [
        (bytes.fromhex("AABBCCDDEEFF"), True, False, "aa:bb:cc:dd:ee:ff"),
        (b"AA-BB-CC-DD-EE-FF", True, False, "aa:bb:cc:dd:ee:ff"),
        (b"\x01\x0a\x00\x00\x01", False, True, "10.0.0.1"),
        (b"\x02" + bytes(15) + b"\x01", False, True, "::1"),
        (b"\x01\x0a", False, True, ""),
        (b"Ethernet1\0", False, False, "Ethernet1"),
        (b"x" * 300, False, False, "x" * 64),
        ("1.3.6", False, False, "1.3.6"),
        (7, False, False, ""),
        (None, True, True, ""),
    ],
)
def test_identifiers_as_text(value: bytes | str | int | None, mac: bool, address: bool, text: str) -> None:
    assert identifier(value, mac, address) == text
