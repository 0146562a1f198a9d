"""From probe records to a verdict, on records made by hand: what is a failure, where, since when, and whose."""

from __future__ import annotations

import pytest

from tests.unit.probed import (
    BROKEN,
    FABRIC,
    HOSTS,
    LOST,
    PATHS,
    REFUSED,
    RESTARTED,
    SECONDS,
    SKELETON,
    START,
    TRACES,
    Way,
    crosses,
    dead,
    lossy,
    names,
    never,
    probed,
    record,
    unlucky,
    verdict,
)


def test_no_loss_is_no_failure() -> None:
    assert verdict(*TRACES, *probed()).failures == ()


def test_stray_losses_that_have_nothing_in_common_are_no_failure() -> None:
    one, other = ("host-p0-0", "host-p1-0", 0), ("host-p2-1", "host-p1-1", 1)
    stray = {(one, 7), (other, 20)}
    assert {one, other} <= set(PATHS)
    assert verdict(*TRACES, *probed(lambda path, second: (path, second) in stray)).failures == ()


def test_no_records_are_no_failure() -> None:
    assert verdict().failures == ()
    assert verdict(*TRACES).failures == ()


def test_loss_on_a_link_names_the_link_its_paths_and_its_place() -> None:
    (failure,) = verdict(*TRACES, *probed(lossy)).failures
    assert (failure.symptom, failure.layer) == ("loss", "underlay")
    assert (failure.component.kind, failure.component.name) == ("link", BROKEN)
    assert failure.component.location == "leaf leaf-p0-r0, spine spine-0"
    assert failure.confidence > 0.9
    assert set(failure.paths) == {(f"c-{a}/mlx5_0", f"c-{b}/mlx5_0") for a, b, spine in PATHS if crosses((a, b, spine))}
    assert failure.start == START
    assert failure.start <= failure.detected_at <= START + 3
    assert failure.end is None
    assert failure.evidence[0].startswith("8 of ")
    assert f" paths over {BROKEN} lose probes, 3" in failure.evidence[0]
    assert all(other.name != BROKEN for other in failure.alternatives)


def test_a_dead_link_is_unreachable() -> None:
    (failure,) = verdict(*TRACES, *probed(dead)).failures
    assert (failure.symptom, failure.component.name) == ("unreachable", BROKEN)


def test_a_link_that_is_dead_and_alive_in_turn_flaps() -> None:
    (failure,) = verdict(*TRACES, *probed(lambda path, second: crosses(path) and second // 4 % 2 == 0)).failures
    assert (failure.symptom, failure.component.name) == ("flap", BROKEN)


def test_a_failure_in_the_middle_begins_and_ends_where_its_losses_do() -> None:
    def failing(path: Way, second: int) -> bool:
        return 20 <= second < 40 and crosses(path)

    (failure,) = verdict(*TRACES, *probed(failing, seconds=100)).failures
    assert failure.start == START + 20
    assert failure.start <= failure.detected_at <= START + 23
    assert failure.end == START + 40
    (lasting,) = verdict(*TRACES, *probed(failing, seconds=45)).failures
    assert lasting.end is None, "five seconds without a loss prove nothing"


def test_old_failures_are_reported_with_their_end() -> None:
    """Nothing was probed between them and now: they ended with what was seen last."""
    old = [{**row, "ping_time": row["ping_time"] - int(600e9)} for row in [*TRACES, *probed(dead)]]
    (failure,) = verdict(*old, *TRACES, *probed()).failures
    assert (failure.component.name, failure.symptom) == (BROKEN, "unreachable")
    assert (failure.start, failure.end) == (START - 600, START - 600 + SECONDS)


def test_refusals_name_the_agent_and_no_link() -> None:
    (failure,) = verdict(*TRACES, *probed(lambda path, _: path[1] == "host-p1-0", fate=REFUSED)).failures
    assert (failure.layer, failure.component.kind, failure.component.name) == ("service", "agent", "host-p1-0")
    assert len(failure.paths) == 4
    assert START < failure.detected_at <= START + 15, "not before a restart would be over"


def test_losses_while_a_responder_restarted_name_nothing() -> None:
    """Three probes of each path to one host: as losses they are enough to blame something."""

    def meets(path: Way, second: int) -> bool:
        return path[1] == "host-p1-0" and second in (10, 11, 12)

    (failure,) = verdict(*TRACES, *probed(meets, fate=LOST)).failures
    assert failure.component.name.startswith(("host-p1-0", "c-host-p1-0"))
    assert not verdict(*TRACES, *probed(meets, fate=RESTARTED)).failures


def test_a_single_failing_pair_leaves_it_open_what_is_to_blame() -> None:
    """Something at an end of it, or on its way: no other path fails that could tell."""
    source, destination, _ = one = PATHS[0]
    (failure,) = verdict(*TRACES, *probed(lambda path, second: path == one and unlucky(path, second, 2))).failures
    assert failure.confidence < 0.3
    assert len(failure.alternatives) == 2
    assert failure.paths == ((f"c-{source}/mlx5_0", f"c-{destination}/mlx5_0"),)
    for name in names(failure):
        on_the_way = FABRIC.possible_links(f"{source}:mlx5_0", f"{destination}:mlx5_0")
        assert source in name or destination in name or name in on_the_way


@pytest.mark.parametrize("noise", range(3))
def test_there_are_two_alternatives_at_most_and_none_is_the_component(noise: int) -> None:
    for count in (1, 2, 5, 12):
        lost = PATHS[noise : noise + count]
        for failure in verdict(*TRACES, *probed(lambda path, _, lost=lost: path in lost)).failures:
            assert len(failure.alternatives) <= 2
            others = [(other.kind, other.name) for other in failure.alternatives]
            assert (failure.component.kind, failure.component.name) not in others
            assert failure.confidence + sum(other.score for other in failure.alternatives) <= 1.002


def test_counts_of_many_probes_in_one_record_are_taken_as_they_are() -> None:
    rows = [record(path, 0, packets_sent=30, packets_lost=10 if crosses(path) else 0) for path in PATHS]
    assert [failure.component.name for failure in verdict(*TRACES, *rows).failures] == [BROKEN]


def test_a_healthy_host_whose_clock_is_ahead_hides_no_loss_of_others() -> None:
    """Its records were the last ones, and all others too old to be judged."""
    rows = [
        {**row, "ping_time": row["ping_time"] + int(120e9)} if row["src_node_sn"] == "host-p2-0" else row
        for row in probed(lossy)
    ]
    assert [failure.component.name for failure in verdict(*TRACES, *rows).failures] == [BROKEN]


def test_records_of_rnics_outside_the_topology_are_left_out() -> None:
    strangers = [{**row, "src_node_sn": "stranger", "src_real_ip": "203.0.113.9"} for row in probed(dead)]
    assert verdict(*TRACES, *probed(), *strangers).failures == ()


def test_records_without_rnic_names_are_found_by_their_underlay_address() -> None:
    rows = [{**row, "src_rnic": None, "dst_rnic": None} for row in [*TRACES, *probed(lossy)]]
    assert [failure.component.name for failure in verdict(*rows).failures] == [BROKEN]


def test_nameless_records_belong_to_the_skeleton_and_a_job_whose_paths_live_has_no_failure() -> None:
    failures = verdict(*TRACES, *probed(lossy, job=None), *probed(job="healthy")).failures
    assert [failure.job for failure in failures] == [SKELETON.job]


def test_jobs_over_one_broken_link_have_a_failure_each_of_the_same_proof() -> None:
    first, second = verdict(*TRACES, *probed(lossy, job="one"), *probed(lossy, job="two")).failures
    assert {first.job, second.job} == {"one", "two"}
    assert first.component == second.component
    assert first.component.name == BROKEN
    assert first.paths == second.paths
    assert first.evidence == second.evidence
    assert first.id != second.id


def test_records_without_a_job_and_with_the_skeletons_are_one_failure() -> None:
    rows = [{**row, "job": None if row["src_node_sn"].endswith("-0") else SKELETON.job} for row in probed(lossy)]
    failures = verdict(*TRACES, *rows).failures
    assert [(failure.job, failure.component.name) for failure in failures] == [(SKELETON.job, BROKEN)]


def test_the_order_of_rows_changes_nothing_and_an_identity_is_stable() -> None:
    rows = [*TRACES, *probed(lossy)]
    assert verdict(*rows) == verdict(*reversed(rows))
    more = [*TRACES, *probed(lambda path, second: crosses(path) and unlucky(path, second, 2))]
    assert verdict(*rows).failures[0].id == verdict(*more).failures[0].id


def test_a_host_that_nothing_reaches_is_named_by_something_of_it() -> None:
    """It has one RNIC here and one container: nothing tells them apart, and no link of the fabric is to blame."""
    for host in HOSTS[:2]:
        (failure,) = verdict(*TRACES, *probed(lambda path, _, host=host: host in path[:2])).failures
        assert failure.symptom == "unreachable"
        assert all(host in name for name in names(failure))


def test_two_links_that_lose_alike_at_once_are_two_failures() -> None:
    other = "leaf-p1-r0:Ethernet4 -- spine-1:Ethernet4"
    assert other in {link.id for link in FABRIC.topology.links}

    def both(path: Way, second: int) -> bool:
        over_other = path[0].startswith("host-p1") and path[2] == 1
        return lossy(path, second) or (over_other and unlucky(path, second, 4))

    assert {failure.component.name for failure in verdict(*TRACES, *probed(both)).failures} == {BROKEN, other}


def test_a_link_whose_probes_all_live_is_never_accused() -> None:
    assert verdict(*TRACES, *probed(never, seconds=60)).failures == ()
