"""Reading a network device from a sysfs tree: absent stays absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.config import Throughput, Workload
from exporter.contracts.catalogue import RNIC
from exporter.contracts.topology import Rnic
from exporter.exposition import Renderer
from exporter.host.monitor import RnicMonitor
from exporter.host.netdev import NetdevReading, read_netdev
from exporter.host.throughput import throughput_csv
from exporter.store import Store


def device(root: Path, name: str, **files: str) -> None:
    for file, text in files.items():
        path = root / "class/net" / name / file.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_device_is_read_whole(tmp_path: Path) -> None:
    device(tmp_path, "eth0", operstate="up\n", mtu="9000\n", statistics__rx_bytes="5\n", statistics__tx_bytes="7\n")
    assert read_netdev("eth0", str(tmp_path)) == NetdevReading(5, 7, 9000, True)


@pytest.mark.parametrize(("state", "up"), [("up", True), ("unknown", True), ("down", False), ("lowerlayerdown", False)])
def test_operstate_tells_whether_a_device_is_up(state: str, up: bool, tmp_path: Path) -> None:
    device(tmp_path, "eth0", operstate=state + "\n")
    assert read_netdev("eth0", str(tmp_path)) == NetdevReading(None, None, None, up)


def test_a_device_that_is_not_there_is_absent_not_down(tmp_path: Path) -> None:
    assert read_netdev("eth0", str(tmp_path)) == NetdevReading(None, None, None, None)


def test_a_file_that_holds_no_number_is_absent(tmp_path: Path) -> None:
    device(tmp_path, "eth0", mtu="\n", statistics__rx_bytes="many\n")
    assert read_netdev("eth0", str(tmp_path)) == NetdevReading(None, None, None, None)


def test_the_monitor_serves_what_a_workload_used_as_the_throughput_contract(tmp_path: Path) -> None:
    store = Store([(RNIC, 2)])
    rnics = [Rnic(name="r0", ip="10.0.0.1", netdev="eth0"), Rnic(name="r1", ip="10.0.0.2", netdev="eth1")]
    monitor = RnicMonitor("h", rnics, Throughput(), str(tmp_path), store)
    for now, sent in ((100.0, 0), (101.0, 500), (102.0, 1500)):
        device(tmp_path, "eth0", operstate="up", mtu="9000", statistics__rx_bytes="0", statistics__tx_bytes=str(sent))
        monitor.sample(now)
    workloads = [Workload(job="j", container="c", rnics=("r0", "r1"), rank=3)]
    assert throughput_csv(monitor.rings, "h", workloads, 101.5, 102.0).decode().splitlines() == [
        "time,job,host,container,rnic,tx_bytes_per_second,rx_bytes_per_second,rank",
        "102.000000,j,h,c,r0,1000.0,0.0,3",
    ]
    text = Renderer().render([store]).decode()
    assert 'fabric_rnic_transmit_bytes_total{host="h",rnic="r0"} 1500' in text
    assert 'fabric_rnic_mtu_bytes{host="h",rnic="r1"}' not in text  # the device is gone: absent, not 0
