"""What device counters add to what probes accuse: who counts what it breaks, and only if it began in time."""

from __future__ import annotations

import pytest

from exporter.contracts.diagnosis import Component
from exporter.contracts.fabric import Fabric
from exporter.contracts.topology import Link
from skeleton_service.diagnosis.accusations import Accusation
from skeleton_service.diagnosis.corroboration import EARLY_SECONDS, LATE_SECONDS, Corroboration, symptom_of
from skeleton_service.diagnosis.counters import LIKELIHOODS, Anomaly, Kind
from skeleton_service.diagnosis.geometry import Geometry
from skeleton_service.diagnosis.observations import Flow, Path
from skeleton_service.diagnosis.suspects import Suspect
from skeleton_service.diagnosis.verdict import Court
from tests.unit.fabrics import leaf_spine

FABRIC = Fabric(leaf_spine(pods=2, rails=1, spines=2, hosts_per_pod=2))
RNIC = "host-p0-0:mlx5_0"
CABLE = Suspect("cable", RNIC)
ONE, OTHER = (
    next(link for link in FABRIC.topology.links if link.id.startswith("leaf-p0") and f"spine-{spine}" in link.id)
    for spine in range(2)
)
START = 1_000.0


def at_port(port: str, kind: Kind = "bit_errors", start: float = START, end: float | None = None) -> Anomaly:
    node, _, name = port.partition(":")
    named = Component(kind="rnic" if port in FABRIC.interfaces else "port", name=port)
    return Anomaly(
        kind=kind, component=named, node=node, port=name, start=start, proven=start + 5, end=end, magnitude=50.0,
        unit="1/s", evidence=f"{port} says {kind}",
    )  # fmt: skip


def at_node(kind: Kind, node: str) -> Anomaly:
    return Anomaly(
        kind=kind, component=Component(kind="switch", name=node), node=node, port=None, start=START, proven=START,
        end=None, magnitude=1.0, unit="", evidence=f"{node} says {kind}",
    )  # fmt: skip


def corroborated(*anomalies: Anomaly) -> Corroboration:
    return Corroboration(anomalies, FABRIC)


def weight(suspect: Suspect, *anomalies: Anomaly) -> float:
    return corroborated(*anomalies).weight(suspect, anomalies)


def link(each: Link) -> Suspect:
    return Suspect("link", each.id)


def accusation(scores: tuple[tuple[Suspect, float], ...], *, start: float = START) -> Accusation:
    flow = Flow("host-p0-0:mlx5_0", "host-p1-0:mlx5_0", 49152, 65300, False, False)
    path = Path(flow, "UDP_PING", None, ("c-0", "c-1"), None, "job")
    lines = ("2 of 2 paths over {} lose probes",)
    return Accusation(start, start + 2, None, "loss", scores[0][0], scores, (path,), lines)


def verdict(*anomalies: Anomaly, scores: tuple[tuple[Suspect, float], ...]) -> tuple[str, float, tuple[str, ...]]:
    court = Court(FABRIC, "job-1", Geometry(FABRIC), corroborated(*anomalies))
    (accused,) = (each for each in court.verdicts([accusation(scores)]) if each.paths)
    return accused.component.name, accused.confidence, accused.evidence


TIE = ((link(ONE), 20.0), (link(OTHER), 20.0))


@pytest.mark.parametrize("guilty", [ONE, OTHER], ids=["one", "other"])
def test_a_frame_check_anomaly_breaks_a_tie_between_two_links(guilty: Link) -> None:
    innocent = OTHER if guilty is ONE else ONE
    for port in (guilty.a, guilty.b):
        name, confidence, evidence = verdict(at_port(port), scores=TIE)
        assert name == guilty.id
        assert confidence > 0.9
        assert f"{port} says bit_errors" in evidence
        assert not any(line.startswith(innocent.a) for line in evidence)


def test_without_counters_a_tie_stays_one() -> None:
    _, confidence, _ = verdict(scores=TIE)
    assert confidence == pytest.approx(0.5)


def test_an_anomaly_long_before_breaks_no_tie() -> None:
    long_before = at_port(OTHER.a, start=START - 600, end=START - 500)
    assert verdict(long_before, scores=TIE) == verdict(scores=TIE)
    assert verdict(at_port(OTHER.a), scores=TIE) != verdict(scores=TIE)


def test_anomalies_belong_to_what_probes_saw_if_they_begin_about_then() -> None:
    before, early, during, late, after = (
        at_port(ONE.a, start=START + offset, end=None if offset >= 0 else START + offset + 50)
        for offset in (-EARLY_SECONDS - 1, -EARLY_SECONDS + 1, 0, LATE_SECONDS - 1, LATE_SECONDS + 1)
    )
    told = corroborated(before, early, during, late, after)
    assert told.during(START, None) == [early, during, late]
    assert told.during(START, START + LATE_SECONDS + 2) == [early, during, late, after], "a failure that lasted longer"


def test_an_anomaly_that_was_over_before_belongs_to_nothing_later() -> None:
    over = at_port(ONE.a, start=START - 20, end=START - 10)
    assert corroborated(over).during(START, None) == []


def test_it_speaks_for_the_link_of_its_port_softly_for_what_is_around_and_for_nothing_else() -> None:
    anomaly = at_port(ONE.a)
    leaf = ONE.a.partition(":")[0]
    assert weight(link(ONE), anomaly) == pytest.approx(anomaly.weight)
    assert 0 < weight(Suspect("switch", leaf), anomaly) < anomaly.weight
    for suspect in (link(OTHER), Suspect("switch", "leaf-p1-r0"), CABLE, Suspect("host", "host-p0-0")):
        assert weight(suspect, anomaly) == 0


def test_a_switch_that_is_gone_is_itself() -> None:
    anomaly = at_node("switch_unreachable", "spine-0")
    assert weight(Suspect("switch", "spine-0"), anomaly) == pytest.approx(anomaly.weight)
    assert weight(Suspect("switch", "spine-1"), anomaly) == 0


def test_a_cable_is_accused_by_either_of_its_ends() -> None:
    far = FABRIC.far_end(RNIC) or ""
    assert weight(CABLE, at_port(far)) > 0
    assert weight(CABLE, at_port(RNIC, "rnic_down")) > 0
    assert weight(CABLE, at_port("host-p0-1:mlx5_0", "rnic_down")) == 0


def test_both_ends_of_a_link_count_one_thing_once_and_two_things_twice() -> None:
    once = weight(link(ONE), at_port(ONE.a, "port_down"))
    assert weight(link(ONE), at_port(ONE.a, "port_down"), at_port(ONE.b, "port_down")) == pytest.approx(once)
    assert weight(link(ONE), at_port(ONE.a, "port_down"), at_port(ONE.a, "discards")) > once


def test_no_device_is_believed_without_limit() -> None:
    kinds = list(LIKELIHOODS)
    every = [at_port(ONE.a, kind) for kind in kinds]
    assert weight(link(ONE), *every) < 15
    assert weight(link(ONE), *every) < sum(each.weight for each in every)


def test_the_strongest_evidence_comes_first() -> None:
    weak, strong, elsewhere = at_port(ONE.a, "discards"), at_port(ONE.a, "bit_errors"), at_port(OTHER.a)
    told = [weak, elsewhere, strong]
    assert corroborated(*told).concerning(link(ONE), told) == [strong, weak]


def test_counters_alone_tell_how_a_failure_shows() -> None:
    told = {
        kind: symptom_of(at_port(ONE.a, kind)) for kind in ("port_flapping", "bit_errors", "port_down", "pfc_storm")
    }
    assert told == {
        "port_flapping": "flap", "bit_errors": "loss", "port_down": "unreachable", "pfc_storm": "congestion"
    }  # fmt: skip
