"""The notification template, rendered by amtool: the examples of docs/alertmanager.md, and what may be missing.

What the examples tell is what the rules say, by promtool.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract import real_alerts
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


# For what the template does with whatever alerts.
LOSS = firing(
    alert("FabricLinkLoss", component=LINK, link=LINK, suspect=LINK, training_job="llm-7b", probe="udp", dscp="26"),
    summary="A link loses packets of a training job.",
    description=f"Link {LINK} loses 30.7% of the probes that cross it.",
    runbook_url=f"{RUNBOOKS}/FabricLinkLoss.md",
)
PORT_MTU = firing(
    alert("FabricSwitchPortMtuLow", component="leaf-28:Ethernet88", switch="leaf-28", suspect=LINK),
    after=15,
    summary="A port has a small MTU.",
    location=f"{LINK}, line card lc3, breakout group 22",
    jobs="llm-70b, llm-7b",
    runbook_url=f"{RUNBOOKS}/FabricSwitchPortMtuLow.md",
    dashboard_url=f"{GRAFANA}/fabric-switch?var-cluster=c1&var-switch=leaf-28&var-switch_port=Ethernet88",
)


EXAMPLES: dict[str, Callable[[Path], list[real_alerts.Alert]]] = {
    "a link that hurts two jobs": real_alerts.link_that_hurts_two_jobs,
    "the same, over": real_alerts.link_that_hurts_two_jobs,
    "the cause first": real_alerts.port_with_a_small_mtu,
    "a changed path": real_alerts.carrier_that_loses,
    "paths that nothing explains": real_alerts.paths_that_nothing_explains,
}
"""Shown by docs/alertmanager.md, under these names."""
NEEDS_PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)"
)


def shown(name: str) -> str:
    """The block of the page that follows this name."""
    page = PAGE.read_text()
    marker = f"<!-- rendered: {name} -->\n"
    assert marker in page, f"docs/alertmanager.md has no {marker.strip()}"
    return re.match(r"```text\n(.*?)\n```", page.partition(marker)[2], re.DOTALL).group(1)  # type: ignore[union-attr]


@NEEDS_PROMTOOL
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_shows_what_is_rendered(tmp_path: Path, name: str) -> None:
    alerts = [
        firing(labels, after=15 * min(number, 1), **annotations)
        for number, (labels, annotations) in enumerate(EXAMPLES[name](tmp_path))
    ]
    rendered = render(tmp_path, "fabric.text", *(over(alerts, 1092) if name == "the same, over" else alerts))
    assert shown(name) == rendered, f"docs/alertmanager.md should have:\n{rendered}"


@NEEDS_PROMTOOL
def test_the_page_on_rules_shows_the_alert_that_fires(tmp_path: Path) -> None:
    page = (ROOT / "docs/rules.md").read_text()
    (block,) = re.findall(r"```yaml\n(status: firing\n.*?)```", page, re.DOTALL)
    labels, annotations = real_alerts.link_that_hurts_two_jobs(tmp_path)[-1]
    assert yaml.safe_load(block) == {"status": "firing", "labels": labels, "annotations": annotations}


def test_the_first_line_is_severity_what_which_and_where(tmp_path: Path) -> None:
    title = (
        f"CRITICAL: A port has a small MTU: port leaf-28:Ethernet88 ({LINK}, line card lc3, breakout group 22; "
        "cluster c1)"
    )
    assert render(tmp_path, "fabric.title", PORT_MTU) == title
    assert render(tmp_path, "fabric.text", PORT_MTU).splitlines()[0] == title


def test_the_cause_comes_first_wherever_it_stands(tmp_path: Path) -> None:
    path = firing(alert("FabricPathLoss", path="p1", component=LINK, suspect=LINK), summary="A path loses.")
    port = firing(alert("FabricSwitchPortDown", component="leaf-28:E", suspect=LINK), summary="A port is down.")
    for alerts in ([LOSS, PORT_MTU, path, port], [port, path, LOSS, PORT_MTU], [path, PORT_MTU, port, LOSS]):
        assert render(tmp_path, "fabric.title", *alerts).startswith("CRITICAL: A port has a small MTU")
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
    assert text.endswith("\n\nOver:\n- A port has a small MTU: port leaf-28:Ethernet88, after 1m0s")
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
        ({"component": "paths of j", "component_kind": "path"}, "paths of j"),
        ({"component": "leaf-0", "component_kind": "path", "hop": "leaf-0:E4"}, "paths limited at leaf-0"),
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


def test_the_link_is_the_runbook_else_the_dashboard(tmp_path: Path) -> None:
    assert render(tmp_path, "fabric.link", PORT_MTU) == f"{RUNBOOKS}/FabricSwitchPortMtuLow.md"
    dashboard = firing({"alertname": "A"}, dashboard_url=f"{GRAFANA}/a")
    assert render(tmp_path, "fabric.link", dashboard) == f"{GRAFANA}/a"


def test_the_cause_is_found_by_the_same_lines_everywhere() -> None:
    """A template cannot return a value, so the lines that find the cause are repeated."""
    copies = re.findall(
        r"\{\{ \$alerts := [^\n]*\n\{\{ \$cause := .*?\n\{\{ if lt \$rank \$best .*?\n", TEMPLATE.read_text(), re.DOTALL
    )
    assert len(copies) == 5
    assert len(set(copies)) == 1
