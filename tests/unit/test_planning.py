"""Planning: coverage of paths, links told apart, and a list that is the same every time."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.codec import ContractError, encode
from exporter.contracts.fabric import Fabric
from exporter.contracts.plan import MAX_RDMA_SOURCE_PORTS, ROCE_SOURCE_PORTS, Plan, Target, check_plan
from exporter.contracts.skeleton import Edge, Group, Skeleton
from exporter.contracts.topology import Topology
from lab.jobs.job import draw_job
from skeleton_service.planning.identifiability import Partition, separate
from skeleton_service.planning.plan import Settings, draft
from skeleton_service.planning.preload import unobserved
from skeleton_service.planning.sourceports import SourcePorts, path_probability, port_count, rotated_count
from tests.unit.fabrics import leaf_spine

FABRIC = leaf_spine()


def make(skeleton: Skeleton, topology: Topology = FABRIC, **options: object) -> Plan:
    return draft(skeleton, topology, **{"phase": "skeleton", "generation": 3, "expires": 9.0, **options}).whole()


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
    kinds, control = defaultdict(list), defaultdict(list)
    fabric = Fabric(FABRIC)
    for target in made.targets:
        ends = target.source, target.destination
        (control[ends] if target.traffic_class == 2 else kinds[*ends, target.probe]).append(target)
    for a, b in directed:
        one = kinds[a, b, "udp"][0]
        ends = f"{one.source_host}:{one.source_rnic}", f"{one.destination_host}:{one.destination_rnic}"
        assert len(kinds[a, b, "udp"]) == port_count(fabric.path_count(*ends), 0.99)
        assert [t.source_ports for t in kinds[a, b, "udp"]] == [t.source_ports for t in kinds[a, b, "mtu"]]
        assert len(kinds[a, b, "tcp"]) == 1
        assert [(t.probe, t.source_ports) for t in control[a, b]] == [("udp", one.source_ports)]
        assert {t.payload_bytes for t in kinds[a, b, "mtu"]} == {8972}
    assert made.coverage is not None
    assert made.coverage.path_probability >= 0.99
    assert made.coverage.pairs_total == made.coverage.pairs_probed == len(wanted)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spines", [1, 2, 4])
def test_two_more_pairs_tell_all_links_apart(seed: int, spines: int) -> None:
    topology = leaf_spine(spines=spines)
    truth = draw_job(seed, topology).truth()
    made = make(truth, topology, settings=Settings(exploration=0))
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


def test_settings_and_inactive_endpoints() -> None:
    truth = draw_job(0, FABRIC).truth()
    waiting = truth.endpoints[0].id
    settings = Settings(mtu=1500, traffic_class=98, default_traffic_class=None)
    made = make(truth, settings=settings, inactive=frozenset({waiting}))
    assert {t.payload_bytes for t in made.targets if t.probe == "mtu"} == {1472}
    assert all(t.active != (waiting in (t.source, t.destination)) for t in made.targets)
    assert {t.traffic_class for t in made.targets} == {98}
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


def off_skeleton(generation: int, share: float = 0.05) -> set[frozenset[str]]:
    """What a plan probes beside the skeleton and the pairs that tell links apart."""
    truth = draw_job(2, FABRIC).truth()
    with_them, without = (
        {
            frozenset((target.source, target.destination))
            for target in make(truth, generation=generation, settings=Settings(exploration=some)).targets
        }
        for some in (share, 0.0)
    )
    assert with_them >= without
    return with_them - without


def test_a_twentieth_of_the_pairs_is_off_the_skeleton_same_rail_and_other_ones_each_generation() -> None:
    truth = draw_job(2, FABRIC).truth()
    asked = {frozenset((a, b)) for a, b, _ in truth.pairs()}
    rail = {endpoint.id: endpoint.rail for endpoint in truth.endpoints}
    seen: set[frozenset[str]] = set()
    for generation in range(60):
        extra = off_skeleton(generation)
        assert len(extra) in (len(asked) // 20, len(asked) // 20 + 1)
        assert not extra & asked
        assert all(len({rail[end] for end in pair}) == 1 for pair in extra)
        seen |= extra
    assert off_skeleton(7) == off_skeleton(7)
    ends = {endpoint.id: endpoint.host for endpoint in truth.endpoints}
    every = {frozenset((a, b)) for a, b in combinations(ends, 2) if rail[a] == rail[b] and ends[a] != ends[b]}
    assert len(seen) > 0.8 * len(every - asked)


def test_a_skeleton_without_any_pair_off_it_is_explored_in_vain() -> None:
    truth = draw_job(0, FABRIC).truth()
    rails = [[e.id for e in truth.endpoints if e.rail == rail] for rail in (0, 1)]
    groups = tuple(Group(role="basic", members=tuple(rail)) for rail in rails)
    made = make(msgspec.structs.replace(truth, groups=groups, edges=()), settings=Settings(redundancy=0))
    assert made.coverage is not None
    assert len({frozenset((t.source, t.destination)) for t in made.targets}) == made.coverage.pairs_probed == 2 * 28


def test_all_targets_of_a_preload_list_wait_and_those_of_a_skeleton_do_not() -> None:
    truth = draw_job(0, FABRIC).truth()
    assert {target.active for target in make(truth, phase="preload").targets} == {False}
    assert {target.active for target in make(truth).targets} == {True}


def test_too_many_edges_are_thinned_within_the_limit_and_said() -> None:
    """Two stages of a large job, whose every pair may talk: the inference does not say which replicas do."""
    topology = leaf_spine(pods=2, rails=1, spines=2, hosts_per_pod=30)
    base = unobserved("j", topology)
    first, second = ([e.id for e in base.endpoints if f"-p{pod}-" in e.host] for pod in (0, 1))
    edges = tuple(Edge(a=a, b=b, role="pp") for a in first for b in second)
    groups = tuple(Group(role="dp", members=tuple(stage)) for stage in (first, second))
    made = make(msgspec.structs.replace(base, edges=edges, groups=groups), topology, settings=Settings(max_paths=400))
    per_source = Counter(target.source for target in made.targets)
    assert max(per_source.values()) <= 400
    assert made.coverage is not None
    assert made.coverage.pairs_total == 900 + 2 * 435
    assert 60 * 8 <= made.coverage.pairs_probed < made.coverage.pairs_total
    roles = {role: {t.source for t in made.targets if t.role == role} for role in ("pp", "dp")}
    assert all(len(sources) == 60 for sources in roles.values())


def test_the_parts_of_all_hosts_are_the_whole_and_hold_what_starts_there() -> None:
    truth = draw_job(3, FABRIC).truth()
    whole = make(truth)
    parts = dict(draft(truth, FABRIC, phase="skeleton", generation=3, expires=9.0).by_host())
    assert sorted(parts) == sorted({endpoint.host for endpoint in truth.endpoints})
    assert {t.path: t for part in parts.values() for t in part.targets} == {t.path: t for t in whole.targets}
    for host, part in parts.items():
        assert {target.source_host for target in part.targets} == {host}
        assert msgspec.structs.replace(part, targets=()) == msgspec.structs.replace(whole, targets=())


def test_a_plan_that_no_reader_would_take_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skeleton_service.planning.plan.LARGEST_FILE", 10)
    with pytest.raises(ContractError, match=r"paths are too many for one file \(add --split-by-host\)"):
        make(draw_job(0, FABRIC).truth())


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"traffic_class": 104}, r"field 'traffic_class': 104 is not ECN-capable, .* \(write 106 for DSCP 26\)"),
        ({"traffic_class": 107}, r"field 'traffic_class': 107 is not ECN-capable, .* \(write 106 for DSCP 26\)"),
        ({"default_traffic_class": 0}, r"field 'default_traffic_class': 0 is not .* \(write 2 for DSCP 0\)"),
        ({"traffic_class": 258}, r"field 'traffic_class': 258 is no traffic class"),
        (
            {"traffic_class": 2},
            r"field 'default_traffic_class': 2 is the lossless one too \(choose another DSCP, or None\)",
        ),
    ],
)
def test_a_class_that_an_ecn_queue_drops_is_refused(classes: dict[str, int], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Settings(**classes)  # type: ignore[arg-type]


def ports_of(plan: Plan) -> dict[tuple[str, str], tuple[int, ...]]:
    """{pair: source ports of its UDP targets in the lossless class}."""
    found: dict[tuple[str, str], tuple[int, ...]] = defaultdict(tuple)
    for target in plan.targets:
        if target.probe == "udp" and target.traffic_class == Settings().traffic_class:
            found[target.source, target.destination] += target.source_ports
    return found


def test_a_quarter_of_a_pairs_ports_are_others_each_generation_and_the_rest_of_its_paths_stay() -> None:
    truth = draw_job(0, FABRIC).truth()
    plans = [make(truth, generation=generation, settings=Settings(exploration=0)) for generation in range(20)]
    made = [ports_of(plan) for plan in plans]
    for (one, other), ports in made[0].items():
        assert ports == made[0][other, one]
        stay = set.intersection(*(set(each[one, other]) for each in made))
        assert len(stay) == len(ports) - rotated_count(len(ports), 0.25)
        assert len(set(ports)) == len(ports)
        if len(ports) > 1:
            assert len({each[one, other] for each in made}) > 15
    assert {rotated_count(ports, 0.25) for ports in (1, 2, 8, 21, 64)} == {0, 1, 2, 5, 16}
    assert {t.source_ports for t in plans[0].targets if t.probe == "tcp"} == {(61000,)}
    preload = [make(truth, generation=generation, phase="preload") for generation in (1, 2)]
    assert {t.path for t in preload[0].targets} == {t.path for t in preload[1].targets}
    assert {t.traffic_class for t in preload[0].targets} == {106}


def test_rotation_costs_an_exporter_no_sockets_and_stays_below_the_responder() -> None:
    """All pairs of a generation draw from one pool, however many they are."""
    for generation in range(2000):
        ports = SourcePorts(61000, 64, 0.25, generation)
        used = {port for pair in range(50) for count in (1, 8, 64) for port in ports.of("a:0", f"b{pair}:0", count)}
        assert len(used) == 64
        assert min(used) == 61000
        assert max(used) < 65300


def test_ports_that_have_no_room_to_rotate_are_refused() -> None:
    with pytest.raises(ValueError, match="ports 65000 to 65299 leave no room for 290 ports and 72 to rotate"):
        SourcePorts(65000, 290, 0.25, 1)


def crossed(fabric: Fabric, source: str, destination: str, port: int) -> set[str]:
    """Links of one flow between two leaves, where each leaf hashes it to one of its spines."""
    up = sorted(fabric.possible_links(source, destination) - {fabric.link_of(source), fabric.link_of(destination)})
    spines = sorted({end.partition(":")[0] for link in up for end in link.split(" -- ") if end.startswith("spine")})
    digest = hashlib.blake2s(f"{source} {destination} {port}".encode()).digest()
    spine = spines[int.from_bytes(digest, "big") % len(spines)]
    return {link for link in up if f"{spine}:" in link}


def covered_after(rotation: float) -> dict[int, int]:
    """{generations: links between leaves and spines that a pair has crossed}, of 64; eight ports, 32 spines."""
    topology = leaf_spine(pods=2, rails=1, spines=32, hosts_per_pod=1)
    fabric = Fabric(topology)
    base = unobserved("j", topology)
    skeleton = msgspec.structs.replace(base, edges=(Edge(a=base.endpoints[0].id, b=base.endpoints[1].id, role="pp"),))
    settings = Settings(largest_port_count=8, rotation=rotation, redundancy=0, exploration=0)
    found: set[str] = set()
    covered = {}
    for generation in range(1, 17):
        for target in make(skeleton, topology, generation=generation, settings=settings).targets:
            ends = f"{target.source_host}:{target.source_rnic}", f"{target.destination_host}:{target.destination_rnic}"
            found |= crossed(fabric, *ends, target.source_ports[0])
        covered[generation] = len(found)
    return covered


def test_rotation_crosses_in_time_the_links_that_a_few_ports_miss() -> None:
    fixed, rotated = covered_after(0.0), covered_after(0.25)
    figures = f"after 1, 4 and 16 generations: {[(fixed[n], rotated[n]) for n in (1, 4, 16)]} of 64 links"
    assert fixed[1] == fixed[4] == fixed[16] < 32, figures
    assert rotated[1] < rotated[4] < rotated[16], figures
    assert rotated[16] > 1.7 * fixed[16], figures


def by_pair(plan: Plan) -> dict[tuple[str, str], dict[tuple[str, int], list[Target]]]:
    """{pair: {(probe, traffic class): targets}}."""
    found: dict[tuple[str, str], dict[tuple[str, int], list[Target]]] = defaultdict(lambda: defaultdict(list))
    for target in plan.targets:
        found[target.source, target.destination][target.probe, target.traffic_class].append(target)
    return found


def test_rdma_is_probed_beside_udp_on_as_many_ports_of_its_own() -> None:
    truth = draw_job(0, FABRIC).truth()
    both, udp = make(truth, settings=Settings(probes=frozenset({"udp", "rdma"}))), make(truth)
    assert [t for t in both.targets if t.probe != "rdma"] == list(udp.targets)
    for kinds in by_pair(both).values():
        assert len(kinds["rdma", 106]) == len(kinds["udp", 106])
        assert not kinds["rdma", 2]
        assert len(kinds["udp", 2]) == 1
    rdma = [t for t in both.targets if t.probe == "rdma"]
    assert {(t.destination_port, t.payload_bytes, t.period_seconds) for t in rdma} == {(4791, 64, 1.0)}
    ports = {t.source_ports[0] for t in rdma}
    assert ports <= set(ROCE_SOURCE_PORTS)
    assert not ports & {t.source_ports[0] for t in udp.targets}, "an exporter has one socket for an address and port"
    assert draft(
        truth,
        FABRIC,
        phase="skeleton",
        generation=3,
        expires=9.0,
        settings=Settings(probes=frozenset({"udp", "rdma"})),
    ).paths == len(both.targets)


def test_rdma_alone_takes_the_place_of_udp_in_both_classes() -> None:
    truth = draw_job(0, FABRIC).truth()
    made = make(truth, settings=Settings(probes=frozenset({"rdma"})))
    udp = by_pair(make(truth))
    assert {t.probe for t in made.targets} == {"rdma", "mtu", "tcp"}
    for pair, kinds in by_pair(made).items():
        assert len(kinds["rdma", 106]) == len(udp[pair]["udp", 106])
        assert [t.source_ports for t in kinds["rdma", 2]] == [kinds["rdma", 106][0].source_ports]
        assert kinds["mtu", 106] == udp[pair]["mtu", 106]


def test_an_rnic_has_no_more_queue_pairs_than_its_exporter_gives_it() -> None:
    """Of 64 source ports a pair over 32 ways is given 32 for RDMA; all pairs of a generation share them."""
    topology = leaf_spine(pods=2, rails=1, spines=32, hosts_per_pod=4)
    base = unobserved("j", topology)
    edges = tuple(Edge(a=a.id, b=b.id, role="pp") for a, b in combinations(base.endpoints, 2))
    for generation in range(20):
        made = make(
            msgspec.structs.replace(base, edges=edges),
            topology,
            generation=generation,
            settings=Settings(probes=frozenset({"udp", "rdma"})),
        )
        ports = defaultdict(set)
        for target in made.targets:
            ports[target.probe, target.source].add(target.source_ports[0])
        assert {len(own) for (probe, _), own in ports.items() if probe == "rdma"} == {MAX_RDMA_SOURCE_PORTS}
        assert {len(own) for (probe, _), own in ports.items() if probe == "udp"} == {64}
    alone = make(base, topology, phase="preload", settings=Settings(probes=frozenset({"rdma"})))
    udp = make(base, topology, phase="preload")
    assert alone.coverage is not None
    assert udp.coverage is not None
    assert alone.coverage.path_probability < udp.coverage.path_probability, "fewer ports cross fewer ways"


def test_rdma_targets_count_against_the_limit_of_a_host() -> None:
    topology = leaf_spine(pods=2, rails=1, spines=2, hosts_per_pod=30)
    settings = Settings(probes=frozenset({"udp", "rdma"}), max_paths=400)
    made = make(unobserved("j", topology), topology, phase="preload", settings=settings)
    assert 300 < max(Counter(target.source for target in made.targets).values()) <= 400
