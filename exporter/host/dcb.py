"""Priorities of a network device as the kernel knows them: PFC and DSCP, by netlink (include/uapi/linux/dcbnl.h).

The same for all vendors whose driver takes part (mlx5e, i40e, ice, bnxt_en, hns3). mlx5 answers with the frames that
somebody's last ``ethtool -S`` has read: ask for that first.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from exporter.host.netlink import ERROR, HEADER, asked, attribute, attributes

_GET = 78  # RTM_GETDCB
_COMMAND_IEEE_GET = 21
_NAME, _IEEE = 1, 13  # enum dcbnl_attrs
_PFC, _APP_TABLE = 2, 3  # enum ieee_attrs
_DSCP = 5  # IEEE_8021QAZ_APP_SEL_DSCP
_APP = struct.Struct("=BBH")
_IEEE_PFC = struct.Struct("=BBBxHxx8Q8Q")


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
    return parse(asked(_GET, struct.pack("=BBH", socket.AF_UNSPEC, _COMMAND_IEEE_GET, 0) + attribute(_NAME, name)))


def parse(answer: bytes) -> Priorities:
    """What the kernel answered. Raise OSError for an error of its own, and for what is no answer."""
    if len(answer) < HEADER.size + 4:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
    kind = HEADER.unpack_from(answer)[1]
    if kind == ERROR:
        number = -struct.unpack_from("=i", answer, HEADER.size)[0]
        if number in (errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL, errno.EPERM):
            return Priorities()
        raise OSError(number, os.strerror(number))
    found = dict(attributes(answer[HEADER.size + 4 :]))
    ieee = list(attributes(found.get(_IEEE, b"")))
    own = dict(ieee)
    apps = (_APP.unpack(app) for _, app in attributes(own.get(_APP_TABLE, b"")) if len(app) == _APP.size)
    of_dscp = {protocol: priority for selector, priority, protocol in apps if selector == _DSCP}
    pfc = own.get(_PFC, b"")
    if len(pfc) < _IEEE_PFC.size:
        return Priorities(of_dscp=of_dscp)
    _, lossless, _, _, *counts = _IEEE_PFC.unpack_from(pfc)
    return Priorities(lossless, tuple(counts[:8]), tuple(counts[8:]), of_dscp)
