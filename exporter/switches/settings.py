"""What the control process tells the poller, apart from the poller itself, which imports pysnmp."""

from __future__ import annotations

import msgspec

from exporter.contracts.metric import Table
from exporter.contracts.switch_counters import SWITCH, SWITCH_PORT

PORTS_PER_SWITCH = 1024


class SwitchSettings(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    address: str
    port: int
    community: str
    aliases: dict[str, str]


class PollerSettings(msgspec.Struct, frozen=True, kw_only=True):
    period_seconds: float
    timeout_seconds: float
    retries: int
    switches: tuple[SwitchSettings, ...]


def switch_tables(switches: int) -> list[tuple[Table, int]]:
    """Tables of the poller's store with their capacities; both processes lay the memory out by this."""
    return [(SWITCH_PORT, switches * PORTS_PER_SWITCH), (SWITCH, switches)]
