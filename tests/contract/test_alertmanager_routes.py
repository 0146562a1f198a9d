"""amtool on the shipped configuration: valid alone, with the example receivers and merged; and who is told of what."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.alertmanager import (
    CONFIGURATION,
    MISSING,
    REASON,
    ROOT,
    SHIPPED,
    alert,
    alerts_of_the_pack,
    configuration,
)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=REASON)

ROUTES = [
    (alert("FabricLinkLoss"), "fabric-page"),
    (alert("FabricRdmaDown", host="h1"), "fabric-page"),
    (alert("FabricPathLoss"), "fabric-chat"),
    (alert("FabricSwitchUnreachable"), "fabric-chat"),
    (alert("FabricTransitPathChanged"), "nobody"),
    ({"alertname": "Helper", "severity": "none"}, "nobody"),
    (alert("FabricWatchdog"), "fabric-watchdog"),
    ({"alertname": "FabricOfTomorrow"}, "fabric-page"),
    ({"alertname": "FabricOfTomorrow", "severity": "catastrophic"}, "fabric-page"),
]
SEVERITIES = {"critical": "fabric-page", "warning": "fabric-chat", "info": "nobody", "none": "nobody"}


def receiver_of(file: Path, labels: dict[str, str]) -> str:
    argv = ["amtool", "config", "routes", "test", f"--config.file={file}"]
    argv += [f'{name}="{value}"' for name, value in labels.items()]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def check(file: Path) -> None:
    run = subprocess.run(["amtool", "check-config", str(file)], capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == 0, run.stdout + run.stderr


def merged() -> dict[str, Any]:
    """A site's own configuration with ours in it, as docs/alertmanager.md says."""
    ours = configuration()
    site: dict[str, Any] = {
        "route": {"receiver": "site", "group_by": ["alertname"], "group_wait": "30s", "routes": []},
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="SiteDown"'],
                "target_matchers": ['alertname="SiteSlow"'],
                "equal": ["site"],
            }
        ],
        "receivers": [{"name": "site"}],
    }
    site["route"]["routes"].append(ours["route"] | {"matchers": ['alertname=~"Fabric.+"']})
    site["inhibit_rules"] += ours["inhibit_rules"]
    site["receivers"] += ours["receivers"]
    return site | {"time_intervals": ours["time_intervals"], "templates": ours["templates"]}


def test_amtool_takes_the_configuration() -> None:
    check(CONFIGURATION)


def test_amtool_takes_it_with_the_example_receivers(tmp_path: Path) -> None:
    receivers = yaml.safe_load((SHIPPED / "receivers.yaml").read_text())
    assert [each["name"] for each in receivers["receivers"]] == [each["name"] for each in configuration()["receivers"]]
    (tmp_path / "alertmanager.yaml").write_text(yaml.safe_dump(configuration() | receivers))
    check(tmp_path / "alertmanager.yaml")


@pytest.mark.parametrize(("labels", "receiver"), ROUTES, ids=lambda value: str(value)[:60])
def test_who_is_told(labels: dict[str, str], receiver: str) -> None:
    assert receiver_of(CONFIGURATION, labels) == receiver


def test_every_alert_of_the_pack_is_routed_by_its_severity() -> None:
    for name, labels in alerts_of_the_pack().items():
        if name != "FabricWatchdog":
            assert receiver_of(CONFIGURATION, alert(name)) == SEVERITIES[labels["severity"]], name


def test_the_page_tells_who_is_told_and_when() -> None:
    units = {"s": "s", "m": "min", "h": "h", "d": "day"}
    route = configuration()["route"]
    page = (ROOT / "docs/alertmanager.md").read_text()
    for severity, receiver in (("critical", "fabric-page"), ("warning", "fabric-chat")):
        (own,) = [each for each in route["routes"] if each["matchers"] == [f'severity="{severity}"']]
        waits = [(route | own)[name] for name in ("group_wait", "group_interval", "repeat_interval")]
        words = " | ".join(f"{wait[:-1]} {units[wait[-1]]}" for wait in waits)
        assert f"| `{severity}` | `{receiver}` | {words} |" in page
    (watchdog,) = [each for each in route["routes"] if each["receiver"] == "fabric-watchdog"]
    assert (watchdog["group_wait"], watchdog["repeat_interval"]) == ("0s", "1m")
    assert "| `FabricWatchdog` | `fabric-watchdog` | at once | | 1 min |" in page


def test_merged_into_another_configuration_it_routes_alike(tmp_path: Path) -> None:
    file = tmp_path / "alertmanager.yaml"
    file.write_text(yaml.safe_dump(merged()))
    check(file)
    for labels, receiver in ROUTES:
        if labels["alertname"].startswith("Fabric"):
            assert receiver_of(file, labels) == receiver
    assert receiver_of(file, {"alertname": "SiteDown", "severity": "critical"}) == "site"
