"""The MTU of the interface that a packet leaves by."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, lengths of destination and source, TOS, ..., flags
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_NEW_ROUTE, _GET_ROUTE, _REQUEST = 24, 26, 1  # RTM_NEWROUTE, RTM_GETROUTE, NLM_F_REQUEST
_DESTINATION, _SOURCE, _DEVICE = 1, 2, 4  # RTA_DST, RTA_SRC, RTA_OIF
_GET_MTU = 0x8921  # SIOCGIFMTU, netdevice(7)


def local_mtu(source: str, destination: str) -> int | None:
    """MTU of the interface by which packets from ``source`` leave for ``destination``; None without a route.

    The socket option IP_MTU does not tell it: for ten minutes (net.ipv4.route.mtu_expires) it repeats what a router
    once reported of the path. What the kernel holds a socket with IP_PMTUDISC_PROBE to is the interface's own MTU
    (``ip_setup_cork``, net/ipv4/ip_output.c), which rtnetlink(7) and netdevice(7) tell without privilege.
    """
    with contextlib.suppress(OSError):
        device = _device(source, destination)
        if device is not None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                name = socket.if_indextoname(device).encode()
                answer = fcntl.ioctl(sock, _GET_MTU, struct.pack("16s24x", name))
                return int.from_bytes(answer[16:20], sys.byteorder)
    return None


def _device(source: str, destination: str) -> int | None:
    """Index of the interface that the route goes out by; raise OSError. The kernel answers before it returns."""
    attributes = b"".join(
        _ATTRIBUTE.pack(8, kind) + socket.inet_aton(address)
        for kind, address in ((_DESTINATION, destination), (_SOURCE, source))
    )
    body = _ROUTE.pack(socket.AF_INET, 32, 32, 0, 0, 0, 0, 0, 0) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _GET_ROUTE, _REQUEST, 1, 0) + body)
        answer = netlink.recv(4096, socket.MSG_DONTWAIT)
    length, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != _NEW_ROUTE:  # NLMSG_ERROR: no route, or the source is no address of ours
        return None
    at = _HEADER.size + _ROUTE.size
    while at + _ATTRIBUTE.size <= length:
        size, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _DEVICE:
            return int.from_bytes(answer[at + 4 : at + 8], sys.byteorder)
        at += max(-(-size // 4) * 4, _ATTRIBUTE.size)  # aligned to 4 bytes
    return None
