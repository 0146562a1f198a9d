"""Priorities of a network device as the kernel knows them: PFC and DSCP, by netlink (include/uapi/linux/dcbnl.h).

The same for all vendors whose driver takes part (mlx5e, i40e, ice, bnxt_en, hns3). mlx5 answers with the frames that
somebody's last ``ethtool -S`` has read: ask for that first.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_GET = 78  # RTM_GETDCB
_REQUEST, _DONE, _ERROR = 1, 3, 2
_COMMAND_IEEE_GET = 21
_NAME, _IEEE = 1, 13  # enum dcbnl_attrs
_PFC, _APP_TABLE = 2, 3  # enum ieee_attrs
_DSCP = 5  # IEEE_8021QAZ_APP_SEL_DSCP
_NESTED = 0x3FFF
_HEADER, _ATTRIBUTE, _APP = struct.Struct("=IHHII"), struct.Struct("=HH"), struct.Struct("=BBH")
_IEEE_PFC = struct.Struct("=BBBxHxx8Q8Q")
_TIMEOUT = 1.0
_MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Priorities:
    """What the kernel says of a device's priorities."""

    lossless: int | None = None
    """Bit mask of the priorities with PFC; None where nobody tells."""
    sent: tuple[int, ...] = ()
    """PFC frames sent ("requests"), by priority."""
    received: tuple[int, ...] = ()
    """PFC frames received ("indications"), by priority."""
    of_dscp: Mapping[int, int] = field(default_factory=dict)
    """{DSCP: priority}, of those that are mapped."""


def read_priorities(netdev: str) -> Priorities:
    """Ask the kernel. Empty where the device's driver does not take part; raise OSError for anything else."""
    name = netdev.encode()[:15] + b"\0"
    attribute = _padded(_ATTRIBUTE.pack(_ATTRIBUTE.size + len(name), _NAME) + name)
    body = struct.pack("=BBH", socket.AF_UNSPEC, _COMMAND_IEEE_GET, 0) + attribute
    message = _HEADER.pack(_HEADER.size + len(body), _GET, _REQUEST, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_TIMEOUT)
        sock.sendto(message, (0, 0))
        return parse(sock.recv(_MOST_BYTES))


def parse(answer: bytes) -> Priorities:
    """What the kernel answered. Raise OSError for an error of its own, and for what is no answer."""
    if len(answer) < _HEADER.size + 4:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
    kind = _HEADER.unpack_from(answer)[1]
    if kind == _ERROR:
        number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if number in (errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL, errno.EPERM):
            return Priorities()
        raise OSError(number, os.strerror(number))
    found = dict(_attributes(answer[_HEADER.size + 4 :]))
    ieee = list(_attributes(found.get(_IEEE, b"")))
    own = dict(ieee)
    apps = (_APP.unpack(app) for _, app in _attributes(own.get(_APP_TABLE, b"")) if len(app) == _APP.size)
    of_dscp = {protocol: priority for selector, priority, protocol in apps if selector == _DSCP}
    pfc = own.get(_PFC, b"")
    if len(pfc) < _IEEE_PFC.size:
        return Priorities(of_dscp=of_dscp)
    _, lossless, _, _, *counts = _IEEE_PFC.unpack_from(pfc)
    return Priorities(lossless, tuple(counts[:8]), tuple(counts[8:]), of_dscp)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            return
        yield kind & _NESTED, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
