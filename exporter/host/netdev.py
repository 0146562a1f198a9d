"""RNIC network-device counters from sysfs (Documentation/ABI/testing/sysfs-class-net-statistics)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NetdevReading:
    """One reading; None is absent, never 0."""

    receive_bytes: int | None
    transmit_bytes: int | None
    mtu_bytes: int | None
    up: bool | None


def read_bytes(netdev: str, sysfs: str = "/sys") -> tuple[int, int] | None:
    """Bytes received and sent; None where one of them is not told."""
    root = Path(sysfs) / "class/net" / netdev / "statistics"
    received, sent = _integer(root / "rx_bytes"), _integer(root / "tx_bytes")
    return None if received is None or sent is None else (received, sent)


def read_netdev(netdev: str, sysfs: str = "/sys") -> NetdevReading:
    root = Path(sysfs) / "class/net" / netdev
    state = _text(root / "operstate")
    return NetdevReading(
        receive_bytes=_integer(root / "statistics/rx_bytes"),
        transmit_bytes=_integer(root / "statistics/tx_bytes"),
        mtu_bytes=_integer(root / "mtu"),
        # A veth or a dummy says "unknown" when it is up: it has no carrier to tell.
        up=None if state is None else state in ("up", "unknown"),
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _integer(path: Path) -> int | None:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
