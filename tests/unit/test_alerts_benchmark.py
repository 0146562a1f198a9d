"""The alert benchmark calls a missed bar missed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.alerts import report


def healthy(**changes: Any) -> dict[str, Any]:
    usual = {"seed": 1, "seconds": 600.0, "exporters": 17, "series": 20_000, "rules": 90, "load": [1.0], "late": [0.0]}
    return usual | {"evaluation": 0.3, "missed": 0.0, "alerts": [], "notified": []} | changes


def alert(state: str) -> dict[str, Any]:
    return {"name": "FabricLinkLoss", "state": state, "labels": {"component": "x"}, "first": 1.0, "last": 4.0}


def test_what_fires_in_a_healthy_hour_is_missed_and_what_waited_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.end(report.healthy(healthy(alerts=[alert("pending")]))) == 0
    assert "| FabricLinkLoss | pending | 1 | x 1 | 3 |" in capsys.readouterr().out
    assert report.end(report.healthy(healthy(alerts=[alert("firing")]))) == 1
    assert "MISSED: 1 alerts fired in 10 healthy minutes FabricLinkLoss" in capsys.readouterr().out
    assert report.end(report.healthy(healthy(notified=[{}]))) == 1
    assert report.end(report.healthy(healthy(missed=0.4))) == 1


def play(**changes: Any) -> dict[str, Any]:
    verdict = {"own": "A", "component": ["link", "x"], "right": True, "groups": 1, "seconds": 5.0, "resolved": True}
    told = [{"labels": {"alertname": "A"}}, {"labels": {"alertname": "B"}}]
    return {
        "scenario": "s",
        "verdict": verdict | changes,
        "right": [["link", "x"]],
        "load": {"injected": 1.0},
        "notified": [{"firing": told}],
    }


@pytest.mark.parametrize(
    ("changes", "code"), [({}, 0), ({"own": ""}, 1), ({"right": False}, 1), ({"groups": 2}, 1), ({"seconds": None}, 0)]
)
def test_an_incident_is_judged_by_its_alert_its_component_and_its_notifications(
    changes: dict[str, Any], code: int
) -> None:
    assert report.end(report.incidents([play(**changes)])) == code
    assert report.end(report.incidents([play() | {"verdict": None}])) == 1


def measured(*seconds: float, profile: str = "fast") -> dict[str, Any]:
    faults = [
        {"link": "x", "percent": 100.0, "load": 1.0, "moments": {"notified": each}, "also named": []}
        for each in seconds
    ]
    timing = {"scrape": "1s", "window": "8s", "for": "3s", "group_wait": "1s"}
    told = {"profile": profile, "timing": timing, "hops": ["notified"], "faults": faults}
    return told | {"evaluation": 0.3, "missed": 0.0}


def test_latency_is_judged_at_its_95th_percentile_and_by_what_was_never_told() -> None:
    assert report.end(report.latency(measured(*[5.0] * 19, 30.0))) == 0
    assert report.end(report.latency(measured(*[5.0] * 18, 30.0, 30.0))) == 1
    assert report.end(report.latency(measured(60.0, profile="stock"))) == 0
    untold = measured(5.0, 5.0)
    untold["faults"][0]["moments"] = {}
    assert report.end(report.latency(untold)) == 1


def test_quantiles_are_of_the_nearest_rank() -> None:
    assert report.quantile(range(1, 101), 0.95) == 95
    assert report.quantile([3.0], 0.5) == 3.0
