"""The wheel, as a site installs it: in an empty environment, used from another directory. 10 s with a warm cache."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    # Without --wheel the wheel is built from the source archive, which must hold all it needs.
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    run = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (made,) = directory.glob("*.whl")
    return made


def test_the_wheel_holds_the_packages_and_the_rule_pack_and_nothing_beside(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"exporter", "skeleton_service"}
    assert {
        "skeleton_service/rules/templates/job.rules.yaml.j2",
        "skeleton_service/rules/static/fabric-exporter.yaml",
        "skeleton_service/rules/thresholds.yaml",
        "skeleton_service/dashboards/fabric-overview.json",
        "exporter/py.typed",
        "skeleton_service/py.typed",
    } <= set(names)
    assert not [name for name in names if "__pycache__" in name or "test" in name.rpartition("/")[2]]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment that holds nothing but the wheel and what it asks for."""
    directory = tmp_path_factory.mktemp("empty")
    venv.create(directory, with_pip=False)
    # The pip that runs the tests installs into the empty environment, which needs none of its own.
    python = directory / "bin/python"
    argv = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-compile", str(wheel)]
    run = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=200)
    if run.returncode and "Could not find a version" in run.stderr:
        pytest.skip("no package index can be reached to install the wheel's dependencies from")
    assert run.returncode == 0, run.stderr
    return directory / "bin"


def run(installed: Path, command: str, *arguments: object) -> str:
    """Run an installed command from ``/`` in an environment that names no other place."""
    argv = [str(installed / command), *map(str, arguments)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_commands_run_from_the_root_directory(installed: Path) -> None:
    assert "COMMAND" in run(installed, "fabric-exporter", "--help")
    assert "COMMAND" in run(installed, "skeleton-service", "--help")
    assert "fabric_path_probes_sent_total" in run(installed, "fabric-exporter", "metrics")


def test_rules_are_made_from_the_installed_templates(installed: Path, tmp_path: Path) -> None:
    examples = ROOT / "examples"
    topology, skeleton = examples / "topology.yaml", examples / "skeleton.json"
    run(installed, "skeleton-service", "rules", "--skeleton", skeleton, "--topology", topology, "--output", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        path.name: path.read_text() for path in (examples / "rules").iterdir()
    }


def test_the_installed_packages_are_complete(installed: Path) -> None:
    """Every process of both programs imports what it needs from the declared dependencies alone."""
    modules = ["exporter.control", "exporter.otlp.transport", "exporter.probing.process", "exporter.switches.process",
               "skeleton_service.planning.plan",
               "skeleton_service.inference", "skeleton_service.following.follow", "skeleton_service.reading.throughput",
               "sklearn.neighbors"]  # fmt: skip
    run(installed, "python", "-I", "-c", f"import {', '.join(modules)}")
