"""The process that reads the overlay's tables for what can be counted of them.

Started as ``python -m exporter.overlay.process STORE CONTROL``. It ends when the pipe closes.
"""

from __future__ import annotations

import math
import select
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from exporter.contracts.overlay import LOCAL
from exporter.contracts.overlay_counters import (
    INCONSISTENCIES,
    OVERLAY,
    OVERLAY_ENTRIES,
    OVERLAY_INCONSISTENT_TABLE,
    OVERLAY_OFFLOADED,
    OVERLAY_READ_DURATION,
    OVERLAY_READ_FAILURES,
    OVERLAY_READ_TIME,
)
from exporter.inheritance import inherit
from exporter.overlay.kernel import Forwarding, forwarding, read_tables
from exporter.overlay.openvswitch import OpenVSwitch
from exporter.overlay.settings import OverlaySettings, overlay_tables
from exporter.store import RowWriter, Store

_MOST_NAMED = 5
_COLUMN = {metric: column for column, metric in enumerate(OVERLAY.metrics)}


def inconsistencies(found: Forwarding, vteps: frozenset[str] | None) -> dict[str, float]:
    """{kind: number of entries}; NaN where nobody can tell."""
    remote = [entry for entry in found.entries if entry.next is not None and not entry.next.startswith(LOCAL)]
    counted = Counter(
        {
            "missing-entry": len(found.unresolved),
            "not-offloaded": sum(entry.offloaded is False for entry in remote),
            "unknown-vtep": sum(entry.next not in (vteps or ()) for entry in remote),
        }
    )
    untold = {"unknown-vtep"} if vteps is None else set()
    if all(entry.offloaded is None for entry in remote):
        untold.add("not-offloaded")
    return {kind: math.nan if kind in untold else float(counted[kind]) for kind in INCONSISTENCIES}


class OverlayReader:
    """Reads what there is, and writes down how it went."""

    def __init__(self, settings: OverlaySettings, store: Store) -> None:
        store.clear()
        self._settings = settings
        own, kinds = store.writer(OVERLAY), store.writer(OVERLAY_INCONSISTENT_TABLE)
        self._kernel = own.add((settings.host, "kernel"))
        self._kinds = {kind: kinds.add((settings.host, kind)) for kind in INCONSISTENCIES}
        self._switch = None if settings.openvswitch is None else OpenVSwitch(Path(settings.openvswitch))
        self._flows = own.add((settings.host, "openvswitch")) if self._switch is not None else None
        self._problems: dict[str, str] = {}
        self._told = ""

    def read(self) -> None:
        self._timed("kernel", self._kernel, self._read_kernel)
        if self._flows is not None:
            self._timed("openvswitch", self._flows, self._read_flows)

    def _timed(self, table: str, row: RowWriter, read: Callable[[], tuple[float, float]]) -> None:
        began, problem = time.monotonic(), ""
        entries = offloaded = math.nan  # of a table that cannot be read nothing is known
        try:
            entries, offloaded = read()
        except OSError as error:
            problem = f"{error.strerror or error}: {error.filename or 'netlink'}"
        row.begin()
        row.set(_COLUMN[OVERLAY_ENTRIES], entries)
        row.set(_COLUMN[OVERLAY_OFFLOADED], offloaded)
        row.set(_COLUMN[OVERLAY_READ_DURATION], time.monotonic() - began)
        if problem:
            row.add(_COLUMN[OVERLAY_READ_FAILURES])
        else:
            row.set(_COLUMN[OVERLAY_READ_TIME], time.time())
        row.end()
        if problem != self._problems.get(table, ""):
            print(f"overlay table of {table}: {problem or 'read again'}", file=sys.stderr, flush=True)
        self._problems[table] = problem

    def _read_kernel(self) -> tuple[float, float]:
        counted = dict.fromkeys(INCONSISTENCIES, math.nan)
        try:
            found = forwarding(read_tables(), self._settings.host, self._settings.ports, time.time())
            counted = inconsistencies(found, self._settings.vteps)
        finally:
            for kind, number in counted.items():
                self._kinds[kind].begin()
                self._kinds[kind].set(0, number)
                self._kinds[kind].end()
        self._tell(found)
        told = [entry.offloaded for entry in found.entries if entry.offloaded is not None]
        return float(len(found.entries)), float(sum(told)) if told else math.nan

    def _tell(self, found: Forwarding) -> None:
        """Name what is wrong, each change once: a number says how many, and nobody can look for what is missing."""
        wrong = [*found.problems, *(f"vni {vni}: no way to {address}" for vni, address in found.unresolved)]
        vteps = self._settings.vteps
        wrong += [
            f"vni {entry.vni}: {entry.dst} is sent to {entry.next}, which the topology does not have"
            for entry in found.entries
            if vteps is not None and entry.container is None and entry.next not in vteps
        ]
        more = f", and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        line = ", ".join(wrong[:_MOST_NAMED]) + more
        if line != self._told:
            print(f"overlay table of kernel: {line or 'all is well'}", file=sys.stderr, flush=True)
        self._told = line

    def _read_flows(self) -> tuple[float, float]:
        if self._switch is None:
            return math.nan, math.nan
        flows = self._switch.count()
        return float(flows.current), math.nan if flows.offloaded is None else float(flows.offloaded)


def main() -> None:
    given = inherit(OverlaySettings)
    reader = OverlayReader(given.settings, Store(overlay_tables(), *given.memory))
    ended = select.poll()
    ended.register(given.control, select.POLLIN)
    while True:
        due = time.monotonic() + given.settings.period_seconds
        reader.read()
        if ended.poll(max(due - time.monotonic(), 0.0) * 1000):
            return


if __name__ == "__main__":
    main()
