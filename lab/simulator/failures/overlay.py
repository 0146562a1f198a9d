"""The overlay's two tables on every host, healthy and with what a failure does to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from exporter.contracts.overlay import Entry, OverlayState, Snapshot
from lab.simulator.failures.flows import Job
from lab.simulator.failures.wiring import Wiring

Edit = Callable[[Entry], Entry | None]


@dataclass(slots=True)
class Tables:
    """``edits`` {(host, table): what becomes of each entry of it}: None where it goes missing."""

    wiring: Wiring
    job: Job
    edits: dict[tuple[str, str], list[Edit]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # hosts that no longer answer

    def edit(self, host: str, table: str, change: Edit) -> None:
        self.edits.setdefault((host, table), []).append(change)

    def healthy(self, time: float) -> OverlayState:
        return _state(self, {}, set(), time)

    def broken(self, time: float) -> OverlayState:
        return _state(self, self.edits, self.gone, time)


def _state(tables: Tables, edits: dict[tuple[str, str], list[Edit]], gone: set[str], time: float) -> OverlayState:
    """Every container's RNIC in the table of every host: its own by name, the others' behind their RNIC's address."""
    wiring, job = tables.wiring, tables.job
    cards = [(host.name, card) for host in wiring.topology.hosts for card in host.rnics if host.name in wiring.hosts]
    entries: list[Entry] = []
    snapshots: list[Snapshot] = []
    for number, host in enumerate(wiring.hosts):
        if host in gone:
            continue
        for shift, table in ((0.0, "vswitch"), (0.2, "rnic")):
            moment = round(time + shift + number * 0.01, 3)
            snapshots.append(Snapshot(host=host, table=table, time=moment))  # type: ignore[arg-type]
            changes = edits.get((host, table), [])
            for rnic, (owner, card) in enumerate(cards):
                local = owner == host
                entry: Entry | None = Entry(
                    host=host,
                    table=table,  # type: ignore[arg-type]
                    vni=job.vni,
                    dst=job.overlay[rnic],
                    next=f"local:{job.container[rnic]}" if local else card.ip,
                    in_port=f"vf{card.rail}" if local else None,
                    offloaded=True if table == "vswitch" and not local else None,
                    time=moment,
                )
                for change in changes:
                    entry = change(entry) if entry is not None else None
                if entry is not None:
                    entries.append(entry)
    return OverlayState(version=1, snapshots=tuple(snapshots), entries=tuple(entries))


def replaced(entry: Entry, **fields: object) -> Entry:
    return msgspec.structs.replace(entry, **fields)
