"""A probe request inside VXLAN (RFC 7348), as the kernel filters it and as we read it, and what a trace sends.

    outer IPv4 | UDP, destination port 4789 | VXLAN header | Ethernet | inner IPv4 | UDP | "FSKP", version, kind, ...

Both IPv4 headers may have options. A VLAN tag of the underlay does not matter: the kernel takes it off with the rest of
the link layer (packet(7), SOCK_DGRAM). Not looked at are fragments, inner frames with a tag (a tunnel's end does not
send them: RFC 7348, section 6.1), and IPv6 inside or outside.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from exporter.probing.packet import MAGIC, PACKET_BYTES, REQUEST

VXLAN_PORT = 4789
LONGEST_HEADERS = 60 + 8 + 8 + 14 + 60 + 8
SNAP_BYTES = LONGEST_HEADERS + PACKET_BYTES
"""What the kernel hands up of a packet at most: all headers with all options, and the probe's own header."""

_VNI_FLAG = 0x08
_TRACE = struct.Struct("!II")
_UDP = struct.Struct("!HH")
_IPV4, _UDP_PROTOCOL = 0x0800, 17

# linux/bpf_common.h, linux/filter.h
_LD, _LDX, _ALU, _JMP, _RET, _MISC = 0x00, 0x01, 0x04, 0x05, 0x06, 0x07
_W, _H, _B = 0x00, 0x08, 0x10
_ABS, _IND, _MSH = 0x20, 0x40, 0xA0
_ADD, _AND, _LSH, _JEQ, _JSET, _X, _TAX = 0x00, 0x50, 0x60, 0x10, 0x40, 0x08, 0x00
_PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
_PACKET_OUTGOING = 4  # linux/if_packet.h
_INSTRUCTION = struct.Struct("=HBBI")


Inner = tuple[str, int, str, int]
"""Source address and port, destination address and port of a probe, as it leaves its container."""


class Outer(NamedTuple):
    """What ECMP hashes of an encapsulated packet; the destination port is that of VXLAN."""

    source: str
    port: int
    destination: str


class Encapsulated(NamedTuple):
    outer: Outer
    traffic_class: int
    vni: int
    inner: Inner
    payload: bytes
    """Of the inner datagram: cut short by the snap length, and by whoever sent it."""


def filter_program(port: int) -> bytes:
    """Classic BPF that passes nothing but outgoing encapsulated probe requests, and ``SNAP_BYTES`` of each.

    For a packet socket of the type SOCK_DGRAM, where byte 0 is the outer IPv4 header's first. It runs in the kernel on
    every packet of the device, and ends at the second instruction for what comes in, at the sixth for TCP and RDMA.
    """
    kind = (REQUEST, len(MAGIC) + 1)
    instructions: list[tuple[int, int] | tuple[int, int, bool]] = [
        (_LD | _W | _ABS, _PACKET_TYPE), (_JMP | _JEQ, _PACKET_OUTGOING, True),
        (_LD | _B | _ABS, 9), (_JMP | _JEQ, _UDP_PROTOCOL, True),
        (_LD | _B | _ABS, 0), (_ALU | _AND, 0xF0), (_JMP | _JEQ, 0x40, True),
        (_LD | _H | _ABS, 6), (_JMP | _JSET, 0x1FFF, False),  # a later fragment has no header
        (_LDX | _B | _MSH, 0),  # X: length of the outer IPv4 header
        (_LD | _H | _IND, 2), (_JMP | _JEQ, port, True),
        (_LD | _B | _IND, 8), (_JMP | _JSET, _VNI_FLAG, True),
        (_LD | _H | _IND, 28), (_JMP | _JEQ, _IPV4, True),
        (_LD | _B | _IND, 39), (_JMP | _JEQ, _UDP_PROTOCOL, True),
        (_LD | _H | _IND, 36), (_JMP | _JSET, 0x1FFF, False),
        (_LD | _B | _IND, 30), (_ALU | _AND, 0x0F), (_ALU | _LSH, 2),
        (_ALU | _ADD | _X, 0), (_MISC | _TAX, 0),  # X: and of the inner one
        (_LD | _W | _IND, 38), (_JMP | _JEQ, int.from_bytes(MAGIC, "big"), True),
        (_LD | _B | _IND, 38 + kind[1]), (_JMP | _JEQ, kind[0], True),
        (_RET, SNAP_BYTES), (_RET, 0),
    ]  # fmt: skip
    refuse = len(instructions) - 1
    program = b""
    for place, (code, value, *wanted) in enumerate(instructions):
        away = refuse - place - 1
        if_true, if_false = ((0, away) if wanted[0] else (away, 0)) if wanted else (0, 0)
        program += _INSTRUCTION.pack(code, if_true, if_false, value)
    return program


def parse(packet: bytes, port: int) -> Encapsulated | None:
    """Read a packet from its outer IPv4 header on; None for what is no UDP in IPv4 in VXLAN to ``port``."""
    try:
        outer = _datagram(packet, 0)
        if outer is None or outer.destination_port != port or not packet[outer.payload] & _VNI_FLAG:
            return None
        ethernet = outer.payload + 8
        if int.from_bytes(packet[ethernet + 12 : ethernet + 14], "big") != _IPV4:
            return None
        inner = _datagram(packet, ethernet + 14)
    except (IndexError, struct.error):  # cut short
        return None
    if inner is None:
        return None
    return Encapsulated(
        Outer(outer.source, outer.source_port, outer.destination),
        packet[1],
        int.from_bytes(packet[outer.payload + 4 : outer.payload + 7], "big"),
        (inner.source, inner.source_port, inner.destination, inner.destination_port),
        packet[inner.payload :],
    )


class _Datagram(NamedTuple):
    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: int
    """Where it begins."""


def _datagram(packet: bytes, at: int) -> _Datagram | None:
    """The UDP datagram in the IPv4 packet at this place, if it is one and whole."""
    length = (packet[at] & 0x0F) * 4
    fragment = int.from_bytes(packet[at + 6 : at + 8], "big") & 0x1FFF
    if packet[at] >> 4 != 4 or length < 20 or packet[at + 9] != _UDP_PROTOCOL or fragment:
        return None
    source_port, destination_port = _UDP.unpack_from(packet, at + length)
    source, destination = (socket.inet_ntoa(packet[at + place : at + place + 4]) for place in (12, 16))
    return _Datagram(source, source_port, destination, destination_port, at + length + 8)


def trace_payload(number: int) -> bytes:
    """A VXLAN header that names no network, since its I flag is 0: a tunnel end that gets it must drop it.

    What would be the VNI and a reserved byte carry ``number`` (RFC 7348, section 5).
    """
    return _TRACE.pack(0, number & 0xFFFFFFFF)


def may_quote(quoted: bytes, number: int) -> bool:
    """Whether an ICMP error may be about the trace packet ``number``: it does not quote so much of another packet."""
    return len(quoted) < _TRACE.size or quoted.startswith(trace_payload(number))
