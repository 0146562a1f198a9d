"""Packet sizes by layer. Every size is that of a whole IPv4 packet in bytes, as an interface's MTU limits it.

``underlay``: what the fabric promises between RNICs, by its topology.
``inner``: what a container may send through VXLAN over it, ``underlay - VXLAN_OVERHEAD``.
``roce``: what a RoCE queue pair sends at its path MTU, ``roce_packet_bytes``; under VXLAN, ``VXLAN_OVERHEAD`` more.
"""

from __future__ import annotations

VXLAN_OVERHEAD = 14 + 8 + 8 + 20
"""Inner Ethernet header, VXLAN, UDP and outer IPv4 (RFC 7348, section 5)."""

ROCE_PATH_MTUS = (256, 512, 1024, 2048, 4096)
"""Payload bytes of a packet that a queue pair may be set to (InfiniBand Architecture Specification 1, PathMTU)."""

_ROCE_HEADERS = 20 + 8 + 12 + 16 + 4 + 4
"""IPv4, UDP, BTH, RETH, ImmDt and ICRC around a full payload: an RDMA WRITE Only with Immediate, the longest packet of
a reliable connection (InfiniBand Architecture Specification 1, chapter 9; RoCEv2 is its Annex A17)."""


def roce_packet_bytes(path_mtu: int) -> int:
    """The longest packet that a reliable connection sends at a RoCE path MTU: 4,160 bytes at 4096.

    An interface needs a little more: Linux asks for 96 bytes beside the path MTU, 4,192 at 4096, before it offers it
    (``iboe_get_mtu``, include/rdma/ib_addr.h: it allows for IPv6, XRC and atomic headers that never meet).
    """
    return path_mtu + _ROCE_HEADERS


def roce_path_mtu(packet_bytes: int) -> int:
    """The largest RoCE path MTU whose packets are no longer than ``packet_bytes``; 0 when not even the smallest is."""
    return max((mtu for mtu in ROCE_PATH_MTUS if roce_packet_bytes(mtu) <= packet_bytes), default=0)
