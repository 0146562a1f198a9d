"""RNICs' counters beside prometheus-node-exporter's: processor time of a scrape, on the same tree of 8 RNICs.

``make bench-host-counters``. Both run as they are installed, on files that look like those of mlx5, and are scraped in
turns of the same second. Ours reads all counters anew for each scrape (``period_seconds`` is that of the scrapes); it
has two processes, whose whole processor time counts, and reads what the rival does not: ``hw_counters``, GIDs, setup.
Files on a disk take as long as the kernel's page cache does: what firmware takes on hardware is beside both.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import yaml

from benchmarks.markdown import begin, head, row, say, verdict
from exporter.host.dialects import of_hw_counter, of_port_counter
from lab.counters.names import HW_COUNTERS_32, HW_COUNTERS_64, PORT_COUNTERS

RNICS = 8
RIVAL = "prometheus-node-exporter"
_WAIT_SECONDS = 10.0
_COUNTERS = ("node_infiniband_", "fabric_rnic_hw_", "fabric_rnic_port_", "fabric_rnic_rdma_")


def plant(root: Path) -> None:
    """Write a sysfs tree with RNICs as mlx5 shows them, each number another one."""
    number = 1_000_000
    for index in range(RNICS):
        port = root / f"class/infiniband/mlx5_{index}/ports/1"
        counters = {f"hw_counters/{name}": "0" for name in (*HW_COUNTERS_32, *HW_COUNTERS_64)}
        counters |= {f"counters/{name}": "0" for name in PORT_COUNTERS}
        for name in counters:
            number += 977
            counters[name] = str(number)
        setup = {
            "hw_counters/lifespan": "10",
            "state": "4: ACTIVE",
            "phys_state": "5: LinkUp",
            "rate": "400 Gb/sec (4X NDR)",
        }
        setup["link_layer"] = "Ethernet"
        for entry, address in enumerate(("fe80::1", f"::ffff:10.0.0.{index + 1}") * 2):
            setup[f"gids/{entry}"] = _gid(address)
            setup[f"gid_attrs/types/{entry}"] = "RoCE v2"
            setup[f"gid_attrs/ndevs/{entry}"] = f"eth{index}"
        for name, text in (counters | setup).items():
            file = port / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        device = port.parents[1]
        for name, text in (("fw_ver", "28.39.1002"), ("board_id", "MT_0000000838"), ("hca_type", "MT4129")):
            (device / name).write_text(text + "\n")
        net = root / f"class/net/eth{index}"
        (net / "statistics").mkdir(parents=True)
        for name, text in (
            ("mtu", "9000"),
            ("operstate", "up"),
            ("statistics/rx_bytes", "1"),
            ("statistics/tx_bytes", "1"),
        ):
            (net / name).write_text(f"{text}\n")


def _gid(address: str) -> str:
    groups = socket.inet_pton(socket.AF_INET6, address).hex()
    return ":".join(groups[at : at + 4] for at in range(0, len(groups), 4))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Scraped:
    """An exporter that runs, and what its scrapes cost."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], url: str) -> None:
        self.name, self.url, self._process = name, url, process
        self.page = ""
        self.seconds, self.scrapes = 0.0, 0

    def wait(self) -> None:
        ends = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < ends:
            try:
                self.scrape()
            except (URLError, ConnectionError):
                time.sleep(0.1)
            else:
                return
        raise RuntimeError(f"{self.name} does not answer")

    def scrape(self) -> None:
        with urlopen(self.url, timeout=10) as answer:  # noqa: S310 - the benchmark's own
            self.page = answer.read().decode()
        self.scrapes += 1

    def spent(self) -> float:
        """Processor seconds so far of the process and those that it started."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        stats = [Path(f"/proc/{pid}/stat").read_text() for pid in (self._process.pid, *children)]
        ticks = [stat.rpartition(")")[2].split()[11:13] for stat in stats]  # proc_pid_stat(5): user and system
        return sum(int(part) for own in ticks for part in own) / os.sysconf("SC_CLK_TCK")

    def counters(self) -> int:
        """How many counters of RNICs are on the page."""
        return sum(
            line.rpartition(" ")[2] not in ("", "0") for line in self.page.splitlines() if self._is_counter(line)
        )

    @staticmethod
    def _is_counter(line: str) -> bool:
        return line.startswith(("node_infiniband_", "fabric_rnic_hw_", "fabric_rnic_port_", "fabric_rnic_rdma_")) and (
            "_total{" in line
        )


@contextmanager
def running(directory: Path, tree: Path, period: float) -> Iterator[list[Scraped]]:
    """Both exporters on the tree."""
    port, rival = _free_port(), _free_port()
    config = {
        "host": "host-1",
        "listen": {"address": "127.0.0.1", "port": port},
        "sysfs": str(tree),
        "rnics": [
            {"name": f"mlx5_{index}", "ip": str(IPv4Address("10.0.0.1") + index), "netdev": f"eth{index}"}
            for index in range(RNICS)
        ],
        "throughput": {"step_seconds": period},
        "counters": {"period_seconds": period, "ethtool": str(directory)},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    ours = [sys.executable, "-m", "exporter.cli", "run", "--config", str(directory / "config.yaml")]
    theirs = [
        RIVAL, f"--web.listen-address=127.0.0.1:{rival}", f"--path.sysfs={tree}", "--collector.disable-defaults",
        "--collector.infiniband", "--web.disable-exporter-metrics",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(argv, **quiet) for argv in (ours, theirs)]  # type: ignore[call-overload]
    try:
        yield [
            Scraped("fabric-exporter", processes[0], f"http://127.0.0.1:{port}/metrics"),
            Scraped(RIVAL, processes[1], f"http://127.0.0.1:{rival}/metrics"),
        ]
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_counters", description=__doc__)
    parser.add_argument("--scrapes", type=int, default=120)
    parser.add_argument("--period", type=float, default=1.0, help="seconds between scrapes (default: 1)")
    options = parser.parse_args()
    if shutil.which(RIVAL) is None:
        parser.error(f"{RIVAL} is not on PATH: scripts/setup --rivals")
    with tempfile.TemporaryDirectory() as name:
        directory, tree = Path(name), Path(name) / "sys"
        plant(tree)
        with running(directory, tree, options.period) as exporters:
            for each in exporters:
                each.wait()
            time.sleep(2 * options.period)
            before = [each.spent() for each in exporters]
            for each in exporters:
                each.scrapes = 0
            for _ in range(options.scrapes):
                for each in exporters:
                    each.scrape()
                time.sleep(options.period)
            for each, spent in zip(exporters, before, strict=True):
                each.seconds = each.spent() - spent
    begin(
        "Host counters",
        f"{RNICS} RNICs with {len(HW_COUNTERS_32 + HW_COUNTERS_64)} hw_counters and {len(PORT_COUNTERS)} counters each,"
        f" a scrape each {options.period:g} s.",
    )
    head("exporter", "scrapes", "ms a scrape", "counters read", "us a counter", "series an RNIC")
    costs = []
    for each in exporters:
        counters = each.counters()
        costs.append(each.seconds / each.scrapes / counters)
        series = sum('="mlx5_0"' in line for line in each.page.splitlines())
        row(
            each.name, str(each.scrapes), f"{1e3 * each.seconds / each.scrapes:.2f}", str(counters),
            f"{1e6 * costs[-1]:.1f}", str(series),
        )  # fmt: skip
    known = sum(of_hw_counter(name) is not None for name in (*HW_COUNTERS_32, *HW_COUNTERS_64))
    known += sum(of_port_counter(name) is not None for name in PORT_COUNTERS)
    whole = exporters[0].counters() == RNICS * known
    say(
        verdict(costs[0] <= costs[1], "no more processor time a counter than the rival"),
        verdict(whole, f"all of the {known} counters of each RNIC that have a name are on the page"),
    )
    return 0 if costs[0] <= costs[1] and whole else 1


if __name__ == "__main__":
    sys.exit(main())
