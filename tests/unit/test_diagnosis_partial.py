"""Faults that hurt some probes alone: full-size ones, those of a traffic class, RDMA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.probed import (
    BROKEN,
    PATHS,
    SECONDS,
    TRACES,
    Lost,
    Way,
    crosses,
    dead,
    lossy,
    names,
    never,
    probed,
    record,
    trace,
    unlucky,
    verdict,
)

LARGE: dict[str, Any] = {"task_type": "MTU", "probe_bytes": 9000}
RDMA: dict[str, Any] = {"task_type": "RDMA_PING", "dst_port": 4791}
VICTIM = "host-p0-1"


def half(path: Way, second: int) -> bool:
    return crosses(path) and unlucky(path, second, 2)


def test_full_size_probes_lost_alone_are_an_mtu_failure() -> None:
    (failure,) = verdict(*TRACES, *probed(), *probed(dead, **LARGE)).failures
    assert (failure.symptom, failure.component.name) == ("mtu", BROKEN)
    assert "small ones live" in failure.evidence[0]


def test_both_sizes_lost_alike_are_one_failure_not_two() -> None:
    (failure,) = verdict(*TRACES, *probed(dead), *probed(dead, **LARGE)).failures
    assert (failure.symptom, failure.component.name) == ("unreachable", BROKEN)


def test_full_size_probes_are_compared_with_small_ones_of_their_class() -> None:
    """If small ones of the class are lost as well it is the queue, and how the other class fares says nothing."""
    large = [*probed(half, **LARGE, dscp=26), *probed(**LARGE, dscp=0)]
    (failure,) = verdict(*TRACES, *large, *probed(half, dscp=26), *probed(dscp=0)).failures
    assert (failure.symptom, failure.component.name) == ("congestion", BROKEN)
    (failure,) = verdict(*TRACES, *probed(half, **LARGE, dscp=26), *probed(dscp=26), *probed(dscp=0)).failures
    assert (failure.symptom, failure.component.name) == ("mtu", BROKEN)


@pytest.mark.parametrize(
    ("lossless", "default", "symptom", "said"),
    [
        (lossy, never, "congestion", "DSCP 26"),
        (never, lossy, "congestion", "DSCP 0"),
        (lossy, lossy, "loss", ""),
    ],
    ids=["lossless", "default", "both"],
)
def test_a_loss_is_one_failure_that_says_which_class_it_hurts(
    lossless: Lost, default: Lost, symptom: str, said: str
) -> None:
    """Same flows, hence same routes: a class lost in the other's company used to be taken for half the loss."""
    (failure,) = verdict(*TRACES, *probed(lossless, dscp=26), *probed(default, dscp=0)).failures
    assert (failure.symptom, failure.component.name) == (symptom, BROKEN)
    assert f"paths over {BROKEN} lose probes, 3" in failure.evidence[0]
    assert ("DSCP" in " ".join(failure.evidence)) == bool(said)
    assert said in failure.evidence[0]
    assert any(line.endswith(f"look at what is special to {said}") for line in failure.evidence) == bool(said)


def test_a_class_of_few_probes_acquits_nobody() -> None:
    few = [record(PATHS[0], second, dscp=0) for second in range(3)]
    (failure,) = verdict(*TRACES, *probed(lossy, dscp=26), *few).failures
    assert (failure.symptom, failure.component.name) == ("loss", BROKEN)
    assert not any("special to" in line for line in failure.evidence)


def test_a_class_that_crosses_a_link_in_its_healthy_direction_alone_acquits_it_of_nothing() -> None:
    inward = [path for path in PATHS if path[1].startswith("host-p0") and path[2] == 0][:1]
    rows = [record(path, second, dscp=0) for path in inward for second in range(SECONDS)]
    rows += [row for row in probed(lossy, dscp=26) if row["dst_node_sn"][:7] != "host-p0"]
    (failure,) = verdict(*TRACES, *rows).failures
    assert failure.component.name == BROKEN
    assert not any("special to" in line for line in failure.evidence)


def touches(path: Way, _: int) -> bool:
    return VICTIM in path[:2]


def rdma_way(path: Way) -> Way:
    """From one source port RDMA and UDP take different spines."""
    return (*path[:2], 1 - path[2])


def rdma_crosses(path: Way) -> bool:
    return crosses(rdma_way(path))


def rdma_lossy(path: Way, second: int) -> bool:
    return rdma_crosses(path) and unlucky(path, second, 3)


RDMA_TRACES = [{**trace(rdma_way(path)), "src_port": 49152 + path[2], "dst_port": 4791} for path in PATHS]


def test_rdma_that_dies_where_udp_lives_is_the_rnics_failure_and_no_links() -> None:
    (failure,) = verdict(*TRACES, *RDMA_TRACES, *probed(), *probed(touches, **RDMA)).failures
    assert (failure.component.kind, failure.component.name) == ("rnic", f"{VICTIM}:mlx5_0")
    assert (failure.layer, failure.symptom) == ("rnic", "unreachable")
    assert failure.confidence > max(other.score for other in failure.alternatives)
    assert all(VICTIM in name for name in names(failure)), "its one container and its host are no less likely to tell"
    count = sum(VICTIM in path[:2] for path in PATHS)
    assert failure.evidence[0].startswith(f"{count} of {count} RDMA paths over {VICTIM}:mlx5_0 lose probes, 100.0%")
    assert any(line.endswith("look at what is special to RDMA") for line in failure.evidence)
    assert all(VICTIM in f"{path}" for path in failure.paths)


def test_rdma_paths_vote_by_the_traces_of_their_own_flow() -> None:
    """From one source port RDMA and UDP take different spines: the link is on the way of the former."""
    rows = probed(lambda path, _: rdma_crosses(path), **RDMA)
    (failure,) = verdict(*TRACES, *RDMA_TRACES, *rows).failures
    assert (failure.component.name, failure.layer) == (BROKEN, "underlay")
    assert failure.confidence > 0.7
    lost = {path[:2] for path in PATHS if rdma_crosses(path)}
    assert {(a.split("/")[0][2:], b.split("/")[0][2:]) for a, b in failure.paths} == lost
    (failure,) = verdict(*TRACES, *rows).failures
    assert failure.confidence < 0.5, "the route of a UDP flow is not theirs"


def test_a_link_that_loses_rdma_and_udp_is_one_failure_of_the_link() -> None:
    rows = [*probed(lossy), *probed(rdma_lossy, **RDMA)]
    (failure,) = verdict(*TRACES, *RDMA_TRACES, *rows).failures
    assert (failure.component.name, failure.symptom) == (BROKEN, "loss")
    assert failure.confidence > 0.9
    assert not any("RDMA" in line for line in failure.evidence)


def test_an_rnics_broken_rdma_hides_no_lossy_link() -> None:
    rdma = probed(lambda path, second: touches(path, second) or rdma_lossy(path, second), **RDMA)
    made = verdict(*TRACES, *RDMA_TRACES, *probed(lossy), *rdma)
    found = {(failure.component.kind, failure.component.name) for failure in made.failures}
    assert found == {("rnic", f"{VICTIM}:mlx5_0"), ("link", BROKEN)}


def test_few_udp_probes_beside_prove_nothing() -> None:
    """Had they been lost as often as RDMA's, all of them would have come through all the same."""
    few = [record(path, 0) for path in PATHS if path[2] == 0 and path[0] == VICTIM]
    rows = probed(lambda path, second: touches(path, second) and unlucky(path, second, 10), **RDMA)
    failures = verdict(*TRACES, *RDMA_TRACES, *few, *rows).failures
    assert failures
    assert not any("RDMA" in line for failure in failures for line in failure.evidence)


def path_of(row: dict[str, Any]) -> tuple[Way, int]:
    path = (row["src_node_sn"], row["dst_node_sn"], row["src_port"] - 49152)
    return path, row["ping_time"] // 10**9 - 1_000


@pytest.mark.parametrize(
    "udp",
    [
        lambda path, _: path[2] == 1,
        lambda path, _: path[2] == 1 or path[1].startswith("host-p0"),
        lambda path, second: path[2] == 1 or (path == PATHS[0] and second < 6),
    ],
    ids=["over the other spine alone", "towards the broken direction's near end too", "lucky over the link"],
)
def test_a_lossy_link_that_no_udp_path_crosses_that_way_is_not_taken_for_an_rnics_failure(
    udp: Callable[[Way, int], bool],
) -> None:
    """Of few source ports, UDP's may all miss a link that RDMA's cross: each such path used to accuse its RNICs."""
    few = [row for row in probed() if udp(*path_of(row))]
    (failure,) = verdict(*TRACES, *RDMA_TRACES, *few, *probed(rdma_lossy, **RDMA)).failures
    assert (failure.component.kind, failure.component.name, failure.layer) == ("link", BROKEN, "underlay")
