"""RNICs' own counters: what each driver's files become, and what becomes of files that go, hang or lie."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import struct
import subprocess
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.contracts import counters
from exporter.contracts.catalogue import CATALOGUE
from exporter.contracts.metric import Metric
from exporter.contracts.rnic_counters import (
    ACTIVE,
    BOND_MEMBERS,
    BOND_MEMBERS_UP,
    BYTES_TIME,
    COMBINED_RECEIVE,
    COMBINED_TRANSMIT,
    ECN_NP_ENABLED,
    ECN_RP_ENABLED,
    HW,
    LINES,
    PFC_ENABLED,
    PFC_PAUSED,
    PFC_RECEIVED,
    PFC_SENT,
    RDMA_RECEIVE,
    RDMA_TRANSMIT,
    RNIC_COVERAGE_TABLE,
    RNIC_HARDWARE,
    RNIC_PRIORITY,
    RNIC_READING,
    RNIC_VLAN_TABLE,
    STALLED_READ_RATIO,
    TRUSTS_DSCP,
)
from exporter.contracts.topology import Rnic
from exporter.exposition import Renderer
from exporter.host.counterfiles import CounterFiles, GoneError
from exporter.host.dcb import Priorities, parse, read_priorities
from exporter.host.device import read_device
from exporter.host.dialects import HW_COUNTERS, Term, of_hw_counter, of_line
from exporter.host.ethtool import KernelStatistics, Line, SavedStatistics
from exporter.host.netlink import attribute
from exporter.host.reading import SIGNALS, NoDeviceError, Reading, RnicReader, Unwrapped
from exporter.host.rows import RnicRows, Tables
from exporter.host.settings import MOST_SIGNALS, Counters, counter_settings, counter_tables
from exporter.host.vlans import Vlan
from exporter.host.vlans import parse as parse_link
from exporter.store import RowWriter, Store, TableWriter
from tests.unit.rnictrees import DRIVERS, Tree

GOLDEN = Path(__file__).parent / "golden"


_OPENED: list[RnicReader] = []


@pytest.fixture(autouse=True)
def readers_are_closed() -> Iterator[None]:
    """A reader keeps a descriptor for each of its files; a thousand are all that select(2) of a later test can take."""
    yield
    while _OPENED:
        _OPENED.pop().close()


def reader(tree: Tree) -> RnicReader:
    return told_by(tree, Priorities())


def told_by(tree: Tree, priorities: Priorities) -> RnicReader:
    statistics = SavedStatistics(tree.root / "ethtool")
    _OPENED.append(RnicReader(tree.rnic, tree.netdev, statistics, tree.sysfs, lambda _: priorities))
    return _OPENED[-1]


def rendered(reading: Reading) -> str:
    store = Store(counter_tables(1))
    rows = RnicRows(Tables(store), "host-1", "rnic0")
    rows.begin_reading()
    rows.put(reading, 0.002, 1_760_000_000.0)
    return Renderer().render([store]).decode()


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_page_of_each_driver_is_its_golden_file(driver: str, tmp_path: Path) -> None:
    """UPDATE_GOLDEN=1 writes it afresh; read the difference before you commit it."""
    reading = reader(Tree(tmp_path, driver)).read({})
    if BYTES_TIME in reading.values:
        reading.values[BYTES_TIME] = 1_760_000_000.0
    text = rendered(reading)
    golden = GOLDEN / f"rnic-{driver}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)")
@pytest.mark.parametrize("driver", DRIVERS)
def test_promtool_finds_nothing_to_say(driver: str) -> None:
    page = (GOLDEN / f"rnic-{driver}.txt").read_text()
    run = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_what_the_diagnosis_reads_is_in_the_catalogue() -> None:
    known = {metric.name for metric in CATALOGUE}
    named = {value for name, value in vars(counters).items() if name.startswith("RNIC_") and "{}" not in value}
    assert named <= known


def test_no_name_means_different_things_to_two_drivers() -> None:
    meanings: dict[str, set[str]] = {}
    for table in HW_COUNTERS.values():
        for name, metric in table.items():
            meanings.setdefault(name, set()).add(metric.name)
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}


def test_data_counters_are_words_of_four_bytes(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    tree.put({"ports/1/counters/port_rcv_data": 25, "ports/1/counters/port_xmit_data": 5})
    values = reader(tree).read({}).values
    assert (values[RDMA_RECEIVE], values[RDMA_TRANSMIT]) == (100.0, 20.0)


def test_what_two_files_count_of_one_thing_is_added(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "irdma")
    tree.put({"ports/1/hw_counters/ip4InOcts": 100, "ports/1/hw_counters/ip6InOcts": 11})
    shutil.rmtree(tree.port / "counters")
    assert reader(tree).read({}).values[RDMA_RECEIVE] == 111.0


def test_a_sum_with_a_part_missing_is_left_out_lest_it_go_back(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "irdma")
    shutil.rmtree(tree.port / "counters")
    tree.put({"ports/1/hw_counters/ip4InOcts": "N/A", "ports/1/hw_counters/ip6InOcts": 11})
    assert RDMA_RECEIVE not in reader(tree).read({}).values


def test_what_one_source_fails_to_tell_is_not_taken_from_another(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "irdma")
    tree.put({"ports/1/counters/port_rcv_data": "N/A"})
    assert RDMA_RECEIVE not in reader(tree).read({}).values


def test_bytes_of_rdma_and_of_the_network_device_are_apart_and_together(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    tree.put({"ports/1/counters/port_rcv_data": 25})
    values = reader(tree).read({}).values
    assert (values[RDMA_RECEIVE], values[COMBINED_RECEIVE]) == (100.0, 177.0)
    assert abs(values[BYTES_TIME] - time.time()) < 60


def test_statistics_that_the_kernel_refuses_cost_no_other_counter(tmp_path: Path) -> None:
    class Refusing:
        def read(self, netdev: str) -> list[Line]:
            raise OSError(16, "Device or resource busy", netdev)

    tree = Tree(tmp_path, "mlx5")
    refused = RnicReader(tree.rnic, tree.netdev, Refusing(), tree.sysfs, lambda _: Priorities())
    reading = refused.read({})
    refused.close()
    assert reading.values[HW["np_cnp_sent"]] == 1004
    assert reading.refused == "statistics or priorities of eth0 are refused: Device or resource busy"


def test_the_configured_network_device_is_asked_not_the_bond_that_gids_name(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    tree.put({"ports/1/gid_attrs/ndevs/0": "bond0", "ports/1/gid_attrs/ndevs/1": "bond0"})
    configured, found = (read_device("rnic0", netdev, tree.sysfs) for netdev in ("eth0", None))
    assert (configured.netdev, found.netdev) == ("eth0", "bond0")  # type: ignore[union-attr]
    (tree.pci / "net/eth5").mkdir(parents=True)
    found = read_device("rnic0", None, tree.sysfs)
    assert found is not None
    assert found.netdev == "eth5"


def test_a_representors_counters_have_a_prefix() -> None:
    term = of_hw_counter("vport_out_of_sequence")
    assert term is not None
    assert term.metric is HW["out_of_sequence"]


@pytest.mark.parametrize("name", ["lifespan", "db_fifo_register", "active_qps", ""])
def test_knobs_and_names_that_nobody_knows_are_left_out(name: str) -> None:
    assert of_hw_counter(name) is None


@pytest.mark.parametrize(
    ("line", "metric", "priority"),
    [
        ("rx_prio3_pause", PFC_RECEIVED, 3),
        ("pfc_pri5_rx_duration_us", PFC_PAUSED, 5),
        ("rx_priority_0_xoff.nic", PFC_RECEIVED, 0),
        ("link_down_events", LINES["link_down_events_phy"], None),
    ],
)
def test_lines_of_statistics_are_known_by_driver(line: str, metric: object, priority: int | None) -> None:
    meaning = of_line(line)
    assert meaning is not None
    assert (meaning[0].metric, meaning[1]) == (metric, priority)


def test_pause_time_is_seconds_and_stalls_are_a_share(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    lines = "NIC statistics:\n  rx_prio3_pause_duration: 2500000\n  outbound_pci_stalled_rd: 40\n"
    (tmp_path / "ethtool/eth0").write_text(lines)
    reading = reader(tree).read({})
    assert reading.priorities[3][PFC_PAUSED] == 2.5
    assert reading.values[STALLED_READ_RATIO] == 0.4


@pytest.mark.parametrize("text", ["N/A", "", "-", "0x10"])
def test_a_file_without_a_number_skips_one_counter(text: str, tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    tree.put({"ports/1/hw_counters/np_cnp_sent": text})
    values = reader(tree).read({}).values
    assert HW["np_cnp_sent"] not in values
    assert HW["rp_cnp_handled"] in values


def test_a_virtual_function_without_counters_is_blind_not_healthy(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    shutil.rmtree(tree.port / "hw_counters")
    shutil.rmtree(tree.port / "counters")
    (tmp_path / "ethtool/eth0").unlink()
    (tree.pci / "physfn").mkdir()
    reading = reader(tree).read({})
    assert set(reading.coverage.values()) == {"absent"}
    assert reading.device.function == "vf"
    assert reading.values == {ACTIVE: 1.0}


def test_pauses_that_no_priority_has_are_disabled_not_absent(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    (tmp_path / "ethtool/eth0").write_text("NIC statistics:\n  rx_prio3_bytes: 7\n")
    assert reader(tree).read({}).coverage["pfc"] == "disabled"


def test_all_signals_have_room_in_the_store() -> None:
    assert len(SIGNALS) == MOST_SIGNALS


# ---- priorities

SENT, RECEIVED = (1, 2, 3, 4, 5, 6, 7, 8), (11, 12, 13, 14, 15, 16, 17, 18)


def answer(lossless: int, apps: list[tuple[int, int, int]]) -> bytes:
    """What a kernel says for IEEE_GET: dcbnl.h."""
    pfc = struct.pack("=BBBxHxx8Q8Q", 8, lossless, 0, 0, *SENT, *RECEIVED)
    table = b"".join(attribute(1, struct.pack("=BBH", *app)) for app in apps)
    ieee = attribute(1, bytes(60)) + attribute(2, pfc) + attribute(3, table)
    body = struct.pack("=BBH", 0, 21, 0) + attribute(1, b"eth0\0") + attribute(13 | 0x8000, ieee)
    return struct.pack("=IHHII", 16 + len(body), 78, 0, 1, 0) + body


def test_priorities_are_read_from_the_kernels_answer() -> None:
    told = parse(answer(0b1000, [(5, 3, 26), (5, 6, 48), (1, 2, 0x8906)]))
    assert told == Priorities(0b1000, SENT, RECEIVED, {26: 3, 48: 6})


@pytest.mark.parametrize("error", [95, 19, 22, 1])
def test_a_device_whose_driver_takes_no_part_tells_nothing(error: int) -> None:
    assert parse(struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -error) + bytes(16)) == Priorities()


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_torn_answer_is_an_error_or_less(cut: int) -> None:
    whole = answer(0b1000, [(5, 3, 26)])
    with contextlib.suppress(OSError):
        assert parse(whole[: len(whole) - cut]).lossless in (0b1000, None)


def test_the_kernel_is_asked_for_real() -> None:
    assert read_priorities("lo") == Priorities()
    assert read_priorities("nothere0") == Priorities()


def test_pauses_that_statistics_do_not_have_are_the_kernels(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "efa")
    reading = told_by(tree, Priorities(0b1000, SENT, RECEIVED, {26: 3})).read({})
    assert [reading.priorities[priority][PFC_ENABLED] for priority in range(8)] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert (reading.priorities[3][PFC_SENT], reading.priorities[3][PFC_RECEIVED]) == (4, 14)
    assert reading.of_dscp == {26: 3}
    assert reading.coverage["pfc"] == "supported"


def test_a_driver_that_swaps_the_two_is_put_right(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "efa")
    (tmp_path / "ixgbe").mkdir()
    (tree.sysfs / "class/net/eth0/device").mkdir()
    (tree.sysfs / "class/net/eth0/device/driver").symlink_to(tmp_path / "ixgbe")
    own = told_by(tree, Priorities(1, SENT, RECEIVED)).read({}).priorities[0]
    assert (own[PFC_SENT], own[PFC_RECEIVED]) == (11, 1)


def test_statistics_come_before_what_the_kernel_has_read(tmp_path: Path) -> None:
    own = told_by(Tree(tmp_path, "mlx5"), Priorities(0b1000, SENT, RECEIVED)).read({}).priorities
    assert own[3][PFC_SENT] > 3000


def test_pfc_that_is_on_for_no_priority_is_disabled(tmp_path: Path) -> None:
    reading = told_by(Tree(tmp_path, "bnxt_re"), Priorities(0, SENT, RECEIVED)).read({})
    assert reading.coverage["pfc"] == "disabled"


def test_whether_congestion_control_is_on_is_told_by_priority(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    for side, value in (("roce_np", "1"), ("roce_rp", "0")):
        folder = tree.sysfs / f"class/net/eth0/ecn/{side}/enable"
        folder.mkdir(parents=True)
        (folder / "3").write_text(value + "\n")
    own = reader(tree).read({}).priorities[3]
    assert (own[ECN_NP_ENABLED], own[ECN_RP_ENABLED]) == (1, 0)


# ---- numbers that go back


def test_a_number_of_32_bits_that_wraps_goes_on() -> None:
    unwrapped = Unwrapped()
    numbers = [unwrapped.of("out_of_sequence", value) for value in (2**32 - 5, 3, 10, 2**32 - 1, 0)]
    assert numbers == [2**32 - 5, 2**32 + 3, 2**32 + 10, 2**33 - 1, 2**33]


def test_a_number_that_is_reset_starts_again() -> None:
    unwrapped = Unwrapped()
    numbers = [unwrapped.of("out_of_sequence", value) for value in (2**32 - 5, 3, 2**31, 0, 7)]
    assert numbers == [2**32 - 5, 2**32 + 3, 3 * 2**31, 0, 7]


def test_a_number_of_64_bits_never_wraps() -> None:
    """A reset just below 2^32 looks as a wrap does: only of counters that are known to be narrow is it one."""
    unwrapped = Unwrapped()
    assert [unwrapped.of("np_cnp_sent", value) for value in (2**32 - 1, 2**32, 2**40, 2**32 - 1, 0)] == [
        2**32 - 1, 2**32, 2**40, 2**32 - 1, 0,
    ]  # fmt: skip


def test_a_wrap_shows_in_a_reading(tmp_path: Path) -> None:
    tree, name = Tree(tmp_path, "mlx5"), "ports/1/hw_counters/out_of_sequence"
    own = reader(tree)
    tree.put({name: 2**32 - 1})
    own.read({})
    tree.put({name: 1})
    assert own.read({}).values[HW["out_of_sequence"]] == 2**32 + 1


# ---- devices that come and go


def test_files_are_read_anew_each_time(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    own = reader(tree)
    for value in (5, 6):
        tree.put({"ports/1/hw_counters/np_cnp_sent": value})
        assert own.read({}).values[HW["np_cnp_sent"]] == value


def test_a_directory_that_is_another_one_is_opened_again(tmp_path: Path) -> None:
    """As after a device was removed and came back, or where a tree is swapped by renaming."""
    tree = Tree(tmp_path, "mlx5")
    own = reader(tree)
    own.read({})
    shutil.move(tree.port / "hw_counters", tmp_path / "old")
    tree.put({"ports/1/hw_counters/np_cnp_sent": 3})
    values = own.read({}).values
    assert values[HW["np_cnp_sent"]] == 3
    assert HW["out_of_sequence"] not in values


def test_a_device_that_goes_while_it_is_read_leaves_no_half(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    own = reader(tree)
    own.read({})
    shutil.rmtree(tree.port / "hw_counters")
    shutil.rmtree(tree.port / "counters")
    with pytest.raises(GoneError):
        own.read({})
    assert own.read_bytes() == {}
    told = set(own.read({}).values)  # from now on it has none, and nothing fails
    assert told
    assert not told & {*HW.values(), RDMA_RECEIVE}


def test_a_file_whose_device_is_gone_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("1\n")
    files = CounterFiles(tmp_path, lambda name: name)
    assert files.read() == [("x", 1)]

    def gone(*_: object) -> bytes:
        raise OSError(19, "No such device")

    monkeypatch.setattr("exporter.host.counterfiles.os.pread", gone)
    with pytest.raises(GoneError, match="went away"):
        files.read()


def test_a_driver_that_refuses_one_file_skips_one_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("1\n")
    files = CounterFiles(tmp_path, lambda name: name)
    files.read()
    real, asked = os.pread, []

    def fails_once(descriptor: int, size: int, offset: int) -> bytes:
        asked.append(descriptor)
        if len(asked) == 1:
            raise OSError(22, "Invalid argument")
        return real(descriptor, size, offset)

    monkeypatch.setattr("exporter.host.counterfiles.os.pread", fails_once)
    assert files.read() == [("a", None), ("b", 1)]


def test_no_file_stays_open_of_what_is_gone(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    own = reader(tree)
    before = len(os.listdir("/proc/self/fd"))
    own.read({})
    own.read_bytes()
    own.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_rnic_that_is_not_there_is_named(tmp_path: Path) -> None:
    own = RnicReader("mlx5_9", "eth9", SavedStatistics(tmp_path), tmp_path)
    with pytest.raises(NoDeviceError, match="mlx5_9"):
        own.read({})


def test_an_rnic_whose_rdma_device_is_gone_fails_though_its_network_device_is_there(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    own = reader(tree)
    own.read({})
    shutil.move(tree.device, tmp_path / "gone")
    for _ in range(2):
        with pytest.raises(GoneError):
            own.read({})
    shutil.move(tmp_path / "gone", tree.device)
    assert own.read({}).values[HW["np_cnp_sent"]] == 1004


def test_a_host_without_rdma_tells_what_its_network_device_does(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    shutil.rmtree(tree.device)
    reading = reader(tree).read({})
    assert reading.coverage["pfc"] == "supported"
    assert reading.coverage["cnp"] == "absent"


def test_bytes_alone_are_the_same_bytes(tmp_path: Path) -> None:
    for driver in ("mlx5", "efa", "ionic"):
        own = reader(Tree(tmp_path / driver, driver))
        values = own.read({}).values
        told = own.read_bytes()
        assert told.pop(BYTES_TIME) >= values[BYTES_TIME]
        metrics = (RDMA_RECEIVE, RDMA_TRANSMIT, COMBINED_RECEIVE, COMBINED_TRANSMIT)
        assert told == {metric: values[metric] for metric in metrics}


# ---- what it is


def test_a_device_is_named_with_its_place(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    device = read_device("rnic0", None, tree.sysfs)
    assert device is not None
    assert device.labels == ("mlx5_core", "1.2.3", "BOARD1", "0000:17:00.0", "1", "pf", "eth0", "")


def test_a_bond_is_named_and_says_which_of_its_links_are_up(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    net = tree.sysfs / "class/net"
    (net / "bond0/bonding").mkdir(parents=True)
    (net / "bond0/bonding/slaves").write_text("eth0 eth1\n")
    (net / "eth0/master").symlink_to(net / "bond0")
    for member, state in (("eth0", "up"), ("eth1", "down")):
        (net / member / "bonding_slave").mkdir(parents=True)
        (net / member / "bonding_slave/mii_status").write_text(state + "\n")
    reading = reader(tree).read({})
    assert reading.device.bond == "bond0"
    assert (reading.values[BOND_MEMBERS], reading.values[BOND_MEMBERS_UP]) == (2, 1)


def test_soft_roce_is_software(tmp_path: Path) -> None:
    device = read_device("rnic0", None, Tree(tmp_path, "rxe").sysfs)
    assert device is not None
    assert (device.driver, device.function, device.pci) == ("rxe", "software", "")


VLANS = {
    "eth0.100": Vlan("100", "eth0", (0, 3)),
    "eth0.200": Vlan("200", "eth0"),
    "eth9.100": Vlan("100", "eth9", (5,)),
}


def test_vlans_of_gids_are_told(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    tree.put({"ports/1/gids/3": "0000:0000:0000:0000:0000:ffff:0a01:0001"})
    tree.put({"ports/1/gid_attrs/types/3": "RoCE v2", "ports/1/gid_attrs/ndevs/3": "eth0.100"})
    gids = reader(tree).read(VLANS).setup.gids
    assert [(gid.index, gid.address, gid.type, gid.vlan) for gid in gids] == [
        (0, "fe80::ff:fe00:1", "IB/RoCE v1", ""),
        (1, "10.0.0.1", "RoCE v2", ""),
        (3, "10.1.0.1", "RoCE v2", "100"),
    ]


def test_priorities_of_an_rnics_own_vlans_are_rows(tmp_path: Path) -> None:
    """Of which priority's counters speak for a VLAN: RoCE passes the VLAN interface's own by."""
    store = Store(counter_tables(1))
    rows = RnicRows(Tables(store), "h", "rnic0")
    rows.put(reader(Tree(tmp_path, "mlx5")).read(VLANS), 0.1, 100.0)
    assert {row.labels[2:] for row in store.read(RNIC_VLAN_TABLE)} == {("100", "0"), ("100", "3"), ("200", "0")}
    rows.fail()
    assert not list(store.read(RNIC_VLAN_TABLE))


def link(name: bytes, *about: bytes) -> bytes:
    """What RTM_GETLINK says of a link: if_link.h."""
    return bytes(16) + attribute(3, name + b"\0") + attribute(5, b"\xff\xff\xff\x7f") + b"".join(about)


def test_a_vlans_egress_map_is_its_priorities() -> None:
    maps = attribute(1, struct.pack("=II", 3, 3)) + attribute(1, struct.pack("=II", 4, 5)) + attribute(1, b"cut")
    data = attribute(1, struct.pack("=H", 100)) + attribute(3, maps)
    told = parse_link(link(b"eth0.100", attribute(18, attribute(1, b"vlan\0") + attribute(2, data))))
    assert told == ("eth0.100", Vlan("100", "", (0, 3, 5)))


@pytest.mark.parametrize(
    "message",
    [
        link(b"eth0"),
        link(b"vx0", attribute(18, attribute(1, b"vxlan\0") + attribute(2, attribute(1, struct.pack("=I", 100))))),
        link(b"eth0.1", attribute(18, attribute(1, b"vlan\0"))),
        link(b"eth0.1", attribute(18, attribute(1, b"vlan\0") + attribute(2, attribute(1, b"x")))),
        b"",
        bytes(20),
    ],
)
def test_other_links_are_no_vlans(message: bytes) -> None:
    assert parse_link(message) is None


@pytest.mark.parametrize(("of_dscp", "trusts"), [({26: 3}, 1.0), ({}, 0.0)])
def test_whether_dscp_is_trusted_is_told(tmp_path: Path, of_dscp: dict[int, int], trusts: float) -> None:
    reading = told_by(Tree(tmp_path, "mlx5"), Priorities(0b1000, SENT, RECEIVED, of_dscp)).read({})
    assert reading.values[TRUSTS_DSCP] == trusts
    assert TRUSTS_DSCP not in reader(Tree(tmp_path / "other", "mlx5")).read({}).values


# ---- rows


def values(store: Store) -> dict[str, float]:
    (row,) = store.read(RNIC_READING)
    names = [metric.otel_name.removeprefix("fabric.rnic.") for metric in RNIC_READING.metrics]
    return dict(zip(names, row.values, strict=True))


def test_changes_of_the_setup_are_counted(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "mlx5")
    own, store = reader(tree), Store(counter_tables(1))
    rows = RnicRows(Tables(store), "h", "rnic0")
    rows.put(own.read({}), 0.1, 1.0)
    tree.put({"ports/1/gids/1": "0000:0000:0000:0000:0000:ffff:0a00:0009", "ports/1/state": "1: DOWN"})
    (tree.sysfs / "class/net/eth0/mtu").write_text("1500\n")
    rows.put(own.read({}), 0.1, 2.0)
    rows.put(own.read({}), 0.1, 3.0)
    told = values(store)
    assert [told[f"{what}.changes"] for what in ("gid", "mtu", "port")] == [1, 1, 1]


def test_a_new_row_is_never_seen_without_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros for an instant would be a reset, and then a rise by all that was ever counted."""
    store, seen = Store(counter_tables(1)), []
    rows = RnicRows(Tables(store), "h", "rnic0")
    reading = reader(Tree(tmp_path, "mlx5")).read({})
    add = TableWriter.add

    def watched(self: TableWriter, labels: list[str], values: array[float] | None = None) -> RowWriter:
        row = add(self, labels, values)
        seen.extend(own.values for table in (RNIC_HARDWARE, RNIC_PRIORITY) for own in store.read(table))
        return row

    monkeypatch.setattr(TableWriter, "add", watched)
    rows.put(reading, 0.1, 1.0)
    assert seen
    assert not any(value == 0 for values in seen for value in values)


def test_values_are_taken_back_when_a_reading_fails(tmp_path: Path) -> None:
    store = Store(counter_tables(1))
    rows = RnicRows(Tables(store), "h", "rnic0")
    reading = reader(Tree(tmp_path, "mlx5")).read({})
    rows.put(reading, 0.1, 1.0)
    rows.fail()
    assert list(store.read(RNIC_HARDWARE)) == []
    assert {row.labels[3] for row in store.read(RNIC_COVERAGE_TABLE)} == {"stale"}
    assert values(store)["counters.read.failures"] == 1
    rows.put(reading, 0.1, 2.0)
    (row,) = store.read(RNIC_HARDWARE)
    assert not math.isnan(row.values[RNIC_HARDWARE.metrics.index(HW["np_cnp_sent"])])


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [((), (), "a0 a1 b0"), (("a*",), (), "a0 a1"), ((), ("a1",), "a0 b0"), (("a*",), ("*1",), "a0")],
)
def test_rnics_are_taken_by_pattern(include: tuple[str, ...], exclude: tuple[str, ...], taken: str) -> None:
    rnics = [Rnic(name=name, ip=f"10.0.0.{number}") for number, name in enumerate(("a0", "a1", "b0"), 1)]
    settings = counter_settings(Counters(include=include, exclude=exclude), "h", rnics, 1.0, "/sys")
    assert " ".join(rnic.name for rnic in settings.rnics) == taken


def told_by_ethtool(netdev: str) -> dict[str, int]:
    done = subprocess.run(["ethtool", "-S", netdev], text=True, capture_output=True, check=False)
    pairs = (line.rpartition(":") for line in done.stdout.splitlines()[1:])
    return {name.strip(): int(value) for name, _, value in pairs}


@pytest.mark.skipif(shutil.which("ethtool") is None, reason="ethtool is not on PATH (apt: ethtool)")
def test_the_kernels_statistics_are_those_of_ethtool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever network device this machine has that counts something."""
    counting = {netdev: own for netdev in os.listdir("/sys/class/net") if (own := told_by_ethtool(netdev))}
    if not counting:
        pytest.skip("no network device of this machine has statistics of its own")
    metrics: dict[str, Metric] = {}

    def any_name(name: str) -> tuple[Term, None]:
        metrics[name] = Metric("fabric.test", "counter", "", (), name, "1")
        return Term(metrics[name]), None

    monkeypatch.setattr("exporter.host.ethtool.of_line", any_name)
    statistics = KernelStatistics()
    for netdev, expected in counting.items():
        metrics.clear()
        told = {line.term.metric.help: line.value for line in statistics.read(netdev)}
        assert told.keys() == expected.keys()
        assert all(told[name] >= value for name, value in expected.items())  # counters, which only rise
    statistics.close()


def test_the_kernels_statistics_are_asked_for_without_a_program() -> None:
    statistics = KernelStatistics()
    assert statistics.read("lo") == []
    assert statistics.read("nothere0") == []
    statistics.close()
