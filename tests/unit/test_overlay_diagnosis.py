"""The overlay's forwarding, replayed by the virtual switches' tables."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from exporter.contracts.overlay import Entry, OverlayState, Snapshot
from skeleton_service.diagnosis.offloading import inconsistencies
from skeleton_service.diagnosis.overlay import Overlay
from skeleton_service.diagnosis.overlay_findings import OverlayFinding
from tests.unit.overlays import (
    NOW,
    RAILS,
    STRANGER,
    WORLD,
    Change,
    World,
    changed,
    gone,
    inner,
    overlay,
    replays,
    rnic,
    to,
    vswitch,
)


def test_a_missing_entry_is_its_hosts() -> None:
    entries = changed(WORLD.entries(), gone, host="h0", dst=[inner(1, 0)])
    (finding,) = replays(overlay(entries))
    assert (finding.kind, finding.component, finding.alternatives) == ("missing-entry", vswitch("h0"), ())
    assert finding.flows == (("h0", inner(1, 0)),)
    assert finding.evidence == (
        "h0: vswitch table, vni 100, dst 172.16.0.2: next missing, expected 10.0.0.2 (h1); read at 1760000000.000",
        "dst 172.16.0.2 is on h1: it delivers to local:c1, 2 of 2 senders send there; read at 1760000000.000",
    )


def test_an_empty_table_that_was_read_lacks_every_entry() -> None:
    """Of three hosts, and of its own container, whom four hosts miss."""
    (finding,) = replays(overlay(changed(WORLD.entries(), gone, host="h0")))[:1]
    assert (finding.kind, finding.component, len(finding.flows)) == ("missing-entry", vswitch("h0"), 7 * RAILS)


def test_a_table_that_was_not_read_is_not_wrong() -> None:
    entries = changed(WORLD.entries(), gone, host="h0")
    read = tuple(each for each in WORLD.snapshots() if (each.host, each.table) != ("h0", "vswitch"))
    assert replays(overlay(entries, snapshots=read)) == []


def test_what_nobody_knows_is_nobodys_fault() -> None:
    tables = overlay(WORLD.entries())
    assert tables.replay("h0", "172.16.9.9", "c9") is None
    assert tables.replay("h9", inner(1, 0), "c1") is None
    assert tables.replay("h0", "no:address", "c1") is None


def test_a_drop_is_its_hosts() -> None:
    (finding,) = replays(overlay(changed(WORLD.entries(), to(None), host="h2", dst=[inner(3, 1)])))
    assert (finding.kind, finding.component) == ("drop", vswitch("h2"))
    assert "next null (drop), expected 10.1.0.4 (h3)" in finding.evidence[0]


def test_a_host_without_the_container_is_a_wrong_next_hop_though_it_knows_better() -> None:
    (finding,) = replays(overlay(changed(WORLD.entries(), to(rnic(3, 0)), host="h0", dst=[inner(1, 0)])))
    assert (finding.kind, finding.component) == ("wrong-next-hop", vswitch("h0"))
    assert "next 10.0.0.4 (h3), expected 10.0.0.2 (h1)" in finding.evidence[0]


def test_a_vtep_nobody_has_is_unknown() -> None:
    (finding,) = replays(overlay(changed(WORLD.entries(), to(STRANGER), host="h0", dst=[inner(1, 0)])))
    assert (finding.kind, finding.component) == ("unknown-vtep", vswitch("h0"))
    assert f"next {STRANGER} (no VTEP or RNIC of the topology)" in finding.evidence[0]


def test_a_vtep_that_all_use_is_one_that_the_topology_lacks() -> None:
    def elsewhere(entry: Entry) -> Entry:
        return entry if entry.container else msgspec.structs.replace(entry, next=STRANGER)

    assert replays(overlay(changed(WORLD.entries(), elsewhere, dst=[inner(1, 0)]))) == []


def test_a_loop_names_the_host_where_it_began_and_the_other() -> None:
    entries = changed(WORLD.entries(), to(rnic(2, 0)), host="h0", dst=[inner(1, 0)])
    entries = changed(entries, to(rnic(0, 0)), host="h2", dst=[inner(1, 0)])
    finding = overlay(entries).replay("h0", inner(1, 0), "c1")
    assert finding is not None
    assert (finding.kind, finding.component, finding.alternatives) == ("loop", vswitch("h0"), (vswitch("h2"),))
    assert finding.evidence[-1] == "forwarding: h0 -> h2 -> h0"
    assert overlay(entries).replay("h3", inner(1, 0), "c1") is None


def test_a_loop_at_the_containers_own_host_is_that_hosts() -> None:
    """Only its own table is wrong: all others send there."""
    entries = changed(WORLD.entries(), to(rnic(0, 0)), host="h1", dst=[inner(1, 0)])
    finding = overlay(entries).replay("h0", inner(1, 0), "c1")
    assert finding is not None
    assert (finding.kind, finding.component, finding.alternatives) == ("loop", vswitch("h1"), ())
    assert "expected local:c1" in finding.evidence[0]


def test_delivery_to_another_container_is_the_hosts_that_delivers() -> None:
    (finding,) = replays(overlay(changed(WORLD.entries(), to("local:c9"), host="h1", dst=[inner(1, 0)])))
    assert (finding.kind, finding.component) == ("wrong-container", vswitch("h1"))
    assert "next local:c9, expected local:c1" in finding.evidence[0]
    assert len(finding.flows) == WORLD.hosts


def test_a_container_that_is_claimed_twice_is_where_most_send() -> None:
    entries = changed(WORLD.entries(), to("local:c1"), host="h3", dst=[inner(1, 0)])
    tables = overlay(entries)
    assert tables.replay("h0", inner(1, 0)) is None
    finding = tables.replay("h3", inner(1, 0))
    assert finding is not None
    assert (finding.kind, finding.component) == ("wrong-container", vswitch("h3"))


def test_most_hosts_outvote_one_that_delivers_where_the_right_ones_table_is_unknown() -> None:
    entries = [
        *changed(changed(WORLD.entries(), gone, host="h1"), to("local:c1"), host="h3", dst=[inner(1, 0)]),
    ]
    read = tuple(each for each in WORLD.snapshots() if (each.host, each.table) != ("h1", "vswitch"))
    tables = overlay(entries, snapshots=read)
    assert tables.replay("h0", inner(1, 0)) is None
    assert tables.replay("h2", inner(1, 0)) is None


def test_an_address_that_its_own_host_lacks_is_that_hosts_or_the_containers() -> None:
    (finding,) = replays(overlay(changed(WORLD.entries(), gone, host="h1", dst=[inner(1, 0)])))
    assert (finding.kind, finding.component) == ("missing-entry", vswitch("h1"))
    assert finding.alternatives == (Component(kind="container", name="c1"),)


def test_the_far_table_is_judged_though_the_near_one_is_unknown() -> None:
    entries = changed(WORLD.entries(), gone, host="h1", dst=[inner(1, 0)])
    read = tuple(each for each in WORLD.snapshots() if (each.host, each.table) != ("h0", "vswitch"))
    known = [entry for entry in entries if (entry.host, entry.table) != ("h0", "vswitch")]
    finding = overlay(known, snapshots=read).replay("h0", inner(1, 0), "c1")
    assert finding is not None
    assert (finding.kind, finding.component) == ("missing-entry", vswitch("h1"))


def test_one_of_several_entries_that_is_wrong_is_found() -> None:
    """A table may have an entry for each port that packets come from."""
    entries = WORLD.entries()
    own = next(each for each in entries if (each.host, each.table, each.dst) == ("h0", "vswitch", inner(1, 0)))
    entries.append(msgspec.structs.replace(own, in_port="vf3", next=rnic(2, 0)))
    (finding,) = replays(overlay(entries))
    assert (finding.kind, finding.component) == ("wrong-next-hop", vswitch("h0"))


def test_tenants_with_the_same_addresses_are_kept_apart() -> None:
    """The other tenant's containers are called otherwise and are elsewhere; its tables say nothing of the first's."""
    others = [
        msgspec.structs.replace(
            entry,
            vni=200,
            host=f"h{(int(entry.host[1:]) + 1) % 4}",
            next=f"local:other-{entry.container}"
            if entry.container
            else rnic((int(entry.next[-1]) % 4), int(entry.next[3])),
        )
        for entry in WORLD.entries()
        if entry.next
    ]
    both = [*WORLD.entries(), *others]
    assert replays(overlay(both)) == []
    lost = changed(both, lambda entry: None if entry.vni == 100 else entry, host="h1", dst=[inner(1, 0)])
    tables = overlay(lost)
    finding = tables.replay("h0", inner(1, 0), "c1")
    assert finding is not None
    assert (finding.kind, finding.component) == ("missing-entry", vswitch("h1"))
    assert tables.replay("h0", inner(1, 0), "other-c1") is None
    assert tables.replay("h0", inner(1, 0)) is None, "one of the two networks is well, and nobody said which is meant"
    assert tables.replay("h0", inner(1, 0), source_container="c0") is not None


def test_without_a_table_that_delivers_more_than_half_of_the_senders_decide() -> None:
    world = World(5)
    entries = changed(world.entries(), gone, host="h1", dst=[inner(1, 0)])
    astray = changed(entries, to(rnic(0, 0)), host="h3", dst=[inner(1, 0)])
    home = overlay(astray, world).where.home((100, inner(1, 0)))
    assert home is not None
    assert (home.host, home.container) == ("h1", None)
    split = changed(astray, to(rnic(3, 0)), host="h4", dst=[inner(1, 0)])
    assert overlay(split, world).where.home((100, inner(1, 0))) is None


def test_a_table_that_delivers_outweighs_one_sender_to_an_unknown_one() -> None:
    world = World(3)
    entries = [e for e in world.entries() if e.host == "h1" or (e.host, e.table) == ("h0", "vswitch")]
    entries = changed(entries, to(rnic(2, 0)), host="h0", dst=[inner(1, 0)])
    finding = overlay(entries, world, ()).replay("h0", inner(1, 0))
    assert finding is not None
    assert (finding.kind, finding.component) == ("wrong-next-hop", vswitch("h0"))


def test_of_two_that_deliver_neither_is_wrong_where_nobody_else_sends() -> None:
    world = World(2)
    tables = overlay(changed(world.entries(), to("local:c1"), host="h0", dst=[inner(1, 0)]), world)
    assert replays(tables, world) == []


def test_whom_only_one_sends_to_may_be_right() -> None:
    world = World(2)
    (finding,) = replays(overlay(changed(world.entries(), gone, host="h1", dst=[inner(1, 0)]), world), world)
    assert finding.component == vswitch("h1")
    assert finding.alternatives == (Component(kind="container", name="c1"), vswitch("h0"))


def test_a_host_that_sends_to_itself_loops() -> None:
    (finding,) = replays(overlay(changed(WORLD.entries(), to(rnic(1, 0)), host="h1", dst=[inner(1, 0)])))
    assert (finding.kind, finding.component) == ("loop", vswitch("h1"))


def test_tables_read_at_different_times_make_no_loop() -> None:
    """A container moved from one host to the other in between."""
    ways = ((NOW - 40, "h0", rnic(1, 0)), (NOW, "h1", rnic(0, 0)))
    entries = [
        Entry(host=host, table="vswitch", vni=100, dst=inner(5, 0), next=following, time=time)
        for time, host, following in ways
    ]
    assert overlay(entries, snapshots=()).replay("h0", inner(5, 0)) is None
    together = [msgspec.structs.replace(entry, time=NOW) for entry in entries]
    finding = overlay(together, snapshots=()).replay("h0", inner(5, 0))
    assert finding is not None
    assert (finding.kind, finding.component, finding.alternatives) == ("loop", vswitch("h0"), (vswitch("h1"),))


def test_a_vtep_that_few_use_is_unknown() -> None:
    world = World(5)
    entries = world.entries()
    for host in ("h0", "h2"):
        entries = changed(entries, to(STRANGER), host=host, dst=[inner(1, 0)])
    found = replays(overlay(entries, world), world)
    assert {(each.kind, each.component.name) for each in found} == {("unknown-vtep", "h0"), ("unknown-vtep", "h2")}


def test_a_host_outside_the_topology_has_a_vtep_outside_it() -> None:
    fabric = World(1).fabric
    state = OverlayState(version=1, entries=tuple(World(2).entries()))
    assert Overlay(state, fabric).replay("h0", inner(1, 0), "c1") is None


def test_hosts_behind_one_hardware_vtep_are_told_apart_by_who_delivers() -> None:
    topology = WORLD.fabric.topology
    hosts = tuple(msgspec.structs.replace(host, vteps=("192.0.2.1",)) for host in topology.hosts)
    fabric = Fabric(msgspec.structs.replace(topology, hosts=hosts))
    entries = changed(WORLD.entries(), lambda e: e if e.container else to("192.0.2.1")(e))
    assert replays(Overlay(OverlayState(version=1, entries=tuple(entries)), fabric)) == []


def test_a_container_that_no_table_names_says_nothing_of_another_tenants() -> None:
    """The address is known in one of the two networks only, which is not known to be the container's."""
    other = [msgspec.structs.replace(entry, vni=200, dst=inner(9, 0)) for entry in WORLD.entries()][:1]
    tables = overlay([*WORLD.entries(), *other])
    assert tables.replay("h0", inner(1, 0), "stranger") is None
    finding = tables.replay("h0", inner(1, 0), "stranger", source_container="c0")
    assert finding is not None
    assert (finding.kind, finding.component) == ("wrong-container", vswitch("h1"))


def test_ipv6_destinations_are_compared_in_one_spelling() -> None:
    entries = [msgspec.structs.replace(entry, dst=f"fd00::{entry.dst.split('.')[-1]}") for entry in WORLD.entries()]
    entries = changed(entries, to(None), host="h0", dst=["fd00::2"])
    finding = overlay(entries).replay("h0", "FD00:0::0002", "c1")
    assert finding is not None
    assert finding.kind == "drop"


def test_hosts_are_found_by_their_vteps() -> None:
    fabric = WORLD.fabric
    hosts = [msgspec.structs.replace(host, vteps=(f"192.0.2.{host.name[1:]}",)) for host in fabric.topology.hosts]
    by_vtep = Fabric(msgspec.structs.replace(fabric.topology, hosts=tuple(hosts)))
    entries = [
        entry if entry.container or entry.next is None else to(f"192.0.2.{int(entry.next[-1]) - 1}")(entry)
        for entry in WORLD.entries()
    ]
    entries = [entry for entry in entries if entry is not None]

    def tables(of: Sequence[Entry]) -> Overlay:
        return Overlay(OverlayState(version=1, entries=tuple(of)), by_vtep)

    assert replays(tables(entries)) == []
    (finding,) = replays(tables(changed(entries, to("192.0.2.3"), host="h0", dst=[inner(1, 0)])))
    assert (finding.kind, finding.component) == ("wrong-next-hop", vswitch("h0"))


# ---- churn


def test_two_snapshots_that_differ_are_no_fault_and_two_that_agree_are() -> None:
    before, after = WORLD.entries(NOW - 30), WORLD.entries(NOW)
    read = WORLD.snapshots(NOW - 30) + WORLD.snapshots(NOW)
    late = changed(after, gone, host="h0", dst=[inner(1, 0)])
    assert replays(overlay([*before, *late], snapshots=read)) == []
    early = changed(before, gone, host="h0", dst=[inner(1, 0)])
    (finding,) = replays(overlay([*early, *late], snapshots=read))
    assert (finding.kind, finding.component) == ("missing-entry", vswitch("h0"))


def test_a_container_that_has_just_come_is_not_missed() -> None:
    """Its own host has the entry, the others not yet."""
    entries = WORLD.entries()

    def spread(entry: Entry) -> Entry | None:
        return msgspec.structs.replace(entry, time=came) if entry.host == "h1" else None

    came = NOW - 1
    assert replays(overlay(changed(entries, spread, dst=[inner(1, 0)]))) == []
    came = NOW - 60
    (finding,) = replays(overlay(changed(entries, spread, host=None, dst=[inner(1, 0)])))[:1]
    assert finding.kind == "missing-entry"


def test_a_container_seen_first_a_moment_ago_is_not_missed() -> None:
    state = OverlayState(
        version=1,
        snapshots=WORLD.snapshots(),
        entries=tuple(changed(WORLD.entries(), gone, host="h0", dst=[inner(1, 0)])),
    )
    fresh = Overlay(state, WORLD.fabric, first_seen={"c1": NOW - 1})
    assert fresh.replay("h0", inner(1, 0), "c1") is None
    old = Overlay(state, WORLD.fabric, first_seen={"c1": NOW - 600})
    assert old.replay("h0", inner(1, 0), "c1") is not None


def test_an_entry_that_has_just_changed_is_not_judged() -> None:
    wrong = changed(WORLD.entries(), to(rnic(3, 0)), host="h0", dst=[inner(1, 0)])

    def since(seconds: float) -> list[Entry]:
        return changed(wrong, lambda e: msgspec.structs.replace(e, time=NOW - seconds), host="h0", dst=[inner(1, 0)])

    assert replays(overlay(since(1))) == []
    assert replays(overlay(since(4))) == []
    assert [each.kind for each in replays(overlay(since(100)))] == ["wrong-next-hop"]
    wrong = changed(WORLD.entries(), to(None), host="h0", dst=[inner(1, 0)])
    assert replays(overlay(since(1))) == []


def test_tables_read_at_different_times_are_not_compared() -> None:
    """A container came after the first host's table had been read."""
    entries = changed(WORLD.entries(), gone, host="h0", dst=[inner(1, 0)])
    early = [msgspec.structs.replace(e, time=NOW - 40) if e.host == "h0" else e for e in entries]
    read = tuple(msgspec.structs.replace(e, time=NOW - 40) if e.host == "h0" else e for e in WORLD.snapshots())
    assert replays(overlay(early, snapshots=read)) == []


# ---- properties

HOSTS = st.integers(3, 6)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, list[Entry], random.Random]:
    """A consistent overlay, its entries in any order."""
    world = World(draw(HOSTS))
    entries = world.entries()
    chance = draw(st.randoms(use_true_random=False))
    chance.shuffle(entries)
    return world, entries, chance


@given(worlds())
@settings(max_examples=40, deadline=None)
def test_a_consistent_overlay_has_no_finding(drawn: tuple[World, list[Entry], random.Random]) -> None:
    world, entries, _ = drawn
    tables = overlay(entries, world)
    assert replays(tables, world) == []
    assert inconsistencies(tables) == []


@given(worlds(), st.sampled_from(["missing-entry", "drop", "wrong-next-hop", "unknown-vtep", "wrong-container"]))
@settings(max_examples=100, deadline=None)
def test_one_broken_entry_is_found_and_its_host_named(
    drawn: tuple[World, list[Entry], random.Random], kind: str
) -> None:
    world, entries, chance = drawn
    here, there = chance.sample(range(world.hosts), 2)
    astray = next(n for n in range(world.hosts) if n not in (here, there))
    rail = chance.randrange(RAILS)
    change: Change = {
        "missing-entry": gone,
        "drop": to(None),
        "wrong-next-hop": to(rnic(astray, rail)),
        "unknown-vtep": to(STRANGER),
        "wrong-container": to(f"local:c{astray}"),
    }[kind]
    broken = changed(entries, change, host=f"h{here}", dst=[inner(there, rail)])
    (finding,) = replays(overlay(broken, world), world)
    assert (finding.kind, finding.component) == (kind, vswitch(f"h{here}"))
    assert finding.flows == ((f"h{here}", inner(there, rail)),)


@given(worlds(), st.sampled_from(["missing-entry", "drop", "wrong-container", "loop"]))
@settings(max_examples=100, deadline=None)
def test_the_containers_own_host_is_named_when_its_entry_is_broken(
    drawn: tuple[World, list[Entry], random.Random], kind: str
) -> None:
    world, entries, chance = drawn
    there, source = chance.sample(range(world.hosts), 2)
    rail = chance.randrange(RAILS)
    change: Change = {
        "missing-entry": gone,
        "drop": to(None),
        "wrong-container": to("local:stranger"),
        "loop": to(rnic(source, rail)),
    }[kind]
    broken = overlay(changed(entries, change, host=f"h{there}", dst=[inner(there, rail)]), world)
    finding = broken.replay(f"h{source}", inner(there, rail), f"c{there}")
    assert finding is not None
    assert (finding.kind, finding.component) == (kind, vswitch(f"h{there}"))


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_the_order_of_entries_and_snapshots_changes_nothing(drawn: tuple[World, list[Entry], random.Random]) -> None:
    world, entries, chance = drawn
    broken = [entry for entry in entries if chance.random() > 0.2]
    broken = [to(rnic(chance.randrange(world.hosts), 0))(e) or e if chance.random() < 0.1 else e for e in broken]
    read = list(world.snapshots())

    def found() -> tuple[list[OverlayFinding], list[OverlayFinding]]:
        tables = overlay(broken, world, tuple(read))
        return replays(tables, world), inconsistencies(tables)

    first = found()
    chance.shuffle(broken)
    chance.shuffle(read)
    assert found() == first


TIMES = st.sampled_from([NOW - 60, NOW - 30, NOW - 1, NOW])
NAMES = st.sampled_from(["h0", "h1", "h2", "elsewhere"])
NEXTS = st.sampled_from([None, *(rnic(n, 0) for n in range(3)), STRANGER, "local:c0", "local:c1"])
TABLES = st.sampled_from(["vswitch", "rnic"])
ENTRIES = st.builds(
    Entry,
    host=NAMES,
    table=TABLES,
    vni=st.sampled_from([100, 200]),
    dst=st.sampled_from([inner(0, 0), inner(1, 0)]),
    next=NEXTS,
    in_port=st.sampled_from([None, "mlx5_0_1", "vf7"]),
    offloaded=st.sampled_from([None, True, False]),
    time=TIMES,
)
SNAPSHOTS = st.builds(Snapshot, host=NAMES, table=TABLES, time=TIMES)


@given(st.lists(ENTRIES, max_size=40), st.lists(SNAPSHOTS, max_size=12))
@settings(max_examples=300, deadline=None)
def test_whatever_the_tables_say_only_tables_that_were_read_are_blamed(
    entries: list[Entry], snapshots: list[Snapshot]
) -> None:
    tables = overlay(entries, World(3), tuple(snapshots))
    read = {(each.host, each.table) for each in [*entries, *snapshots]}
    for host in ("h0", "h1", "h2", "elsewhere", "unread"):
        for destination, container in ((inner(0, 0), "c0"), (inner(1, 0), None), (inner(2, 0), "c2")):
            finding = tables.replay(host, destination, container)
            if finding is not None:
                assert (finding.component.name, "vswitch") in read
                assert finding.component.name in finding.evidence[0]
    for finding in inconsistencies(tables):
        assert finding.evidence
        assert {(host, table) for host, _ in finding.flows for table in ("vswitch", "rnic")} <= read
    backwards = overlay(entries[::-1], World(3), tuple(snapshots[::-1]))
    assert backwards.replay("h0", inner(1, 0)) == tables.replay("h0", inner(1, 0))
    assert inconsistencies(backwards) == inconsistencies(tables)
