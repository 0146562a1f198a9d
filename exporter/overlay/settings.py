"""The section ``overlay``, and what the control process tells those that read overlay tables."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from exporter.contracts.metric import Table
from exporter.contracts.overlay import Vni
from exporter.contracts.overlay_counters import INCONSISTENCIES, OVERLAY, OVERLAY_INCONSISTENT_TABLE, SOURCES


class OverlayPort(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A port of a virtual switch on this host, and who is behind it."""

    name: Annotated[str, Meta(min_length=1, max_length=300)]
    container: Annotated[str, Meta(min_length=1, max_length=300)]
    address: str
    """Overlay address of the container's interface."""
    vni: Vni | None = None
    """VXLAN network identifier, where the bridge has several or the switch's tunnel serves many."""


class Overlay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``overlay``: whose tables are read, and how often."""

    period_seconds: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    dump_seconds: Annotated[float, Meta(ge=1, le=3600)] = 10.0
    """The least between two readings of whole tables, however many ask for them."""
    ports: tuple[OverlayPort, ...] = ()
    openvswitch: str | None = None
    """Directory of ``ovs-vswitchd``'s control socket; left out, Open vSwitch is not asked."""


class OverlaySettings(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    period_seconds: float
    ports: tuple[OverlayPort, ...]
    openvswitch: str | None
    vteps: frozenset[str] | None
    """Addresses that may be sent to; None where no topology says."""


def overlay_tables() -> list[tuple[Table, int]]:
    """Tables of the process' store with their capacities; both processes lay the memory out by this."""
    return [(OVERLAY, len(SOURCES)), (OVERLAY_INCONSISTENT_TABLE, len(INCONSISTENCIES))]
