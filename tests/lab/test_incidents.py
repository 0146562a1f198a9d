"""The five incidents that the project was founded on, and a leaf that dies, with the whole rule pack in a real
Prometheus and Alertmanager: each fires its own alert, which names the right component and silences what follows from
it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.sandbox import environment
from lab.scenarios.catalogue import scenarios

SEED = 7
INCIDENTS = {each.name: each for each in scenarios() if each.alerts}


def watched(name: str, output: Path) -> tuple[dict[str, Any], str]:
    """The report of one incident under watch, and what was printed."""
    words = [sys.executable, "-m", "lab", "watch", name, "--seed", str(SEED), "--output", str(output)]
    words += ["--quiet", "5", "--resolved", "0"]  # alerts outlive their reasons by minutes, so that they do not flap
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    said = done.stdout + done.stderr
    file = output / "report.json"
    assert file.exists(), said
    return json.loads(file.read_text()), said


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("sandbox_possible")
@pytest.mark.parametrize("name", sorted(INCIDENTS))
def test_an_incident_is_one_notification_that_names_its_component(name: str, tmp_path: Path) -> None:
    report, said = watched(name, tmp_path / "watched")
    verdict = report["verdict"]
    assert verdict is not None, said
    assert verdict["own"] in INCIDENTS[name].alerts, said
    assert verdict["component"] in report["right"], said
    told = [[each["labels"]["alertname"] for each in group["firing"]] for group in report["notified"]]
    assert len(told) == 1, f"{told}\n{said}"
    assert not report["notified_while_healthy"], said
    assert "Traceback" not in said
