"""A network device's own statistics, as ``ethtool -S`` prints them, by ioctl: no program is started.

ethtool(8), include/uapi/linux/ethtool.h. Any user may ask. Names are asked for once, and again when their number
changes, as after a driver was loaded anew.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from pathlib import Path
from typing import NamedTuple, Protocol

from exporter.host.dialects import Term, of_line

_SIOCETHTOOL = 0x8946
_GET_STRINGS, _GET_STATS, _GET_SET_INFO = 0x1B, 0x1D, 0x37
_STATS_SET = 1
_NAME_BYTES = 32
_SPARE_BYTES = 1 << 16
_ABSENT = frozenset({errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL})


class Line(NamedTuple):
    """A known statistic: what it counts, of which priority, and its number."""

    term: Term
    priority: int | None
    value: int


class Statistics(Protocol):
    """Where statistics of network devices come from."""

    def read(self, netdev: str) -> list[Line]:
        """Those that mean something; empty where the device tells none."""


class KernelStatistics:
    """Those of this network namespace's devices. Not for several threads at once."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._known: dict[str, tuple[int, list[tuple[int, Term, int | None]]]] = {}

    def read(self, netdev: str) -> list[Line]:
        count = self._count(netdev)
        known = self._known.get(netdev)
        if known is None or known[0] != count:
            known = self._known[netdev] = count, _meanings(self._names(netdev, count))
        if not known[1]:
            return []
        answer = self._ask(netdev, struct.pack("=II", _GET_STATS, count) + bytes(8 * count))
        if struct.unpack_from("=I", answer, 4)[0] != count:  # a driver was loaded between two questions
            del self._known[netdev]
            return []
        values = memoryview(answer)[8 : 8 + 8 * count].cast("Q")
        return [Line(term, priority, values[index]) for index, term, priority in known[1]]

    def _count(self, netdev: str) -> int:
        try:
            answer = self._ask(netdev, struct.pack("=IIQI", _GET_SET_INFO, 0, 1 << _STATS_SET, 0))
        except OSError as error:
            if error.errno in _ABSENT:
                return 0
            raise
        _, _, mask, count = struct.unpack_from("=IIQI", answer)
        return int(count) if mask else 0

    def _names(self, netdev: str, count: int) -> list[str]:
        if not count:
            return []
        answer = self._ask(netdev, struct.pack("=III", _GET_STRINGS, _STATS_SET, count) + bytes(_NAME_BYTES * count))
        if struct.unpack_from("=I", answer, 8)[0] != count:
            raise OSError(errno.EAGAIN, "statistics changed while they were asked for", netdev)
        names = (answer[12 + _NAME_BYTES * index :][:_NAME_BYTES] for index in range(count))
        return [name.split(b"\0", 1)[0].decode("ascii", "replace").strip() for name in names]

    def _ask(self, netdev: str, command: bytes) -> bytes:
        # Kernels write as many values as there are now, whatever room they were told of: there may be more queues.
        data = ctypes.create_string_buffer(command, 2 * len(command) + _SPARE_BYTES)
        request = struct.pack("16sP8x", netdev.encode()[:15], ctypes.addressof(data))
        fcntl.ioctl(self._socket, _SIOCETHTOOL, request)
        return data.raw

    def close(self) -> None:
        self._socket.close()


class SavedStatistics:
    """What ``ethtool -S`` printed, in one file a device: of a host that is not this one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, netdev: str) -> list[Line]:
        try:
            text = (self._directory / netdev).read_text(errors="replace")
        except FileNotFoundError:
            return []
        pairs = [
            (name.strip(), value.strip()) for name, _, value in (line.rpartition(":") for line in text.splitlines())
        ]
        numbers = [int(value) if value.isdecimal() else None for _, value in pairs]
        return [
            Line(term, priority, value)
            for index, term, priority in _meanings([name for name, _ in pairs])
            if (value := numbers[index]) is not None
        ]


def _meanings(names: list[str]) -> list[tuple[int, Term, int | None]]:
    found = ((index, of_line(name)) for index, name in enumerate(names))
    return [(index, *meaning) for index, meaning in found if meaning is not None]
