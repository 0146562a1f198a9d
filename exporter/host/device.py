"""What an RNIC is, and how it is set up: from sysfs, without opening it.

Documentation/ABI/stable/sysfs-class-infiniband, Documentation/ABI/testing/sysfs-class-net.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exporter.contracts.addresses import canonical
from exporter.host.vlans import Vlan

Function = Literal["pf", "vf", "sf", "software"]

_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_PORT = "ports/1"
_ACTIVE = "4"
_MOST_BYTES = 1 << 16
_MOST_LETTERS = 100
"""Of what becomes a label: firmware may say anything."""


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
    members: tuple[tuple[str, bool], ...] = ()
    """Network devices of the bond, and whether each is up."""
    vlans: tuple[Vlan, ...] = ()
    """Upon its network device, or the bond of that."""


def read_device(rnic: str, netdev: str | None, sysfs: Path) -> Device | None:
    """What the RDMA device is; None where there is none of this name."""
    root = sysfs / "class/infiniband" / rnic
    if not root.is_dir():
        return None
    parent = root / "device"
    own = netdev or _own_netdev(parent) or _gid_netdev(root)
    software = not parent.exists()
    pci = "" if software else next((part for part in reversed(parent.resolve().parts) if _PCI.fullmatch(part)), "")
    numa = read_text(parent / "numa_node")
    return Device(
        driver=_driver(root, parent),
        firmware=read_text(root / "fw_ver")[:_MOST_LETTERS],
        board=(read_text(root / "board_id") or read_text(root / "hca_type"))[:_MOST_LETTERS],
        pci=pci,
        numa="" if numa.startswith("-") else numa,
        function="software" if software else _function(parent),
        netdev=own,
        bond=bond_of(own, sysfs) if own else "",
    )


class SetupReader:
    """Reads how an RNIC's port is set up, again and again: types of GIDs and the like only when the table changes."""

    def __init__(self, rnic: str, sysfs: Path) -> None:
        self._sysfs = sysfs
        self._port = sysfs / "class/infiniband" / rnic / _PORT
        self._table: tuple[str, ...] | None = None
        self._gids: tuple[Gid, ...] = ()

    @property
    def gids(self) -> tuple[Gid, ...]:
        """Those of the last reading."""
        return self._gids

    def read(self, netdev: str | None, bond: str, vlans: Mapping[str, Vlan], *, anew: bool) -> Setup:
        """``vlans`` has the VLAN of each network device that has one; ``anew`` also reads what seldom changes."""
        state = read_text(f"{self._port}/state").partition(":")[0]
        active_mtu = read_text(f"{self._port}/active_mtu").partition(":")[0]
        mtu = read_text(f"{self._sysfs}/class/net/{netdev}/mtu") if netdev else ""
        entries = _numbered(self._port / "gids")
        table = tuple(read_text(f"{self._port}/gids/{entry}") for entry in entries)
        if anew or table != self._table:
            self._table, self._gids = table, tuple(_gids(self._port, entries, table, vlans))
        return Setup(
            gids=self._gids,
            active=state == _ACTIVE if state else None,
            active_mtu=int(active_mtu) if active_mtu.isdecimal() else None,
            mtu=int(mtu) if mtu.isdecimal() else None,
            members=tuple(_members(bond, self._sysfs)) if bond else (),
            vlans=tuple(vlan for vlan in vlans.values() if vlan.parent and vlan.parent in (netdev, bond)),
        )


def _gids(port: Path, entries: list[str], table: tuple[str, ...], vlans: Mapping[str, Vlan]) -> Iterator[Gid]:
    for entry, gid in zip(entries, table, strict=True):
        if gid.strip("0:") == "":  # not in use, or unreadable
            continue
        try:
            address = canonical(gid)
        except ValueError:
            continue
        netdev = read_text(f"{port}/gid_attrs/ndevs/{entry}")
        kind = read_text(f"{port}/gid_attrs/types/{entry}")
        yield Gid(int(entry), address, kind, netdev, vlans[netdev].number if netdev in vlans else "")


def _own_netdev(parent: Path) -> str:
    """The network device of the same function, if it has but one: of a bond that GIDs name, the member."""
    try:
        names = os.listdir(parent / "net")
    except OSError:
        return ""
    return names[0] if len(names) == 1 else ""


def _gid_netdev(root: Path) -> str:
    """The network device of the first GID that has one: the parent, where others are its VLANs."""
    names = root / _PORT / "gid_attrs/ndevs"
    return next((name for entry in _numbered(names) if (name := read_text(f"{names}/{entry}"))), "")


def driver_of(netdev: str, sysfs: Path) -> str:
    """The driver of a network device; empty for one that is made in software."""
    link = sysfs / "class/net" / netdev / "device/driver"
    return link.resolve().name if link.exists() else ""


def _driver(root: Path, parent: Path) -> str:
    if (parent / "driver").exists():
        return (parent / "driver").resolve().name
    return "rxe" if (root / "parent").exists() else ""  # the file that names the network device under soft-RoCE


def _function(parent: Path) -> Function:
    if (parent / "physfn").exists():
        return "vf"
    return "sf" if ".sf." in str(parent.resolve()) else "pf"


def bond_of(netdev: str, sysfs: Path) -> str:
    """The bond that a network device is, or is a link of; empty where there is none."""
    own = sysfs / "class/net" / netdev
    if (own / "bonding").is_dir():
        return netdev
    master = own / "master"
    return master.resolve().name if (master / "bonding").is_dir() else ""


def _members(bond: str, sysfs: Path) -> Iterator[tuple[str, bool]]:
    """Documentation/networking/bonding.rst."""
    net = f"{sysfs}/class/net"
    for member in read_text(f"{net}/{bond}/bonding/slaves").split():
        yield member, read_text(f"{net}/{member}/bonding_slave/mii_status") == "up"


def _numbered(directory: Path) -> list[str]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted((name for name in names if name.isdecimal()), key=int)


def read_text(path: Path | str) -> str:
    """The text of a file of sysfs; empty where there is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").strip()
    except OSError:  # an empty entry of the GID table answers EINVAL; what vanishes meanwhile is not there
        return ""
