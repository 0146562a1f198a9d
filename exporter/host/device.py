"""What an RNIC is, and how it is set up: from sysfs, without opening it.

Documentation/ABI/stable/sysfs-class-infiniband, Documentation/ABI/testing/sysfs-class-net.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Literal

from exporter.contracts.addresses import canonical

Function = Literal["pf", "vf", "sf", "software"]

_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_PORT = "ports/1"
_ACTIVE = "4"


@dataclass(frozen=True, slots=True)
class Gid:
    """An entry of the GID table that is in use."""

    index: int
    address: str
    type: str
    """``RoCE v2``, ``RoCE v1``, or what the kernel says."""
    netdev: str
    vlan: str


@dataclass(frozen=True, slots=True)
class Device:
    """What an RNIC is; what nobody tells is empty."""

    driver: str = ""
    firmware: str = ""
    board: str = ""
    pci: str = ""
    numa: str = ""
    function: Function = "software"
    netdev: str = ""
    bond: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """As ``fabric_rnic_device_info`` has them, after host and RNIC."""
        return (
            self.driver, self.firmware, self.board, self.pci, self.numa, self.function, self.netdev, self.bond
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setup:
    """How the RNIC's port is set up now; None where nobody tells."""

    gids: tuple[Gid, ...] = ()
    active: bool | None = None
    active_mtu: int | None = None
    mtu: int | None = None


def read_device(rnic: str, netdev: str | None, sysfs: Path) -> Device | None:
    """What the RDMA device is; None where there is none of this name."""
    root = sysfs / "class/infiniband" / rnic
    if not root.is_dir():
        return None
    parent = root / "device"
    own = _netdev(root) or netdev or ""
    software = not parent.exists()
    pci = "" if software else next((part for part in reversed(parent.resolve().parts) if _PCI.fullmatch(part)), "")
    numa = _text(parent / "numa_node")
    return Device(
        driver=_driver(root, parent),
        firmware=_text(root / "fw_ver"),
        board=_text(root / "board_id") or _text(root / "hca_type"),
        pci=pci,
        numa="" if numa.startswith("-") else numa,
        function="software" if software else _function(parent),
        netdev=own,
        bond=_bond(own, sysfs) if own else "",
    )


def read_setup(rnic: str, netdev: str | None, sysfs: Path, vlans: dict[str, str]) -> Setup:
    """How the RNIC's port is set up. ``vlans`` has the VLAN of each network device that has one."""
    root = sysfs / "class/infiniband" / rnic
    state = _text(root / _PORT / "state").partition(":")[0]
    active_mtu = _text(root / _PORT / "active_mtu").partition(":")[0]
    mtu = _text(sysfs / "class/net" / netdev / "mtu") if netdev else ""
    return Setup(
        gids=tuple(_gids(root / _PORT, vlans)),
        active=state == _ACTIVE if state else None,
        active_mtu=int(active_mtu) if active_mtu.isdecimal() else None,
        mtu=int(mtu) if mtu.isdecimal() else None,
    )


def read_vlans(proc: Path = Path("/proc")) -> dict[str, str]:
    """{network device: its VLAN}, of this network namespace (Documentation of 8021q: /proc/net/vlan/config)."""
    rows = (line.split("|") for line in _text(proc / "net/vlan/config").splitlines()[2:])
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 3}


def _gids(port: Path, vlans: dict[str, str]) -> list[Gid]:
    found = []
    for entry in _numbered(port / "gids"):
        gid = _text(entry)
        try:
            address = IPv6Address(gid)
        except ValueError:
            continue
        if not int(address):
            continue
        netdev = _text(port / "gid_attrs/ndevs" / entry.name)
        kind = _text(port / "gid_attrs/types" / entry.name)
        found.append(Gid(int(entry.name), canonical(str(address)), kind, netdev, vlans.get(netdev, "")))
    return found


def _netdev(root: Path) -> str:
    """The network device of the first GID that has one: the parent, where others are its VLANs."""
    return next((name for entry in _numbered(root / _PORT / "gid_attrs/ndevs") if (name := _text(entry))), "")


def _driver(root: Path, parent: Path) -> str:
    if (parent / "driver").exists():
        return (parent / "driver").resolve().name
    return "rxe" if (root / "parent").exists() else ""  # the file that names the network device under soft-RoCE


def _function(parent: Path) -> Function:
    if (parent / "physfn").exists():
        return "vf"
    return "sf" if ".sf." in str(parent.resolve()) else "pf"


def _bond(netdev: str, sysfs: Path) -> str:
    own = sysfs / "class/net" / netdev
    if (own / "bonding").is_dir():
        return netdev
    master = own / "master"
    return master.resolve().name if (master / "bonding").is_dir() else ""


def _numbered(directory: Path) -> list[Path]:
    return sorted((path for path in directory.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # an empty entry of the GID table answers EINVAL; what vanishes meanwhile is not there
        return ""
