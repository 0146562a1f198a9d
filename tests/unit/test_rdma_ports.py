"""What sysfs says of an RDMA port: a tree as the kernel's, without the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.rdma.ports import PortState, gid_of, read_port, roce_addresses, why_closed

ADDRESS = "10.9.0.1"
LINK_LOCAL = "fe80:0000:0000:0000:0000:00ff:fe00:0c00"


class Tree:
    """``sysfs`` and ``verbs`` with one device, mlx5_0."""

    def __init__(self, root: Path) -> None:
        self.sysfs, self.verbs = root / "infiniband", root / "infiniband_verbs"
        self.port = self.sysfs / "mlx5_0" / "ports" / "1"
        self.write(self.verbs / "uverbs0" / "ibdev", "mlx5_0")
        self.write(self.port / "state", "4: ACTIVE")
        self.write(self.port / "active_mtu", "4096")
        self.gid(0, LINK_LOCAL, "IB/RoCE v1")
        self.gid(2, gid_of(ADDRESS), "IB/RoCE v1")
        self.gid(3, gid_of(ADDRESS), "RoCE v2")
        (self.port / "gids" / "4").mkdir()  # an empty entry cannot be read either

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def gid(self, index: int, gid: str, kind: str) -> None:
        self.write(self.port / "gids" / str(index), gid)
        self.write(self.port / "gid_attrs" / "types" / str(index), kind)
        self.write(self.port / "gid_attrs" / "ndevs" / str(index), "eth0")

    def read(self, device: str = "mlx5_0", address: str = ADDRESS) -> PortState | str:
        return read_port(device, address, self.sysfs, self.verbs)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_the_rocev2_gid_of_the_address_is_found(tree: Tree) -> None:
    assert tree.read() == PortState(3, gid_of(ADDRESS), "eth0", True, 4096)


def test_a_port_that_is_down_is_told(tree: Tree) -> None:
    tree.write(tree.port / "state", "1: DOWN")
    state = tree.read()
    assert isinstance(state, PortState)
    assert not state.active


def test_a_driver_need_not_say_its_mtu(tree: Tree) -> None:
    (tree.port / "active_mtu").unlink()
    state = tree.read()
    assert isinstance(state, PortState)
    assert state.mtu == 0


def test_the_gid_of_an_ipv6_address_is_the_address(tree: Tree) -> None:
    tree.gid(5, gid_of("2001:db8::1"), "RoCE v2")
    state = tree.read(address="2001:db8::1")
    assert isinstance(state, PortState)
    assert (state.gid_index, state.gid) == (5, "2001:0db8:0000:0000:0000:0000:0000:0001")


def test_what_is_missing_is_named_with_its_remedy(tree: Tree) -> None:
    assert "there is no RDMA device mlx5_9 (there are: mlx5_0)" in str(tree.read("mlx5_9"))
    assert "mlx5_0 has no GID of 10.9.0.7; is the address" in str(tree.read(address="10.9.0.7"))
    (tree.port / "gids" / "3").unlink()
    assert "for RoCE v1 only" in str(tree.read())
    (tree.verbs / "uverbs0" / "ibdev").unlink()
    assert "not offered to processes" in str(tree.read())


def test_where_there_is_no_device_at_all_the_ways_to_one_are_named(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    said = str(read_port("mlx5_0", ADDRESS, nothing, nothing))
    assert "nor any other; is its driver loaded, and in a container, are devices shared between network" in said


def test_why_a_device_cannot_be_opened_is_told_from_its_node(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = tmp_path / "dev"
    nodes.mkdir()

    def why() -> str:
        return why_closed("mlx5_0", tree.verbs, nodes)

    assert f"{nodes}/uverbs0 cannot be opened (No such file or directory): give the container" in why()
    (nodes / "uverbs0").touch()
    assert why() == ""

    def forbid(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "open", forbid)  # as a container's cgroup does
    assert "uverbs0 cannot be opened (Operation not permitted): a container's cgroup forbids it; pass the dev" in why()


def test_the_addresses_of_all_devices_are_listed(tree: Tree) -> None:
    tree.gid(5, gid_of("2001:db8::1"), "RoCE v2")
    (tree.sysfs / "mlx5_1").mkdir()
    assert roce_addresses(tree.sysfs) == {"mlx5_0": [ADDRESS, "2001:db8::1"], "mlx5_1": []}
    assert roce_addresses(tree.sysfs / "none") == {}
