"""RNICs' counters as a real kernel has them: soft-RoCE's files, a device that goes, the kernel's own answers."""

from __future__ import annotations

import subprocess
import time

import pytest

from exporter.contracts.rnic_counters import (
    ACTIVE,
    BOND_MEMBERS,
    BOND_MEMBERS_UP,
    HW,
    RDMA_RECEIVE_PACKETS,
    RDMA_TRANSMIT_PACKETS,
)
from exporter.host.counterfiles import GoneError
from exporter.host.dcb import Priorities, read_priorities
from exporter.host.ethtool import KernelStatistics
from exporter.host.reading import RnicReader
from exporter.host.vlans import Vlan, read_vlans
from lab.guest.network import Fabric, Port
from tests.rdma.guest.hosts import Host, target, until


def reader(port: Port) -> RnicReader:
    return RnicReader(port.device, port.netdev, KernelStatistics())


def test_packets_of_probes_are_counted_by_both_ends(fabric: Fabric) -> None:
    near, far = fabric.ports
    readers = [reader(port) for port in (near, far)]
    before = [own.read({}).values for own in readers]
    with Host(near) as here, Host(far) as there:
        until(lambda: here.up() and there.up())
        here.plan([target(near, far)])
        here.answers(50)
    time.sleep(0.1)  # longer than the kernel keeps what it has counted (lifespan, 10 ms)
    after = [own.read({}).values for own in readers]
    for old, new in zip(before, after, strict=True):
        for metric in (RDMA_TRANSMIT_PACKETS, RDMA_RECEIVE_PACKETS):
            assert new[metric] - old[metric] >= 50
        assert HW["out_of_sequence"] in new
        assert new[ACTIVE] == 1


def test_what_it_is_and_what_it_cannot_tell(fabric: Fabric) -> None:
    port = fabric.ports[0]
    reading = reader(port).read({})
    assert (reading.device.driver, reading.device.function, reading.device.netdev) == ("rxe", "software", port.netdev)
    told = {signal for signal, state in reading.coverage.items() if state == "supported"}
    assert "loss" in told
    assert not told & {"cnp", "ecn", "pfc"}
    assert port.address in {gid.address for gid in reading.setup.gids}


def test_a_device_that_goes_is_noticed_by_its_open_files_and_read_again_when_it_is_back(fabric: Fabric) -> None:
    port = fabric.ports[1]
    own = reader(port)
    own.read({})
    own.read_bytes()
    fabric.remove_device(port)
    try:
        for _ in range(3):
            with pytest.raises(GoneError):
                own.read({})
    finally:
        fabric.add_device(port)
    until(lambda: own.read({}).values[ACTIVE] == 1)


def test_the_kernel_answers_for_devices_without_statistics_or_priorities(fabric: Fabric) -> None:
    statistics = KernelStatistics()
    for netdev in (fabric.ports[0].netdev, "lo"):
        assert all(line.value >= 0 for line in statistics.read(netdev))
        assert read_priorities(netdev) == Priorities()
    statistics.close()


def test_a_vlan_of_an_rnic_has_the_priorities_of_its_egress_map(fabric: Fabric) -> None:
    """And its GID names it: RDMA on a VLAN is counted by priority, never by the VLAN's interface."""
    port = fabric.ports[0]
    name = f"{port.netdev}.100"
    run("ip", "link", "add", "link", port.netdev, "name", name, "type", "vlan", "id", "100", "egress-qos-map", "3:3")
    try:
        run("ip", "addr", "add", "10.77.0.1/24", "dev", name)
        run("ip", "link", "set", name, "up")
        assert read_vlans()[name] == Vlan("100", port.netdev, (0, 3))
        own = reader(port)
        until(lambda: any(gid.vlan == "100" for gid in own.read(read_vlans()).setup.gids))
        assert {gid.address for gid in own.read(read_vlans()).setup.gids if gid.vlan == "100"} >= {"10.77.0.1"}
    finally:
        run("ip", "link", "del", name)
    assert name not in read_vlans()


def test_links_of_a_bond_are_counted(fabric: Fabric) -> None:  # noqa: ARG001
    run("ip", "link", "add", "bond7", "type", "bond", "mode", "active-backup", "miimon", "100")
    run("ip", "link", "add", "b0", "type", "veth", "peer", "name", "b1")
    try:
        run("ip", "link", "set", "b0", "master", "bond7")
        run("ip", "link", "set", "bond7", "up")
        run("ip", "link", "set", "b1", "up")
        own = RnicReader("none0", "b0", KernelStatistics())
        until(lambda: bonded(own) == (1.0, 1.0))
        run("ip", "link", "set", "b1", "down")
        until(lambda: bonded(own) == (1.0, 0.0))
    finally:
        run("ip", "link", "del", "b0")
        run("ip", "link", "del", "bond7")


def bonded(own: RnicReader) -> tuple[float | None, float | None]:
    values = own.read({}).values
    return values.get(BOND_MEMBERS), values.get(BOND_MEMBERS_UP)


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
