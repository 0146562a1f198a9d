"""What the control process tells the process that reads the RNICs' counters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec
from msgspec import Meta

from exporter.contracts.metric import Table
from exporter.contracts.rnic_counters import (
    RNIC_COVERAGE_TABLE,
    RNIC_DEVICE_TABLE,
    RNIC_DSCP_TABLE,
    RNIC_GID_TABLE,
    RNIC_HARDWARE,
    RNIC_PRIORITY,
    RNIC_READING,
    RNIC_VLAN_TABLE,
)
from exporter.contracts.topology import Rnic

PRIORITIES, DSCPS = 8, 64
MOST_GIDS = 32
"""Of an RNIC: each container with an address of its own brings two."""
MOST_VLANS = 32
MOST_SIGNALS = 10


class Counters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``counters``: what the RNICs' own registers count."""

    period_seconds: Annotated[float, Meta(ge=1, le=3600)] = 10.0
    deadline_seconds: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    """A reading that takes longer is stale: firmware hangs, and nothing it says is believed until it ends."""
    include: tuple[str, ...] = ()
    """Patterns of RNICs' names (fnmatch); empty for all."""
    exclude: tuple[str, ...] = ()
    """Patterns of those to leave alone: restricted devices make the kernel log a line for every read."""
    ethtool: str | None = None
    """Directory with what ``ethtool -S`` printed of each network device, in place of asking the kernel."""

    def takes(self, rnics: Iterable[Rnic]) -> list[Rnic]:
        """Those of these RNICs that are to be read."""
        included = [rnic for rnic in rnics if not self.include or _matches(rnic.name, self.include)]
        return [rnic for rnic in included if not _matches(rnic.name, self.exclude)]


class RnicSettings(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    netdev: str | None


class CounterSettings(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    rnics: tuple[RnicSettings, ...]
    period_seconds: float
    deadline_seconds: float
    step_seconds: float
    sysfs: str
    ethtool: str | None


def counter_settings(
    counters: Counters, host: str, rnics: Sequence[Rnic], step_seconds: float, sysfs: str
) -> CounterSettings:
    """What to read of these RNICs: those that the section takes."""
    return CounterSettings(
        host=host,
        rnics=tuple(RnicSettings(name=rnic.name, netdev=rnic.netdev) for rnic in counters.takes(rnics)),
        period_seconds=counters.period_seconds,
        deadline_seconds=counters.deadline_seconds,
        step_seconds=min(step_seconds, counters.period_seconds),
        sysfs=sysfs,
        ethtool=counters.ethtool,
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def counter_tables(rnics: int) -> list[tuple[Table, int]]:
    """Tables of this process' store with their capacities; both processes lay the memory out by this."""
    rnics = max(rnics, 1)
    return [
        (RNIC_HARDWARE, rnics),
        (RNIC_READING, rnics),
        (RNIC_DEVICE_TABLE, rnics),
        (RNIC_PRIORITY, rnics * PRIORITIES),
        (RNIC_GID_TABLE, rnics * MOST_GIDS),
        (RNIC_VLAN_TABLE, rnics * MOST_VLANS * PRIORITIES),
        (RNIC_DSCP_TABLE, rnics * DSCPS),
        (RNIC_COVERAGE_TABLE, rnics * MOST_SIGNALS),
    ]
