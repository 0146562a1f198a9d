"""What the control process tells the poller, apart from the poller itself, which imports the SNMP engines."""

from __future__ import annotations

import msgspec

from exporter.contracts.metric import Table
from exporter.contracts.switch_counters import (
    SWITCH,
    SWITCH_BGP,
    SWITCH_CONTROL_PLANE,
    SWITCH_COVERAGE_TABLE,
    SWITCH_CPU,
    SWITCH_INFO_TABLE,
    SWITCH_NEIGHBOR_TABLE,
    SWITCH_OPTICS,
    SWITCH_PORT,
    SWITCH_PRIORITY,
    SWITCH_QUEUE,
    SWITCH_READING,
    SWITCH_VLAN,
)
from exporter.switches.snmp import Credentials

PORTS_PER_SWITCH = 256
"""On average over all switches, and LAGs among them; a chassis may have more where others have fewer."""


class SwitchSettings(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    address: str
    port: int
    credentials: Credentials
    aliases: dict[str, str]
    """{what the device calls a port: its canonical name}."""
    profile: str | None = None
    cnp_queue: int | None = None


class PollerSettings(msgspec.Struct, frozen=True, kw_only=True):
    period_seconds: float
    timeout_seconds: float
    retries: int
    engine: str
    """fast or pysnmp."""
    priorities: tuple[int, ...]
    """Empty for all that a switch tells."""
    tables: tuple[str, ...]
    """Tables that are read though their profile leaves them out."""
    without: tuple[str, ...]
    """Tables that are not read though their profile has them."""
    max_repetitions: int | None
    profiles: str | None
    """Directory of the operator's own profiles."""
    switches: tuple[SwitchSettings, ...]


def share_of(switches: int) -> float:
    """Share of each table that one of so many switches may take at most: four times the average."""
    return min(1.0, 4 / switches)


def switch_tables(switches: int) -> list[tuple[Table, int]]:
    """Tables of the poller's store with their capacities; both processes lay the memory out by this."""
    ports = max(4096, switches * PORTS_PER_SWITCH)
    return [
        (SWITCH_PORT, ports),
        (SWITCH_PRIORITY, 8 * ports),
        (SWITCH_QUEUE, 8 * ports),
        (SWITCH_VLAN, 4 * ports),
        (SWITCH_OPTICS, 4 * ports),
        (SWITCH_BGP, max(1024, 64 * switches)),
        (SWITCH_CPU, 64 * switches),
        (SWITCH_CONTROL_PLANE, 64 * switches),
        (SWITCH, switches),
        (SWITCH_READING, 32 * switches),
        (SWITCH_INFO_TABLE, switches),
        (SWITCH_NEIGHBOR_TABLE, ports),
        (SWITCH_COVERAGE_TABLE, 32 * switches),
    ]
