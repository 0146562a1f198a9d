"""The large fabric that the cost of a diagnosis is measured on."""

from __future__ import annotations

import pytest

from benchmarks.diagnosis.cost import measure
from benchmarks.diagnosis.judge import judge
from benchmarks.diagnosis.large import BEGIN, DEAD, SECONDS, Large, large
from benchmarks.diagnosis.observed import observe
from benchmarks.diagnosis.rivals import blame, set_cover
from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import check_topology
from skeleton_service.reading.records import KINDS


@pytest.fixture(scope="module")
def case() -> Large:
    return large(3000)


def test_a_tenth_of_the_paths_fail_when_the_line_card_dies(case: Large) -> None:
    check_topology(case.topology, "large")
    assert 0.08 < case.failing / 3000 < 0.13
    assert {
        name: field.type for name, field in zip(case.records.column_names, case.records.schema, strict=True)
    } == KINDS
    assert case.records.num_rows == 61 * 3000
    failing = {each.ends for each in observe(case.records, Fabric(case.topology)) if each.failing}
    assert failing == set(case.truth.failures[0].paths)


def test_simpler_methods_blame_links_of_the_dead_line_card(case: Large) -> None:
    fabric = Fabric(case.topology)
    switch, card = DEAD
    dead = {fabric.link_of(f"{switch}:{port.name}") for port in fabric.switches[switch].ports if port.linecard == card}
    blamed = blame(observe(case.records, fabric), set_cover)
    assert {failure.component.name for failure in blamed.failures} == dead
    assert judge(case.truth, blamed, BEGIN + SECONDS).found != (None,)


def test_the_cost_is_measured_in_a_process_of_its_own() -> None:
    cost = measure(100)
    assert (cost.paths, cost.records) == (100, 6100)
    assert cost.seconds > 0
    assert cost.bytes_per_path > 0
    assert all(seconds > 0 for seconds in cost.rivals.values())
