"""Round trips against what paths learnt of themselves, and what ports on their way count: judged by promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import yaml

from exporter.contracts.names import link_id
from skeleton_service.ruleset import GRAFANA, Links, Thresholds, job_rules, static_rules
from tests.routes import Probed, count_series, route_series
from tests.unit.test_ruleset import BROKEN, JOB, RUNBOOKS, SPINE, links

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)")

STEP = 15
QUIET = 16e-6
SLOW = 120e-6
LEARNT = 45
"""Minutes after which each path has a threshold."""
THRESHOLD = 1.5 * QUIET + 10e-6

Alert = tuple[dict[str, str], dict[str, str]]
Rtt = Callable[[str, float], float]
"""Round trip in seconds of a path at a minute."""


def crossing(link: str) -> set[str]:
    return {path for path in SPINE if link in links(path)}


def slow_from(minute: float, paths: set[str], seconds: float = SLOW) -> Rtt:
    return lambda path, now: seconds if path in paths and now >= minute else QUIET


class Fabric:
    """What the exporters of the job's hosts, and that of the switches, count from minute 0 on."""

    def __init__(self, rtt: Rtt, minutes: float, *, paths: Collection[str] = SPINE, cluster: str = "c1") -> None:
        self.steps = int(minutes * 60 / STEP)
        self.cluster = cluster
        self.made: list[dict[str, str]] = []
        self.probed: list[Probed] = []
        for path in paths:
            self.path(path, [rtt(path, step * STEP / 60) for step in range(self.steps + 1)])
        for host in {path[0] for path in SPINE}:
            labels = {"src_host": host, "src_rnic": "r0", "role": "dp", "probe": "udp", "instance": f"{host}:9100"}
            self.add("fabric_rtt_seconds_count", labels, f"0+15x{self.steps}")
        for link in {link for path in SPINE for link in links(path)}:
            for end in link.split(" -- "):
                if end.startswith(("leaf", "spine")):
                    switch, port = end.split(":")
                    for name in ("fabric_link_info", "fabric_switch_port_up", "fabric_switch_port_enabled"):
                        more = {"link": link} if name == "fabric_link_info" else {}
                        self.add(name, {"switch": switch, "switch_port": port, **more}, "1x400")

    def add(self, metric: str, labels: dict[str, str], values: str) -> Fabric:
        text = ", ".join(f"{name}={json.dumps(value)}" for name, value in ({"cluster": self.cluster} | labels).items())
        self.made.append({"series": f"{metric}{{{text}}}", "values": values})
        return self

    def path(self, path: str, rtts: list[float], *, dscp: str = "26") -> None:
        instance = {"instance": f"{path[0]}:9100"}
        ends = {"src_host": path[0], "src_rnic": "r0", "dst_host": path[2], "dst_rnic": "r0", "probe": "udp"}
        self.add("fabric_path_rtt_seconds", {"path": path, **ends, **instance}, " ".join(map(str, rtts)))
        self.add("fabric_path_probes_sent_total", {"path": path, **ends, **instance}, f"0+15x{self.steps}")
        self.add("fabric_path_probes_lost_total", {"path": path, **ends, **instance}, f"0x{self.steps}")
        job = {"training_job": JOB, "path": path, **ends, "role": "dp", "dscp": dscp}
        self.add("fabric_job_path_info", job, f"1x{self.steps}")
        self.probed.append(Probed(path, (path[0], "r0"), (path[2], "r0"), "udp", dscp, dict.fromkeys(links(path), 1.0)))

    def counted(self) -> list[dict[str, str]]:
        """What exporters tell of the links that all paths cross."""
        made, self.made = self.made, []
        for metric, told, value in (*route_series(self.probed), *count_series(JOB, self.probed)):
            self.add(metric, told, f"{value:g}x{self.steps}")
        found, self.made = self.made, made
        return found

    def starve(self, host: str, late_slots: float) -> Fabric:
        labels = {"instance": f"{host}:9100"}
        return self.add("fabric_exporter_prober_late_slots_total", labels, f"0+{late_slots * STEP}x{self.steps}")

    def count(self, port: str, metric: str, rate: float, **more: str) -> Fabric:
        switch, name = port.split(":")
        labels = {"switch": switch, "switch_port": name, **more}
        return self.add(f"fabric_switch_port_{metric}", labels, f"0+{rate * STEP}x{self.steps}")

    def judged(
        self, directory: Path, minute: float, expressions: tuple[str, ...] = ()
    ) -> tuple[list[Alert], list[str]]:
        """Everything of ours that fires at the minute, and what promtool says the expressions are then."""
        texts = {**job_rules(JOB, Thresholds(), Links(RUNBOOKS))}
        texts |= {name: text for name, text in static_rules(Thresholds()).items() if name in _STATIC}
        for name, text in texts.items():
            (directory / name).write_text(text)
        at = f"{int(minute * 60)}s"
        # An expectation that can never hold makes promtool print what it got.
        never = [{"exp_labels": {"never": "this"}, "exp_annotations": {}}]
        nothing = [{"labels": '{never="this"}', "value": 0}]
        test = {
            "interval": f"{STEP}s",
            "input_series": self.made + self.counted(),
            "alert_rule_test": [{"eval_time": at, "alertname": name, "exp_alerts": never} for name in _ALERTS],
            "promql_expr_test": [{"expr": text, "eval_time": at, "exp_samples": nothing} for text in expressions],
        }
        # promtool evaluates every group at this interval: that of the group which learns thresholds.
        document = {"rule_files": sorted(texts), "evaluation_interval": "1m", "tests": [test]}
        (directory / "test.yaml").write_text(yaml.safe_dump(document, allow_unicode=True))
        argv = ["promtool", "test", "rules", "test.yaml"]
        run = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False)
        output = run.stdout + run.stderr
        assert output.count("got:[") == len(_ALERTS), output
        found = [
            (pairs(labels), pairs(annotations))
            for got in output.split("got:[")[1:]
            for labels, annotations in re.findall(
                r"Labels:\{(.*)\}\n\s*Annotations:\{(.*)\}", got.split("\n    alertname")[0]
            )
        ]
        return found, re.findall(r"\n\s+got: *(?!\[)(.*)", output)


_STATIC = ("fabric-fleet.yaml", "fabric-ports.yaml", "fabric-topology.yaml")
_ALERTS = ("FabricLinkLoss", "FabricLinkSlow", "FabricPathCongested", "FabricPathLoss", "FabricPathSlow")


def pairs(text: str) -> dict[str, str]:
    return {name: json.loads(value) for name, value in re.findall(r'(\w+)=("(?:[^"\\]|\\.)*")', text)}


def named(alerts: list[Alert], name: str, label: str = "component") -> list[str]:
    return sorted(labels.get(label, "") for labels, _ in alerts if labels["alertname"] == name)


def test_a_link_whose_paths_become_slow_is_named_with_exact_labels_and_evidence(tmp_path: Path) -> None:
    slow = crossing(BROKEN)
    alerts, _ = Fabric(slow_from(LEARNT, slow), LEARNT + 5).judged(tmp_path, LEARNT + 5)
    assert {labels["alertname"] for labels, _ in alerts} == {"FabricLinkSlow", "FabricPathSlow"}
    ((labels, annotations),) = [alert for alert in alerts if alert[0]["alertname"] == "FabricLinkSlow"]
    assert labels == {
        "alertname": "FabricLinkSlow",
        "cluster": "c1",
        "training_job": JOB,
        "dscp": "26",
        "link": BROKEN,
        "component": BROKEN,
        "component_kind": "link",
        "suspect": BROKEN,
        "severity": "critical",
        "symptom": "latency",
    }
    assert annotations == {
        "summary": "Paths of a training job are slow over one link.",
        "description": f"100% of the paths over link {BROKEN} take longer than they did, which slows job {JOB}.",
        "evidence": (
            f"{len(slow)} of {len(slow)} paths over the link are above their thresholds, the slowest at 120us; "
            "its switch ports count no errors, discards, pauses or marks"
        ),
        "jobs": JOB,
        "runbook_url": f"{RUNBOOKS}/FabricLinkSlow.md",
        "dashboard_url": f"{GRAFANA}/d/fabric-link?var-cluster=c1&var-link=leaf-0%3Aup0+--+spine-0%3Adown0",
    }
    assert named(alerts, "FabricPathSlow", "path") == sorted(slow)
    assert named(alerts, "FabricPathSlow") == [BROKEN] * len(slow)


def test_a_path_that_becomes_slow_alone_names_no_link(tmp_path: Path) -> None:
    fabric = Fabric(slow_from(LEARNT, {"a>c"}), LEARNT + 5)
    alerts, _ = fabric.judged(tmp_path, LEARNT + 5)
    ((labels, annotations),) = alerts
    assert labels == {
        "alertname": "FabricPathSlow",
        "cluster": "c1",
        "training_job": JOB,
        "role": "dp",
        "path": "a>c",
        "src_host": "a",
        "src_rnic": "r0",
        "dst_host": "c",
        "dst_rnic": "r0",
        "probe": "udp",
        "dscp": "26",
        "severity": "warning",
        "component_kind": "path",
        "suspect": f"paths of {JOB}",
        "symptom": "latency",
    }
    assert annotations == {
        "summary": "Round trips on a path of a training job take longer than they did.",
        "description": f"Round trips on path a>c of job {JOB} take 120us; it learnt that 34us are enough.",
        "evidence": "no switch port on its way is known to count errors, discards, pauses or marks",
        "jobs": JOB,
        "runbook_url": f"{RUNBOOKS}/FabricPathSlow.md",
        "dashboard_url": f"{GRAFANA}/d/fabric-path?var-cluster=c1&var-path=a%3Ec",
    }


def test_one_slow_path_names_no_link_though_it_is_all_that_crosses_it(tmp_path: Path) -> None:
    fabric = Fabric(slow_from(LEARNT, {"a>c"}), LEARNT + 5, paths=["a>c", "b>d", "d>b"])
    alerts, _ = fabric.judged(tmp_path, LEARNT + 5)
    assert {labels["alertname"] for labels, _ in alerts} == {"FabricPathSlow"}


def test_just_under_the_threshold_is_the_near_miss(tmp_path: Path) -> None:
    fabric = Fabric(slow_from(LEARNT, crossing(BROKEN), THRESHOLD * 0.99), LEARNT + 5)
    assert fabric.judged(tmp_path, LEARNT + 5)[0] == []


def test_a_spike_is_no_slowness_and_slowness_must_last(tmp_path: Path) -> None:
    def spikes(_path: str, minute: float) -> float:
        return SLOW if minute % 1 == 0 and minute >= LEARNT else QUIET

    assert Fabric(spikes, LEARNT + 5).judged(tmp_path, LEARNT + 5)[0] == []
    short = Fabric(slow_from(LEARNT, crossing(BROKEN)), LEARNT + 1)
    assert named(short.judged(tmp_path, LEARNT + 0.75)[0], "FabricLinkSlow") == []


def test_bursts_of_the_jobs_own_iterations_are_learnt(tmp_path: Path) -> None:
    """Four minutes of every ten take as long as the fault would: that is this path's way."""

    def bursts(_path: str, minute: float) -> float:
        return SLOW if minute % 10 >= 6 else QUIET

    assert Fabric(bursts, 69).judged(tmp_path, 69)[0] == []


def test_a_path_without_history_has_no_threshold(tmp_path: Path) -> None:
    fabric = Fabric(slow_from(20, crossing(BROKEN)), 30)
    alerts, found = fabric.judged(tmp_path, 30, ("fabric_path_rtt_threshold_seconds",))
    assert alerts == []
    assert found == ["nil"]


def test_the_threshold_is_held_while_the_path_is_slow(tmp_path: Path) -> None:
    """Two hours later the history holds nothing but the fault, and would have learnt it."""
    fabric = Fabric(slow_from(LEARNT, crossing(BROKEN)), LEARNT + 130)
    query = "count(round(1e9 * fabric_path_rtt_threshold_seconds) == 34000)"
    alerts, (found,) = fabric.judged(tmp_path, LEARNT + 130, (query,))
    assert named(alerts, "FabricLinkSlow") == [BROKEN]
    assert float(found.removeprefix("{} ")) == len(SPINE), found


def test_starved_probers_measure_themselves(tmp_path: Path) -> None:
    slow = {path for path in SPINE if "a" in path}
    fabric = Fabric(slow_from(LEARNT, slow), LEARNT + 5)
    assert named(fabric.judged(tmp_path, LEARNT + 5)[0], "FabricLinkSlow") == [link_id("a:r0", "leaf-0:a")]
    assert fabric.starve("b", 5).judged(tmp_path, LEARNT + 5)[0] != [], "another host's prober"
    starved = Fabric(slow_from(LEARNT, slow), LEARNT + 5).starve("a", 0.2)
    assert starved.judged(tmp_path, LEARNT + 5)[0] == []
    few = Fabric(slow_from(LEARNT, slow), LEARNT + 5).starve("a", 0.05)
    assert named(few.judged(tmp_path, LEARNT + 5)[0], "FabricLinkSlow") == [link_id("a:r0", "leaf-0:a")]


def test_round_trips_of_a_jobs_dashboard_are_of_its_hosts_alone(tmp_path: Path) -> None:
    fabric = Fabric(slow_from(LEARNT, set()), 5)
    for host, rate in (("a", 1), ("a", 2), ("b", 4), ("of-another-job", 8)):
        labels = {"src_host": host, "src_rnic": f"r{rate}", "role": "dp", "probe": "udp", "instance": f"{host}:9100"}
        for le, share in (("0.00001", 0.5), ("+Inf", 1)):
            values = f"0+{rate * share * STEP}x{fabric.steps}"
            fabric.add("fabric_rtt_seconds_bucket", {**labels, "le": le}, values)
    _, (found,) = fabric.judged(tmp_path, 5, ("sort(job:fabric_rtt_seconds_bucket:rate)",))
    assert found.count("{") == 2
    for le, rate in (("0.00001", "3.5E+00"), ("+Inf", "7E+00")):
        labels = f'cluster="c1", le="{le}", training_job={json.dumps(JOB)}'
        assert f'{{__name__="job:fabric_rtt_seconds_bucket:rate", {labels}}} {rate}' in found


def test_where_all_is_slow_no_link_is_named(tmp_path: Path) -> None:
    alerts, _ = Fabric(slow_from(LEARNT, set(SPINE)), LEARNT + 5).judged(tmp_path, LEARNT + 5)
    assert {labels["alertname"] for labels, _ in alerts} == {"FabricPathSlow"}
    assert {labels["suspect"] for labels, _ in alerts} == {f"paths of {JOB}"}


def test_replies_that_come_back_over_the_slow_link_do_not_hide_it(tmp_path: Path) -> None:
    """Half of the paths over the other spine have their replies come back over the link."""
    replies = {"b>d", "d>a"}
    alerts, _ = Fabric(slow_from(LEARNT, crossing(BROKEN) | replies), LEARNT + 5).judged(tmp_path, LEARNT + 5)
    assert named(alerts, "FabricLinkSlow") == [BROKEN]


def test_a_slow_path_through_a_paused_port_is_congestion_and_the_port_its_component(tmp_path: Path) -> None:
    slow = {path for path in SPINE if path.endswith("c")}
    fabric = Fabric(slow_from(LEARNT, slow), LEARNT + 5)
    fabric.add(
        "port_priority:fabric_switch_port_pfc_receive_pause:ratio",
        {"switch": "leaf-1", "switch_port": "c", "priority": "3"}, "0.4x400",
    ).add(
        "port_priority:fabric_switch_port_pfc_receive_pause:ratio",
        {"switch": "leaf-0", "switch_port": "up0", "priority": "3"}, "0.6x400",
    )  # fmt: skip
    fabric.count("leaf-1:c", "queue_ecn_marked_packets_total", 400, queue="3")
    alerts, _ = fabric.judged(tmp_path, LEARNT + 5)
    ((labels, annotations),) = [alert for alert in alerts if alert[0]["alertname"] == "FabricPathCongested"]
    assert labels == {
        "alertname": "FabricPathCongested",
        "cluster": "c1",
        "training_job": JOB,
        "switch": "leaf-1",
        "switch_port": "c",
        "component": "leaf-1:c",
        "component_kind": "port",
        "suspect": link_id("c:r0", "leaf-1:c"),
        "severity": "warning",
        "symptom": "congestion",
    }
    assert annotations == {
        "summary": "Paths of a training job are slow through a congested switch port.",
        "description": (
            f"{len(slow)} paths of job {JOB} through port leaf-1:c take longer than they did "
            "while the port is congested."
        ),
        "evidence": "leaf-1:c marks 400 packets/s, leaf-1:c is paused or pauses 40% of the time",
        "location": link_id("c:r0", "leaf-1:c"),
        "jobs": JOB,
        "runbook_url": f"{RUNBOOKS}/FabricPathCongested.md",
        "dashboard_url": f"{GRAFANA}/d/fabric-switch?var-cluster=c1&var-switch=leaf-1&var-switch_port=c",
    }
    evidence = {notes["evidence"] for labels, notes in alerts if labels.get("path") == "a>c"}
    assert evidence == {"leaf-1:c marks 400 packets/s, leaf-0:up0 is paused or pauses 60% of the time"}


def test_of_ports_that_as_many_slow_paths_cross_the_most_congested_is_named(tmp_path: Path) -> None:
    slow = {path for path in SPINE if path.endswith("c")}
    fabric = Fabric(slow_from(LEARNT, slow), LEARNT + 5)
    fabric.count("leaf-1:c", "transmit_discards_total", 3).count("spine-0:down1", "receive_discards_total", 2)
    fabric.count("leaf-0:up0", "transmit_discards_total", 90)
    assert named(fabric.judged(tmp_path, LEARNT + 5)[0], "FabricPathCongested") == ["leaf-1:c"]


@pytest.mark.parametrize("slow", [set(), {"a>c"}], ids=["nothing is slow", "one path alone is slow"])
def test_a_congested_port_hurts_nobody_by_itself(slow: set[str], tmp_path: Path) -> None:
    fabric = Fabric(slow_from(LEARNT, slow), LEARNT + 5)
    fabric.count("leaf-1:c", "transmit_discards_total", 50)
    assert named(fabric.judged(tmp_path, LEARNT + 5)[0], "FabricPathCongested") == []


def test_a_congested_port_off_the_way_of_slow_paths_is_not_their_reason(tmp_path: Path) -> None:
    slow = {path for path in SPINE if path.endswith("c")}
    fabric = Fabric(slow_from(LEARNT, slow), LEARNT + 5).count("leaf-2:d", "transmit_discards_total", 50)
    assert named(fabric.judged(tmp_path, LEARNT + 5)[0], "FabricPathCongested") == []
    few = Fabric(slow_from(LEARNT, slow), LEARNT + 5).count("leaf-1:c", "transmit_discards_total", 0.9)
    assert named(few.judged(tmp_path, LEARNT + 5)[0], "FabricPathCongested") == []


def test_a_port_once_named_stays_named_though_more_slow_paths_cross_another(tmp_path: Path) -> None:
    """Paths to c are slow first, then more to d: the one alert does not move to d's port."""
    first, more = {"a>c", "b>c"}, {"a>d", "b>d", "c>d"}

    def rtt(path: str, minute: float) -> float:
        return SLOW if (path in first and minute >= LEARNT) or (path in more and minute >= LEARNT + 3) else QUIET

    fabric = Fabric(rtt, LEARNT + 7)
    fabric.count("leaf-1:c", "transmit_discards_total", 5).count("leaf-2:d", "transmit_discards_total", 50)
    alerts, _ = fabric.judged(tmp_path, LEARNT + 6)
    assert named(alerts, "FabricPathCongested") == ["leaf-1:c"]


def test_evidence_of_a_lossy_link_and_path_is_what_their_ports_count(tmp_path: Path) -> None:
    fabric = Fabric(slow_from(0, set()), 6)
    for series in fabric.made:
        if "probes_lost_total" in series["series"] and any(
            f'"{path}"' in series["series"] for path in crossing(BROKEN)
        ):
            series["values"] = f"0+5x{fabric.steps}"
    fabric.count("spine-0:down0", "receive_errors_total", 12).count("leaf-0:up0", "receive_errors_total", 2)
    alerts, _ = fabric.judged(tmp_path, 6)
    (link,) = [notes for labels, notes in alerts if labels["alertname"] == "FabricLinkLoss"]
    assert link["evidence"].endswith("lose probes; leaf-0:up0 receives 2 errors/s, spine-0:down0 receives 12 errors/s")
    paths = {notes["evidence"] for labels, notes in alerts if labels["alertname"] == "FabricPathLoss"}
    assert paths == {"spine-0:down0 receives 12 errors/s"}
