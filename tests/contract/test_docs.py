"""The documentation holds: every alert has its runbook, links resolve, and metric names are the catalogue's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exporter.contracts import counters
from exporter.contracts.catalogue import CATALOGUE, RECORDED
from exporter.contracts.service_metrics import SERVED
from lab.scenarios.catalogue import scenarios
from tests.lab import signatures

ROOT = Path(__file__).resolve().parents[2]
RUNBOOKS = ROOT / "docs/runbooks"
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "rules/README.md", ROOT / "lab/README.md"], key=str
)
SHAPE = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def _alerts() -> set[str]:
    sources = [*(ROOT / "rules/static").glob("*.yaml"), *(ROOT / "rules/templates").glob("**/*.j2")]
    return {name for source in sources for name in re.findall(r"- alert: (\w+)", source.read_text())}


def _anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading: lower case, spaces to hyphens, punctuation gone."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"} == _alerts()


@pytest.mark.parametrize("alert", sorted(_alerts()))
def test_runbooks_have_one_shape_and_are_listed(alert: str) -> None:
    page = (RUNBOOKS / f"{alert}.md").read_text()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == SHAPE
    assert page.startswith(f"# {alert}\n")
    assert f"[{alert}]({alert}.md)" in (RUNBOOKS / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target} leads nowhere"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert fragment in {_anchor(heading) for heading in headings}, f"{target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_metric_names_are_the_catalogues(page: Path) -> None:
    own = (*CATALOGUE, *SERVED)
    known = {metric.name for metric in own}
    known |= {f"{metric.name}_bucket" for metric in own if metric.kind == "histogram"}
    if page.name in ("counter-samples.md", "diagnosis.md"):  # what a file may hold is more than the exporter emits
        known |= {name for constant, name in vars(counters).items() if constant.isupper()}
    known |= {metric.name for metric in RECORDED}
    named = re.findall(r"(?<![:\w])fabric_(?:[a-z]+_)*[a-z]+(?![\w*:…(])", page.read_text())
    assert {name for name in named if not any(each.startswith(name + "_") for each in known)} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_alerts_are_those_of_the_pack(page: Path) -> None:
    """`FabricJob…Drift` is several."""
    named = re.findall(r"(?<![A-Za-z])Fabric[A-Z][A-Za-z]+(?![A-Za-z…])", page.read_text())
    assert set(named) <= _alerts()


def test_the_alerts_of_the_labs_incidents_are_those_of_the_pack() -> None:
    assert {name for scenario in scenarios() for name in scenario.alerts} <= _alerts()


def test_the_page_on_path_faults_has_the_table_that_the_lab_shows() -> None:
    page = (ROOT / "docs/path-faults.md").read_text()
    assert signatures.table() in page, f"it should have:\n{signatures.table()}"
    named = {name.partition(" ")[0] for each in signatures.SIGNATURES.values() for name in each.both}
    assert named <= {metric.name for metric in CATALOGUE}
