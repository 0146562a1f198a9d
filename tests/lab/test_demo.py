"""The main job as a user runs it: ``make demo`` is this command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lab.sandbox import environment


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("sandbox_possible")
def test_the_demo_names_both_broken_links_and_heals_them(tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    run = subprocess.run(
        [sys.executable, "-m", "lab", "demo", "--report", str(report_file)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    report = json.loads(report_file.read_text())
    assert [fault["fault"] for fault in report["faults"]] == ["silent loss", "MTU mismatch"]
    for fault in report["faults"]:
        assert fault["alert"] == fault["service"] == fault["injected"]
    assert all(step["done"] for step in report["steps"])
    assert "Traceback" not in run.stderr
    # One notification a fault: what follows from the link is inhibited.
    assert "also notified" not in run.stdout, run.stdout
