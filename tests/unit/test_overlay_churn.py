"""Overlay tables as collectors meet them, while containers come, go and move; and as the lab writes them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pytest

from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import Entry, OverlayState, Snapshot, TableName
from lab.network import overlay as lab_overlay
from lab.network.design import Design, draw
from skeleton_service.diagnosis.offloading import inconsistencies
from skeleton_service.diagnosis.overlay import Overlay
from skeleton_service.diagnosis.overlay_findings import OverlayFinding, merged
from tests.unit.overlays import (
    World,
    changed,
    gone,
    inner,
    rnic,
    to,
    vswitch,
)

STEP = 30.0
SLOWEST = 2.5  # seconds until a change has come to a virtual switch; an RNIC follows within another half


@dataclass(frozen=True)
class Life:
    """A container at an address, on one host after the other; (host, from, until) each."""

    dst: str
    container: str
    stays: tuple[tuple[int, float, float], ...]

    def next_hop(self, host: int, time: float) -> tuple[str | None, float]:
        """Where a host sends at a time, as it then is, and when that changed; None is nowhere."""
        following, changed = None, -math.inf
        for place, begin, end in self.stays:
            if begin <= time:
                following, changed = f"local:{self.container}" if place == host else rnic(place, 0), begin
            if end <= time:
                following, changed = None, end
        return following, changed


def churning(chance: random.Random, hosts: int) -> list[Life]:
    lives = [Life(inner(n, 0), f"c{n}", ((n, -1e4, 1e4),)) for n in range(hosts)]
    for number in range(hosts, hosts + 8):
        time, stays = chance.uniform(-40, 90), []
        for place in chance.sample(range(hosts), 2):
            end = time + chance.uniform(1, 60)
            stays.append((place, time, end))
            time = end + chance.choice([0.0, 5.0])
        lives.append(Life(inner(number, 0), f"c{number}", tuple(stays)))
    return lives


def collected(
    chance: random.Random, hosts: int, lives: Sequence[Life], readings: int, *, tells_changes: bool
) -> OverlayState:
    """Each table read every 30 s, each host's at times of its own; changes come late, to each table by itself."""
    entries, snapshots = [], []
    offset = {host: chance.uniform(0, 0.8 * STEP) for host in range(hosts)}
    late = {(host, life.dst): chance.uniform(0, SLOWEST) for host in range(hosts) for life in lives}
    behind = {key: chance.uniform(0, 0.5) for key in late}
    tables: tuple[TableName, TableName] = ("vswitch", "rnic")
    for host in range(hosts):
        for table in tables:
            for number in range(readings):
                read = offset[host] + STEP * number + (0.3 if table == "rnic" else 0.0)
                snapshots.append(Snapshot(host=f"h{host}", table=table, time=read))
                for life in lives:
                    delay = late[host, life.dst] + (behind[host, life.dst] if table == "rnic" else 0.0)
                    following, begun = life.next_hop(host, read - delay)
                    if following is not None:
                        entries.append(
                            Entry(
                                host=f"h{host}",
                                table=table,
                                vni=100,
                                dst=life.dst,
                                next=following,
                                offloaded=True if table == "vswitch" and not following.startswith("local:") else None,
                                time=begun + delay if tells_changes else read,
                            )
                        )
    return OverlayState(version=1, snapshots=tuple(snapshots), entries=tuple(entries))


@pytest.mark.parametrize("tells_changes", [False, True])
@pytest.mark.parametrize("seed", range(100))
def test_churn_accuses_nobody_and_hides_no_lasting_fault(seed: int, tells_changes: bool) -> None:
    """Two readings of every table, or one in which each entry tells when it last changed.

    Nothing tells since when an entry is missing: of one reading only containers that stay are asked about.
    """
    chance, hosts = random.Random(seed), 5  # noqa: S311
    lives = churning(chance, hosts)
    state = collected(chance, hosts, lives, 1 if tells_changes else 2, tells_changes=tells_changes)
    last = max(snapshot.time for snapshot in state.snapshots)
    asked = [
        life for life in lives if not tells_changes or any(begin < 0 and last < end for _, begin, end in life.stays)
    ]
    pairs = [(f"h{host}", life.dst, life.container) for host in range(hosts) for life in asked]
    tables = Overlay(state, World(hosts).fabric)
    assert [finding for pair in pairs if (finding := tables.replay(*pair))] == []
    assert {dst for each in inconsistencies(tables) for _, dst in each.flows}.isdisjoint(life.dst for life in asked)
    broken = changed(state.entries, to(rnic(3, 0)) if tells_changes else gone, host="h1", dst=[inner(2, 0)])
    tables = Overlay(msgspec.structs.replace(state, entries=tuple(broken)), World(hosts).fabric)
    (finding,) = [finding for pair in pairs if (finding := tables.replay(*pair))]
    assert (finding.kind, finding.component) == ("wrong-next-hop" if tells_changes else "missing-entry", vswitch("h1"))


# ---- as the lab writes it


def lab_tables(design: Design) -> list[Entry]:
    """Both tables of every host when all is well (lab.network.overlay.state, without a sandbox to read from)."""
    wanted = [entry for host in design.hosts for entry in lab_overlay.wanted_entries(design, host)]
    held = [msgspec.structs.replace(entry, table="rnic", offloaded=None, in_port=None) for entry in wanted]
    return [*wanted, *held]


@pytest.mark.parametrize("seed", range(5))
def test_each_tenants_faults_are_found_in_the_lab_though_addresses_overlap(seed: int) -> None:
    design = draw(seed, hosts_per_pod=2)
    fabric = Fabric(design.topology())
    entries = lab_tables(design)
    containers = design.containers

    def found(of: Sequence[Entry]) -> list[OverlayFinding]:
        tables = Overlay(OverlayState(version=1, entries=tuple(of)), fabric)
        return [
            *merged(
                finding
                for one in containers
                for other in containers
                if one.tenant == other.tenant
                for interface in other.interfaces
                if (finding := tables.replay(one.host, interface.address, other.name)) is not None
            ),
            *inconsistencies(tables),
        ]

    assert found(entries) == []
    for container in containers:
        vni = lab_overlay.tenant_of(design, container).vni
        own = {interface.address for interface in container.interfaces}
        for host in (host for host in design.hosts if host.name != container.host):
            kept = [e for e in entries if not (e.host == host.name and e.vni == vni and e.dst in own)]
            (finding,) = found(kept)
            assert (finding.kind, finding.component) == ("missing-entry", vswitch(host.name))
            assert finding.flows == tuple(sorted((host.name, address) for address in own))
        (finding,) = found(
            [e for e in entries if e.table == "vswitch" or e.container or e.vni != vni or e.dst not in own]
        )
        assert (finding.kind, finding.component.name) == ("not-held", container.name)
