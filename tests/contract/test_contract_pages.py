"""The example on a format's page is one: it is read as the format."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exporter.contracts.codec import decode
from exporter.contracts.intent import Intent, check_intent
from exporter.contracts.job import Job, check_job
from exporter.contracts.neighbors import Neighbors, check_neighbors
from exporter.contracts.verification import Verification

PAGES = Path(__file__).parents[2] / "docs/contracts"


@pytest.mark.parametrize(
    ("page", "kind"), [("intent", Intent), ("job", Job), ("neighbors", Neighbors), ("verification", Verification)]
)
def test_the_example_of_a_page_is_read(page: str, kind: type) -> None:
    match = re.search(r"```(?:yaml|json)\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)
    assert match is not None
    value = decode(match[1].encode(), kind, page)
    if isinstance(value, Intent):
        check_intent(value, page)
    if isinstance(value, Job):
        check_job(value, page)
    if isinstance(value, Neighbors):
        check_neighbors(value, page)
