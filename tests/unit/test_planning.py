"""Planning: coverage of paths, links told apart, and a list that is the same every time."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.codec import ContractError, encode
from exporter.contracts.fabric import Fabric
from exporter.contracts.plan import Plan, check_plan
from exporter.contracts.skeleton import Skeleton
from exporter.contracts.topology import Topology
from lab.jobs.job import draw_job
from skeleton_service.identifiability import Partition, separate
from skeleton_service.planning import Settings, path_probability, plan, port_count
from tests.unit.fabrics import leaf_spine

FABRIC = leaf_spine()


def make(skeleton: Skeleton, topology: Topology = FABRIC, **options: object) -> Plan:
    return plan(skeleton, topology, **{"phase": "skeleton", "generation": 3, "expires": 9.0, **options})


@given(st.integers(2, 200), st.sampled_from([0.9, 0.99, 0.999]))
def test_the_fewest_ports_that_cover(paths: int, probability: float) -> None:
    ports = port_count(paths, probability)
    assert path_probability(paths, ports) >= probability - 1e-9
    assert path_probability(paths, ports - 1) < probability


def test_known_port_counts() -> None:
    assert [port_count(paths, 0.99) for paths in (1, 2, 4)] == [1, 8, 21]


@pytest.mark.parametrize("seed", range(6))
def test_each_pair_is_probed_both_ways(seed: int) -> None:
    truth = draw_job(seed, FABRIC).truth()
    made = make(truth)
    check_plan(made, "plan")
    wanted = {frozenset((a, b)) for a, b, _ in truth.pairs()}
    directed = {(target.source, target.destination) for target in made.targets}
    assert directed == {(b, a) for a, b in directed}
    assert {frozenset(pair) for pair in directed} >= wanted
    kinds = defaultdict(list)
    fabric = Fabric(FABRIC)
    for target in made.targets:
        kinds[target.source, target.destination, target.probe].append(target)
    for a, b in directed:
        one = kinds[a, b, "udp"][0]
        ends = f"{one.source_host}:{one.source_rnic}", f"{one.destination_host}:{one.destination_rnic}"
        assert len(kinds[a, b, "udp"]) == port_count(fabric.path_count(*ends), 0.99)
        assert [t.source_ports for t in kinds[a, b, "udp"]] == [t.source_ports for t in kinds[a, b, "mtu"]]
        assert len(kinds[a, b, "tcp"]) == 1
        assert {t.payload_bytes for t in kinds[a, b, "mtu"]} == {8972}
    assert made.coverage is not None
    assert made.coverage.path_probability >= 0.99
    assert made.coverage.pairs_total == made.coverage.pairs_probed == len(wanted)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spines", [1, 2, 4])
def test_two_more_pairs_tell_all_links_apart(seed: int, spines: int) -> None:
    topology = leaf_spine(spines=spines)
    truth = draw_job(seed, topology).truth()
    made = make(truth, topology)
    assert made.coverage is not None
    assert made.coverage.links_ambiguous == ()
    extra = {frozenset((t.source, t.destination)) for t in made.targets if t.role == "basic"}
    assert 0 < len(extra) <= 4
    # By the definition, path by path, on the leaf-spine fabric whose paths are easily listed.
    crossed: dict[str, set[tuple[str, str, int]]] = defaultdict(set)
    for pair in {
        (f"{t.source_host}:{t.source_rnic}", f"{t.destination_host}:{t.destination_rnic}") for t in made.targets
    }:
        for spine in range(spines):
            for link in Fabric(topology).possible_links(*pair):
                if "spine" not in link or f"spine-{spine}:" in link:
                    crossed[link].add((*pair, spine))
    for one, other in combinations(crossed, 2):
        assert crossed[one] != crossed[other], (one, other)


def test_rail_pairs_alone_leave_up_and_down_links_ambiguous() -> None:
    rail = [f"host-p{pod}-{n}:mlx5_0" for pod in range(2) for n in range(2)]
    _, ambiguous = separate(Fabric(FABRIC), list(combinations(rail, 2)), rail, 2)
    assert [len(links) for links in ambiguous] == [2, 2]
    assert all("leaf" in link and "spine" in link for links in ambiguous for link in links)


def test_what_nothing_can_separate_is_listed() -> None:
    """Two hosts on one leaf: their two links fail together, as far as any probe can see."""
    ends = ["host-p0-0:mlx5_0", "host-p0-1:mlx5_0"]
    extra, ambiguous = separate(Fabric(FABRIC), [(ends[0], ends[1])], ends, 2)
    assert extra == []
    assert [len(links) for links in ambiguous] == [2]


def test_preload_needs_endpoints_only() -> None:
    truth = draw_job(0, FABRIC).truth()
    bare = msgspec.structs.replace(truth, groups=(), edges=(), parallelism=None)
    made = make(bare, phase="preload")
    assert made.coverage is not None
    assert made.coverage.pairs_total == 2 * 28
    assert {target.role for target in made.targets} == {"basic"}


def test_the_list_is_the_same_every_time_whatever_the_order_of_the_skeleton() -> None:
    truth = draw_job(1, FABRIC).truth()
    turned = msgspec.structs.replace(
        truth, endpoints=truth.endpoints[::-1], groups=truth.groups[::-1], edges=truth.edges[::-1]
    )
    assert encode(make(truth)) == encode(make(turned))


def test_sources_begin_at_different_destinations() -> None:
    made = make(draw_job(0, FABRIC).truth(), phase="preload")
    first: dict[str, str] = {}
    for target in made.targets:
        first.setdefault(target.source, target.destination)
    assert max(list(first.values()).count(name) for name in first) <= 4


def test_settings_and_inactive_endpoints() -> None:
    truth = draw_job(0, FABRIC).truth()
    waiting = truth.endpoints[0].id
    made = make(truth, settings=Settings(mtu=1500, traffic_class=0), inactive=frozenset({waiting}))
    assert {t.payload_bytes for t in made.targets if t.probe == "mtu"} == {1472}
    assert all(t.active != (waiting in (t.source, t.destination)) for t in made.targets)
    assert {t.traffic_class for t in made.targets} == {0}
    low = make(truth, leaf_spine(mtu=4000))
    assert {t.payload_bytes for t in low.targets if t.probe == "mtu"} == {3972}


def test_what_is_missing_is_named() -> None:
    truth = draw_job(0, FABRIC).truth()
    with pytest.raises(ContractError, match="RNIC 'mlx5_1' of host 'host-p0-0' is missing"):
        make(truth, leaf_spine(rails=1))
    with pytest.raises(ContractError, match="lists no endpoints"):
        make(msgspec.structs.replace(truth, endpoints=()))


def test_a_partition_counts_what_it_gains() -> None:
    partition = Partition(["a", "b", "c", "d"])
    assert partition.gain({"a": 1, "b": 2}) == 2
    assert partition.gain(dict.fromkeys("abcd", 7)) == 0
    partition.refine({"a": 1, "b": 1})
    assert partition.ambiguous() == (("a", "b"), ("c", "d"))
    partition.refine({"a": 1, "c": 1})
    assert partition.ambiguous() == ()


@pytest.mark.parametrize("phase", ["preload", "skeleton"])
def test_two_containers_on_one_rnic_make_each_of_its_paths_once(phase: str) -> None:
    """Each path used to be made twice, so that no exporter took the plan, and one led from an RNIC to itself."""
    truth = draw_job(0, FABRIC).truth()
    first = truth.endpoints[0]
    twin = msgspec.structs.replace(first, id=f"twin/{first.rnic}", container="twin")
    groups = tuple(
        msgspec.structs.replace(group, members=(*group.members, twin.id)) if first.id in group.members else group
        for group in truth.groups
    )
    shared = msgspec.structs.replace(truth, endpoints=(*truth.endpoints, twin), groups=groups)
    made = make(shared, phase=phase)
    check_plan(made, "plan")
    assert {target.path for target in made.targets} == {target.path for target in make(truth, phase=phase).targets}
    assert all(target.source_address != target.destination_address for target in made.targets)
