"""Circles of switches: found among links, and named as one failure rather than four."""

from __future__ import annotations

import json

import pyarrow as pa

from exporter.contracts.codec import decode, encode
from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import Topology
from lab.simulator.failures import simulate
from skeleton_service.diagnosis import diagnose
from skeleton_service.diagnosis.circles import circles, members
from skeleton_service.diagnosis.telling import failure_lines

ODD = ", row {1}"


def link(leaf: int, spine: int, port: int = 0) -> str:
    return f"leaf-{leaf}:swp{4 * port + spine} -- spine-{spine}:swp{4 * port + leaf}"


def test_four_switches_with_all_links_among_them_are_a_circle() -> None:
    own = {link(leaf, spine): 10.0 for leaf in (0, 1) for spine in (0, 1)}
    ((name, (some, others)),) = circles(own)
    assert members(name) == ("leaf-0", "leaf-1", "spine-0", "spine-1")
    assert sorted((*some, *others)) == sorted(own)
    assert all(
        any(node in link for link in some) != any(node in link for link in others) for node in ("leaf-0", "leaf-1")
    )


def test_parallel_links_belong_to_the_circle_of_their_switches() -> None:
    own = {link(leaf, spine, port): 5.0 for leaf in (0, 1) for spine in (0, 1) for port in (0, 1)}
    ((_, (some, others)),) = circles(own)
    assert {*some, *others} == set(own)


def test_three_sides_are_no_circle() -> None:
    assert circles({link(0, 0): 9.0, link(0, 1): 9.0, link(1, 0): 9.0}) == []


def test_a_cable_from_a_switch_to_itself_is_no_side() -> None:
    own = {"a:1 -- a:2": 9.0, "a:3 -- b:1": 9.0, "b:2 -- b:3": 9.0, "b:4 -- c:1": 9.0, "a:5 -- c:2": 9.0}
    assert circles(own) == []


def test_the_circle_whose_weakest_side_gains_most_comes_first() -> None:
    gains = {link(leaf, spine): 10.0 for leaf in (0, 1, 2) for spine in (0, 1)}
    gains[link(2, 1)] = 1.0
    (first, *others) = (name for name, _ in circles(gains))
    assert members(first) == ("leaf-0", "leaf-1", "spine-0", "spine-1")
    assert len(others) == 2


def test_a_deadlock_is_one_failure_at_one_of_its_switches() -> None:
    case = simulate("pfc-deadlock", 61000, counters=False)
    (true,) = case.truth.failures
    (failure,) = diagnose(case.probes, Fabric(case.topology), case.skeleton).failures
    switches = {other.name for other in true.alternatives if other.kind == "switch"}
    assert failure.symptom == "congestion"
    assert failure.component.kind == "switch"
    assert failure.component.name in switches
    assert all(switch in failure.evidence[0] for switch in switches)
    assert {other.name for other in failure.alternatives} < switches
    (told,) = [line for line in failure_lines(failure) if "sure" in line]
    assert "any of these as well: switch " in told


def test_names_may_hold_anything() -> None:
    """Braces and commas in the names of switches are no templates, and no joints."""
    case = simulate("pfc-deadlock", 61000, counters=False)
    topology, routes = encode(case.topology).decode(), json.dumps(case.probes["route"].to_pylist())
    for switch in case.topology.switches:
        topology = topology.replace(f"{switch.name}:", f"{switch.name}{ODD}:")
        topology = topology.replace(f'"{switch.name}"', f'"{switch.name}{ODD}"')
        routes = routes.replace(f'\\"{switch.name}\\"', f'\\"{switch.name}{ODD}\\"')
    place = case.probes.schema.get_field_index("route")
    records = case.probes.set_column(place, "route", pa.array(json.loads(routes), pa.string()))
    fabric = Fabric(decode(topology.encode(), Topology, "topology.json"))
    (failure,) = diagnose(records, fabric, case.skeleton).failures
    assert failure.component.name in {f"{switch.name}{ODD}" for switch in case.topology.switches}
    assert failure.confidence <= 1
