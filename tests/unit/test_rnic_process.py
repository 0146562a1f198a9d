"""The process that reads RNICs' counters, within a whole exporter: values, RDMA's throughput, hangs and returns."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.config import read_config
from exporter.contracts.codec import ContractError
from exporter.host.dcb import Priorities
from exporter.host.ethtool import SavedStatistics
from exporter.host.reading import RnicReader
from tests.unit.rnictrees import Tree
from tests.unit.running import RunningExporter, until

RNICS = """
rnics:
- {name: mlx5_0, ip: 10.0.0.1, netdev: eth0}
- {name: mlx5_1, ip: 10.0.0.2, netdev: eth1}
workloads: [{job: j, container: c, rnics: [mlx5_0, mlx5_1]}]
"""


@contextmanager
def host(directory: Path, settings: str = "") -> Iterator[tuple[RunningExporter, Tree, Tree]]:
    """An exporter on a host with two RNICs, read each second."""
    first = Tree(directory, "mlx5", "mlx5_0", "eth0")
    second = Tree(directory, "mlx5", "mlx5_1", "eth1")
    section = f"counters: {{period_seconds: 1, ethtool: ../ethtool{settings}}}\nsysfs: {directory}/sys\n"
    exporter = RunningExporter(directory / "exporter", RNICS + section, address="")
    try:
        yield exporter, first, second
    finally:
        exporter.stop()


def value(exporter: RunningExporter, series: str) -> float | None:
    found = [line for line in exporter.get("/metrics").splitlines() if line.startswith(series)]
    return float(found[0].rpartition(" ")[2]) if found else None


def test_counters_are_on_the_page_and_follow_their_files(tmp_path: Path) -> None:
    with host(tmp_path) as (exporter, first, _):
        series = 'fabric_rnic_hw_np_cnp_sent_total{host="host-",rnic="mlx5_0"}'
        until(lambda: value(exporter, series) == 1004)
        first.put({"ports/1/hw_counters/np_cnp_sent": 2**31})
        until(lambda: value(exporter, series) == 2**31)
        assert 'pfc_receive_frames_total{host="host-",rnic="mlx5_1",priority="3"} 3051' in exporter.get("/metrics")


def test_throughput_is_that_of_rdma_where_the_rnic_counts_it(tmp_path: Path) -> None:
    """The network device's bytes stand still: RDMA passes it by."""
    with host(tmp_path) as (exporter, first, _):
        until(lambda: value(exporter, "fabric_rnic_rdma_transmit_bytes_total") is not None)

        def rates() -> list[tuple[float, float]]:
            """Of each interval: when it ended, and its rate."""
            rows = [line.split(",") for line in exporter.get("/v1/throughput").splitlines()[1:]]
            return [(float(row[0]), float(row[5])) for row in rows if row[4] == "mlx5_0"]

        until(lambda: len(rates()) > 2)
        first.put({"ports/1/counters/port_xmit_data": 2014 + 1_000_000})
        until(lambda: any(rate > 0 for _, rate in rates()))
        told = rates()
        (burst,) = [number for number, (_, rate) in enumerate(told) if rate > 0]  # all of it within one interval
        assert told[burst][1] * (told[burst][0] - told[burst - 1][0]) == pytest.approx(4_000_000, rel=0.01)


def test_an_rnic_whose_firmware_hangs_delays_no_other_and_says_so(tmp_path: Path) -> None:
    with host(tmp_path, ", deadline_seconds: 0.5") as (exporter, first, second):
        until(lambda: value(exporter, 'fabric_rnic_active{host="host-",rnic="mlx5_1"}') == 1)
        hung = second.port / "hw_counters/hangs"
        os.mkfifo(second.port / "hw_counters/rx_dct_connect.new")
        os.rename(second.port / "hw_counters/rx_dct_connect.new", second.port / "hw_counters/rx_dct_connect")
        until(lambda: 'rnic="mlx5_1",signal="cnp",state="stale"' in exporter.get("/metrics"))
        assert value(exporter, 'fabric_rnic_hw_np_cnp_sent_total{host="host-",rnic="mlx5_1"}') is None
        first.put({"ports/1/hw_counters/np_cnp_sent": 5000})
        until(lambda: value(exporter, 'fabric_rnic_hw_np_cnp_sent_total{host="host-",rnic="mlx5_0"}') == 5000)
        assert "mlx5_1: no end within 0.5 s" in exporter.log
        assert exporter.get("/readyz").startswith("ready")
        # It returns: the read that hung ends, and the next ones find a number.
        fifo = second.port / "hw_counters/rx_dct_connect"
        with open(fifo, "w") as pipe:
            fifo.rename(hung)
            second.put({"ports/1/hw_counters/rx_dct_connect": 7})
            pipe.write("1\n")
        hung.unlink()
        until(lambda: value(exporter, 'fabric_rnic_hw_rx_dct_connect_total{host="host-",rnic="mlx5_1"}') == 7)
        assert "mlx5_1: read again" in exporter.log


def test_the_exporter_ends_while_a_read_hangs(tmp_path: Path) -> None:
    with host(tmp_path, ", deadline_seconds: 0.3") as (exporter, _, second):
        (second.port / "hw_counters/rx_dct_connect").unlink()
        os.mkfifo(second.port / "hw_counters/rx_dct_connect")
        until(lambda: "no end within" in exporter.log)
        began = time.monotonic()
        exporter.stop()
        assert time.monotonic() - began < 5


def test_an_rnic_that_goes_and_comes_back(tmp_path: Path) -> None:
    with host(tmp_path) as (exporter, first, _):
        series = 'fabric_rnic_hw_np_cnp_sent_total{host="host-",rnic="mlx5_0"}'
        until(lambda: value(exporter, series) == 1004)
        shutil.move(first.device, tmp_path / "gone")
        shutil.move(first.sysfs / "class/net/eth0", tmp_path / "gone-net")
        until(lambda: value(exporter, series) is None)
        until(lambda: "its RDMA device is gone" in exporter.log)
        shutil.move(tmp_path / "gone", first.device)
        first.put({"ports/1/hw_counters/np_cnp_sent": 1})
        until(lambda: value(exporter, series) == 1)


def test_patterns_that_take_no_rnic_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("host: h\nrnics: [{name: mlx5_0, ip: 10.0.0.1}]\ncounters: {include: [mlx4_*]}\n")
    with pytest.raises(ContractError, match=r"section 'counters' takes none of mlx5_0 \(correct counters.include"):
        read_config(config)


def test_excluded_rnics_are_not_read(tmp_path: Path) -> None:
    with host(tmp_path, ", exclude: ['*_1']") as (exporter, _, __):
        until(lambda: value(exporter, 'fabric_rnic_active{host="host-",rnic="mlx5_0"}') == 1)
        assert 'fabric_rnic_active{host="host-",rnic="mlx5_1"}' not in exporter.get("/metrics")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("counters:\n", r"section 'counters' is empty \(write 'counters: {}', or leave it out\)"),
        ("counters: {ethtool: nowhere}\n", "field 'counters.ethtool': .*/nowhere is no directory"),
        ("sysfs: nowhere\n", "field 'sysfs': .*/nowhere is no directory"),
    ],
)
def test_what_would_read_nothing_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("host: h\nrnics: [{name: mlx5_0, ip: 10.0.0.1}]\n" + text)
    with pytest.raises(ContractError, match=problem):
        read_config(config)


def test_sysfs_is_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "config.yaml").write_text("host: h\nsysfs: tree\n")
    assert read_config(tmp_path / "config.yaml").sysfs == str(tmp_path / "tree")


def test_an_rnic_whose_counters_cannot_be_read_is_not_silent(tmp_path: Path) -> None:
    """What its network device counts is without RDMA: a gap says that nobody knows, and 0 would say that it rests."""
    hanging = Tree(tmp_path, "mlx5", "mlx5_0", "eth0")
    Tree(tmp_path, "mlx5", "mlx5_1", "eth1")
    (hanging.port / "hw_counters/rx_dct_connect").unlink()
    os.mkfifo(hanging.port / "hw_counters/rx_dct_connect")
    section = "counters: {period_seconds: 1, deadline_seconds: 0.3, ethtool: ../ethtool}\nsysfs: ../sys\n"
    exporter = RunningExporter(tmp_path / "exporter", RNICS + section, address="")
    try:
        until(lambda: 'rnic="mlx5_0",signal="bytes",state="stale"' in exporter.get("/metrics"))
        time.sleep(0.3)
        since = time.time()
        until(lambda: "mlx5_1" in exporter.get(f"/v1/throughput?since={since:.3f}"))
        assert "mlx5_0" not in exporter.get(f"/v1/throughput?since={since:.3f}")
    finally:
        exporter.stop()


def test_a_network_device_that_is_another_ones_is_named(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5", "mlx5_0", "eth0")
    own = RnicReader("mlx5_0", "eth7", SavedStatistics(tree.root / "ethtool"), tree.sysfs, lambda _: Priorities())
    own.read({})
    assert own.read({}).refused == "there is no network device 'eth7': its GIDs are on eth0"
    own.close()
