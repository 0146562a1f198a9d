"""What the kernel says of RDMA ports, read from sysfs: no device is opened, so none has to be there.

Kernel document: Documentation/ABI/stable/sysfs-class-infiniband.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from exporter.contracts.addresses import canonical

SYSFS, VERBS = Path("/sys/class/infiniband"), Path("/sys/class/infiniband_verbs")
NODES = Path("/dev/infiniband")
_V2 = "RoCE v2"


class VerbsError(RuntimeError):
    """RDMA cannot be used; the message names what is in the way, and the remedy."""


NO_DEVICE = (
    "is its driver loaded, and in a container, are devices shared between network namespaces, or moved into this one "
    "(rdma system show)?"
)

PORT = 1
"""RNICs of RoCE have one port to a device."""


@dataclass(frozen=True)
class PortState:
    """One RoCEv2 port as it is now. Two that differ: something changed under the prober."""

    gid_index: int
    gid: str
    """Eight groups of four hexadecimal digits."""
    netdev: str
    active: bool
    mtu: int
    """Largest RDMA payload of a packet (active MTU), bytes; 0 where the driver does not say."""


def gid_of(address: str) -> str:
    """The GID of an address: of IPv4 the mapped IPv6 address (InfiniBand Architecture, annex A17.4)."""
    ip = ipaddress.ip_address(address)
    return (ip if ip.version == 6 else ipaddress.IPv6Address(f"::ffff:{ip}")).exploded


def is_ipv4_gid(gid: str) -> bool:
    return gid.startswith("0000:0000:0000:0000:0000:ffff:")


def read_port(device: str, address: str, sysfs: Path = SYSFS, verbs: Path = VERBS) -> PortState | str:
    """The RoCEv2 port of ``device`` that has ``address``; or why there is none, with the remedy."""
    root = sysfs / device
    if not root.is_dir():
        if known := ", ".join(sorted(entry.name for entry in sysfs.glob("*"))):
            return f"there is no RDMA device {device} (there are: {known}); name the RNIC as ibv_devices does"
        return f"there is no RDMA device {device}, nor any other; {NO_DEVICE}"
    if device not in {_read(entry) for entry in verbs.glob("*/ibdev")}:
        return f"RDMA device {device} is not offered to processes; is it being removed, or ib_uverbs not loaded?"
    port = root / "ports" / str(PORT)
    wanted = gid_of(address)
    older = False
    for entry in sorted((port / "gids").glob("*"), key=lambda path: int(path.name)):
        if _read(entry) != wanted:
            continue
        if _read(port / "gid_attrs" / "types" / entry.name) != _V2:
            older = True
            continue
        netdev = _read(port / "gid_attrs" / "ndevs" / entry.name)
        state = _read(port / "state").partition(":")[0]
        return PortState(int(entry.name), wanted, netdev, state == "4", _mtu(port))
    if older:
        return f"{device} has {address} for RoCE v1 only; probes need a RoCE v2 GID"
    return f"{device} has no GID of {address}; is the address on its network interface, in this network namespace?"


def roce_addresses(sysfs: Path = SYSFS) -> dict[str, list[str]]:
    """{RDMA device: the addresses that it has RoCEv2 GIDs of}, by name and in the order of its table."""
    found: dict[str, list[str]] = {}
    for device in sorted(sysfs.glob("*")):
        port = device / "ports" / str(PORT)
        entries = sorted((port / "gid_attrs" / "types").glob("*"), key=lambda path: int(path.name))
        gids = [_read(port / "gids" / entry.name) for entry in entries if _read(entry) == _V2]
        found[device.name] = [canonical(gid) for gid in gids if gid]
    return found


def why_closed(device: str, verbs: Path = VERBS, nodes: Path = NODES) -> str:
    """Why this process cannot open what the device is used through, with the remedy; "" where it can.

    libibverbs takes a node that may not be opened for one that is not there. One that is opened is not in use yet.
    """
    for entry in verbs.glob("*/ibdev"):
        if _read(entry) == device:
            node = nodes / entry.parent.name
            try:
                os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
            except OSError as error:
                return f"{node} cannot be opened ({error.strerror}): {_REMEDIES.get(error.errno or 0, 'see dmesg')}"
    return ""


_REMEDIES = {
    errno.ENOENT: "give the container this device, or all of /dev/infiniband",
    errno.EACCES: "run the exporter as its owner or in its group, or make it mode 0666, as the kernel does",
    errno.EPERM: "a container's cgroup forbids it; pass the device (--device, a device plugin), not only its directory",
    errno.ENODEV: "the device has gone",
    errno.ENXIO: "the device has gone",
    errno.EMFILE: "raise ulimit -n",
}


def _mtu(port: Path) -> int:
    text = _read(port / "active_mtu")  # of some drivers only; the others answer a query of the device
    return int(text) if text.isdecimal() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # an empty entry of the table answers EINVAL; what vanishes meanwhile is not there
        return ""
