"""From probe records to a verdict, on records made by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.fabric import Fabric
from skeleton_service.diagnosis import diagnose
from skeleton_service.diagnosis.detection import wilson_lower_bound
from skeleton_service.records import KINDS
from tests.unit.fabrics import leaf_spine
from tests.unit.test_skeleton_contract import skeleton

FABRIC = Fabric(leaf_spine(pods=3, rails=1, spines=2, hosts_per_pod=2))
SKELETON = skeleton()
SECONDS = 30
HOSTS = [f"host-p{pod}-{n}" for pod in range(3) for n in range(2)]
PATHS = [(a, b, spine) for a in HOSTS for b in HOSTS for spine in range(2) if a[:7] != b[:7]]
BROKEN = "leaf-p0-r0:Ethernet0 -- spine-0:Ethernet0"


def leaf(host: str) -> str:
    return f"leaf-{host.split('-')[1]}-r0"


def crosses(path: tuple[str, str, int]) -> bool:
    """Whether a path takes BROKEN, from pod 0 to spine 0."""
    return path[0].startswith("host-p0") and path[2] == 0


def record(path: tuple[str, str, int], second: float, **changes: Any) -> dict[str, Any]:
    source, destination, spine = path
    basis = {
        "task_type": "UDP_PING",
        "ping_time": int((1_000 + second) * 1e9),
        "src_node_id": f"c-{source}",
        "dst_node_id": f"c-{destination}",
        "src_node_sn": source,
        "dst_node_sn": destination,
        "src_real_ip": FABRIC.interfaces[f"{source}:mlx5_0"].rnic.ip,
        "dst_real_ip": FABRIC.interfaces[f"{destination}:mlx5_0"].rnic.ip,
        "src_rnic": "mlx5_0",
        "dst_rnic": "mlx5_0",
        "src_port": 49152 + spine,
        "dst_port": 65300,
        "dial": "success",
        "latency": 15.0,
        "loss_rate": 0.0,
        "job": "job-1",
    }
    return {**basis, **changes}


LOST = {"dial": "fail", "latency": None, "loss_rate": 1.0}
REFUSED = {**LOST, "error": "refused"}
RESTARTED = {**LOST, "error": "restarted"}


def trace(path: tuple[str, str, int]) -> dict[str, Any]:
    hops = f'["{leaf(path[0])}", "spine-{path[2]}", "{leaf(path[1])}"]'
    return record(path, 0, task_type="TRACEROUTE", route=hops, latency=None, loss_rate=None)


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(
        [{name: row.get(name) for name in KINDS} for row in rows], schema=pa.schema(list(KINDS.items()))
    )


def probed(lost: Any = lambda *_: False, *, fate: dict[str, Any] = LOST, **changes: Any) -> list[dict[str, Any]]:
    """A probe a second on every path; ``lost(path, second)`` says which meet ``fate``."""
    return [
        record(path, second, **{**changes, **(fate if lost(path, second) else {})})
        for path in PATHS
        for second in range(SECONDS)
    ]


TRACES = [trace(path) for path in PATHS]


def verdict(*rows: dict[str, Any], fabric: Fabric = FABRIC, spraying: bool = False) -> Diagnosis:
    return diagnose(table(*rows), fabric, SKELETON, spraying=spraying)


def test_no_loss_is_no_failure() -> None:
    assert verdict(*TRACES, *probed()).failures == ()


def test_one_lost_probe_a_path_is_no_failure() -> None:
    assert verdict(*TRACES, *probed(lambda _, second: second == 3)).failures == ()


def test_no_records_are_no_failure() -> None:
    assert verdict().failures == ()


def test_loss_on_a_link_names_the_link_its_paths_and_its_place() -> None:
    (failure,) = verdict(*TRACES, *probed(lambda path, second: crosses(path) and second % 3 == 0)).failures
    assert (failure.symptom, failure.layer) == ("loss", "underlay")
    assert (failure.component.kind, failure.component.name) == ("link", BROKEN)
    assert failure.component.location == "leaf leaf-p0-r0, spine spine-0"
    assert failure.confidence > 0.3
    assert set(failure.paths) == {(f"c-{a}/mlx5_0", f"c-{b}/mlx5_0") for a, b, spine in PATHS if crosses((a, b, spine))}
    assert failure.start == 1_000.0
    assert failure.start <= failure.detected_at <= 1_003.0
    assert failure.end is None
    assert failure.evidence[0].startswith(f"8 of 16 traced paths over {BROKEN} lose probes, ")
    assert all(other.name != BROKEN for other in failure.alternatives)


def test_a_dead_link_is_unreachable() -> None:
    (failure,) = verdict(*TRACES, *probed(lambda path, _: crosses(path))).failures
    assert (failure.symptom, failure.component.name) == ("unreachable", BROKEN)


def test_full_size_probes_lost_alone_are_an_mtu_failure() -> None:
    large = probed(lambda path, _: crosses(path), task_type="MTU", probe_bytes=9000)
    (failure,) = verdict(*TRACES, *probed(), *large).failures
    assert (failure.symptom, failure.component.name) == ("mtu", BROKEN)


def test_both_sizes_lost_alike_are_one_failure_not_two() -> None:
    large = probed(lambda path, _: crosses(path), task_type="MTU", probe_bytes=9000)
    (failure,) = verdict(*TRACES, *probed(lambda path, _: crosses(path)), *large).failures
    assert failure.symptom == "unreachable"


def test_refusals_name_the_agent_and_no_link() -> None:
    (failure,) = verdict(*TRACES, *probed(lambda path, _: path[1] == "host-p1-0", fate=REFUSED)).failures
    assert (failure.layer, failure.component.kind, failure.component.name) == ("service", "agent", "host-p1-0")
    assert len(failure.paths) == 4


def test_losses_while_a_responder_restarted_name_nothing() -> None:
    """Three probes of each path to one host: as losses they are enough to blame something."""

    def meets(path: tuple[str, str, int], second: int) -> bool:
        return path[1] == "host-p1-0" and second in (10, 11, 12)

    assert verdict(*TRACES, *probed(meets, fate=LOST)).failures
    assert not verdict(*TRACES, *probed(meets, fate=RESTARTED)).failures


def test_a_single_failing_pair_is_not_blamed_on_a_link() -> None:
    one = PATHS[0]
    (failure,) = verdict(*TRACES, *probed(lambda path, second: path == one and second % 2 == 0)).failures
    assert failure.layer == "unknown"
    assert failure.confidence == 0.0
    assert {other.name for other in failure.alternatives} <= set(
        FABRIC.possible_links("host-p0-0:mlx5_0", f"{one[1]}:mlx5_0")
    )


def test_failing_paths_without_a_trace_name_no_link() -> None:
    (failure,) = verdict(*probed(lambda path, second: crosses(path) and second % 2 == 0)).failures
    assert failure.layer == "unknown"
    assert failure.alternatives == ()


def test_a_truncated_trace_does_not_vote() -> None:
    cut = [{**row, "route": '["leaf-p0-r0", null]'} for row in TRACES]
    (failure,) = verdict(*cut, *probed(lambda path, second: crosses(path) and second % 2 == 0)).failures
    assert failure.component.kind != "link"


def test_a_trace_of_the_other_protocol_and_one_that_failed_do_not_vote() -> None:
    """ECMP hashes the protocol; and a trace that came to the last switch, but not to its end, looks whole."""
    lossy = probed(lambda path, second: crosses(path) and second % 2 == 0)
    named = verdict(*TRACES, *lossy).failures[0].component
    assert named.kind == "link"
    elsewhere = f'["{leaf("host-p0-0:mlx5_0")}", "spine-0", "{leaf("host-p1-0:mlx5_0")}"]'
    for changes in ({"protocol": "tcp"}, {"dial": "fail", "error": "silent"}):
        later = [{**row, "ping_time": row["ping_time"] + 1, "route": elsewhere, **changes} for row in TRACES]
        assert verdict(*TRACES, *later, *lossy).failures[0].component == named
        alone = verdict(*[{**row, **changes} for row in TRACES], *lossy).failures
        assert all(failure.component.kind != "link" for failure in alone)


def test_tcp_paths_vote_by_the_traces_of_their_own_protocol() -> None:
    lossy = [{**row, "task_type": "TCP_PING"} for row in probed(lambda path, second: crosses(path) and second % 2 == 0)]
    by_udp, by_tcp = (
        verdict(*[{**row, "protocol": protocol} for row in TRACES], *lossy).failures[0].component
        for protocol in ("udp", "tcp")
    )
    assert (
        by_tcp
        == verdict(*TRACES, *probed(lambda path, second: crosses(path) and second % 2 == 0)).failures[0].component
    )
    assert by_udp.kind != "link"


def test_records_of_rnics_outside_the_topology_are_left_out() -> None:
    strangers = [
        {**row, "src_node_sn": "stranger", "src_real_ip": "203.0.113.9"}
        for row in probed(lambda path, _: crosses(path))
    ]
    assert verdict(*TRACES, *probed(), *strangers).failures == ()


def test_records_without_rnic_names_are_found_by_their_underlay_address() -> None:
    rows = [
        {**row, "src_rnic": None, "dst_rnic": None}
        for row in [*TRACES, *probed(lambda path, second: crosses(path) and second % 3 == 0)]
    ]
    assert [failure.component.name for failure in verdict(*rows).failures] == [BROKEN]


def test_old_records_are_not_judged() -> None:
    old = [{**row, "ping_time": row["ping_time"] - int(600e9)} for row in probed(lambda path, _: crosses(path))]
    assert verdict(*TRACES, *old, *probed()).failures == ()


@pytest.mark.parametrize("route", ["", "spine-0", "{}", "[1]", '["spine-0"', "[]", "[" * 20_000], ids=len)
def test_a_route_that_is_none_is_no_route(route: str) -> None:
    rows = [{**row, "route": route} for row in TRACES]
    assert verdict(*rows, *probed()).failures == ()


def test_jobs_are_judged_apart_and_nameless_records_belong_to_the_skeleton() -> None:
    lost = probed(lambda path, second: crosses(path) and second % 3 == 0, job=None)
    failures = verdict(*TRACES, *lost, *probed(job="healthy")).failures
    assert [failure.job for failure in failures] == ["j"]


def test_the_order_of_rows_changes_nothing_and_an_identity_is_stable() -> None:
    rows = [*TRACES, *probed(lambda path, second: crosses(path) and second % 3 == 0)]
    assert verdict(*rows) == verdict(*reversed(rows))
    more = [*TRACES, *probed(lambda path, second: crosses(path) and second % 2 == 0)]
    assert verdict(*rows).failures[0].id == verdict(*more).failures[0].id


def test_counts_of_many_probes_in_one_record_are_taken_as_they_are() -> None:
    rows = [record(path, 0, packets_sent=30, packets_lost=10 if crosses(path) else 0) for path in PATHS]
    assert [failure.component.name for failure in verdict(*TRACES, *rows).failures] == [BROKEN]


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_the_bound_lies_below_the_ratio_and_grows_with_it(losses: int, sent: int) -> None:
    losses = min(losses, sent)
    assert -1e-12 <= wilson_lower_bound(losses, sent) <= losses / sent + 1e-12
    if losses:
        assert wilson_lower_bound(losses - 1, sent) < wilson_lower_bound(losses, sent)


def test_a_healthy_host_whose_clock_is_ahead_hides_no_loss_of_others() -> None:
    """Its records were the last ones, and all others too old to be judged."""
    rows = [
        {**row, "ping_time": row["ping_time"] + int(120e9)} if row["src_node_sn"] == "host-p2-0" else row
        for row in probed(lambda path, second: crosses(path) and second % 3 == 0)
    ]
    assert [failure.component.name for failure in verdict(*TRACES, *rows).failures] == [BROKEN]


def test_records_without_a_job_and_with_the_skeletons_are_one_failure() -> None:
    rows = [
        {**row, "job": None if row["src_node_sn"].endswith("-0") else SKELETON.job}
        for row in probed(lambda path, second: crosses(path) and second % 3 == 0)
    ]
    assert [(failure.job, failure.component.name) for failure in verdict(*TRACES, *rows).failures] == [("j", BROKEN)]


def third_over_broken(path: tuple[str, str, int], second: int) -> bool:
    return crosses(path) and second % 3 == 0


def healthy(*_: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("lossless", "default", "said"),
    [
        (
            third_over_broken,
            healthy,
            "over the same lose 0.0%: look at the queue of DSCP 26 (buffer, ECN, PFC), not at the cable",
        ),
        (
            healthy,
            third_over_broken,
            "over the same lose 0.0%: look at the queue of DSCP 0 (buffer, ECN, PFC), not at the cable",
        ),
        (third_over_broken, third_over_broken, "over the same lose 16.7%: not the fault of one queue"),
    ],
    ids=["lossless", "default", "both"],
)
def test_a_loss_is_one_failure_that_says_how_the_other_class_fares(lossless: Any, default: Any, said: str) -> None:
    """Same flows, hence same routes: a class lost in the other's company used to be taken for half the loss."""
    rows = [*probed(lossless, dscp=26), *probed(default, dscp=0)]
    (failure,) = verdict(*TRACES, *rows).failures
    assert (failure.symptom, failure.component.name) == ("loss", BROKEN)
    assert failure.evidence[0].startswith(f"8 of 16 traced paths over {BROKEN} lose probes, 16.7% on average")
    assert failure.evidence[-1].endswith(said)


def test_a_class_of_few_probes_and_one_that_no_record_names_acquit_nobody() -> None:
    lost = probed(third_over_broken, dscp=26)
    few = [record(PATHS[0], second, dscp=0) for second in range(6)]
    for rows in (few, probed()):
        (failure,) = verdict(*TRACES, *lost, *rows).failures
        assert not any("queue" in line for line in failure.evidence)


def test_a_class_that_crosses_a_link_in_its_healthy_direction_alone_acquits_it_of_nothing() -> None:
    inward = [path for path in PATHS if path[1].startswith("host-p0") and path[2] == 0]
    rows = [record(path, second, dscp=0) for path in inward for second in range(SECONDS)]
    rows += [row for row in probed(third_over_broken, dscp=26) if row["dst_node_sn"][:7] != "host-p0"]
    (failure,) = verdict(*TRACES, *rows).failures
    assert failure.component.name == BROKEN
    assert not any("queue" in line for line in failure.evidence)


def test_full_size_probes_are_compared_with_small_ones_of_their_class() -> None:
    large = probed(lambda path, second: crosses(path) and second % 2 == 0, task_type="MTU", dscp=26)
    rows = [*large, *probed(dscp=26), *probed(lambda path, second: crosses(path) and second % 2 == 0, dscp=0)]
    assert [(failure.symptom, failure.component.name) for failure in verdict(*TRACES, *rows).failures] == [
        ("loss", BROKEN),
        ("mtu", BROKEN),
    ]


def partly_cabled() -> Fabric:
    """Pod 1 is on spine 0 alone: what is sprayed from pod 0 to pod 2 crosses each spine with a half, to pod 1 that."""
    topology = FABRIC.topology
    links = tuple(link for link in topology.links if not ("leaf-p1" in link.id and "spine-1" in link.id))
    return Fabric(msgspec.structs.replace(topology, links=links))


def sprayed_loss(path: tuple[str, str, int], second: int) -> bool:
    """A third of what crosses BROKEN out of pod 0."""
    every = 3 if path[1].startswith("host-p1") else 6
    return path[0].startswith("host-p0") and second % every == 0


@pytest.mark.parametrize("changes", [{}, {"error": "timeout"}], ids=["round trips", "each way"])
def test_where_packets_are_sprayed_paths_without_a_route_name_the_link(changes: dict[str, Any]) -> None:
    rows, fabric = probed(sprayed_loss, fate={**LOST, **changes}), partly_cabled()
    (failure,) = verdict(*rows, fabric=fabric, spraying=True).failures
    assert (failure.component.kind, failure.component.name) == ("link", BROKEN)
    assert failure.confidence > 0.5
    assert failure.evidence[0].startswith("16 of 32 sprayed paths over")
    (blind,) = verdict(*rows, fabric=fabric).failures
    assert (blind.component.kind, blind.confidence) == ("rnic", 0.0)


def test_links_that_all_sprayed_paths_cross_alike_share_the_confidence() -> None:
    lost = probed(lambda path, second: path[0].startswith("host-p0") and second % 4 == 0)
    (failure,) = verdict(*lost, spraying=True).failures
    beside = failure.alternatives[0]
    assert {failure.component.name, beside.name} == {BROKEN, "leaf-p0-r0:Ethernet4 -- spine-1:Ethernet0"}
    assert failure.confidence == beside.score > 0.4


def test_a_route_that_is_known_holds_where_packets_are_sprayed_too() -> None:
    rows = [*TRACES, *probed(third_over_broken)]
    assert verdict(*rows, spraying=True) == verdict(*rows)
