"""The notification template, rendered by amtool: the examples of docs/alertmanager.md, and what may be missing."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.contract.alertmanager import MISSING, REASON, ROOT, TEMPLATE, alert

pytestmark = pytest.mark.skipif(bool(MISSING), reason=REASON)

PAGE = ROOT / "docs/alertmanager.md"
BEGAN = datetime(2026, 8, 22, 3, 12, 9, 400_000, tzinfo=UTC)
LINK = "leaf-28:Ethernet88 -- spine-56:Ethernet40"
RUNBOOKS = "https://github.com/fabric-skeleton/fabric-skeleton/blob/main/docs/runbooks"
GRAFANA = "https://grafana.example/d"


def firing(labels: dict[str, str], after: float = 0, lasts: float | None = None, **annotations: str) -> dict[str, Any]:
    """One alert as a template gets it, ``after`` seconds; over if it ``lasts`` some."""
    begins = BEGAN + timedelta(seconds=after)
    return {
        "status": "firing" if lasts is None else "resolved",
        "labels": labels,
        "annotations": annotations,
        "startsAt": begins.isoformat(),
        "endsAt": "0001-01-01T00:00:00Z" if lasts is None else (begins + timedelta(seconds=lasts)).isoformat(),
    }


def over(alerts: list[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """The same alerts, resolved so long after the first of them began."""
    ends = (BEGAN + timedelta(seconds=seconds)).isoformat()
    return [{**each, "status": "resolved", "endsAt": ends} for each in alerts]


def render(directory: Path, template: str, *alerts: dict[str, Any]) -> str:
    data = directory / "data.json"
    is_firing = any(each["status"] == "firing" for each in alerts)
    document = {"receiver": "r", "status": "firing" if is_firing else "resolved", "alerts": alerts}
    data.write_text(json.dumps(document | {"groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}}))
    argv = ["amtool", "template", "render", f"--template.glob={TEMPLATE}", f"--template.data={data}"]
    argv.append(f'--template.text={{{{ template "{template}" . }}}}')
    run = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == 0, run.stderr
    return run.stdout


LOSS = firing(
    alert("FabricLinkLoss", component=LINK, link=LINK, suspect=LINK, training_job="llm-7b", probe="udp", dscp="26"),
    summary="A link loses packets of a training job.",
    description=f"Link {LINK} loses 30.7% of the probes that cross it (mean of the last 75s) and hurts job llm-7b.",
    evidence="87 of 87 probed paths over the link lose probes, those of the default class over it 31.2%; its switch "
    "ports count 0 errors/s and 0 discards/s",
    runbook_url=f"{RUNBOOKS}/FabricLinkLoss.md",
)
OTHER_JOB = firing(
    alert("FabricLinkLoss", component=LINK, link=LINK, suspect=LINK, training_job="llm-70b", probe="udp", dscp="26"),
    after=15,
    summary="A link loses packets of a training job.",
    description=f"Link {LINK} loses 29.8% of the probes that cross it (mean of the last 75s) and hurts job llm-70b.",
)
PORT_MTU = firing(
    alert("FabricSwitchPortMtuLow", component="leaf-28:Ethernet88", switch="leaf-28", suspect=LINK),
    after=15,
    summary="The MTU of a switch port fell.",
    description="Port leaf-28:Ethernet88 fell from 9216 to 1500 bytes.",
    location=f"{LINK}, line card lc3, breakout group 22",
    jobs="llm-70b, llm-7b",
    runbook_url=f"{RUNBOOKS}/FabricSwitchPortMtuLow.md",
    dashboard_url=f"{GRAFANA}/fabric-switch?var-cluster=c1&var-switch=leaf-28&var-switch_port=Ethernet88",
)
LINK_MTU = firing(
    alert("FabricLinkMtuMismatch", component=LINK, suspect=LINK, training_job="llm-7b"),
    summary="A link does not carry the MTU that its path promises.",
)
TRANSIT = firing(
    alert("FabricTransitPathDegraded", component="carrier-b", suspect="carrier-b", role="storage"),
    summary="Paths that leave the fabric lose packets at a carrier.",
    description="Paths of role storage over carrier-b lose 6.4% of their probes since their route moved to it.",
    location="exit border-1",
    jobs="llm-7b",
    hops_before="leaf-28 > spine-56 > border-1 > carrier-a",
    hops_after="leaf-28 > spine-56 > border-1 > carrier-b",
    evidence="round trips went from 11.8 ms to 19.3 ms in the same minute",
    runbook_url=f"{RUNBOOKS}/FabricTransitPathDegraded.md",
)
UNEXPLAINED = [
    firing(
        alert("FabricPathLoss", path=f"host-{number}/mlx5_0>host-40/mlx5_0:udp", training_job="llm-7b"),
        summary="A path of a training job loses probes.",
        description=f"Path host-{number}/mlx5_0>host-40/mlx5_0:udp of job llm-7b loses 9.3% of its probes.",
    )
    for number in range(14)
]
EXAMPLES = {
    "a link that hurts two jobs": [LOSS, OTHER_JOB],
    "the same, over": over([LOSS, OTHER_JOB], 1092),
    "the cause first": [LINK_MTU, PORT_MTU],
    "a changed path": [TRANSIT],
    "paths that nothing explains": UNEXPLAINED,
}
"""Shown by docs/alertmanager.md, under these names."""


def shown(name: str) -> str:
    """The block of the page that follows this name."""
    page = PAGE.read_text()
    marker = f"<!-- rendered: {name} -->\n"
    assert marker in page, f"docs/alertmanager.md has no {marker.strip()}"
    return re.match(r"```text\n(.*?)\n```", page.partition(marker)[2], re.DOTALL).group(1)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_shows_what_is_rendered(tmp_path: Path, name: str) -> None:
    rendered = render(tmp_path, "fabric.text", *EXAMPLES[name])
    assert shown(name) == rendered, f"docs/alertmanager.md should have:\n{rendered}"


def test_the_first_line_is_severity_what_which_and_where(tmp_path: Path) -> None:
    title = (
        f"CRITICAL: The MTU of a switch port fell: port leaf-28:Ethernet88 ({LINK}, line card lc3, breakout group 22; "
        "cluster c1)"
    )
    assert render(tmp_path, "fabric.title", PORT_MTU) == title
    assert render(tmp_path, "fabric.text", PORT_MTU).splitlines()[0] == title


def test_the_cause_comes_first_wherever_it_stands(tmp_path: Path) -> None:
    path = firing(alert("FabricPathLoss", path="p1", component=LINK, suspect=LINK), summary="A path loses.")
    port = firing(alert("FabricSwitchPortDown", component="leaf-28:E", suspect=LINK), summary="A port is down.")
    for alerts in ([LOSS, PORT_MTU, path, port], [port, path, LOSS, PORT_MTU], [path, PORT_MTU, port, LOSS]):
        assert render(tmp_path, "fabric.title", *alerts).startswith("CRITICAL: The MTU of a switch port fell")
        assert render(tmp_path, "fabric.slack.color", *alerts) == "danger"
    for alerts in ([path, LOSS, port], [port, LOSS, path]):  # critical before warning
        assert render(tmp_path, "fabric.title", *alerts).startswith("CRITICAL: A link loses")
    for alerts in ([path, port], [port, path]):  # a component before the paths
        assert render(tmp_path, "fabric.title", *alerts).startswith("WARNING: A port is down")
        assert render(tmp_path, "fabric.slack.color", *alerts) == "warning"


def test_while_one_fires_those_that_are_over_are_a_line_each(tmp_path: Path) -> None:
    (ended,) = over([PORT_MTU], 75)
    text = render(tmp_path, "fabric.text", ended, LOSS)
    assert text.startswith(f"CRITICAL: A link loses packets of a training job: link {LINK} (cluster c1)\n")
    assert text.endswith("\n\nOver:\n- The MTU of a switch port fell: port leaf-28:Ethernet88, after 1m0s")
    assert "Also:" not in text
    assert render(tmp_path, "fabric.slack.color", ended, LOSS) == "danger"
    assert render(tmp_path, "fabric.slack.color", ended) == "good"


def test_nothing_but_the_name_is_needed(tmp_path: Path) -> None:
    bare = firing({"alertname": "FabricOfTomorrow"})
    assert render(tmp_path, "fabric.title", bare) == "ALERT: FabricOfTomorrow: component not known"
    assert render(tmp_path, "fabric.text", bare) == (
        "ALERT: FabricOfTomorrow: component not known\n\nJobs hurt: none known\nBegan:     2026-08-22 03:12:09 UTC"
    )
    assert render(tmp_path, "fabric.slack.text", bare) == "*Jobs hurt:* none known\n*Began:* 2026-08-22 03:12:09 UTC"
    assert render(tmp_path, "fabric.link", bare) == ""
    assert render(tmp_path, "fabric.text", *over([bare], 2)).splitlines() == [
        "RESOLVED after 2s: FabricOfTomorrow: component not known",
        "",
        "Jobs hurt: none known",
        "Began:     2026-08-22 03:12:09 UTC",
        "Ended:     2026-08-22 03:12:11 UTC",
    ]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"component": "h1:mlx5_0", "component_kind": "rnic"}, "RNIC h1:mlx5_0"),
        ({"component": "leaf-0:10.9.0.1", "component_kind": "bgp_session"}, "BGP session leaf-0:10.9.0.1"),
        ({"component": "leaf-0:1", "component_kind": "breakout_group"}, "breakout group leaf-0:1"),
        ({"component": "leaf-0"}, "leaf-0"),
        ({"component": LINK, "component_kind": "path", "path": "p1"}, f"path p1, suspected {LINK}"),
        ({"component_kind": "path", "path": "p1"}, "path p1"),
        ({"component": "h1:r > h2:r", "component_kind": "path"}, "path h1:r > h2:r"),
        ({"component_kind": "path", "training_job": "j", "hop": "leaf-0"}, "at leaf-0"),
        ({"component_kind": "path", "training_job": "j"}, "job j"),
        ({"suspect": "leaf-0:E"}, "leaf-0:E"),
    ],
)
def test_the_component_is_named_with_its_kind(tmp_path: Path, labels: dict[str, str], words: str) -> None:
    assert render(tmp_path, "fabric.title", firing({"alertname": "A", "severity": "warning", **labels})) == (
        f"WARNING: A: {words}"
    )


@pytest.mark.parametrize(
    ("location", "cluster", "where"),
    [
        ("rack r12, zone c", "c1", " (rack r12, zone c; cluster c1)"),
        ("rack r12", "", " (rack r12)"),
        ("unknown", "c1", " (cluster c1)"),
        ("h1", "c1", " (cluster c1)"),
        ("", "", ""),
    ],
)
def test_the_place_is_told_once(tmp_path: Path, location: str, cluster: str, where: str) -> None:
    labels = {"alertname": "A", "severity": "critical", "component": "h1", "component_kind": "host", "cluster": cluster}
    title = render(tmp_path, "fabric.title", firing(labels, location=location))
    assert title == f"CRITICAL: A: host h1{where}"


def test_half_a_changed_route_is_told_as_such(tmp_path: Path) -> None:
    text = render(tmp_path, "fabric.text", firing({"alertname": "A"}, hops_after="leaf-0 > spine-1"))
    assert "\nOld route: not known\nNew route: leaf-0 > spine-1\n" in text


@pytest.mark.parametrize(
    ("annotation", "labels", "jobs"),
    [
        ("", ["a", "b", "a"], "a, b"),
        ("a, b", ["b", "c"], "a, b, c"),
        ("none known", ["c"], "c"),
        ("none known", ["", ""], "none known"),
        ("llm-7b", ["llm-7", "7b", "llm.7b"], "llm-7b, llm-7, 7b, llm.7b"),
        ("", ["gpt (7\\", "gpt (7\\"], "gpt (7\\"),
    ],
)
def test_each_job_that_is_hurt_is_told_once(tmp_path: Path, annotation: str, labels: list[str], jobs: str) -> None:
    alerts = [firing({"alertname": "A", "training_job": job}) for job in labels]
    text = render(tmp_path, "fabric.text", *alerts, firing({"alertname": "B"}, jobs=annotation))
    assert f"\nJobs hurt: {jobs}\n" in text


def test_the_link_is_the_dashboard_else_the_runbook(tmp_path: Path) -> None:
    assert render(tmp_path, "fabric.link", PORT_MTU).startswith(GRAFANA)
    assert render(tmp_path, "fabric.link", LOSS) == f"{RUNBOOKS}/FabricLinkLoss.md"


def test_the_cause_is_found_by_the_same_lines_everywhere() -> None:
    """A template cannot return a value, so the lines that find the cause are repeated."""
    copies = re.findall(
        r"\{\{ \$alerts := [^\n]*\n\{\{ \$cause := .*?\n\{\{ if lt \$rank \$best .*?\n", TEMPLATE.read_text(), re.DOTALL
    )
    assert len(copies) == 5
    assert len(set(copies)) == 1
