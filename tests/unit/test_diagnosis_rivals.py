"""The simpler methods of the diagnosis benchmark, and one whole run of it, on records made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any
from zlib import crc32

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks.diagnosis import report
from benchmarks.diagnosis import run as module
from benchmarks.diagnosis.judge import Answer, judge
from benchmarks.diagnosis.observed import EPOCH_SECONDS, Observation, observe, path_hours
from benchmarks.diagnosis.rivals import RIVALS, blame, in_links, set_cover, voting
from benchmarks.diagnosis.run import OURS, keep, on_rnics, run, until
from benchmarks.diagnosis.tally import tally
from exporter.contracts.diagnosis import Alternative, Component, Diagnosis, Failure
from exporter.contracts.fabric import Fabric
from lab.simulator.failures import Case
from skeleton_service.cli import main
from skeleton_service.reading.records import KINDS
from tests.unit.fabrics import leaf_spine
from tests.unit.test_skeleton_contract import skeleton

FABRIC = Fabric(leaf_spine(pods=3, rails=1, spines=2, hosts_per_pod=2))
HOSTS = [f"host-p{pod}-{n}" for pod in range(3) for n in range(2)]
PATHS = [(a, b, spine) for a in HOSTS for b in HOSTS for spine in range(2) if a[:7] != b[:7]]
BROKEN = "leaf-p0-r0:Ethernet0 -- spine-0:Ethernet0"
BEGIN = 1_000.0
Path = tuple[str, str, int]


def crosses(path: Path) -> bool:
    """Whether a path takes BROKEN upwards, from pod 0 to spine 0."""
    return path[0].startswith("host-p0") and path[2] == 0


def record(path: Path, second: float, **changes: Any) -> dict[str, Any]:
    source, destination, spine = path
    return {
        "task_type": "UDP_PING", "ping_time": int((BEGIN + second) * 1e9), "src_node_id": f"c-{source}",
        "dst_node_id": f"c-{destination}", "src_node_sn": source, "dst_node_sn": destination, "src_rnic": "mlx5_0",
        "dst_rnic": "mlx5_0", "src_port": 49152 + spine, "dst_port": 65300, "dial": "success", "loss_rate": 0.0,
        **changes,
    }  # fmt: skip


def lost(path: Path, second: float, **changes: Any) -> dict[str, Any]:
    return record(path, second, **{"dial": "fail", "loss_rate": 1.0, "error": "timeout", **changes})


def trace(path: Path, second: float = 0.0, **changes: Any) -> dict[str, Any]:
    leaves = [f"leaf-{host.split('-')[1]}-r0" for host in path[:2]]
    hops = json.dumps([leaves[0], f"spine-{path[2]}", leaves[1]])
    return record(path, second, **{"task_type": "TRACEROUTE", "route": hops, "loss_rate": None, **changes})


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(
        [{name: row.get(name) for name in KINDS} for row in rows], schema=pa.schema(list(KINDS.items()))
    )


def probed(paths: list[Path], fails: Any = lambda *_: False, seconds: range = range(30)) -> list[dict[str, Any]]:
    return [(lost if fails(path, second) else record)(path, second) for path in paths for second in seconds]


TRACES = [trace(path) for path in PATHS]


def observation(links: str, *, fails: bool = False, epoch: int = 0, source: str = "a") -> Observation:
    """A path over links of one letter each."""
    begin = BEGIN + epoch * EPOCH_SECONDS
    hops = tuple((link, "") for link in links)
    return Observation((source, "z"), hops, epoch, begin, 30, 3 if fails else 0, begin + 4 if fails else None)


def test_what_is_lost_on_the_way_is_counted_by_path_and_half_minute() -> None:
    path = PATHS[0]
    rows = [
        trace(path),
        *(lost(path, second) for second in (3, 5, 31)),
        *(lost(path, second, error=error) for second, error in ((7, "refused"), (8, "restarted"), (9, "reply lost"))),
        *(record(path, second) for second in (10, 32)),
        record(path, 33, packets_sent=4, packets_lost=2),
        record(path, 34, packets_sent=10, loss_rate=0.3),
    ]
    first, second = sorted(observe(table(*rows), FABRIC), key=lambda each: each.epoch)
    assert (first.sent, first.lost, first.first_loss, first.failing) == (6, 2, BEGIN + 3, True)
    assert (second.sent, second.lost, second.first_loss) == (16, 6, BEGIN + 31)
    assert (second.begin, second.ends) == (BEGIN + 30, ("c-host-p0-0/mlx5_0", "c-host-p1-0/mlx5_0"))
    assert first.hops == (
        ("host-p0-0:mlx5_0 -- leaf-p0-r0:Ethernet8", "host-p0-0:mlx5_0"),
        (BROKEN, "leaf-p0-r0:Ethernet0"),
        ("leaf-p1-r0:Ethernet0 -- spine-0:Ethernet4", "spine-0:Ethernet4"),
        ("host-p1-0:mlx5_0 -- leaf-p1-r0:Ethernet8", "leaf-p1-r0:Ethernet8"),
    )


def test_one_loss_or_one_in_a_hundred_is_no_failing_path() -> None:
    def failing(sent: int, lost: int) -> bool:
        return Observation(("a", "b"), (), 0, 0.0, sent, lost, 0.0).failing

    assert [failing(30, 1), failing(30, 2), failing(200, 2), failing(200, 3)] == [False, True, False, True]


def test_a_path_votes_for_the_route_it_had_as_it_began_to_lose() -> None:
    path, detour = PATHS[0], trace((*PATHS[0][:2], 1))["route"]
    rows = [
        trace(path),
        trace(path, 10, route=detour),
        lost(path, 5),
        lost(path, 6),
        record(path, 20),
        record(path, 40),
    ]
    links = {each.epoch: dict(each.hops) for each in observe(table(*rows), FABRIC)}
    assert BROKEN in links[0]
    assert BROKEN not in links[1]


def test_broken_traces_are_no_routes_and_paths_without_any_are_left_out() -> None:
    path = PATHS[0]
    silent = trace(path, route='["leaf-p0-r0", null, "leaf-p1-r0"]')
    assert observe(table(silent, lost(path, 1)), FABRIC) == []
    assert observe(table(trace(path, dial="fail"), lost(path, 1)), FABRIC) == []
    assert observe(table(), FABRIC) == []


def test_traces_are_of_their_protocol() -> None:
    path = PATHS[0]
    rows = [trace(path, protocol="tcp"), record(path, 1), record(path, 1, task_type="TCP_PING")]
    assert len(observe(table(*rows), FABRIC)) == 1
    rows = [trace(path, dst_port=4791), record(path, 1), record(path, 1, task_type="RDMA_PING")]
    assert len(observe(table(*rows), FABRIC)) == 1


def test_a_vote_is_split_among_the_links_of_a_path() -> None:
    """Two short paths over d outvote three long ones over a: 2 x 1/2 > 3 x 1/4."""
    long, short = (
        [observation(links, fails=True) for links in some] for some in (("abcd", "aefg", "ahij"), ("yz", "yx"))
    )
    assert voting([*long, *short]) == [["y"]]
    assert voting([*long, *long, *short]) == [["a"]]
    assert voting([observation("xy")]) == []


def test_a_vote_is_for_each_epoch_that_a_path_fails_in() -> None:
    often = [observation("xa", fails=True, epoch=n) for n in range(3)]
    others = [observation("yb", fails=True), observation("yc", fails=True)]
    assert voting([*often, *others]) == [["a", "x"]]
    assert voting([often[0], *(observation("xa", epoch=n) for n in (1, 2)), *others]) == [["y"]]


def test_the_cover_takes_the_link_that_explains_most_then_the_rest() -> None:
    both = [observation(links, fails=True, source=links) for links in ("xa", "xb", "xc", "yd", "ye")]
    assert set_cover(both) == [["x"], ["y"]]


def test_a_link_that_most_paths_live_over_is_no_suspect() -> None:
    """Of five paths over x three fail, which is no more than 0.6."""
    failing = [observation(f"x{name}", fails=True, source=name) for name in "abc"]
    healthy = [observation(f"x{name}", source=name) for name in "de"]
    assert set_cover([*failing, *healthy]) == [["a"], ["b"], ["c"]]
    assert set_cover([*failing, healthy[0]]) == [["x"]]


def test_links_of_the_same_failing_paths_look_alike() -> None:
    assert set_cover([observation("xy", fails=True), observation("yz")]) == [["x"]]
    alike = [observation("xyz", fails=True, source=name) for name in "ab"]
    assert set_cover(alike) == voting(alike) == [["x", "y", "z"]]
    (failure,) = blame(alike, voting).failures
    assert (failure.component.name, [other.name for other in failure.alternatives]) == ("x", ["y", "z"])


def test_a_path_that_failed_once_has_failed() -> None:
    assert set_cover([observation("x", fails=True), observation("x", epoch=1)]) == [["x"]]


@pytest.mark.parametrize("method", [voting, set_cover])
def test_both_find_a_link_that_loses_a_third(method: Any) -> None:
    records = table(*TRACES, *probed(PATHS, lambda path, second: crosses(path) and second % 3 == 0))
    (failure,) = blame(observe(records, FABRIC), method).failures
    assert failure.component == Component(kind="link", name=BROKEN)
    assert set(failure.paths) == {(f"c-{a}/mlx5_0", f"c-{b}/mlx5_0") for a, b, spine in PATHS if crosses((a, b, spine))}
    assert (failure.start, failure.detected_at) == (BEGIN, BEGIN + EPOCH_SECONDS)


@pytest.mark.parametrize("method", [voting, set_cover])
def test_a_link_broken_both_ways_is_blamed_once(method: Any) -> None:
    ends = {"host-p0-0", "host-p0-1"}
    records = table(*TRACES, *probed(PATHS, lambda path, _: path[2] == 0 and bool(ends & set(path[:2]))))
    (found,) = blame(observe(records, FABRIC), method).failures
    assert found.component.name == BROKEN


def test_an_incident_lasts_while_paths_fail_and_the_next_is_another() -> None:
    epochs = [observation("x", fails=epoch in (1, 2, 4), epoch=epoch) for epoch in range(6)]
    first, second = blame(epochs, voting).failures
    assert (first.start, first.detected_at) == (BEGIN + 34, BEGIN + 60)
    assert (second.start, second.detected_at) == (BEGIN + 124, BEGIN + 150)
    assert blame([observation("x")], voting).failures == ()
    assert blame([], voting).failures == ()


def failure(component: Component, *alternatives: Alternative) -> Failure:
    return Failure(
        id="", job="j", start=BEGIN, detected_at=BEGIN + 2, end=None, symptom="unreachable", layer="rnic",
        component=component, alternatives=alternatives, confidence=1.0, paths=(), evidence=(),
    )  # fmt: skip


def test_who_knows_links_alone_is_right_with_the_cable_of_an_rnic() -> None:
    cable = FABRIC.link_of("host-p0-0:mlx5_0")
    assert cable is not None
    said = Diagnosis(version=1, failures=(failure(Component(kind="link", name=cable)),))
    for component, others, right in (
        (Component(kind="rnic", name="host-p0-0:mlx5_0"), (), True),
        (Component(kind="rnic", name="host-p0-0:mlx5_0"), (Alternative(kind="link", name=cable, score=0.5),), True),
        (Component(kind="port", name=cable.split(" -- ")[1]), (), True),
        (Component(kind="rnic", name="host-p0-1:mlx5_0"), (), False),
        (Component(kind="switch", name="leaf-p0-r0"), (), False),
    ):
        truth = Diagnosis(version=1, failures=(failure(component, *others),))
        assert tally([judge(in_links(truth, FABRIC), said, BEGIN + 60)]).count(Answer.RIGHT) == right


def test_hours_of_a_path_run_from_its_first_to_its_last_probe() -> None:
    rows = [
        record(PATHS[0], 0),
        record(PATHS[0], 3600),
        record(PATHS[1], 0),
        record(PATHS[1], 1800),
        trace(PATHS[2], 9),
    ]
    assert path_hours(table(*rows)) == 1.5
    assert path_hours(table()) == 0.0


def case(records: pa.Table, *true: Failure) -> Case:
    return Case(
        name="by hand", seed=7, topology=FABRIC.topology, skeleton=skeleton(), probes=records, counters=None,
        overlay_before=None, overlay=None, truth=Diagnosis(version=1, failures=true),
        begin=BEGIN, injected=BEGIN, repaired=None, end=BEGIN + 30,
    )  # fmt: skip


def test_a_case_is_diagnosed_judged_and_kept(tmp_path: FilePath) -> None:
    truth = failure(Component(kind="link", name=BROKEN))
    truth = msgspec.structs.replace(truth, symptom="loss", layer="underlay", paths=(("c-host-p0-0/mlx5_0", "x/y"),))
    fails = probed(PATHS, lambda path, second: crosses(path) and crc32(f"{path} {second}".encode()) % 3 == 0)
    lossy = case(table(*TRACES, *fails), truth)
    judged, reported = run(lossy)
    (found,) = judged.judgement.found
    assert found is not None
    assert (found.answer, found.symptom, found.layer) == (Answer.RIGHT, True, True)
    assert {method: tally([own]).named for method, own in judged.alike.items()} == dict.fromkeys([OURS, *RIVALS], 1.0)
    assert (judged.link_loss, judged.flawed, judged.rows) == (True, False, lossy.probes.num_rows)
    assert judged.path_hours == pytest.approx(len(PATHS) * 29 / 3600)

    keep(tmp_path / "case", lossy, reported, judged.judgement)
    arguments = [
        f"--{name}={tmp_path / 'case' / name}.{ending}" for name, ending in (("topology", "json"), ("skeleton", "json"))
    ]
    arguments += ["--probes", *map(str, sorted((tmp_path / "case").glob("probes-*.csv.gz")))]
    assert main(["diagnose", *arguments, "--output", str(tmp_path / "again.json")]) == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "case" / "diagnosis.json").read_bytes()
    assert (tmp_path / "case" / "truth.json").exists()


@pytest.mark.parametrize(("moment", "in_time"), [(BEGIN + 29, True), (BEGIN + 1, False)])
def test_a_time_of_detection_known_in_hindsight_shows(
    moment: float, *, in_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = failure(Component(kind="link", name=BROKEN))

    def diagnose(records: pa.Table, *_: object, **__: object) -> Diagnosis:
        lost = records.filter(pc.equal(records["dial"], "fail")).num_rows
        reports = (msgspec.structs.replace(told, detected_at=moment),) if lost > 50 else ()
        return Diagnosis(version=1, failures=reports)

    monkeypatch.setattr(module, "diagnose", diagnose)
    fails = probed(PATHS, lambda path, second: crosses(path) and second % 3 == 0)
    judged, _ = run(case(table(*TRACES, *fails), told), replay=True)
    assert judged.in_time == (in_time,)
    assert report.hindsight([judged]) == float(in_time)


def test_records_until_a_moment_are_those_of_probes_and_counters() -> None:
    counters = pa.table({"time": [BEGIN + 2, BEGIN + 3.5], "value": [1.0, 2.0]})
    whole = replace(case(table(*probed(PATHS[:1]))), counters=counters)
    early = until(whole, BEGIN + 3)
    assert early.counters is not None
    assert (early.probes.num_rows, early.counters.num_rows, early.end) == (4, 1, BEGIN + 3)


def test_paths_of_agents_that_know_no_container_are_those_of_the_hosts_rnics() -> None:
    named = failure(Component(kind="switch", name="spine-0"))
    told = msgspec.structs.replace(named, paths=(("team/c-1/mlx5_0", "host-p1-0/mlx5_1"),))
    (found,) = on_rnics(Diagnosis(version=1, failures=(told,)), {"team/c-1/mlx5_0": "host-p0-0:mlx5_0"}).failures
    assert found.paths == (("host-p0-0:mlx5_0", "host-p1-0:mlx5_1"),)


def test_a_case_in_which_nothing_is_broken_and_something_reported_is_flawed() -> None:
    fails = probed(PATHS, lambda path, second: crosses(path) and second % 3 == 0)
    judged, _ = run(case(table(*TRACES, *fails)))
    assert judged.flawed
    assert judged.judgement.false == 1


def test_the_tables_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    truth = failure(Component(kind="link", name=BROKEN))
    lossy = table(*TRACES, *probed(PATHS, lambda path, second: crosses(path) and second % 3 == 0))
    failing = [run(case(records, truth))[0] for records in (lossy, lossy, lossy, table(*TRACES, *probed(PATHS)))]
    quiet = [run(case(lossy))[0]]
    assert report.classes(iter([("crc-error", failing)])) == failing
    assert report.distractors(iter([("clean", quiet)])) == quiet
    report.methods(failing)
    assert report.confidence([*failing, *quiet]) == pytest.approx(
        sum((claim.confidence - claim.right) ** 2 for each in (*failing, *quiet) for claim in each.judgement.claims) / 4
    )
    printed = capsys.readouterr().out
    assert "| `crc-error` | 4 | 3 of 4 | 0 | 0 | 100.0% | 75.0% | 100.0% | 0 | 0.0% | 0.0% |" in printed
    hours = len(PATHS) * 29 / 3600
    assert f"| `clean` | 1 | 0 | 1 | {10_000 / hours:.2f} | {10_000 / hours:.2f} | {10_000 / hours:.2f} |" in printed
    assert "| loss of links | voting | 4 | 100.0% | 75.0% | 100.0% | 75.0% |" in printed
