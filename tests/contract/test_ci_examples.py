"""The jobs for CI that the documentation shows: their commands work as they stand, on the examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CI = ROOT / "examples/ci"
OURS = ("skeleton-service ", "promtool ")


def strings(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [each for value in node.values() for each in strings(value)]
    if isinstance(node, list):
        return [each for value in node for each in strings(value)]
    return [str(node)]


def commands(text: str) -> list[str]:
    lines = [line for each in strings(yaml.safe_load(text)) for line in each.splitlines()]
    return [line for line in lines if line.startswith(OURS)]


def documented() -> list[str]:
    lines = re.findall(r"^\$ (.*)$", (ROOT / "docs/ci.md").read_text(), re.MULTILINE)
    return [line for line in lines if line.startswith(OURS)]


CASES = {
    **{path.name: commands(path.read_text()) for path in sorted(CI.glob("*.yaml"))},
    "docs/ci.md": documented(),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of the examples, and an environment where skeleton-service is a command."""
    directory = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "examples", directory / "copy")
    script = directory / "skeleton-service"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m skeleton_service.cli "$@"\n')
    script.chmod(0o755)
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    # Whether the committed example is up to date is for test_examples.py to say.
    make = [script, "rules", "--skeleton", "skeleton.json", "--topology", "topology.yaml", "--output", "rules"]
    subprocess.run(make, check=True, cwd=directory / "copy", env=environment, capture_output=True)
    return directory / "copy", environment


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)")
@pytest.mark.parametrize("command", sorted({each for found in CASES.values() for each in found}))
def test_a_command_works_as_it_is_printed(command: str, repository: tuple[Path, dict[str, str]]) -> None:
    directory, environment = repository
    done = subprocess.run(
        ["bash", "-c", command], check=False, cwd=directory, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 or "--format json" in command, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", CASES)
def test_all_four_steps_are_there(name: str) -> None:
    begun = [" ".join(command.split()[:2]) for command in CASES[name]]
    assert begun[:4] == ["skeleton-service rules", "skeleton-service lint", "promtool check", "promtool test"]


def test_a_command_fails_where_rules_are_stale(repository: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    directory, environment = repository
    shutil.copytree(directory, tmp_path / "stale")
    (rules,) = (tmp_path / "stale/rules").iterdir()
    rules.write_text(rules.read_text().replace("fabric_path_probes_lost_total", "fabric_path_probes_lots_total"))
    for command in CASES["github.yaml"][:2]:
        done = subprocess.run(
            ["bash", "-c", command],
            check=False,
            cwd=tmp_path / "stale",
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, command
    assert "::error file=rules/" in done.stdout
