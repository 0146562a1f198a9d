"""Rules under each promtool at hand: range selectors and `le` differ between Prometheus 2 and 3, verdicts must not.

`make prometheus-versions` fetches those of Debian's later releases; what it has not fetched is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.prometheus_versions import Version, at_hand
from skeleton_service.ruleset import Thresholds, job_rules

ROOT = Path(__file__).parents[2]
WANTED = {(2, 42): "apt: prometheus", (2, 53): "make prometheus-versions", (3, 5): "make prometheus-versions"}
AT_HAND = at_hand()
PROFILES = {
    "stock": Thresholds(),
    "fast": Thresholds(scrape_interval="1s"),
    "five seconds": Thresholds(scrape_interval="5s"),
}


def each_version() -> list[object]:
    """Those at hand, and in their place those that are not, skipped with how to get them."""
    found = [pytest.param(each, id=str(each)) for each in AT_HAND]
    series = {each.number[:2] for each in AT_HAND}
    missing = [
        pytest.param(
            None, id=f"{major}.{minor}", marks=pytest.mark.skip(reason=f"no promtool {major}.{minor} ({remedy})")
        )
        for (major, minor), remedy in WANTED.items()
        if (major, minor) not in series
    ]
    return [*found, *missing]


every_version = pytest.mark.parametrize("version", each_version())


def run(version: Version, *words: object) -> None:
    done = subprocess.run([version.promtool, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@every_version
def test_the_versions_are_what_they_say(version: Version) -> None:
    said = subprocess.run([version.promtool, "--version"], capture_output=True, text=True, check=True)
    assert f"version {version}" in said.stdout + said.stderr


@every_version
@pytest.mark.parametrize("file", sorted((ROOT / "rules" / "tests").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_file_of_rule_tests_passes(version: Version, file: Path) -> None:
    run(version, "test", "rules", file.relative_to(ROOT))


@every_version
def test_the_static_rules_pass_the_lint(version: Version) -> None:
    run(version, "check", "rules", "--lint=all", "--lint-fatal", *sorted((ROOT / "rules" / "static").glob("*.yaml")))


@every_version
@pytest.mark.parametrize("profile", PROFILES)
def test_the_rules_of_a_job_pass_the_lint(version: Version, profile: str, tmp_path: Path) -> None:
    for name, text in job_rules("llm", PROFILES[profile]).items():
        (tmp_path / name).write_text(text)
    run(version, "check", "rules", "--lint=all", "--lint-fatal", *sorted(tmp_path.iterdir()))


@every_version
@pytest.mark.parametrize("file", sorted((ROOT / "tests" / "unit").glob("test_rule*.py")), ids=lambda file: file.stem)
def test_what_the_rules_of_a_job_say_is_the_same(version: Version, file: Path) -> None:
    """The tests that write rules for promtool themselves, with this one first on PATH."""
    if str(version.promtool) == shutil.which("promtool"):
        pytest.skip("these tests ran with the promtool on PATH already")
    path = f"{version.promtool.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        env={
            **os.environ,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-5000:]
