"""VLAN interfaces of this network namespace, and the priorities that they send with (include/uapi/linux/if_link.h)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from exporter.host.netlink import attribute, attributes, dumped

_GET_LINKS = 18  # RTM_GETLINK
_INTERFACE = struct.Struct("=BxHiII")  # struct ifinfomsg
_NAME, _LINK, _LINKINFO = 3, 5, 18  # IFLA_*
_KIND, _DATA = 1, 2  # IFLA_INFO_*
_ID, _EGRESS = 1, 3  # IFLA_VLAN_*
_MAPPING = struct.Struct("=II")  # struct ifla_vlan_qos_mapping
_VLAN = b"vlan"


@dataclass(frozen=True, slots=True)
class Vlan:
    """A VLAN interface: its number, the network device it is upon, and the priorities (PCP) it sends with."""

    number: str
    parent: str
    priorities: tuple[int, ...] = (0,)
    """Those that its egress map gives; what the map does not have is sent with 0."""


def read_vlans() -> Mapping[str, Vlan]:
    """{network device: its VLAN}. Raise OSError where the kernel cannot be asked."""
    only = attribute(_LINKINFO, attribute(_KIND, _VLAN))
    found = (parse(message) for message in dumped(_GET_LINKS, _INTERFACE.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + only))
    return dict(one for one in found if one is not None)


def parse(message: bytes) -> tuple[str, Vlan] | None:
    """(name, VLAN) of a message about a link; None of one that is no VLAN."""
    link = dict(attributes(message[_INTERFACE.size :]))
    about = dict(attributes(link.get(_LINKINFO, b"")))
    if about.get(_KIND, b"").rstrip(b"\0") != _VLAN or _NAME not in link:
        return None
    data = dict(attributes(about.get(_DATA, b"")))
    if len(data.get(_ID, b"")) != 2:
        return None
    mappings = [_MAPPING.unpack(each) for _, each in attributes(data.get(_EGRESS, b"")) if len(each) == _MAPPING.size]
    return link[_NAME].rstrip(b"\0").decode(errors="replace"), Vlan(
        number=str(int.from_bytes(data[_ID], "little")),
        parent=_name_of(link.get(_LINK, b"")),
        priorities=tuple(sorted({0} | {priority & 7 for _, priority in mappings})),
    )


def _name_of(index: bytes) -> str:
    """The network device of an interface's index; empty for one in another namespace."""
    try:
        return socket.if_indextoname(int.from_bytes(index, "little"))
    except OSError:
        return ""
