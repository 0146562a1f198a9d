"""The five incidents that the project was founded on, and a leaf that dies, with the whole rule pack in a real
Prometheus and Alertmanager: each fires its own alert, which names the right component and silences what follows from
it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grafana.__main__ import DIRECTORY
from grafana.asking import Shown, asked, panels
from grafana.replay import Replay, replayed, selected
from lab.sandbox import environment
from lab.scenarios.catalogue import scenarios

SEED = 7
INCIDENTS = {each.name: each for each in scenarios() if each.alerts}


def watched(name: str, output: Path) -> tuple[dict[str, Any], str]:
    """The report of one incident under watch, and what was printed."""
    words = [sys.executable, "-m", "lab", "watch", name, "--seed", str(SEED), "--output", str(output)]
    words += [
        "--keep",
        "--quiet",
        "5",
        "--resolved",
        "0",
    ]  # alerts outlive their reasons by minutes, so that they do not flap
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    said = done.stdout + done.stderr
    file = output / "report.json"
    assert file.exists(), said
    return json.loads(file.read_text()), said


@dataclass(frozen=True)
class Play:
    name: str
    report: dict[str, Any]
    said: str
    output: Path


@pytest.fixture(scope="module", params=sorted(INCIDENTS))
def play(request: pytest.FixtureRequest, sandbox_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Play:  # noqa: ARG001
    """One incident under watch, which leaves what Prometheus stored."""
    output = tmp_path_factory.mktemp("watched") / "play"
    return Play(request.param, *watched(request.param, output), output)


@pytest.mark.timeout(300)
def test_an_incident_is_one_notification_that_names_its_component(play: Play) -> None:
    report, said = play.report, play.said
    verdict = report["verdict"]
    assert verdict is not None, said
    assert verdict["own"] in INCIDENTS[play.name].alerts, said
    assert verdict["component"] in report["right"], said
    told = [[each["labels"]["alertname"] for each in group["firing"]] for group in report["notified"]]
    assert len(told) == 1, f"{told}\n{said}"
    assert not report["notified_while_healthy"], said
    assert "Traceback" not in said


# ---- what the dashboards show of it

SHOWN = Shown(seconds=120, step=1, scrape=1)
MOST_SERIES = 2000
ROWS_OF_THE_FIRST_SCREEN = 8
SEEN: dict[tuple[str, str], set[str]] = {}
"""{(board, panel): incidents in which it shows anything}"""
NOT_IN_THE_LAB = {
    "no Kubernetes": {
        "99 of 100 answered within", "Answered from caches", "CPU of its pods", "Pods made", "Pods made in a minute",
        "Questions",
    },
    "nobody is pushed to": {"Pushes (OTLP)"},
    "Prometheus does not scrape itself": {"Evaluating its rules", "Rules take"},
    "thresholds are learnt in half an hour": {"Slow", "Slowest paths"},
    "what its switches do not count": {
        "Busiest CPU", "Dropped by VLAN", "Dropped on the way to its own CPU", "Dropped on the way to the CPU",
        "ECN thresholds", "Neighbours",
    },
    "no incident of this kind": {
        "Damaged frames", "Discards", "Nothing answered in time", "Pauses", "RNICs of a job that are set otherwise",
        "RNICs that pause", "Settings that differ",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def replay(play: Play, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    with replayed(play.output / "run/monitoring/prometheus", tmp_path_factory.mktemp("replay")) as made:
        yield made


def dashboards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))]


@pytest.mark.timeout(300)
def test_every_query_of_the_dashboards_is_answered(play: Play, replay: Replay) -> None:
    at = play.report["times"]["repaired"]
    for board in dashboards():
        values = selected(replay, board, at)
        for query in asked(board, values, SHOWN):
            found = replay.ask(query, at, SHOWN)
            assert len(found) <= MOST_SERIES, query
            if found:
                SEEN.setdefault((query.board, query.panel), set()).add(play.name)


def test_node_graphs_get_nodes_and_edges_between_them(play: Play, replay: Replay) -> None:
    """One frame with ``id`` of nodes, one with ``id``, ``source`` and ``target`` of edges, which are such nodes."""
    at = play.report["times"]["repaired"]
    for board in dashboards():
        values = selected(replay, board, at)
        graphs = {panel["title"] for panel in panels(board) if panel["type"] == "nodeGraph"}
        for title in graphs:
            nodes, edges = (
                [each["metric"] for each in replay.ask(query, at, SHOWN)]
                for query in asked(board, values, SHOWN)
                if query.panel == title
            )
            ids = [each["id"] for each in nodes]
            assert len(ids) == len(set(ids)) > 1, title
            assert len({each["id"] for each in edges}) == len(edges) > 0, title
            assert {each[end] for each in edges for end in ("source", "target")} == set(ids), title


def test_the_overviews_first_screen_names_the_component(play: Play, replay: Replay) -> None:
    """As it is when the notification comes: the first thing that is looked at."""
    notified = play.report["times"]["injected"] + play.report["verdict"]["seconds"]
    (overview,) = (each for each in dashboards() if each["uid"] == "fabric-overview")
    (suspects,) = (each for each in asked(overview, {}, SHOWN) if (each.panel, each.ref) == ("Suspects", "rank"))
    found = replay.ask(suspects, notified, SHOWN)
    assert len(found) <= ROWS_OF_THE_FIRST_SCREEN, found
    named = [[each["metric"]["component_kind"], each["metric"].get("component", "")] for each in found]
    assert any(each in play.report["right"] for each in named), named


def test_every_panel_shows_something_in_some_incident() -> None:
    if len(set().union(*SEEN.values())) < len(INCIDENTS):
        pytest.skip("not all incidents were played")
    blank = {
        (board["uid"], panel["title"])
        for board in dashboards()
        for panel in panels(board)
        if (board["uid"], panel["title"]) not in SEEN
    }
    excused = set().union(*NOT_IN_THE_LAB.values())
    assert {each for each in blank if each[1] not in excused} == set()
