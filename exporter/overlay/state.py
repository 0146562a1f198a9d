"""The whole overlay state of a host, as the contract has it; ``python -m exporter.overlay.state`` prints it.

It reads an order from standard input, and ends: whole tables take memory that no process of the exporter is to keep.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from exporter.contracts.overlay import MAX_ENTRIES, Entry, OverlayState, Snapshot
from exporter.overlay.kernel import forwarding, read_tables
from exporter.overlay.openvswitch import OpenVSwitch, entries
from exporter.overlay.settings import OverlaySettings


class Order(msgspec.Struct, frozen=True):
    settings: OverlaySettings
    before: float | None
    """Time of the reading before this one. An entry may tell when it last changed only if that was after it: the
    contract counts an entry as of the first snapshot that follows its time."""


class Told(msgspec.Struct, frozen=True):
    """A state in pieces that may be joined with others as they are."""

    time: float
    snapshots: bytes
    """JSON, without its brackets."""
    entries: bytes


def read_state(settings: OverlaySettings) -> OverlayState:
    """Read every table now. Raise OSError: half a table would look as if the rest were missing."""
    flows = OpenVSwitch(Path(settings.openvswitch)).flows() if settings.openvswitch is not None else None
    tables = read_tables()
    now = time.time()
    kernel = forwarding(tables, settings.host, settings.ports, now)
    found = {_identity(entry): entry for entry in kernel.entries}
    if flows is not None:
        for entry in entries(flows, settings.host, settings.ports, now):
            found.setdefault(_identity(entry), entry)
    # Flows are what came by lately: one that is not there says nothing.
    return with_snapshots(settings.host, found.values(), now, complete=kernel.complete and flows is None)


def _identity(entry: Entry) -> tuple[object, ...]:
    """By which it is told from others: packets of several ports, or that pass the switch twice, have one flow each."""
    return entry.vni, entry.dst, entry.next, entry.in_port


def with_snapshots(host: str, vswitch: Iterable[Entry], now: float, *, complete: bool) -> OverlayState:
    """The state; what the RNIC holds is a table of its own where it holds anything."""
    wanted = [entry if entry.time <= now else msgspec.structs.replace(entry, time=now) for entry in vswitch]
    held = [msgspec.structs.replace(entry, table="rnic", offloaded=None) for entry in wanted if entry.offloaded]
    snapshots = [Snapshot(host=host, table="vswitch", time=now, complete=complete)]
    if held:
        snapshots.append(Snapshot(host=host, table="rnic", time=now))
    return OverlayState(version=1, snapshots=tuple(snapshots), entries=(*wanted, *held))


def told(state: OverlayState, before: float | None) -> Told:
    """The state in pieces, for one who has another of time ``before``."""
    now = state.snapshots[0].time
    new = [
        entry if before is None or entry.time > before else msgspec.structs.replace(entry, time=now)
        for entry in state.entries
    ]
    return Told(now, msgspec.json.encode(state.snapshots)[1:-1], msgspec.json.encode(new)[1:-1])


def main() -> int:
    os.nice(19)  # the prober goes first
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    try:
        state = read_state(order.settings)
    except OSError as error:
        print(f"{error.strerror or error}: {error.filename or 'netlink'}", file=sys.stderr)
        return 1
    if len(state.entries) > MAX_ENTRIES:
        print(f"{len(state.entries)} entries, more than {MAX_ENTRIES}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.msgpack.encode(told(state, order.before)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
