"""Packets of an overlay, made by hand: what a tunnel's end sends, from the outer IPv4 header or the VXLAN header on."""

from __future__ import annotations

import socket
import struct

from exporter.probing.packet import REQUEST, Codec

KEY = b"k" * 32
OUTER = ("127.0.0.2", 40_123, "127.0.0.3")
INNER = ("10.8.0.1", 61_000, "10.8.0.2", 65_300)


def probe(kind: int = REQUEST, key: bytes = KEY) -> bytes:
    return Codec(key).request(kind, 7, 8)


def ipv4(
    source: str, destination: str, payload: bytes, *, tos: int = 0, options: bytes = b"", fragment: int = 0
) -> bytes:
    words = 5 + len(options) // 4
    size = 4 * words + len(payload)
    header = struct.pack("!BBHHHBBH", 0x40 | words, tos, size, 0, fragment, 64, 17, 0)
    return header + socket.inet_aton(source) + socket.inet_aton(destination) + options + payload


def udp(source: int, destination: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def vxlan(
    inner: tuple[str, int, str, int] = INNER,
    payload: bytes | None = None,
    *,
    vni: int = 5001,
    flags: int = 8,
    options: bytes = b"",
    ethertype: int = 0x0800,
    fragment: int = 0,
) -> bytes:
    """What is in the outer datagram: VXLAN header, frame, inner packet."""
    source, source_port, destination, destination_port = inner
    datagram = udp(source_port, destination_port, probe() if payload is None else payload)
    packet = ipv4(source, destination, datagram, options=options, fragment=fragment)
    return struct.pack("!B3xI12sH", flags, vni << 8, bytes(12), ethertype) + packet


def packet(
    encapsulated: bytes, outer: tuple[str, int, str] = OUTER, *, port: int = 4789, tos: int = 106, options: bytes = b""
) -> bytes:
    """From the outer IPv4 header on."""
    source, source_port, destination = outer
    return ipv4(source, destination, udp(source_port, port, encapsulated), tos=tos, options=options)
