"""RNICs as their drivers show them in sysfs, and what ``ethtool -S`` prints of them: trees with numbers made up.

Names are those of the kernel's drivers (tests/data/rnics); numbers are told apart by where they are.
"""

from __future__ import annotations

from pathlib import Path

_NAMES = Path(__file__).parents[1] / "data/rnics"
DRIVERS = sorted(path.stem for path in _NAMES.glob("*.hw_counters"))
KERNEL_DRIVER = {"mlx5": "mlx5_core", "bnxt_re": "bnxt_en", "irdma": "ice", "efa": "efa", "ionic": "ionic"}
WITHOUT_PORT_COUNTERS = frozenset({"bnxt_re", "efa", "ionic", "rxe"})


class Tree:
    """A host's sysfs below ``root``, with one RNIC to start with; files of it are written by ``put``."""

    def __init__(self, root: Path, driver: str, rnic: str = "rnic0", netdev: str = "eth0") -> None:
        self.root, self.rnic, self.netdev = root, rnic, netdev
        self.device = root / "sys/class/infiniband" / rnic
        self.port = self.device / "ports/1"
        hw = {name: 1000 + number for number, name in enumerate(_names(f"{driver}.hw_counters"))} | {"lifespan": 10}
        self.put({f"ports/1/hw_counters/{name}": value for name, value in hw.items()})
        if driver not in WITHOUT_PORT_COUNTERS:
            self.put({f"ports/1/counters/{name}": 2000 + number for number, name in enumerate(_names("counters"))})
        self.put({"fw_ver": "1.2.3", "board_id": "BOARD1", "ports/1/state": "4: ACTIVE"})
        self.put({"ports/1/gids/0": "fe80:0000:0000:0000:0000:00ff:fe00:0001"})
        self.put({"ports/1/gids/1": "0000:0000:0000:0000:0000:ffff:0a00:0001"})
        self.put({"ports/1/gids/2": "0000:0000:0000:0000:0000:0000:0000:0000"})
        for index, kind in enumerate(("IB/RoCE v1", "RoCE v2")):
            self.put({f"ports/1/gid_attrs/types/{index}": kind, f"ports/1/gid_attrs/ndevs/{index}": netdev})
        net = root / "sys/class/net" / netdev
        (net / "statistics").mkdir(parents=True)
        for name, text in {"mtu": "9000", "operstate": "up"}.items():
            (net / name).write_text(text + "\n")
        for name in ("rx_bytes", "tx_bytes"):
            (net / "statistics" / name).write_text("77\n")
        if driver == "rxe":
            self.put({"parent": netdev})
        else:
            self.pci = root / f"sys/devices/pci0000:16/0000:{17 + len(list(self.device.parent.iterdir())) - 1}:00.0"
            driver_folder = root / "sys/bus/pci/drivers" / KERNEL_DRIVER[driver]
            driver_folder.mkdir(parents=True, exist_ok=True)
            self.pci.mkdir(parents=True)
            (self.pci / "numa_node").write_text("1\n")
            (self.pci / "driver").symlink_to(driver_folder)
            (self.device / "device").symlink_to(self.pci)
        saved = root / "ethtool"
        saved.mkdir(exist_ok=True)
        lines = [f"     {name}: {3000 + number}" for number, name in enumerate(_names(f"{driver}.ethtool"))]
        (saved / netdev).write_text("\n".join(["NIC statistics:", *lines]) + "\n")

    @property
    def sysfs(self) -> Path:
        return self.root / "sys"

    def put(self, files: dict[str, object]) -> None:
        """Write files of the RDMA device, by path below it."""
        for path, value in files.items():
            file = self.device / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")


def _names(file: str) -> list[str]:
    path = _NAMES / file
    return path.read_text().split() if path.exists() else []
