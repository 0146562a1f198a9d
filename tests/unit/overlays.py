"""Small overlays for tests: their tables, made wrong in one place or another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import Entry, OverlayState, Snapshot, TableName
from exporter.contracts.topology import Host, Rnic, Topology
from skeleton_service.diagnosis.overlay import Overlay
from skeleton_service.diagnosis.overlay_findings import OverlayFinding, merged

NOW = 1_760_000_000.0
RAILS = 2
STRANGER = "198.51.100.1"


@dataclass(frozen=True)
class World:
    """One container ``c<n>`` on each host ``h<n>``, with an address a rail, in one network."""

    hosts: int
    vni: int = 100

    @property
    def fabric(self) -> Fabric:
        hosts = tuple(
            Host(name=f"h{n}", rnics=tuple(Rnic(name=f"mlx5_{k}", rail=k, ip=rnic(n, k)) for k in range(RAILS)))
            for n in range(self.hosts)
        )
        return Fabric(Topology(version=1, hosts=hosts, switches=(), links=()))

    def entries(self, time: float = NOW) -> list[Entry]:
        every = [
            (here, there, rail) for here in range(self.hosts) for there in range(self.hosts) for rail in range(RAILS)
        ]
        wanted = [
            Entry(
                host=f"h{here}",
                table="vswitch",
                vni=self.vni,
                dst=inner(there, rail),
                next=f"local:c{there}" if here == there else rnic(there, rail),
                offloaded=None if here == there else True,
                time=time,
            )
            for here, there, rail in every
        ]
        return wanted + [msgspec.structs.replace(entry, table="rnic", offloaded=None) for entry in wanted]

    def snapshots(self, time: float = NOW) -> tuple[Snapshot, ...]:
        tables: tuple[TableName, TableName] = ("vswitch", "rnic")
        return tuple(Snapshot(host=f"h{n}", table=table, time=time) for n in range(self.hosts) for table in tables)


def rnic(host: int, rail: int) -> str:
    return f"10.{rail}.0.{host + 1}"


def inner(host: int, rail: int) -> str:
    return f"172.16.{rail}.{host + 1}"


WORLD = World(4)

Change = Callable[[Entry], Entry | None]


def changed(
    entries: Sequence[Entry],
    change: Change,
    *,
    host: str | None = None,
    table: TableName = "vswitch",
    dst: str | Sequence[str] | None = None,
) -> list[Entry]:
    """The entries with those of a host's table (every host's, where None) for a destination changed, or taken out."""
    found = [
        entry.table == table and entry.host == (host or entry.host) and (dst is None or entry.dst in dst)
        for entry in entries
    ]
    assert any(found)
    results = [change(entry) if hit else entry for entry, hit in zip(entries, found, strict=True)]
    return [entry for entry in results if entry is not None]


def gone(entry: Entry) -> None:  # noqa: ARG001
    return None


def to(following: str | None) -> Change:
    return lambda entry: msgspec.structs.replace(entry, next=following)


def overlay(entries: Sequence[Entry], world: World = WORLD, snapshots: tuple[Snapshot, ...] | None = None) -> Overlay:
    listed = world.snapshots() if snapshots is None else snapshots
    return Overlay(OverlayState(version=1, snapshots=listed, entries=tuple(entries)), world.fabric)


def replays(tables: Overlay, world: World = WORLD) -> list[OverlayFinding]:
    """What all pairs of containers on different hosts meet."""
    return merged(
        finding
        for here in range(world.hosts)
        for there in range(world.hosts)
        for rail in range(RAILS)
        if (finding := tables.replay(f"h{here}", inner(there, rail), f"c{there}")) is not None
    )


def vswitch(host: str) -> Component:
    return Component(kind="vswitch", name=host)


def not_offloaded(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, offloaded=False)
