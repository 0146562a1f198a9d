"""Fixtures of more than one module of unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.running import RunningExporter


@pytest.fixture
def here(tmp_path: Path) -> Iterator[RunningExporter]:
    """An exporter of the test's own; give it a plan."""
    exporter = RunningExporter(tmp_path / "here", "")
    yield exporter
    exporter.stop()
    assert "Traceback" not in exporter.log
