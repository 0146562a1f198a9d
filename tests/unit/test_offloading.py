"""RNICs' tables held against those of the virtual switches, and whose to read."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import Entry, OverlayState, Snapshot, TableName
from exporter.contracts.topology import Rnic
from skeleton_service.diagnosis.offloading import hosts_to_validate, inconsistencies
from skeleton_service.diagnosis.overlay import Overlay
from skeleton_service.diagnosis.overlay_findings import OverlayFinding
from tests.unit.overlays import (
    NOW,
    RAILS,
    WORLD,
    Change,
    World,
    changed,
    gone,
    inner,
    not_offloaded,
    overlay,
    replays,
    rnic,
    to,
    vswitch,
)


def held(change: Change, **where: object) -> list[OverlayFinding]:
    return inconsistencies(overlay(changed(WORLD.entries(), change, table="rnic", **where)))  # type: ignore[arg-type]


REMOTE = [inner(n, k) for n in range(1, 4) for k in range(RAILS)]


def test_an_rnic_that_holds_none_of_its_flows_is_to_blame() -> None:
    (finding,) = held(gone, host="h0", dst=[inner(n, 1) for n in range(1, 4)])
    assert finding.kind == "not-held"
    assert finding.component == Component(kind="rnic", name="h0:mlx5_1")
    assert finding.alternatives == (vswitch("h0"),)
    assert len(finding.flows) == 3
    assert finding.evidence[0] == (
        "h0: vni 100, dst 172.16.1.2: vswitch table: next 10.1.0.2, offloaded true; "
        "RNIC table: missing; read at 1760000000.000 and 1760000000.000"
    )


def test_a_host_whose_rnics_lack_flows_of_one_container_is_to_blame() -> None:
    (finding,) = held(gone, host="h0", dst=[inner(1, 0), inner(1, 1)])
    assert (finding.kind, finding.component) == ("not-held", vswitch("h0"))
    assert finding.alternatives == (
        Component(kind="rnic", name="h0:mlx5_0"),
        Component(kind="rnic", name="h0:mlx5_1"),
    )


def test_a_host_that_holds_nothing_is_to_blame_rather_than_each_rnic() -> None:
    (finding,) = held(gone, host="h0", dst=REMOTE)
    assert (finding.component, len(finding.flows)) == (vswitch("h0"), len(REMOTE))


def test_a_container_that_no_rnic_holds_is_to_blame() -> None:
    def remote(entry: Entry) -> Entry | None:
        return entry if entry.container else None

    (finding,) = held(remote, dst=[inner(1, 0), inner(1, 1)])
    assert (finding.kind, finding.component) == ("not-held", Component(kind="container", name="c1"))
    assert finding.alternatives == (vswitch("h1"),)
    assert len(finding.flows) == 3 * RAILS


def test_two_things_at_once_are_two_findings() -> None:
    entries = changed(
        WORLD.entries(), lambda e: e if e.container else None, table="rnic", dst=[inner(1, 0), inner(1, 1)]
    )
    entries = changed(entries, gone, host="h2", table="rnic", dst=[inner(0, 0), inner(3, 0)])
    found = inconsistencies(overlay(entries))
    assert [(finding.component.name, len(finding.flows)) for finding in found] == [("c1", 3 * RAILS), ("h2:mlx5_0", 2)]


def test_an_rnic_that_sends_elsewhere_is_to_blame() -> None:
    (finding,) = held(to(rnic(3, 0)), host="h0", dst=[inner(1, 0)])
    assert (finding.kind, finding.component) == ("other-next", Component(kind="rnic", name="h0:mlx5_0"))
    assert "vswitch table: next 10.0.0.2, offloaded true; RNIC table: next 10.0.0.4" in finding.evidence[0]


def test_an_entry_that_no_virtual_switch_has_any_more_is_stale() -> None:
    entries = changed(WORLD.entries(), gone, dst=[inner(1, 0)])
    entries = [e for e in entries if e.table == "vswitch" or e.dst != inner(1, 0) or e.host == "h0"]
    (finding,) = inconsistencies(overlay(entries))
    assert (finding.kind, finding.component) == ("stale-entry", Component(kind="rnic", name="h0:mlx5_0"))
    assert finding.evidence[0].startswith(
        "h0: vni 100, dst 172.16.0.2: vswitch table: missing; RNIC table: next 10.0.0.2"
    )


def test_an_entry_that_one_virtual_switch_lost_is_not_the_rnics_fault() -> None:
    tables = overlay(changed(WORLD.entries(), gone, host="h0", dst=[inner(1, 0)]))
    assert inconsistencies(tables) == []
    assert [finding.component for finding in replays(tables)] == [vswitch("h0")]


def unoffloaded(dst: Sequence[str], *hosts: str) -> list[OverlayFinding]:
    entries = WORLD.entries()
    for host in hosts:
        entries = changed(changed(entries, not_offloaded, host=host, dst=dst), gone, host=host, table="rnic", dst=dst)
    return inconsistencies(overlay(entries))


def test_flows_that_a_host_leaves_to_software_are_its_virtual_switchs() -> None:
    (finding,) = unoffloaded([inner(1, 0), inner(2, 1)], "h0")
    assert (finding.kind, finding.component) == ("not-offloaded", vswitch("h0"))


def test_flows_that_every_host_leaves_to_software_are_the_containers() -> None:
    (finding,) = unoffloaded([inner(1, 0), inner(1, 1)], "h0", "h2", "h3")
    assert (finding.kind, finding.component) == ("not-offloaded", Component(kind="container", name="c1"))


def test_a_host_that_offloads_nothing_is_set_so() -> None:
    assert unoffloaded(REMOTE, "h0") == []


def test_an_in_port_tells_the_rnic_before_the_addresses_do() -> None:
    """mlx5_10 begins as mlx5_1 does."""
    hosts = tuple(
        msgspec.structs.replace(
            host, rnics=(*host.rnics, Rnic(name="mlx5_10", rail=2, ip=f"10.2.0.{int(host.name[1:]) + 1}"))
        )
        for host in WORLD.fabric.topology.hosts
    )
    fabric = Fabric(msgspec.structs.replace(WORLD.fabric.topology, hosts=hosts))
    entries = changed(
        WORLD.entries(),
        lambda e: msgspec.structs.replace(e, in_port="mlx5_10_3"),
        host="h0",
        dst=[inner(1, 0), inner(1, 1)],
    )
    entries = changed(entries, gone, host="h0", table="rnic", dst=[inner(1, 0), inner(1, 1)])
    (finding,) = inconsistencies(Overlay(OverlayState(version=1, entries=tuple(entries)), fabric))
    assert finding.component == Component(kind="rnic", name="h0:mlx5_10")


def test_a_vtep_and_an_rnic_of_one_host_are_one_place() -> None:
    topology = WORLD.fabric.topology
    hosts = tuple(msgspec.structs.replace(host, vteps=(f"192.0.2.{host.name[1:]}",)) for host in topology.hosts)
    fabric = Fabric(msgspec.structs.replace(topology, hosts=hosts))

    def found(vtep: str) -> list[OverlayFinding]:
        entries = changed(WORLD.entries(), to(vtep), host="h0", dst=[inner(1, 0)])
        return inconsistencies(Overlay(OverlayState(version=1, entries=tuple(entries)), fabric))

    assert found("192.0.2.1") == []
    assert [finding.kind for finding in found("192.0.2.2")] == ["other-next"]


@pytest.mark.parametrize("table", ["rnic", "vswitch"])
def test_a_flow_that_comes_and_goes_is_offloaded_repeatedly(table: TableName) -> None:
    """SkeletonHunter, Figure 18. One that came once is new."""

    def readings(*states: bool) -> list[OverlayFinding]:
        entries: list[Entry] = []
        read: tuple[Snapshot, ...] = ()
        for number, there in enumerate(states):
            time = NOW + 10 * number
            read += WORLD.snapshots(time)
            absent: Change = gone if table == "rnic" else not_offloaded
            own = WORLD.entries(time)
            entries += own if there else changed(own, absent, host="h0", table=table, dst=[inner(1, 0), inner(1, 1)])
        return inconsistencies(overlay(entries, snapshots=read))

    (finding,) = readings(True, False, True)
    assert (finding.kind, finding.component) == ("repeatedly-offloaded", vswitch("h0"))
    assert "not changed 2 times in 3 readings" in finding.evidence[0]
    assert readings(False, True, True) == []
    assert readings(False, True) == []


def test_one_host_that_alone_knows_a_container_is_to_blame() -> None:
    world = World(2)
    (finding,) = inconsistencies(overlay(changed(world.entries(), gone, host="h0", table="rnic"), world))
    assert (finding.component, len(finding.flows)) == (vswitch("h0"), RAILS)


@pytest.mark.parametrize(("hosts", "blamed"), [(3, ["c1"]), (2, ["h0", "h2"])])
def test_a_container_is_to_blame_when_most_hosts_hold_nothing_for_it(hosts: int, blamed: list[str]) -> None:
    world = World(5)
    entries = world.entries()
    for host in ("h0", "h2", "h3")[:hosts]:
        entries = changed(entries, gone, host=host, table="rnic", dst=[inner(1, 0), inner(1, 1)])
    assert [finding.component.name for finding in inconsistencies(overlay(entries, world))] == blamed


@pytest.mark.parametrize(("missing", "blamed"), [(3, "h0:mlx5_0"), (2, "h0")])
def test_a_hosts_only_rnic_is_to_blame_when_it_holds_nothing(missing: int, blamed: str) -> None:
    topology = WORLD.fabric.topology
    hosts = tuple(msgspec.structs.replace(host, rnics=host.rnics[:1]) for host in topology.hosts)
    fabric = Fabric(msgspec.structs.replace(topology, hosts=hosts))
    first = [entry for entry in WORLD.entries() if entry.dst.startswith("172.16.0.")]
    entries = changed(first, gone, host="h0", table="rnic", dst=[inner(n, 0) for n in range(1, 1 + missing)])
    (finding,) = inconsistencies(Overlay(OverlayState(version=1, entries=tuple(entries)), fabric))
    assert finding.component.name == blamed


def test_most_flows_of_one_rnic_beside_a_sound_one_are_its_own() -> None:
    (finding,) = held(gone, host="h0", dst=[inner(1, 0), inner(2, 0)])
    assert finding.component == Component(kind="rnic", name="h0:mlx5_0")
    (finding,) = held(gone, host="h0", dst=[inner(1, 0), inner(2, 0), inner(3, 1)])
    assert (finding.component, len(finding.flows)) == (vswitch("h0"), 3)


def test_two_rnics_of_one_rail_are_not_told_apart() -> None:
    topology = WORLD.fabric.topology
    both = tuple(msgspec.structs.replace(each, rail=0) for each in topology.hosts[0].rnics)
    hosts = (msgspec.structs.replace(topology.hosts[0], rnics=both), *topology.hosts[1:])
    fabric = Fabric(msgspec.structs.replace(topology, hosts=hosts))
    entries = changed(WORLD.entries(), gone, host="h0", table="rnic", dst=[inner(n, 0) for n in range(1, 4)])
    (finding,) = inconsistencies(Overlay(OverlayState(version=1, entries=tuple(entries)), fabric))
    assert (finding.component, finding.alternatives) == (vswitch("h0"), ())


def test_an_entry_of_another_port_does_not_stand_for_a_missing_one() -> None:
    def from_port(port: str) -> Change:
        return lambda entry: msgspec.structs.replace(entry, in_port=port)

    entries = changed(WORLD.entries(), from_port("vf1"), host="h0", dst=[inner(1, 0)])
    entries = changed(entries, from_port("vf1"), host="h0", table="rnic", dst=[inner(1, 0)])
    assert inconsistencies(overlay(entries)) == []
    entries = changed(entries, from_port("vf2"), host="h0", table="rnic", dst=[inner(1, 0)])
    assert [finding.kind for finding in inconsistencies(overlay(entries))] == ["not-held"]


def test_an_rnic_need_not_hold_what_stays_on_its_host() -> None:
    entries = changed(WORLD.entries(), not_offloaded, host="h0", dst=[inner(0, 0), inner(0, 1)])
    entries = changed(entries, gone, host="h0", table="rnic", dst=[inner(0, 0), inner(0, 1)])
    assert inconsistencies(overlay(entries)) == []


def test_tables_of_one_host_read_at_different_times_are_not_compared() -> None:
    entries = changed(WORLD.entries(), gone, host="h0", table="rnic", dst=REMOTE)
    late = [msgspec.structs.replace(e, time=NOW + 40) if e.table == "rnic" else e for e in entries]
    assert inconsistencies(overlay(late, snapshots=())) == []


def test_a_flow_that_has_just_changed_need_not_be_offloaded_yet() -> None:
    def found(seconds: float) -> list[OverlayFinding]:
        entries = changed(
            WORLD.entries(), lambda e: msgspec.structs.replace(e, time=NOW - seconds), host="h0", dst=[inner(1, 0)]
        )
        return inconsistencies(overlay(changed(entries, gone, host="h0", table="rnic", dst=[inner(1, 0)])))

    assert found(4) == []
    assert [finding.kind for finding in found(6)] == ["not-held"]


def test_a_flow_that_moves_as_it_comes_and_goes_is_churn() -> None:
    entries: list[Entry] = []
    for number, (place, there) in enumerate([(1, True), (2, False), (3, True)]):
        own = WORLD.entries(NOW + 10 * number)
        own = changed(own, to(rnic(place, 0)), host="h0", dst=[inner(1, 0)])
        entries += own if there else changed(own, gone, host="h0", table="rnic", dst=[inner(1, 0)])
    assert inconsistencies(overlay(entries, snapshots=())) == []


def test_only_the_hosts_asked_for_are_validated() -> None:
    entries = changed(WORLD.entries(), gone, host="h0", table="rnic", dst=REMOTE)
    tables = overlay(entries)
    assert inconsistencies(tables, {"h1", "h2"}) == []
    assert [finding.component for finding in inconsistencies(tables, {"h0"})] == [vswitch("h0")]


def test_many_lines_of_evidence_are_cut_with_their_number() -> None:
    world = World(12)
    (finding,) = inconsistencies(overlay(changed(world.entries(), gone, host="h0", table="rnic"), world))
    assert len(finding.evidence) == 9
    assert finding.evidence[-1] == f"and {11 * RAILS - 8} more"


def test_an_rnics_table_read_during_a_change_is_no_inconsistency() -> None:
    """The virtual switch's table was read before a container moved, the RNIC's after, and then both again."""
    moved = changed(
        changed(WORLD.entries(), to(rnic(3, 0)), dst=[inner(1, 0)]), to(rnic(3, 0)), table="rnic", dst=[inner(1, 0)]
    )
    half = changed(WORLD.entries(NOW), to(rnic(3, 0)), host="h0", table="rnic", dst=[inner(1, 0)])
    after = [msgspec.structs.replace(entry, time=NOW + 30) for entry in moved]
    assert inconsistencies(overlay([*half, *after], snapshots=WORLD.snapshots() + WORLD.snapshots(NOW + 30))) == []
    assert [each.kind for each in inconsistencies(overlay(half))] == ["other-next"]


# ---- which hosts to validate


def test_a_host_that_all_failing_pairs_share_is_validated_with_two_peers() -> None:
    assert hosts_to_validate([("h1", "h0"), ("h2", "h0"), ("h3", "h0"), ("h0", "h4")]) == ("h0", "h1", "h2")


def test_peers_that_fail_most_are_validated_first() -> None:
    pairs = [("h0", "h1"), ("h0", "h2"), ("h0", "h3"), ("h3", "h4")]
    assert hosts_to_validate(pairs) == ("h0", "h3", "h1", "h4")


def test_every_failing_pair_has_an_end_that_is_validated() -> None:
    assert hosts_to_validate([]) == ()
    assert hosts_to_validate([("h0", "h0")]) == ()
    assert hosts_to_validate([("h0", "h1"), ("h2", "h3")]) == ("h0", "h1", "h2", "h3")
