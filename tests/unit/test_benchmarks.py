"""The benchmark's own parts: the simulated fleet keeps its promises, and a broken bound is called broken."""

from __future__ import annotations

import threading

import msgspec
import pytest

from benchmarks import simulated_fleet
from benchmarks.churn_verdict import Hour, verdicts
from benchmarks.inference import growth
from benchmarks.inferred_jobs import Outcome, basic_pairs, bins, brier, judge, mixed
from benchmarks.scales import count_scale
from benchmarks.series import bounds, count_series, terms_of
from benchmarks.simulated_fleet import CREATIONS_PER_MINUTE, MOST_LINKS, RNICS, Fleet, route, topology
from benchmarks.watched_exporter import Measurement, Memory, Scrape
from benchmarks.watched_prober import SPEED, FastLoop
from exporter.contracts.fabric import Fabric
from exporter.contracts.plan import check_plan
from lab.simulator import CASES, simulate
from tests.unit.test_loop import Reader, send


def test_the_fleet_creates_two_thousand_containers_a_minute_and_their_paths_are_of_physical_rnics() -> None:
    fleet, paths, containers = Fleet(512, 7), set[str](), set[str]()
    for second in range(300):
        fleet.step()
        plan = fleet.plan(0, second)
        check_plan(plan, "plan")
        containers |= {target.source for target in plan.targets}
        paths |= {target.path for target in plan.targets}
        assert not any("job" in target.path or "worker" in target.path for target in plan.targets)
        assert len({target.source_host for target in plan.targets}) <= 6
    assert fleet.created == pytest.approx(5 * CREATIONS_PER_MINUTE, abs=6)
    assert fleet.created - fleet.ended <= 512
    assert len(containers) > 100


def test_the_plan_of_a_host_is_another_exactly_when_its_generation_is() -> None:
    fleet, before, generation = Fleet(64, 7), None, None
    for _ in range(200):
        fleet.step()
        plan = fleet.plan(0, 0)
        assert (fleet.generation(0) == generation) <= (plan == before)
        before, generation = plan, fleet.generation(0)


def test_simulated_routes_are_routes_of_the_topology() -> None:
    fleet, fabric = Fleet(128, 7), Fabric(topology(128))
    for _ in range(5):
        fleet.step()
    crossed = set()
    for host in range(128):
        for target in fleet.plan(host, 0).targets:
            source, destination = (
                fabric.by_address[text].id for text in (target.source_address, target.destination_address)
            )
            hops = route(target.source_address, target.source_ports[0], target.destination_address)
            links = fabric.links_of_route(source, hops, destination)
            assert links is not None
            crossed.add(len(links))
    assert crossed == {2, MOST_LINKS}


def test_a_fleet_counted_host_by_host_keeps_to_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_fleet, "_NETWORK", 128)  # a benchmark may be running on the others
    scale = count_scale(8)
    assert (scale.rnics, scale.paths) == (64, 8 * RNICS * 25)
    assert 0.8 * scale.formula < scale.counted <= scale.formula


def measurement(**sizes: int) -> Measurement:
    terms = terms_of((), RNICS, MOST_LINKS, 1)
    names = [
        "paths", "histograms", "flow sockets", "probes outstanding", "probes by age", "probes awaiting a timestamp",
        "traced flows", "traces under way", "timers", "watched sockets", "responder streams", "connections held",
    ]  # fmt: skip
    control = dict.fromkeys(("label texts", "line pieces", "routes resolved", "records' paths"), 0)
    return Measurement(
        scrape=Scrape(0.001, 100, {"fabric_rnic_info": sizes.pop("rnic_info", RNICS)}, bounds(terms)),
        terms=terms,
        control=Memory(sizes.pop("control", 60_000_000), 11),
        prober=Memory(sizes.pop("prober", 20_000_000), 25),
        rows=dict.fromkeys(("path", "rtt", "route"), 0) | {key: sizes.pop(key) for key in ("path",) if key in sizes},
        control_sizes=control,
        prober_sizes=dict.fromkeys(names, 0) | sizes,
        restarts=0,
    )


@pytest.mark.parametrize(
    ("last", "broken"),
    [
        ({}, set()),
        ({"rnic_info": 9}, {"series fabric_rnic_info", "every family on every page"}),
        ({"path": 1}, {"rows path"}),
        ({"timers": 1_000_000}, {"prober timers"}),
        ({"prober": 40_000_000}, {"prober memory, MB"}),
        ({"control": 77_000_000}, {"control memory, MB"}),  # within its allowance, but it grew late
    ],
)
def test_a_broken_bound_is_called_broken(last: dict[str, int], broken: set[str]) -> None:
    ends = measurement(**last)
    hour = Hour(minutes=60, watched=["h"], streams_bound=[10])
    hour.measured = {0: [measurement()], 900: [measurement()], 1800: [measurement()], 3600: [ends]}
    hour.scrapes = [measurement().scrape, ends.scrape]
    assert {verdict.name for verdict in verdicts(hour, 0) if not verdict.held} == broken


def test_the_fast_prober_hears_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """It did not, and all bounds held: nothing was answered, and so nothing was kept."""
    monkeypatch.setenv(SPEED, "30")
    loop = FastLoop(lambda _: None)
    reader = Reader(loop)
    loop.watch_for_requests(reader)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        send(reader, 100, 0.001)
    finally:
        loop.after(30, loop.stop)  # a second of ours
        thread.join(10)
        reader.close()
    assert len(reader.late) == 100


def test_a_page_is_counted_by_family_without_what_is_not_the_catalogues() -> None:
    page = 'fabric_rtt_seconds_bucket{le="1"} 1\nfabric_rtt_seconds_sum{} 1\n# HELP x\nprocess_cpu_seconds_total 3\n'
    assert count_series(page) == {"fabric_rtt_seconds": 2}
    assert msgspec.json.decode(msgspec.json.encode(measurement()), type=Measurement) == measurement()


def outcome(confidence: float, *, right: bool) -> Outcome:
    hit = 10 if right else 9
    return Outcome(
        structured=True, rnics=8, true=10, inferred=12, hit=hit, basic=28, exact_groups=right, fallback=False,
        confidence=confidence,
    )  # fmt: skip


def test_an_outcome_is_right_when_a_true_structure_was_found_whole() -> None:
    job = simulate(CASES["debug"], 1, hosts=4, seconds=10)
    judged = judge(job.truth, job.truth, structured=False)
    assert (judged.recall, judged.surplus, judged.of_basic, judged.right) == (1.0, 1.0, 1.0, False)
    assert judged.true == basic_pairs(job.truth) == 8 * 6
    assert judged.of_full_mesh == pytest.approx(48 / (32 * 31 / 2))
    assert outcome(1.0, right=True).right
    assert not outcome(1.0, right=False).right


def test_confidence_is_binned_and_scored() -> None:
    judged = [outcome(0.05, right=False), outcome(0.92, right=True), outcome(1.0, right=False)]
    assert [len(some) for some in bins(judged, 10)] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert brier(judged) == pytest.approx((0.05**2 + 0.08**2 + 1) / 3)


def test_held_out_jobs_are_drawn_the_same_again() -> None:
    assert mixed(3) == mixed(3) != mixed(4)


def test_growth_is_the_exponent_of_the_power_between_two_sizes() -> None:
    assert growth(512, 1.0, 2048, 16.0) == pytest.approx(2)
