"""Alerts as the shipped rules make them, by promtool, so that what the documentation shows of them is what arrives."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import yaml

from skeleton_service.ruleset import Thresholds, job_rules
from tests.routes import Probed, count_series, route_series

ROOT = Path(__file__).parents[2]
Alert = tuple[dict[str, str], dict[str, str]]
"""Labels and annotations."""

CLUSTER = "c1"
LEAF, SPINE = "leaf-28:Ethernet88", "spine-56:Ethernet40"
LINK = f"{LEAF} -- {SPINE}"
_AT = "15m"
_SAMPLES = 80


class Series:
    """Input series of promtool, a sample each 15 s."""

    def __init__(self) -> None:
        self.made: list[dict[str, str]] = []
        self.probed: dict[str, list[Probed]] = {}
        """Of each job."""

    def whole(self) -> list[dict[str, str]]:
        """What was added, and what exporters tell of all paths of a job together."""
        all_made, self.made = self.made, []
        for job, paths in self.probed.items():
            for metric, labels, value in (*route_series(paths), *count_series(job, paths)):
                self.add(metric, f"{value:g}x{_SAMPLES}", **labels)
        found, self.made = [*all_made, *self.made], all_made
        return found

    def add(self, metric: str, values: str, **labels: str) -> None:
        text = ", ".join(f"{name}={json.dumps(value)}" for name, value in {"cluster": CLUSTER, **labels}.items())
        self.made.append({"series": f"{metric}{{{text}}}", "values": values})

    def path(
        self, job: str, name: str, loss: float, link: str = "", probe: str = "udp", dscp: str = "26", role: str = "dp"
    ) -> None:
        """A path of a job that loses this share of its probes on the way there, over ``link`` if that is known."""
        source, _, rest = name.partition(">")
        ends = {
            "src_host": source.split("/")[0], "src_rnic": "mlx5_0",
            "dst_host": rest.split("/")[0], "dst_rnic": "mlx5_0",
        }  # fmt: skip
        self.add("fabric_path_probes_sent_total", f"0+15x{_SAMPLES}", path=name, probe=probe, **ends)
        self.add("fabric_path_probes_lost_total", f"0+{15 * loss:g}x{_SAMPLES}", path=name, probe=probe, **ends)
        self.add("fabric_path_probes_lost_return_total", f"0x{_SAMPLES}", path=name, probe=probe, **ends)
        bound = {"training_job": job, "path": name, "role": role, "dscp": dscp, "probe": probe}
        self.add("fabric_job_path_info", f"1x{_SAMPLES}", **bound, **ends)
        self.add("fabric_path_info", f"1x{_SAMPLES}", path=name, dscp=dscp, source_port="50000")
        probed = Probed(
            name, (ends["src_host"], ends["src_rnic"]), (ends["dst_host"], ends["dst_rnic"]), probe, dscp,
            {link: 1.0} if link else {},
        )  # fmt: skip
        self.probed.setdefault(job, []).append(probed)

    def port(self, port: str, link: str, mtu: int = 9216, linecard: str = "lc3", breakout_group: str = "22") -> None:
        """A switch port that is polled, up and counts nothing."""
        switch, _, name = port.partition(":")
        ends = {"switch": switch, "switch_port": name}
        self.add("fabric_link_info", f"1x{_SAMPLES}", link=link, **ends)
        for metric in ("fabric_switch_port_up", "fabric_switch_port_enabled"):
            self.add(metric, f"1x{_SAMPLES}", **ends)
        self.add("fabric_switch_port_mtu_bytes", f"{mtu}x{_SAMPLES}", **ends)
        self.add(
            "fabric_switch_port_info", f"1x{_SAMPLES}", linecard=linecard, breakout_group=breakout_group, lag="", **ends
        )


def fired(directory: Path, series: Series, names: Iterable[str], jobs: Iterable[str] = ()) -> list[Alert]:
    """The alerts of these names that fire a quarter of an hour after the series began, in the order of the names."""
    files = {path.name: path.read_text() for path in (ROOT / "rules/static").glob("*.yaml")}
    for job in jobs:
        files |= job_rules(job, Thresholds())
    for name, text in files.items():
        (directory / name).write_text(text)
    expected = [{"eval_time": _AT, "alertname": name, "exp_alerts": []} for name in names]
    tests = [{"interval": "15s", "input_series": series.whole(), "alert_rule_test": expected}]
    document = {"rule_files": sorted(files), "evaluation_interval": "15s", "tests": tests}
    (directory / "test.yaml").write_text(yaml.safe_dump(document))
    argv = ["promtool", "test", "rules", "test.yaml"]
    run = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, timeout=60)
    found = re.findall(r"Labels:\{(.*)\}\n\s*Annotations:\{(.*)\}", run.stdout + run.stderr)
    assert found, run.stdout + run.stderr
    return [(_pairs(labels), _pairs(annotations)) for labels, annotations in found]


def _pairs(text: str) -> dict[str, str]:
    return {name: json.loads(value) for name, value in re.findall(r'(\w+)=("(?:[^"\\]|\\.)*")', text)}


def link_that_hurts_two_jobs(directory: Path) -> list[Alert]:
    series = Series()
    for number in range(8):
        for job, at, loss in (("llm-7b", 0, 0.307), ("llm-70b", 100, 0.298)):
            name = f"host-{at + number}/mlx5_0>host-{at + number + 8}/mlx5_0:udp"
            series.path(job, f"{name}/50001", loss, LINK)
            series.path(job, f"{name}/50002", 0, "leaf-28:Ethernet92 -- spine-57:Ethernet40")
            series.path(job, f"{name}/0", 0.312, LINK, dscp="0")
    series.port(LEAF, LINK)
    series.port(SPINE, LINK)
    alerts = fired(directory, series, ["FabricLinkLoss"], ["llm-7b", "llm-70b"])
    return [alert for alert in alerts if alert[0]["dscp"] == "26"]


def port_with_a_small_mtu(directory: Path) -> list[Alert]:
    series = Series()
    for number in range(8):
        name = f"host-{number}/mlx5_0>host-{number + 8}/mlx5_0"
        for probe, loss in (("udp", 0.0), ("mtu", 1.0)):
            series.path("llm-7b", f"{name}:{probe}/50001", loss, LINK, probe)
            series.path("llm-7b", f"{name}:{probe}/50002", 0, "leaf-28:Ethernet92 -- spine-57:Ethernet40", probe)
        series.path("llm-70b", f"host-{number + 100}/mlx5_0>host-{number + 108}/mlx5_0:udp/50001", 0, LINK)
    series.port(LEAF, LINK, 1500)
    ends = {"switch": "leaf-28", "switch_port": "Ethernet88"}
    series.add("fabric_switch_port_frame_too_longs_total", f"0+120x{_SAMPLES}", **ends)
    series.add("fabric_switch_port_status_changes_total", f"0x4 2x{_SAMPLES}", **ends)
    series.port("leaf-28:Ethernet92", "leaf-28:Ethernet92 -- spine-57:Ethernet40", breakout_group="23")
    series.port("leaf-28:Ethernet96", "leaf-28:Ethernet96 -- spine-58:Ethernet40", breakout_group="24")
    series.port(SPINE, LINK)
    return fired(directory, series, ["FabricLinkMtuMismatch", "FabricSwitchPortMtuLow"], ["llm-7b", "llm-70b"])


def carrier_that_loses(directory: Path) -> list[Alert]:
    series = Series()
    path = "host-0/mlx5_0>store/mlx5_0:udp"
    ends = {"src_host": "host-0", "src_rnic": "mlx5_0", "dst_host": "store", "dst_rnic": "mlx5_0", "probe": "udp"}
    series.path("llm-7b", path, 0.064, role="storage")
    series.add("fabric_path_rtt_seconds", f"0.0118x20 0.0193x{_SAMPLES}", path=path, **ends)
    series.add(
        "fabric_path_route_change_timestamp_seconds",
        f"_x20 300x{_SAMPLES}",
        path=path,
        before="leaf-28 > spine-56 > border-1 > carrier-a",
        after="leaf-28 > spine-56 > border-1 > carrier-b",
        hop="carrier-b",
    )
    series.add("fabric_switch_bgp_receive_updates_total", f"10x40 25x{_SAMPLES}", switch="border-1", peer="10.0.0.1")
    return fired(directory, series, ["FabricTransitPathDegraded"])


def paths_that_nothing_explains(directory: Path) -> list[Alert]:
    series = Series()
    for number in range(14):
        series.path("llm-7b", f"host-{number}/mlx5_0>host-40/mlx5_0:udp", 0.093)
    return fired(directory, series, ["FabricPathLoss"], ["llm-7b"])
