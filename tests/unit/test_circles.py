"""Circles of switches: found among links, and named as one failure rather than four."""

from __future__ import annotations

from exporter.contracts.fabric import Fabric
from lab.simulator.failures import simulate
from skeleton_service.diagnosis import diagnose
from skeleton_service.diagnosis.circles import circles


def link(leaf: int, spine: int, port: int = 0) -> str:
    return f"leaf-{leaf}:swp{4 * port + spine} -- spine-{spine}:swp{4 * port + leaf}"


def test_four_switches_with_all_links_among_them_are_a_circle() -> None:
    own = {link(leaf, spine): 10.0 for leaf in (0, 1) for spine in (0, 1)}
    assert circles(own) == [("leaf-0, leaf-1, spine-0, spine-1", tuple(sorted(own)))]


def test_parallel_links_belong_to_the_circle_of_their_switches() -> None:
    own = {link(leaf, spine, port): 5.0 for leaf in (0, 1) for spine in (0, 1) for port in (0, 1)}
    ((_, links),) = circles(own)
    assert set(links) == set(own)


def test_three_sides_are_no_circle() -> None:
    assert circles({link(0, 0): 9.0, link(0, 1): 9.0, link(1, 0): 9.0}) == []


def test_the_circle_whose_weakest_side_gains_most_comes_first() -> None:
    gains = {link(leaf, spine): 10.0 for leaf in (0, 1, 2) for spine in (0, 1)}
    gains[link(2, 1)] = 1.0
    (first, *others) = (name for name, _ in circles(gains))
    assert first == "leaf-0, leaf-1, spine-0, spine-1"
    assert len(others) == 2


def test_a_deadlock_is_one_failure_at_one_of_its_switches() -> None:
    case = simulate("pfc-deadlock", 61000, counters=False)
    (true,) = case.truth.failures
    (failure,) = diagnose(case.probes, Fabric(case.topology), case.skeleton).failures
    switches = {other.name for other in true.alternatives if other.kind == "switch"}
    assert failure.symptom == "congestion"
    assert failure.component.kind == "switch"
    assert failure.component.name in switches
    assert any(all(switch in line for switch in switches) for line in failure.evidence)
