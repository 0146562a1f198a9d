"""The overlay state: what the virtual switch wants, and what the RNIC holds."""

from __future__ import annotations

from typing import Literal

from exporter.contracts.codec import Contract, Version


class Snapshot(Contract, frozen=True, kw_only=True):
    host: str
    table: Literal["vswitch", "rnic"]
    time: float


class Entry(Contract, frozen=True, kw_only=True):
    """One forwarding entry. ``next`` is a remote VTEP, an RNIC address, ``local:<container>``, or null for a drop."""

    host: str
    table: Literal["vswitch", "rnic"]
    vni: int
    dst: str
    dst_mac: str | None = None
    next: str | None
    in_port: str | None = None
    offloaded: bool | None = None
    time: float


class OverlayState(Contract, frozen=True, kw_only=True):
    """Entries of one host and table share one snapshot time; a table read in mid-churn is no inconsistency."""

    version: Version
    snapshots: tuple[Snapshot, ...] = ()
    entries: tuple[Entry, ...]
