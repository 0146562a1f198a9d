"""Scenarios as they are drawn, before anything runs: deterministic, and true of a lab that could be."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from lab import sandbox
from lab.errors import LabError
from lab.network import transit
from lab.network.design import Design, draw
from lab.scenarios.catalogue import Act, Scenario, find, scenarios
from lab.scenarios.failures import slower_by, some_lost
from lab.scenarios.outside import run
from lab.scenarios.scene import Scene

SEEDS = range(4)


def acted(scenario: Scenario, seed: int, directory: Path) -> tuple[Scene, Act]:
    options = dict(scenario.lab)
    with_transit = options.pop("transit", False)
    design = draw(seed, **options)
    scene = Scene(directory, seed, transit.add(design) if with_transit else design)
    return scene, scenario.build(scene)


def exists(design: Design, kind: str, name: str) -> bool:
    """Whether the lab has a component of that kind and name."""
    ports = {end.id: end for link in design.links for end in link.ends}
    match kind:
        case "link":
            return name in {link.id for link in design.links}
        case "port" | "rnic":
            return name in ports
        case "switch" | "provider":
            return name in {switch.name for switch in design.switches}
        case "host" | "vswitch" | "agent":
            return name in {host.name for host in design.hosts}
        case "container":
            return name in {container.name for container in design.containers}
        case "linecard":
            return name in {f"{end.node}:{end.linecard}" for end in ports.values()}
        case "breakout_group":
            return name in {f"{end.node}:{end.breakout_group}" for end in ports.values()}
        case "config":
            return name in ports or name in {node.name for node in design.nodes}
        case "bgp_session":
            switch, _, peer = name.partition(":")
            return any(own.node == switch and peer in (far.node, far.address) for own, far in design.peers(switch))
        case "vlan":
            switch, _, vlan = name.partition(":")
            return switch in {each.name for each in design.switches} and vlan.isdigit()
        case "resolver":
            hosts = (*design.hosts, *design.service_hosts)
            # Who asks a resolver knows it by its address.
            return name in {host.name for host in hosts} | {rnic.address for host in hosts for rnic in host.rnics}
    return False


@pytest.mark.parametrize("name", [each.name for each in scenarios()])
def test_a_scenario_is_drawn_from_its_seed_and_names_what_is_there(name: str, tmp_path: Path) -> None:
    scenario = find(name)
    descriptions = set()
    for seed in SEEDS:
        scene, act = acted(scenario, seed, tmp_path / "one")
        _, again = acted(scenario, seed, tmp_path / "two")
        assert (act.description, act.truth) == (again.description, again.truth)
        assert exists(scene.design, act.truth.kind, act.truth.name), act.truth
        for kind, other in act.truth.others:
            assert exists(scene.design, kind, other), (kind, other)
        descriptions.add(act.description)
    assert len(descriptions) > 1, "seeds differ"


def test_the_five_incidents_and_every_row_of_the_papers_table_are_there() -> None:
    rows = [each.row for each in scenarios()]
    assert rows.count(None) == 5
    assert {row for row in rows if row is not None} == set(range(1, 20))


def test_an_effect_must_be_there_and_go_away(tmp_path: Path) -> None:
    """No scenario takes a healthy reading for its effect."""
    for scenario in scenarios():
        _, act = acted(scenario, 1, tmp_path)
        for value in (0.0, 1.0, 100.0):
            assert not act.effect(value, value), scenario.name


def test_one_lost_ping_is_no_flapping_port() -> None:
    assert not some_lost(0, 1)
    assert some_lost(0, 20)
    assert not some_lost(0, 100)


def test_no_answer_is_not_a_slow_one() -> None:
    assert not slower_by(0.4)(0.1, float("inf"))
    assert slower_by(0.4)(0.1, 0.6)


def test_an_output_that_cannot_be_written_is_said_before_the_lab_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "require", lambda: None)
    file = tmp_path / "file"
    file.touch()
    for output in (file, file / "below"):
        arguments = argparse.Namespace(scenario="crc-error", seed=1, output=output)
        with pytest.raises(LabError, match="cannot be written"):
            run(arguments)
