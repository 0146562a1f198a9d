"""The whole overlay state of a host, as the contract has it; ``python -m exporter.overlay.state`` prints it.

It reads settings from standard input, and ends: whole tables take memory that no process of the exporter is to keep.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from exporter.contracts.overlay import Entry, OverlayState, Snapshot
from exporter.overlay.kernel import read_forwarding
from exporter.overlay.openvswitch import OpenVSwitch, entries
from exporter.overlay.settings import OverlaySettings


def read_state(settings: OverlaySettings) -> OverlayState:
    """Read every table now. Raise OSError: half a table would look as if the rest were missing."""
    now = time.time()
    found = read_forwarding(settings.host, settings.ports).entries
    if settings.openvswitch is not None:
        flows = OpenVSwitch(Path(settings.openvswitch)).flows()
        known = {(entry.vni, entry.dst, entry.next) for entry in found}  # a port may be both's
        found += [
            entry
            for entry in entries(flows, settings.host, settings.ports, now)
            if (entry.vni, entry.dst, entry.next) not in known
        ]
    return with_snapshots(settings.host, found, now)


def with_snapshots(host: str, vswitch: Sequence[Entry], now: float) -> OverlayState:
    """The state; what the RNIC holds is a table of its own where it holds anything."""
    held = [msgspec.structs.replace(entry, table="rnic", offloaded=None) for entry in vswitch if entry.offloaded]
    snapshots = [Snapshot(host=host, table="vswitch", time=now)]
    if held:
        snapshots.append(Snapshot(host=host, table="rnic", time=now))
    return OverlayState(version=1, snapshots=tuple(snapshots), entries=(*vswitch, *held))


def main() -> int:
    os.nice(19)  # the prober goes first
    settings = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=OverlaySettings)
    try:
        state = read_state(settings)
    except OSError as error:
        print(f"{error.strerror or error}: {error.filename or 'netlink'}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(state))
    return 0


if __name__ == "__main__":
    sys.exit(main())
