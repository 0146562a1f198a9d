"""Traces of RoCE flows, without a device: the source port, and where a trace ends by what the topology says."""

from __future__ import annotations

import socket
from pathlib import Path as FilePath

import msgspec
import pytest

from exporter.contracts.fabric import Fabric
from exporter.contracts.plan import ROCE_PORT
from exporter.probing.loop import Loop
from exporter.probing.paths import Flow, flow_of
from exporter.probing.tracing.walk import Walk
from exporter.rdma.settings import Orders
from exporter.rdma.tracing import RoceCarrier, source_port
from exporter.rdma.ways import orders
from tests.unit.fabrics import leaf_spine
from tests.unit.test_plan_contract import TARGET

BARE = leaf_spine(pods=2, rails=1, spines=2, hosts_per_pod=2)
FABRIC = Fabric(
    msgspec.structs.replace(
        BARE,
        switches=tuple(
            msgspec.structs.replace(switch, addresses=(f"10.9.{number}.1", f"10.9.{number}.2"))
            for number, switch in enumerate(BARE.switches)
        ),
    )
)


@pytest.fixture
def sysfs(tmp_path: FilePath) -> FilePath:
    """One device of each kind: the soft one sits on the interface of a hardware one, as it may."""
    for device, driver in {"mlx5_0": "mlx5_core", "mlx5_2": "mlx5_core.sf", "bnxt_re0": "bnxt_en"}.items():
        (tmp_path / "drivers" / driver).mkdir(parents=True)
        (tmp_path / device / "device").mkdir(parents=True)
        (tmp_path / device / "device" / "driver").symlink_to(tmp_path / "drivers" / driver)
    (tmp_path / "rxe0" / "device").mkdir(parents=True)
    (tmp_path / "rxe0" / "device" / "driver").symlink_to(tmp_path / "drivers" / "mlx5_core")
    (tmp_path / "rxe0" / "parent").write_text("eth0\n")
    return tmp_path


@pytest.mark.parametrize("device", ["mlx5_0", "mlx5_2"])
def test_devices_that_follow_the_flow_label_send_from_the_planned_port(device: str, sysfs: FilePath) -> None:
    assert source_port(device, 49153, 17, sysfs) == 49153
    assert source_port(device, 65535, 17, sysfs) == 65535
    assert source_port(device, 20_000, 17, sysfs) == 0xC000 | 20_000 & 0x3FFF, "a label has 14 bits for it"


def test_soft_roce_derives_its_port_from_the_queue_pair(sysfs: FilePath) -> None:
    """hash_32(17, 14) of linux/hash.h is 8084; the guest shows that packets bear such ports."""
    assert source_port("rxe0", 49153, 17, sysfs) == 0xC000 + 8084
    ports = {source_port("rxe0", 49153, pair, sysfs) for pair in range(17, 49)}
    assert len(ports) == 32
    assert all(port is not None and 0xC000 <= port <= 0xFFFF for port in ports)


def test_of_other_devices_nobody_knows_the_port_and_nothing_is_traced(sysfs: FilePath) -> None:
    assert source_port("bnxt_re0", 49153, 17, sysfs) is None
    assert source_port("mlx5_9", 49153, 17, sysfs) is None, "gone meanwhile"


def test_the_flow_of_an_rdma_target_is_that_of_roce_whatever_its_plan_says() -> None:
    assert flow_of(msgspec.structs.replace(TARGET, probe="rdma")).destination_port == ROCE_PORT


def test_orders_say_of_each_pair_how_far_its_last_switch_is() -> None:
    def target(source: str, destination: str) -> object:
        ends = [FABRIC.interfaces[f"{host}:mlx5_0"].rnic.ip for host in (source, destination)]
        return msgspec.structs.replace(
            TARGET, path=f"{source}>{destination}", probe="rdma", source_address=ends[0], destination_address=ends[1]
        )

    near = target("host-p0-0", "host-p0-1")
    far = target("host-p0-0", "host-p1-0")
    unknown = msgspec.structs.replace(TARGET, path="?", destination_address="203.0.113.1")
    targets = (near, far, unknown)
    told = msgspec.msgpack.decode(msgspec.msgpack.encode(orders(targets, FABRIC)), type=Orders)
    assert told.targets == targets
    assert [way.hops for way in told.ways] == [1, 3]
    last = [FABRIC.switches[leaf].addresses for leaf in ("leaf-p0-r0", "leaf-p1-r0")]
    assert [way.last_addresses for way in told.ways] == last
    assert orders(targets, None).ways == ()


class Listening:
    """A walk of one hop, and what came of it."""

    def __init__(self, destination: tuple[str, int]) -> None:
        self.loop = Loop()
        flow = Flow("127.0.0.1", 49153, *destination, "udp")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.carrier = RoceCarrier(self.loop, flow, self.port, "lo", 106)
        self.walk = Walk(self.loop, self._ask, lambda _: self.loop.stop(), max_hops=1)

    def _ask(self, hop_limit: int) -> float:
        self.carrier.ask(self.walk, hop_limit)
        return 0.0

    def run(self) -> Walk:
        self.walk.start()
        if not self.walk.ended:
            self.loop.run()
        self.carrier.end()
        return self.walk


def test_a_carrier_sends_what_no_device_takes_for_rdma_from_the_port_it_was_given() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        made = Listening(far.getsockname())
        walk = made.run()
        sent = [far.recvfrom(100) for _ in range(2)]
    assert walk.hops == [None], "nobody answers"
    assert {address for _, address in sent} == {("127.0.0.1", made.port)}
    assert {data[:4] for data, _ in sent} == {b"\xff\x0f\0\0"}
    assert len({data[4:8] for data, _ in sent}) == 2, "each is told from the one before"


def test_a_carrier_is_not_woken_by_its_own_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        made = Listening(far.getsockname())
        woken: list[RoceCarrier] = []

        def wake(carrier: RoceCarrier) -> None:
            woken.append(carrier)

        monkeypatch.setattr(RoceCarrier, "on_error", wake)
        made.run()
    assert not woken


def test_a_destination_without_a_roce_device_says_so_and_is_the_end() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        closed = far.getsockname()
    assert Listening(closed).run().reached


def test_a_port_that_another_socket_has_ends_the_walk() -> None:
    made = Listening(("127.0.0.1", 9))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", made.port))
        walk = made.run()
    assert not walk.reached
    assert walk.hops == []
