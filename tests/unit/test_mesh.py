"""Large groups in part: connected, redundant, even, and nobody at one destination with all the others."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from itertools import combinations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.contracts.codec import encode
from exporter.contracts.fabric import Fabric, Interface
from exporter.contracts.plan import Plan, Target
from exporter.contracts.topology import Host, Link, Rnic, Switch, Topology
from exporter.probing.phase import next_due, phases
from skeleton_service.planning.mesh import in_ring, pair_count, strides, walk
from skeleton_service.planning.plan import Settings, draft
from skeleton_service.planning.preload import unobserved
from tests.unit.fabrics import leaf_spine

SECOND = 1_000_000_000


def one_leaf(hosts: int, rails: int = 1) -> Topology:
    """Hosts on one leaf a rail: a single path between any two, so a pair has three targets each way."""
    names = [f"host-{n:04d}" for n in range(hosts)]
    return Topology(
        version=1,
        hosts=tuple(
            Host(
                name=name,
                rnics=tuple(Rnic(name=f"r{k}", rail=k, ip=f"10.{k}.{n >> 8}.{n & 255}") for k in range(rails)),
            )
            for n, name in enumerate(names)
        ),
        switches=tuple(Switch(name=f"leaf-{k}", tier="leaf") for k in range(rails)),
        links=tuple(Link(a=f"{name}:r{k}", b=f"leaf-{k}:p{n}") for n, name in enumerate(names) for k in range(rails)),
    )


def preload(topology: Topology, hosts: list[str] | None = None, **choices: int) -> Plan:
    made = draft(
        unobserved("j", topology, hosts),
        topology,
        phase="preload",
        generation=1,
        expires=9.0,
        settings=Settings(**{"redundancy": 0, **choices}),
    )
    return made.whole()


def directed(plan: Plan) -> set[tuple[str, str]]:
    return {(target.source, target.destination) for target in plan.targets}


def reached(pairs: Iterable[tuple[str, str]], start: str, without: frozenset[str] = frozenset()) -> set[str]:
    peers = defaultdict(set)
    for a, b in pairs:
        peers[a].add(b)
    found, queue = {start}, deque([start])
    while queue:
        for there in peers[queue.popleft()] - found - without:
            found.add(there)
            queue.append(there)
    return found


@given(st.integers(0, 500), st.integers(0, 10**20))
def test_a_walk_visits_each_place_once(size: int, start: int) -> None:
    assert sorted(walk(size, start)) == list(range(size))


@given(st.integers(0, 100))
def test_all_strides_are_the_full_mesh_and_1_is_the_first(members: int) -> None:
    order = list(strides(members))
    assert order[:1] == [1][: len(order)]
    joined = {frozenset((n, (n + stride) % members)) for stride in order for n in range(members)}
    assert joined == {frozenset(pair) for pair in combinations(range(members), 2)}


def test_rnics_of_one_host_lie_apart_in_the_ring_and_are_no_pair() -> None:
    hosts = [
        Host(name=name, rnics=tuple(Rnic(name=f"r{k}", ip=f"10.0.{k}.{n}") for k in range(3)))
        for n, name in enumerate("abcd")
    ]
    interfaces = [Interface(host, rnic) for host in hosts for rnic in host.rnics]
    ring = in_ring(interfaces[::-1])
    assert [one.host.name for one in ring] == list("abcdabcdabcd")
    assert pair_count(ring) == 12 * 9 // 2


@pytest.mark.parametrize("rails", [1, 3])
def test_a_small_group_is_probed_whole(rails: int) -> None:
    made = preload(one_leaf(20, rails))
    assert len(directed(made)) == rails * 20 * 19
    assert made.coverage is not None
    assert made.coverage.pairs_total == made.coverage.pairs_probed == rails * 190
    assert all(a.rpartition("/")[2] == b.rpartition("/")[2] for a, b in directed(made))
    assert not any(target.active for target in made.targets)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.integers(1, 200))
def test_a_large_group_is_probed_evenly_within_the_limit_connected_and_said(hosts: int, limit: int) -> None:
    made = preload(one_leaf(hosts), max_paths=limit)
    pairs = directed(made)
    degree = Counter(source for source, _ in pairs)
    assert pairs == {(b, a) for a, b in pairs}
    assert len(degree) == hosts
    assert max(degree.values()) == min(degree.values())
    assert 3 * max(degree.values()) <= max(0.9 * limit, 6)  # a ring at least
    assert len(reached(pairs, "host-0000/r0")) == hosts
    assert made.coverage is not None
    assert (made.coverage.pairs_total, made.coverage.pairs_probed) == (hosts * (hosts - 1) // 2, len(pairs) // 2)


def test_a_large_group_stays_together_when_any_few_of_its_hosts_are_dead() -> None:
    pairs = directed(preload(one_leaf(64), max_paths=40))
    names = sorted({a for a, _ in pairs})
    assert len(pairs) == 64 * 11
    for dead in combinations(names[:24], 3):
        rest = reached(pairs, names[-1], frozenset(dead))
        assert len(rest) == 61, dead


def test_source_ports_give_way_before_peers_are_fewer_than_eight() -> None:
    """With 16 spines a pair would have 64 ports, 129 targets: no exporter has room for more than two such peers."""
    made = preload(leaf_spine(pods=4, rails=1, spines=16, hosts_per_pod=8), max_paths=300)
    degree = Counter(source for source, _ in directed(made))
    assert min(degree.values()) >= 8
    assert max(Counter(target.source for target in made.targets).values()) <= 300
    assert made.coverage is not None
    assert made.coverage.path_probability < 0.99


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(24)), st.integers(3, 80))
def test_the_plan_does_not_depend_on_the_order_of_hosts(order: list[int], limit: int) -> None:
    topology = one_leaf(24, 2)
    turned = msgspec.structs.replace(topology, hosts=tuple(topology.hosts[n] for n in order))
    assert encode(preload(turned, max_paths=limit)) == encode(preload(topology, max_paths=limit))


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(12)))
def test_hosts_under_other_names_make_the_same_plan_under_other_names(order: list[int]) -> None:
    """The full mesh knows no first host; the part of one does, since its ring goes by names."""
    topology = one_leaf(12, 2)
    name = {f"host-{n:04d}": f"host-{to:04d}" for n, to in enumerate(order)}
    hosts = tuple(msgspec.structs.replace(host, name=name[host.name]) for host in topology.hosts)
    links = tuple(
        Link(a=f"{name[link.a.partition(':')[0]]}:{link.a.partition(':')[2]}", b=link.b) for link in topology.links
    )
    renamed = preload(msgspec.structs.replace(topology, hosts=hosts, links=links))

    def under(end: str) -> str:
        return f"{name[end.partition('/')[0]]}/{end.partition('/')[2]}"

    assert directed(renamed) == {(under(a), under(b)) for a, b in directed(preload(topology))}


def most_at_once(plan: Plan, slot_ns: int, offsets: bool) -> tuple[int, float]:
    """The most sources that probe one destination within a slot of a period, over all UDP paths; and the mean."""
    own: dict[str, list[Target]] = defaultdict(list)
    for target in plan.targets:
        own[target.source].append(target)
    hits: dict[tuple[str, int], set[str]] = defaultdict(set)
    for source, targets in own.items():
        place = phases(targets)
        late = zlib.crc32(source.encode()) % SECOND if offsets else 0
        for target in targets:
            if target.probe == "udp":
                due = next_due(place[target.path], SECOND, 0, late)
                hits[target.destination, due // slot_ns].add(source)
    sizes = [len(sources) for sources in hits.values()]
    return max(sizes), sum(sizes) / (len(own) * SECOND // slot_ns)


@pytest.mark.parametrize(("max_paths", "peers"), [(4096, 511), (400, 120)], ids=["whole", "in part"])
def test_of_512_sources_few_probe_one_destination_at_a_time(max_paths: int, peers: int) -> None:
    made = preload(one_leaf(512), max_paths=max_paths)
    assert len(directed(made)) == 512 * peers
    most, mean = most_at_once(made, SECOND // 100, offsets=False)
    astray, _ = most_at_once(made, SECOND // 100, offsets=True)
    each_second, _ = most_at_once(made, SECOND, offsets=False)
    figures = (
        f"10 ms: {most} with clocks that agree, {astray} with clocks at random, mean {mean:.2f}; 1 s: {each_second}"
    )
    assert most <= mean + 4, figures
    assert astray <= mean + 8 * mean**0.5, figures
    assert each_second == peers, figures


def test_fabric_counts_agree_with_what_is_probed() -> None:
    topology = leaf_spine(pods=3, rails=2, spines=2, hosts_per_pod=3)
    fabric = Fabric(topology)
    ports = Counter((t.source, t.destination) for t in preload(topology, redundancy=0).targets if t.probe == "udp")
    for (source, destination), count in ports.items():
        ends = (source.replace("/", ":"), destination.replace("/", ":"))
        assert count == {1: 1, 2: 8}[fabric.path_count(*ends)]
