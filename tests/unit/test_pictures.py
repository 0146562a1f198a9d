"""Pictures of the dashboards: each page has one, of an incident that the lab plays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grafana.__main__ import DIRECTORY
from grafana.asking import Asked, Shown
from grafana.pictures import PICTURES, Picture, page
from grafana.replay import Replay
from lab.scenarios.catalogue import scenarios

ROOT = Path(__file__).resolve().parents[2]
AT = 1_800_000_000.0


def board(uid: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DIRECTORY / f"{uid}.json").read_text())
    return found


class Told(Replay):
    """Answers each query with itself."""

    def ask(self, query: Asked, at: float, shown: Shown) -> list[dict[str, Any]]:
        assert (at, shown.seconds) == (AT, 60)
        return [{"metric": {"ref": query.ref, "panel": query.panel}, "value": [at, "1"]}]


def test_each_page_has_a_picture_of_an_incident_that_is_played() -> None:
    assert {each.board for each in PICTURES} == {path.stem for path in DIRECTORY.glob("*.json")}
    assert {each.incident for each in PICTURES} <= {each.name for each in scenarios()}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda each: each.name)
def test_a_picture_is_in_the_documentation(picture: Picture) -> None:
    assert f"pictures/{picture.name}.png" in (ROOT / "docs/dashboards.md").read_text()
    assert (ROOT / f"docs/pictures/{picture.name}.png").read_bytes().startswith(b"\x89PNG")


def test_no_picture_is_left_of_what_is_drawn_no_more() -> None:
    assert {path.stem for path in (ROOT / "docs/pictures").glob("*")} == {each.name for each in PICTURES}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda each: each.name)
def test_each_panel_gets_the_answers_of_its_own_queries(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grafana.pictures.selected", lambda *_: dict.fromkeys(_VARIABLES, "x"))
    drawn = page(board(picture.board), Told(""), Shown(seconds=60), AT, picture.row)
    assert drawn["to"] - drawn["from"] == 60
    assert min(each["panel"]["gridPos"]["y"] for each in drawn["panels"]) == 0
    for each in drawn["panels"]:
        panel = each["panel"]
        told = [(answer["metric"]["panel"], answer["metric"]["ref"]) for (answer,) in each["answers"]]
        assert told == [(panel["title"], target["refId"]) for target in panel.get("targets", ())]
    if picture.row:
        assert [each["panel"]["title"] for each in drawn["panels"] if each["panel"]["type"] == "row"] != []


_VARIABLES = ("training_job", "path", "link", "switch", "host", "switches", "ports", "hosts")
