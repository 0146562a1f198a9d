"""A directory of job files, as the service follows it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from exporter.contracts.codec import encode, write
from exporter.contracts.job import Job
from exporter.contracts.strict import convert_strictly
from skeleton_service.live.jobfiles import JobFiles
from tests.unit.serving import job as job_file


def test_a_job_file_that_was_never_good_ends_no_job(tmp_path: Path) -> None:
    write(tmp_path / "a.json", encode(convert_strictly(job_file("a"), Job, "a")))
    (tmp_path / "b.json").write_text("{")
    files = JobFiles(str(tmp_path))
    told = asyncio.run(files.look())
    assert (set(told.jobs), told.unsure("b"), told.whole) == ({"a"}, True, True)
    (tmp_path / "b.json").unlink()
    assert not asyncio.run(files.look()).unsure("b")
