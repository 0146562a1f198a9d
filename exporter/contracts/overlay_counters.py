"""Metrics of a host's overlay tables: how long they are, what of them the RNIC holds, what in them cannot be."""

from __future__ import annotations

from exporter.contracts.metric import Kind, Metric, table

OVERLAY_LABELS = ("host", "table")
SOURCES = ("kernel", "openvswitch")
INCONSISTENCIES = ("missing-entry", "unknown-vtep", "not-offloaded")
"""Kinds of entries that cannot be right, by the names of docs/contracts/overlay-state.md."""


def _overlay(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"fabric.overlay.{name}", kind, unit, OVERLAY_LABELS, text, "overlay tables")


OVERLAY_ENTRIES = _overlay(
    "entries", "gauge", "{entry}", "Forwarding entries of the kernel's VXLAN devices, or flows of Open vSwitch."
)
OVERLAY_OFFLOADED = _overlay(
    "offloaded.entries", "gauge", "{entry}", "Those of them that the RNIC holds, where its driver says so of any."
)
OVERLAY_READ_TIME = _overlay("read.timestamp", "gauge", "s", "Unix time of the last reading that succeeded.")
OVERLAY_READ_DURATION = _overlay("read.duration", "gauge", "s", "Length of the last reading.")
OVERLAY_READ_FAILURES = _overlay("read.failures", "counter", "{read}", "Readings that failed.")
OVERLAY = table(
    "overlay",
    OVERLAY_LABELS,
    OVERLAY_ENTRIES,
    OVERLAY_OFFLOADED,
    OVERLAY_READ_TIME,
    OVERLAY_READ_DURATION,
    OVERLAY_READ_FAILURES,
)

OVERLAY_INCONSISTENT = Metric(
    "fabric.overlay.inconsistent.entries",
    "gauge",
    "{entry}",
    ("host", "kind"),
    "Entries of the kernel's VXLAN devices that cannot be right: an address without a way (`missing-entry`), a way to "
    "an address that the topology does not have (`unknown-vtep`), or one that the RNIC does not hold though it holds "
    "others (`not-offloaded`).",
    "inconsistencies",
)
OVERLAY_INCONSISTENT_TABLE = table("overlay_inconsistent", OVERLAY_INCONSISTENT.labels, OVERLAY_INCONSISTENT)

OVERLAY_DUMPS = Metric(
    "fabric.overlay.dumps", "counter", "{dump}", (), "Whole tables read because somebody asked for them.", "1"
)
OVERLAY_DUMPS_TABLE = table("overlay_dumps", (), OVERLAY_DUMPS)
