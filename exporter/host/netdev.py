"""RNIC network-device counters from sysfs (Documentation/ABI/testing/sysfs-class-net-statistics)."""

from __future__ import annotations

import os
from dataclasses import dataclass

_MOST_BYTES = 4096
"""Of a file of sysfs: it is one page at most."""


@dataclass(frozen=True, slots=True)
class NetdevReading:
    """One reading; None is absent, never 0."""

    receive_bytes: int | None
    transmit_bytes: int | None
    mtu_bytes: int | None
    up: bool | None


def read_bytes(netdev: str, sysfs: str = "/sys") -> tuple[int, int] | None:
    """Bytes received and sent; None where one of them is not told."""
    root = f"{sysfs}/class/net/{netdev}/statistics"
    received, sent = _integer(f"{root}/rx_bytes"), _integer(f"{root}/tx_bytes")
    return None if received is None or sent is None else (received, sent)


def read_netdev(netdev: str, sysfs: str = "/sys") -> NetdevReading:
    root = f"{sysfs}/class/net/{netdev}"
    state = _text(f"{root}/operstate")
    return NetdevReading(
        receive_bytes=_integer(f"{root}/statistics/rx_bytes"),
        transmit_bytes=_integer(f"{root}/statistics/tx_bytes"),
        mtu_bytes=_integer(f"{root}/mtu"),
        # A veth or a dummy says "unknown" when it is up: it has no carrier to tell.
        up=None if state is None else state in (b"up", b"unknown"),
    )


def _text(path: str) -> bytes | None:
    # Each second of each RNIC: file objects and Path would take three times as long.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _MOST_BYTES).strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _integer(path: str) -> int | None:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
