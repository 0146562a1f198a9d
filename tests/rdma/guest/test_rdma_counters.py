"""RNICs' counters as a real kernel has them: soft-RoCE's files, a device that goes, the kernel's own answers."""

from __future__ import annotations

import time

import pytest

from exporter.contracts.rnic_counters import ACTIVE, HW, RDMA_RECEIVE_PACKETS, RDMA_TRANSMIT_PACKETS
from exporter.host.counterfiles import GoneError
from exporter.host.dcb import Priorities, read_priorities
from exporter.host.ethtool import KernelStatistics
from exporter.host.reading import RnicReader
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
