"""What the interfaces of a namespace really did: rtnetlink for links, nftables for the class of packets.

Values that veth has are never simulated. The class of a packet is its DSCP, counted per interface by a table
of dynamic sets that ``RULES`` installs: one look-up a packet, and nothing is dropped or changed by it.

Imported by the SNMP subagent, which starts without site-packages: standard library only, and little of it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

TABLE = "class_of_service"
RULES = f"""
add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
    set received {{
        typeof meta iif . ip dscp
        size 65535
        flags dynamic
        counter
    }}
    set forwarded {{
        typeof meta oif . ip dscp
        size 65535
        flags dynamic
        counter
    }}
    set originated {{
        typeof meta oif . ip dscp
        size 65535
        flags dynamic
        counter
    }}
    set dropped {{
        typeof meta oif . ip dscp
        size 65535
        flags dynamic
        counter
    }}
    chain arriving {{
        type filter hook input priority 0; policy accept;
        add @received {{ meta iif . ip dscp }}
    }}
    chain forwarding {{
        type filter hook forward priority 0; policy accept;
        add @forwarded {{ meta oif . ip dscp }}
    }}
    chain leaving {{
        type filter hook output priority 0; policy accept;
        add @originated {{ meta oif . ip dscp }}
    }}
}}
"""
ETHERNET_HEADER = 14  # interface counters hold it, nftables counts from the IP header on

# linux/rtnetlink.h, linux/if_link.h, linux/netfilter/nf_tables.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x301
_RTM_GETLINK = 18
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_OPERSTATE, _IFLA_STATS64 = 1, 3, 4, 16, 23
_IFLA_CARRIER, _IFLA_CARRIER_CHANGES, _IFLA_CARRIER_DOWN_COUNT = 33, 35, 48
_IFF_UP, _OPER_UP = 1, 6
_GETSETELEM = 10 << 8 | 13  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETSETELEM
_NFPROTO_IPV4 = 2
_BUFFER = 1 << 18


class Link(NamedTuple):
    """One interface, as the kernel has it now."""

    ifindex: int
    mtu: int
    enabled: bool
    up: bool
    address: bytes
    status_changes: int
    downs: int
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int


class Packets(NamedTuple):
    packets: int
    octets: int
    """Bytes with the Ethernet header, as interface counters have them."""


Classes = dict[tuple[int, int], Packets]
"""By interface index and DSCP."""


class Reading(NamedTuple):
    links: dict[str, Link]
    received: Classes
    forwarded: Classes
    originated: Classes
    dropped: Classes
    """By lab.counters.queues, on their way out."""


SWITCH_SETS = ("forwarded", "originated", "dropped")
HOST_SETS = ("received", "originated")


class Kernel:
    """Reads the namespace in which it was made, wherever its owner stands later; of the sets, those named."""

    def __init__(self, *sets: str) -> None:
        self._sets = sets
        self._route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._filter = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
        self._seen: dict[str, Classes] = {}

    def close(self) -> None:
        self._route.close()
        self._filter.close()

    def read(self) -> Reading:
        return Reading(
            self.links(), *(self._classes(name) if name in self._sets else {} for name in Reading._fields[1:])
        )

    def links(self) -> dict[str, Link]:
        links = {}
        for body in _dump(self._route, _RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
            index, flags = struct.unpack_from("=iI", body, 4)
            fields = dict(_attributes(body[16:]))
            stats = struct.unpack_from("=4Q", fields[_IFLA_STATS64])
            links[fields[_IFLA_IFNAME].rstrip(b"\0").decode()] = Link(
                index,
                _u32(fields, _IFLA_MTU),
                bool(flags & _IFF_UP),
                fields[_IFLA_OPERSTATE][0] == _OPER_UP and bool(fields[_IFLA_CARRIER][0]),
                fields.get(_IFLA_ADDRESS, b""),
                _u32(fields, _IFLA_CARRIER_CHANGES),
                _u32(fields, _IFLA_CARRIER_DOWN_COUNT),
                *stats,
            )
        return links

    def _classes(self, name: str) -> Classes:
        """The packets that one set has counted; empty where the rules are not (yet) installed.

        A dump during a change of the rules can miss elements, and a counter must not go back: what was seen stays.
        """
        asked = struct.pack(">BBH", _NFPROTO_IPV4, 0, 0) + _attribute(1, TABLE) + _attribute(2, name)
        classes = self._seen.setdefault(name, {})
        try:
            bodies = list(_dump(self._filter, _GETSETELEM, asked))
        except OSError:
            return classes
        for body in bodies:
            for element in (each for kind, each in _attributes(body[4:]) if kind == 3 for _, each in _attributes(each)):
                fields = dict(_attributes(element))
                index, dscp = struct.unpack_from("=IB", dict(_attributes(fields[1]))[1])
                counter = dict(_attributes(dict(_attributes(fields[7]))[2]))
                (octets,), (packets,) = struct.unpack(">Q", counter[1]), struct.unpack(">Q", counter[2])
                counted = Packets(packets, octets + ETHERNET_HEADER * packets)
                classes[index, dscp] = max(classes.get((index, dscp), counted), counted)
        return classes


def _attribute(kind: int, text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def _u32(fields: dict[int, bytes], kind: int) -> int:
    return int(struct.unpack("=I", fields[kind])[0]) if kind in fields else 0


def _dump(via: socket.socket, kind: int, body: bytes) -> Iterator[bytes]:
    """Yield the bodies of all answers to one dump request; raise OSError when the kernel refuses."""
    via.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_DUMP, 0, 0) + body)
    done, refused = False, 0
    while not done:
        data = via.recv(_BUFFER)
        at = 0
        while at < len(data):
            length, answer = struct.unpack_from("=IH", data, at)
            if answer == _NLMSG_DONE:
                done = True
            elif answer == _NLMSG_ERROR:
                refused = -int(struct.unpack_from("=i", data, at + 16)[0])
                done = True
            else:
                yield data[at + 16 : at + length]
            at += (length + 3) & ~3
    if refused:
        raise OSError(refused, "netlink")
