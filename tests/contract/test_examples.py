"""The examples are executable documentation: the real commands make them again, to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.contracts.codec import read
from exporter.contracts.diagnosis import Diagnosis
from exporter.contracts.intent import check_fits, read_intent
from exporter.contracts.topology import read_topology
from skeleton_service.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
MADE = ["skeleton.json", "plan.json", "diagnosis.json", "rules"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("examples")
    command = f"{sys.executable} -m skeleton_service.cli"
    root = str(EXAMPLES.parent)
    environment = {**os.environ, "SKELETON_SERVICE": command, "PYTHONPATH": root}
    subprocess.run([EXAMPLES / "regenerate.sh", directory], check=True, env=environment, capture_output=True)
    return directory


@pytest.mark.parametrize("name", MADE)
def test_an_example_is_what_the_command_makes_now(name: str, made: Path) -> None:
    """examples/regenerate.sh writes them; read the difference before you commit it."""
    committed, fresh = EXAMPLES / name, made / name
    if committed.is_dir():
        assert {path.name: path.read_text() for path in committed.iterdir()} == {
            path.name: path.read_text() for path in fresh.iterdir()
        }
    else:
        old, new = json.loads(committed.read_text()), json.loads(fresh.read_text())
        for document in (old, new):
            document.pop("expires", None)  # the clock's
        assert new == old


def test_the_example_records_blame_the_link_they_were_made_with() -> None:
    (failure,) = read(EXAMPLES / "diagnosis.json", Diagnosis).failures
    assert failure.component.name == "host-p0-0:mlx5_0 -- leaf-p0-r0:Ethernet8"
    assert failure.symptom == "loss"


def test_the_example_intent_is_what_the_examples_fabric_tells(capsys: pytest.CaptureFixture[str]) -> None:
    intent = read_intent(EXAMPLES / "intent.yaml")
    check_fits(intent, read_topology(EXAMPLES / "topology.yaml"), "intent.yaml")
    options = ["--intent", str(EXAMPLES / "intent.yaml"), "--topology", str(EXAMPLES / "topology.yaml")]
    assert main(["verify", *options, "--counters", str(EXAMPLES / "settings.csv")]) == 0
    assert "all that is told agrees; compared: 16 MTUs" in capsys.readouterr().out


def test_the_example_neighbours_see_the_examples_topology(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--operator", str(EXAMPLES / "topology.yaml"), "--discovered", str(EXAMPLES / "neighbors.json")]
    assert main(["topology", *options, "--check"]) == 0
    assert capsys.readouterr().out == ""
