"""The generated rules of a job, judged by promtool: the link vote on small votes made by hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import astuple, replace

from exporter.contracts.codec import ContractError
from exporter.contracts.names import link_id
from exporter.contracts.sizes import roce_packet_bytes
from exporter.contracts.skeleton import Group
from skeleton_service.ruleset import (
    ANY_SKELETON,
    GRAFANA,
    Links,
    Thresholds,
    job_rules,
    read_thresholds,
    rule_file_name,
    timing,
)
from skeleton_service.ruleset.bounds import BOUNDS, check_numbers
from tests.routes import Probed, count_series, route_series

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)")

JOB = 'gpt "7\\b'  # every quote of this has to survive YAML, PromQL and a Go template
RUNBOOKS = "https://runbooks.example"
BROKEN = "leaf-0:up0 -- spine-0:down0"
OTHER = "leaf-0:up1 -- spine-1:down0"

# Hosts a and b are on leaf-0, c on leaf-1, d on leaf-2. Each path names the spine it crosses.
LEAF = {"a": 0, "b": 0, "c": 1, "d": 2}
SPINE = {
    "a>c": 0, "a>d": 0, "b>c": 0, "b>d": 1, "c>a": 0, "d>a": 1, "c>b": 1, "d>b": 0, "c>d": 0, "d>c": 0, "a>b": None,
}  # fmt: skip


def links(path: str) -> list[str]:
    source, destination = path.split(">")
    ends = [link_id(f"{host}:r0", f"leaf-{LEAF[host]}:{host}") for host in (source, destination)]
    spine = SPINE[path]
    if spine is None:
        return ends
    up = [link_id(f"leaf-{LEAF[host]}:up{spine}", f"spine-{spine}:down{LEAF[host]}") for host in (source, destination)]
    return [ends[0], *up, ends[1]]


def over(link: str, *, outward: bool = True) -> list[str]:
    """Paths that cross a link, from leaf-0 outward or towards it."""
    return [path for path in SPINE if link in links(path) and (LEAF[path[0]] == 0) == outward]


def sprayed_over(spines: dict[int, set[int]]) -> dict[str, dict[str, float]]:
    """{path: {link: share}} where leaves are cabled to these spines, and packets are sprayed over the common ones."""
    shares = {}
    for path in SPINE:
        near, far = (LEAF[host] for host in path.split(">"))
        common = spines[near] & spines[far] if near != far else set()
        shares[path] = {link_id(f"{host}:r0", f"leaf-{LEAF[host]}:{host}"): 1.0 for host in path.split(">")} | {
            link_id(f"leaf-{leaf}:up{spine}", f"spine-{spine}:down{leaf}"): 1 / len(common)
            for leaf in (near, far)
            for spine in common
        }
    return shares


class Vote:
    """What the exporters of a job counted: each probe type of each path, as series for promtool.

    A probe type is ``udp`` in the job's class, ``udp/0`` in the class of DSCP 0, ``udp/26/61001`` from another port.
    ``shares`` are those of sprayed paths; of one probe's path by its name, as ``a>c/rdma``.
    """

    def __init__(self, *probes: str, shares: dict[str, dict[str, float]] | None = None) -> None:
        self.shares = shares or {path: dict.fromkeys(links(path), 1.0) for path in SPINE}
        self.loss: dict[tuple[str, str], tuple[float, float]] = {}
        self.mtus: dict[str, tuple[int, int, str, str]] = {}
        for probe in probes or ("udp",):
            self.lose(probe, SPINE, 0)

    def lose(self, probe: str, paths: object, ratio: float, *, back: float = 0) -> Vote:
        """``ratio`` of the probes is lost, of which ``back`` (a share of all) on the way back."""
        for path in paths:  # type: ignore[attr-defined]
            self.loss[probe, path] = (ratio, back)
        return self

    def find(self, paths: object, mtu: int, kind: str = "", hop: str = "", promise: int = 9000) -> Vote:
        """What the search found on these full-size paths: the promise, or less and what limits it."""
        for path in paths:  # type: ignore[attr-defined]
            self.mtus[path] = (mtu, promise, kind, hop)
        return self

    def series(self) -> list[dict[str, str]]:
        made: list[dict[str, str]] = []

        def add(metric: str, labels: dict[str, str], values: str) -> None:
            text = ", ".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
            made.append({"series": f"{metric}{{{text}}}", "values": values})

        probed: list[Probed] = []
        for (probe, path), (ratio, back) in self.loss.items():
            name = f"{path}/{probe}"
            labels = {
                "path": name, "src_host": path[0], "src_rnic": "r0", "dst_host": path[2], "dst_rnic": "r0",
                "probe": probe.split("/")[0],
            }  # fmt: skip
            add("fabric_path_probes_sent_total", labels, "0+15x40")
            add("fabric_path_probes_lost_total", labels, f"0+{15 * ratio}x40")
            add("fabric_path_probes_lost_return_total", labels, f"0+{15 * back}x40")
            dscp = probe.split("/")[1] if "/" in probe else "26"
            for job, role in ((JOB, "dp"), ("other", "pp")):
                add("fabric_job_path_info", {"training_job": job, **labels, "role": role, "dscp": dscp}, "1x40")
            probed.append(
                Probed(
                    name, (path[0], "r0"), (path[2], "r0"), probe.split("/")[0], dscp,
                    self.shares.get(name, self.shares[path]),
                )
            )  # fmt: skip
        for metric, told, share in route_series(probed):
            # The same again from a second exporter instance: an overlap must not become many-to-many.
            for instance in ("x", "y"):
                add(metric, told | {"instance": instance}, f"{share}x40")
        for metric, told, count in count_series(JOB, probed):
            # The same again from a second Prometheus.
            for replica in ("x", "y"):
                add(metric, told | {"instance": "x", "replica": replica}, f"{count}x40")
        for path, (mtu, promise, kind, hop) in self.mtus.items():
            # Twice, as from a pair of replicas.
            for instance in ("x", "y"):
                labels = {"path": f"{path}/mtu", "instance": instance}
                add("fabric_path_mtu_bytes", labels, f"{mtu}x40")
                add("fabric_path_mtu_promised_bytes", labels, f"{promise}x40")
                if kind:
                    more = {"kind": kind} | ({"hop": hop} if hop else {})
                    add("fabric_path_mtu_limit_info", labels | more, "1x40")
        return made

    def alerts(self, directory: Path, at: str = "5m") -> list[tuple[dict[str, str], dict[str, str]]]:
        """(labels, annotations) of everything that fires at ``at``, as promtool reports it."""
        for name, text in job_rules(JOB, Thresholds(), Links(RUNBOOKS)).items():
            (directory / name).write_text(text)
        names = (
            "FabricLinkLoss", "FabricLinkMtuMismatch", "FabricPathLoss", "FabricPathMtuBelowPromise",
            "FabricPathMtuBelowRoce", "FabricRdmaOnlyLoss",
        )  # fmt: skip
        # An expectation that can never hold makes promtool print what it got.
        never = [{"exp_labels": {"never": "this"}, "exp_annotations": {}}]
        document = {
            "rule_files": [*job_rules(JOB, Thresholds())],
            "evaluation_interval": "15s",
            "tests": [
                {
                    "interval": "15s",
                    "input_series": self.series(),
                    "alert_rule_test": [{"eval_time": at, "alertname": name, "exp_alerts": never} for name in names],
                }
            ],
        }
        (directory / "test.yaml").write_text(yaml.safe_dump(document, allow_unicode=True))
        argv = ["promtool", "test", "rules", "test.yaml"]
        run = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False)
        output = run.stdout + run.stderr
        assert output.count("got:[") == len(names), output
        return [
            (_pairs(labels), _pairs(annotations))
            for got in output.split("got:[")[1:]
            for labels, annotations in re.findall(
                r"Labels:\{(.*)\}\n\s*Annotations:\{(.*)\}", got.split("\n    alertname")[0]
            )
        ]


def _pairs(text: str) -> dict[str, str]:
    return {name: json.loads(value) for name, value in re.findall(r'(\w+)=("(?:[^"\\]|\\.)*")', text)}


def components(alerts: list[tuple[dict[str, str], dict[str, str]]], name: str) -> list[str]:
    return sorted(labels.get("component", "") for labels, _ in alerts if labels["alertname"] == name)


def test_a_link_that_loses_is_named_with_exact_labels_and_evidence(tmp_path: Path) -> None:
    alerts = Vote().lose("udp", over(BROKEN), 0.3).alerts(tmp_path)
    assert components(alerts, "FabricLinkLoss") == [BROKEN]
    ((labels, annotations),) = [alert for alert in alerts if alert[0]["alertname"] == "FabricLinkLoss"]
    assert labels == {
        "alertname": "FabricLinkLoss",
        "training_job": JOB,
        "probe": "udp",
        "dscp": "26",
        "link": BROKEN,
        "component": BROKEN,
        "component_kind": "link",
        "suspect": BROKEN,
        "severity": "critical",
        "symptom": "loss",
    }
    failing, crossing = len(over(BROKEN)), len(over(BROKEN)) + len(over(BROKEN, outward=False))
    assert annotations["summary"] == "A link loses packets of a training job."
    share = f"{30 * failing / crossing:.4g}%"
    window = timing(Thresholds()).window
    assert annotations["description"] == (
        f"Link {BROKEN} loses {share} of the probes that cross it (mean of the last {window}) and hurts job {JOB}."
    )
    assert annotations["evidence"].endswith("; its switch ports are not polled")
    assert annotations["evidence"].startswith(f"{failing} of {crossing} probed paths over the link lose probes;")
    assert annotations["runbook_url"] == f"{RUNBOOKS}/FabricLinkLoss.md"
    assert annotations["jobs"] == JOB
    link = "leaf-0%3Aup0+--+spine-0%3Adown0"
    assert annotations["dashboard_url"] == f"{GRAFANA}/d/fabric-link?var-cluster=&var-link={link}"


def test_paths_carry_the_suspect_they_cross_so_that_it_inhibits_them(tmp_path: Path) -> None:
    alerts = Vote().lose("udp", over(BROKEN), 0.3).alerts(tmp_path)
    assert components(alerts, "FabricPathLoss") == [BROKEN] * len(over(BROKEN))
    assert {labels["path"] for labels, _ in alerts if labels["alertname"] == "FabricPathLoss"} == {
        f"{path}/udp" for path in over(BROKEN)
    }


def is_inhibited(target: dict[str, str], source: dict[str, str]) -> bool:
    """By the shipped configuration, read as Alertmanager does: a label that is missing is equal to an empty one."""

    def meets(matchers: list[str], labels: dict[str, str]) -> bool:
        for matcher in matchers:
            name, operator, pattern = re.fullmatch(r'(\w+)(=~|!=|=)"(.*)"', matcher).groups()  # type: ignore[union-attr]
            is_met = re.fullmatch(pattern if operator == "=~" else re.escape(pattern), labels.get(name, ""))
            if bool(is_met) == (operator == "!="):
                return False
        return True

    configuration = yaml.safe_load((Path(__file__).parents[2] / "rules/alertmanager/alertmanager.yaml").read_text())
    return any(
        meets(rule["source_matchers"], source)
        and meets(rule["target_matchers"], target)
        and all(source.get(name, "") == target.get(name, "") for name in rule["equal"])
        for rule in configuration["inhibit_rules"]
    )


@pytest.mark.parametrize("name", ["FabricRdmaRetriesExhausted", "FabricRdmaRetransmits"])
def test_connections_that_break_while_a_link_of_the_fabric_loses_are_no_notification_besides(name: str) -> None:
    target = {"alertname": name, "cluster": "c1", "src_host": "h1", "dst_host": "h2"}
    link = {"alertname": "FabricLinkLoss", "cluster": "c1", "training_job": JOB, "component": BROKEN}
    assert is_inhibited(target, link)
    assert not is_inhibited(target, {**link, "cluster": "c2"})
    assert not is_inhibited(target, {**link, "alertname": "FabricPathLoss"})


def test_an_rnic_that_is_down_silences_its_own_instability_alone() -> None:
    down = {"alertname": "FabricRdmaDown", "cluster": "c1", "component": "h1:mlx5_0"}
    assert is_inhibited({**down, "alertname": "FabricRdmaUnstable"}, down)
    assert not is_inhibited({**down, "alertname": "FabricRdmaUnstable", "component": "h1:mlx5_1"}, down)


def test_nothing_fires_while_nothing_is_lost(tmp_path: Path) -> None:
    assert Vote("udp", "mtu", "tcp").alerts(tmp_path) == []


def test_loss_below_the_threshold_is_the_near_miss(tmp_path: Path) -> None:
    assert Vote().lose("udp", SPINE, 0.049).alerts(tmp_path) == []


def test_loss_must_last(tmp_path: Path) -> None:
    vote = Vote().lose("udp", over(BROKEN), 0.3)
    assert components(vote.alerts(tmp_path, "15s"), "FabricLinkLoss") == []


def test_loss_on_the_way_back_accuses_the_way_back(tmp_path: Path) -> None:
    """The broken direction is towards leaf-0: outward paths lose replies only, and their own links are innocent."""
    outward, inward = over(BROKEN), over(BROKEN, outward=False)
    vote = Vote().lose("udp", outward, 0.3, back=0.3).lose("udp", inward, 0.3)
    alerts = vote.alerts(tmp_path)
    assert components(alerts, "FabricLinkLoss") == [BROKEN]
    assert {labels["path"] for labels, _ in alerts if labels["alertname"] == "FabricPathLoss"} == {
        f"{path}/udp" for path in inward
    }


def test_replies_lost_alone_accuse_no_link(tmp_path: Path) -> None:
    assert components(Vote().lose("udp", over(BROKEN), 0.5, back=0.5).alerts(tmp_path), "FabricLinkLoss") == []


def test_dead_paths_name_the_dead_link(tmp_path: Path) -> None:
    dead = [*over(BROKEN), *over(BROKEN, outward=False)]
    alerts = Vote().lose("udp", dead, 1.0).alerts(tmp_path)
    assert components(alerts, "FabricLinkLoss") == [BROKEN]
    assert components(alerts, "FabricPathLoss") == [BROKEN] * len(dead)


def test_one_failing_path_alone_names_no_link(tmp_path: Path) -> None:
    alerts = Vote().lose("udp", ["a>c"], 0.5).alerts(tmp_path)
    assert components(alerts, "FabricLinkLoss") == []
    assert components(alerts, "FabricPathLoss") == [""]


def test_links_that_no_probe_tells_apart_are_both_named(tmp_path: Path) -> None:
    """d is reached over two links in a row that nothing else crosses on spine-1's side."""
    vote = Vote()
    vote.loss = {key: (0.0, 0.0) for key in vote.loss if key[1] in ("a>c", "b>c")}
    alerts = vote.lose("udp", ["a>c", "b>c"], 0.4).alerts(tmp_path)
    tied = [link for link in links("a>c") if link in links("b>c")]
    assert len(tied) == 3
    assert components(alerts, "FabricLinkLoss") == sorted(tied)
    assert set(components(alerts, "FabricPathLoss")) < set(tied)


@pytest.mark.parametrize(("loss", "named"), [(0.98, {BROKEN, OTHER}), (0.9, {BROKEN, OTHER}), (0.7, {OTHER})])
def test_links_whose_suspicions_differ_by_when_they_were_scraped_are_both_named(
    loss: float, named: set[str], tmp_path: Path
) -> None:
    """Both uplinks of leaf-0 lose all; or, where nothing comes back over one of them, seem to. All their paths vote."""
    vote = Vote()
    vote.loss = {key: value for key, value in vote.loss.items() if key[1] not in ("a>c", "b>c")}
    vote.lose("udp", ["a>d", "c>a", "d>b"], loss)
    alerts = vote.lose("udp", ["b>d", "d>a", "c>b"], 1.0).alerts(tmp_path)
    assert set(components(alerts, "FabricLinkLoss")) & {BROKEN, OTHER} == named


def test_full_size_probes_lost_while_small_ones_live_are_an_mtu_mismatch(tmp_path: Path) -> None:
    both_ways = [*over(BROKEN), *over(BROKEN, outward=False)]
    alerts = Vote("udp", "mtu").lose("mtu", both_ways, 1.0).alerts(tmp_path)
    assert components(alerts, "FabricLinkMtuMismatch") == [BROKEN]
    assert components(alerts, "FabricLinkLoss") == []
    ((labels, annotations),) = [alert for alert in alerts if alert[0]["alertname"] == "FabricLinkMtuMismatch"]
    assert labels["symptom"] == "mtu"
    assert annotations["description"] == (
        f"Link {BROKEN} drops 100% of the full-size probes while small ones live, and hurts job {JOB}."
    )


def below(alerts: list[tuple[dict[str, str], dict[str, str]]], name: str) -> list[tuple[str, str, str]]:
    """(kind, hop, severity) of the alerts on MTUs below a threshold."""
    return sorted(
        (labels["kind"], labels.get("hop", ""), labels["severity"])
        for labels, _ in alerts
        if labels["alertname"] == f"FabricPathMtuBelow{name}"
    )


def test_an_mtu_below_the_promise_warns_and_one_that_roce_cannot_use_is_critical(tmp_path: Path) -> None:
    hop = "spine-0:Ethernet4"
    vote = (
        Vote("mtu").find(SPINE, 9000).find(["a>c", "b>c"], 8000, "frag_needed", hop).find(["a>d"], 4160, "black_hole")
    )
    alerts = vote.alerts(tmp_path)
    assert below(alerts, "Promise") == [("black_hole", "", "warning"), ("frag_needed", hop, "warning")]
    assert below(alerts, "Roce") == []
    alerts = vote.find(["b>c"], 1500, "frag_needed", hop).alerts(tmp_path)
    assert below(alerts, "Roce") == [("frag_needed", hop, "critical")]
    ((labels, annotations),) = [alert for alert in alerts if alert[0]["alertname"] == "FabricPathMtuBelowRoce"]
    assert labels == {
        "alertname": "FabricPathMtuBelowRoce",
        "training_job": JOB,
        "kind": "frag_needed",
        "hop": hop,
        "severity": "critical",
        "component_kind": "path",
        "component": "spine-0",
        "suspect": "spine-0",
        "symptom": "mtu",
    }
    assert annotations["description"] == (
        f"2 paths of job {JOB}: packets of up to 1500 bytes pass; {hop} says that larger ones need fragmenting."
    )
    assert annotations["evidence"] == "The fabric promises 9000 bytes; RoCE sends up to 4160."
    assert annotations["runbook_url"] == f"{RUNBOOKS}/FabricPathMtuBelowRoce.md"


@pytest.mark.parametrize(
    ("kind", "hop", "says"),
    [
        ("black_hole", "", "larger ones vanish without a word (black hole)."),
        ("local", "a:r0", "interface a:r0, which probes, takes none larger."),
    ],
)
def test_a_black_hole_and_our_own_interface_are_called_by_their_names(
    kind: str, hop: str, says: str, tmp_path: Path
) -> None:
    alerts = Vote("mtu").find(["a>c"], 4159, kind, hop).alerts(tmp_path)
    assert below(alerts, "Roce") == [(kind, hop, "critical")]
    assert [notes["description"] for labels, notes in alerts if labels["severity"] == "critical"] == [
        f"1 path of job {JOB}: packets of up to 4159 bytes pass; {says}"
    ]


@pytest.mark.parametrize(
    ("kind", "hop", "component"),
    [
        ("frag_needed", "leaf-0:Ethernet4", "leaf-0"),
        ("frag_needed", "leaf-0:et-0/0/1:0", "leaf-0"),
        ("frag_needed", "leaf-0", "leaf-0"),
        ("frag_needed", "192.0.2.9", "192.0.2.9"),
        ("frag_needed", "2001:db8::9", "2001:db8::9"),
        ("frag_needed", "fe80::9%eth0", "fe80::9%eth0"),
        ("local", "a:r0", "a:r0"),
        ("black_hole", "", f"paths of {JOB}"),
    ],
)
def test_a_small_mtu_is_the_switchs_that_says_so_or_the_interfaces_that_probes(
    kind: str, hop: str, component: str, tmp_path: Path
) -> None:
    alerts = Vote("mtu").find(["a>c"], 1500, kind, hop).alerts(tmp_path)
    named = [labels for labels, _ in alerts if labels["alertname"].startswith("FabricPathMtuBelow")]
    assert len(named) == 2
    assert {(labels["component_kind"], labels["component"], labels["suspect"]) for labels in named} == {
        ("path", component, component)
    }


def test_a_fabric_that_promises_less_than_roce_needs_is_meant_so(tmp_path: Path) -> None:
    alerts = Vote("mtu").find(["a>c"], 1400, "black_hole", promise=1500).alerts(tmp_path)
    assert below(alerts, "Roce") == []
    assert below(alerts, "Promise") == [("black_hole", "", "warning")]


def test_a_small_mtu_must_last(tmp_path: Path) -> None:
    assert Vote("mtu").find(["a>c"], 1500, "black_hole").alerts(tmp_path, "1m") == []


def test_a_path_whose_mtu_is_found_is_no_loss_besides(tmp_path: Path) -> None:
    alerts = Vote("mtu").lose("mtu", ["a>c", "b>d"], 1.0).find(["a>c"], 1500, "black_hole").alerts(tmp_path)
    assert {labels["path"] for labels, _ in alerts if labels["alertname"] == "FabricPathLoss"} == {"b>d/mtu"}
    assert below(alerts, "Roce") == [("black_hole", "", "critical")]


def test_the_size_that_roce_needs_is_that_of_the_sizes_by_layer() -> None:
    assert Thresholds().roce_packet_bytes == roce_packet_bytes(4096)


def test_small_and_full_size_probes_lost_alike_are_loss_and_no_mtu_mismatch(tmp_path: Path) -> None:
    both_ways = [*over(BROKEN), *over(BROKEN, outward=False)]
    alerts = Vote("udp", "mtu").lose("mtu", both_ways, 1.0).lose("udp", both_ways, 1.0).alerts(tmp_path)
    assert components(alerts, "FabricLinkMtuMismatch") == []
    assert components(alerts, "FabricLinkLoss") == [BROKEN]


@pytest.mark.parametrize(
    "job",
    [
        "plain", 'quo"te', "quo'te", "back\\slash", "größe", "line\nbreak", "tab\t", "{{ $labels.x }}", "%q", "a: b #c",
        "", "\x00",
        "rocket 🚀",
        pytest.param("a\x7fb", id="delete"),
    ],
)  # fmt: skip
def test_rules_of_any_job_name_pass_the_linter(job: str, tmp_path: Path) -> None:
    for name, text in job_rules(job, Thresholds(), skeleton=ANY_SKELETON).items():
        (tmp_path / name).write_text(text)
        argv = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", name]
        run = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        selectors = re.findall(r'training_job=("(?:[^"\\]|\\.)*")', text)
        assert selectors
        assert {json.loads(selector) for selector in selectors} == {job}
        for group in yaml.safe_load(text)["groups"]:
            assert group["name"].startswith(f"fabric-job-{job}-")


def of_the_skeleton(files: dict[str, str]) -> list[dict[str, Any]]:
    (text,) = files.values()
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    return [rule for rule in rules if ":fabric_skeleton_" in rule.get("record", "")]


def test_a_skeletons_stages_and_period_are_recorded() -> None:
    names = [f"worker-{number}" for number in range(40)]
    groups = [
        Group(
            role="dp", stage=stage, rail=rail, members=tuple(f"{name}/r{rail}" for name in names[begin : begin + many])
        )
        for stage, begin, many in ((1, 0, 2), (0, 2, 38))
        for rail in (0, 1)
    ]
    odd = Group(role="storage", members=('st"ore\n{{x}}/r0',))
    skeleton = replace(ANY_SKELETON, period_seconds=5.25, confidence=0.97, groups=(*groups, odd))
    rules = of_the_skeleton(job_rules("j", Thresholds(), skeleton=skeleton))
    values = [(rule["record"].split(":")[1], float(rule["expr"].rpartition(" + ")[2])) for rule in rules]
    assert values[:2] == [("fabric_skeleton_confidence", 0.97), ("fabric_skeleton_period", 5.25)]
    stages = [
        (
            rule["labels"]["role"],
            rule["labels"]["stage"],
            rule["labels"]["groups"],
            rule["labels"]["containers"],
            number,
        )
        for rule, (_, number) in list(zip(rules, values, strict=True))[2:]
    ]
    first = ", ".join(names[2:34])
    assert stages == [
        ("dp", "0", "2", f"{first} and 6 more", 76),
        ("dp", "1", "2", "worker-0, worker-1", 4),
        ("storage", "", "1", 'st"ore\n{{x}}', 1),
    ]
    unknown = replace(skeleton, period_seconds=None, fallback="basic", groups=())
    (rule,) = of_the_skeleton(job_rules("j", Thresholds(), skeleton=unknown))
    assert rule["labels"] == {"structure": "none"}


def test_the_same_input_makes_the_same_bytes() -> None:
    assert job_rules("j", Thresholds()) == job_rules("j", Thresholds())


@pytest.mark.parametrize("job", ["..", ".", "/etc/passwd", "a/b", "a b", "", "-", "é"])
def test_a_file_name_stays_in_its_directory(job: str) -> None:
    name = rule_file_name(job)
    assert re.fullmatch(r"fabric-job-[A-Za-z0-9_.-]+\.rules\.yaml", name)


def test_jobs_that_look_alike_have_files_of_their_own() -> None:
    jobs = ["a b", "a-b", "a/b", "a:b", "a--b"]
    assert len({rule_file_name(job) for job in jobs}) == len(jobs)


def test_timing_follows_from_the_scrape_interval() -> None:
    made = timing(Thresholds(scrape_interval="1s"))
    assert (made.window, made.for_, made.for_paths) == ("15s", "3s", "11s")
    slow = timing(Thresholds(scrape_interval="30s"))
    assert (slow.window, slow.for_, slow.keep_firing_for) == ("150s", "60s", "300s")


@pytest.mark.parametrize("scrape", ["1s", "15s"])
def test_a_path_does_not_speak_before_the_mtu_mismatch_of_its_link(scrape: str) -> None:
    """Loss is over a path's ratio with its first lost probes, over the mismatch's when the window has filled so far."""
    made = timing(Thresholds(scrape_interval=scrape))
    window, held, paths = (int(text.removesuffix("s")) for text in (made.window, made.for_, made.for_paths))
    assert paths > Thresholds().mtu_loss_ratio * window + held


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scrape_intervall: 5s\n", "unknown key 'scrape_intervall' (did you mean 'scrape_interval'?)"),
        ("link_votes: two\n", "field 'link_votes': 'two' is not a whole number (write 2)"),
        ("link_votes: 2.5\n", "field 'link_votes': 2.5 is not a whole number (write 2)"),
        ("link_votes: true\n", "field 'link_votes': True is not a whole number (write 2)"),
        ("rtt_factor: '2'\n", "field 'rtt_factor': '2' is not a number (write 1.5)"),
        ("scrape_interval: 5\n", "field 'scrape_interval': 5 is not a duration (write 5s)"),
        ("window: [1m]\n", "field 'window': ['1m'] is not a duration (write 15s, 1m or 500ms)"),
        ("window:\n", "is empty (at 'window'; give it a value, or leave it out)"),
        ("link_loss_ratio: 0\n", "field 'link_loss_ratio': 0 is not over 0 and under 1 (the default is 0.05)"),
        ("path_loss_ratio: 1\n", "field 'path_loss_ratio': 1 is not over 0 and under 1 (the default is 0.05)"),
        ("mtu_loss_ratio: 40\n", "field 'mtu_loss_ratio': 40 is not over 0 and under 1 (the default is 0.4)"),
        ("link_slow_ratio: 1.1\n", "field 'link_slow_ratio': 1.1 is not over 0 and at most 1 (the default is 0.3)"),
        ("link_votes: 0\n", "field 'link_votes': 0 is not at least 1 (the default is 2)"),
        ("path_losses: -1\n", "field 'path_losses': -1 is not at least 1 (the default is 2)"),
        ("roce_packet_bytes: 0\n", "field 'roce_packet_bytes': 0 is not at least 1 (the default is 4160)"),
        ("rtt_factor: 0\n", "field 'rtt_factor': 0 is not over 0 (the default is 1.5)"),
        ("rtt_factor: .nan\n", "field 'rtt_factor': nan is not over 0 (the default is 1.5)"),
        ("link_slow_contrast: .inf\n", "field 'link_slow_contrast': inf is not over 0 (the default is 1.5)"),
        ("rtt_floor_seconds: -1\n", "field 'rtt_floor_seconds': -1 is not 0 or more (the default is 1e-05)"),
        ("scrape_interval: 0s\n", "field 'scrape_interval': 0s is no time at all (write 15s, 1m or 500ms)"),
        ("window: 0s\n", "field 'window': 0s is no time at all (write 15s, 1m or 500ms)"),
        ("for: 0s\n", "field 'for': 0s is no time at all (write 15s, 1m or 500ms)"),
        ("counter_window: 59s\n", "field 'counter_window': 59s is under four polls (at least 60s)"),
        (
            "poll_interval: 5s\n",
            "field 'poll_interval': 5s is under scrape_interval, 15s"
            " (at least 15s: what is read more often is not scraped)",
        ),
        ("- 1\n", "holds list, not a mapping"),
    ],
)
def test_wrong_thresholds_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ContractError) as refusal:
        read_thresholds(tmp_path / "t.yaml")
    assert str(refusal.value) == f"{tmp_path}/t.yaml: {message}"


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        (
            Thresholds(scrape_interval="soon"),
            "field 'scrape_interval': 'soon' is not a duration (write 15s, 1m or 500ms)",
        ),
        (Thresholds(window="30s"), "field 'window': 30s is under four scrapes (at least 60s)"),
        (Thresholds(for_="1d"), "field 'for': '1d' is not a duration (write 15s, 1m or 500ms)"),
    ],
)
def test_impossible_timing_is_refused(thresholds: Thresholds, message: str) -> None:
    with pytest.raises(ContractError, match=re.escape(message)):
        timing(thresholds)


@pytest.mark.parametrize(
    "text",
    [
        "link_slow_ratio: 1\ncongestion_pause_ratio: 1\n",
        "link_votes: 1\npath_losses: 3\nrtt_factor: 2\nrtt_floor_seconds: 0\nstarved_slots_per_second: 0\n",
        "keep_firing_for: 0s\n",
        "scrape_interval: 30s\n",
        "scrape_interval: 5s\npoll_interval: 5s\ncounter_window: 20s\n",
    ],
)
def test_thresholds_at_their_bounds_are_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(text)
    assert read_thresholds(tmp_path / "t.yaml") != Thresholds()


def test_every_number_has_a_bound_and_a_default_within() -> None:
    defaults = dict(zip(Thresholds.__struct_encode_fields__, astuple(Thresholds()), strict=True))
    assert set(BOUNDS) == {key for key, value in defaults.items() if not isinstance(value, str)}
    check_numbers(defaults, defaults, "defaults")


def test_the_committed_thresholds_are_the_defaults() -> None:
    assert read_thresholds(Path(__file__).parents[2] / "rules/thresholds.yaml") == Thresholds()


def test_each_link_of_a_tie_says_that_it_is_one_of_several(tmp_path: Path) -> None:
    """c's own link is cleared by a healthy path over the other spine; the two links before it stay tied."""
    vote = Vote()
    vote.loss = {key: (0.0, 0.0) for key in vote.loss if key[1] in ("a>c", "b>c", "c>b")}
    alerts = [
        (labels, notes)
        for labels, notes in vote.lose("udp", ["a>c", "b>c"], 0.4).alerts(tmp_path)
        if labels["alertname"] == "FabricLinkLoss"
    ]
    assert components(alerts, "FabricLinkLoss") == [BROKEN, "leaf-1:up0 -- spine-0:down1"]
    for _, notes in alerts:
        assert notes["description"].endswith(" It is one of 2 links that the probes of this job cannot tell apart.")


def notes(alerts: list[tuple[dict[str, str], dict[str, str]]], name: str) -> list[dict[str, str]]:
    return [annotations for labels, annotations in alerts if labels["alertname"] == name]


def test_a_link_that_loses_both_classes_is_one_alert_with_the_figures_of_both(tmp_path: Path) -> None:
    alerts = Vote("udp", "udp/0").lose("udp", over(BROKEN), 0.3).lose("udp/0", over(BROKEN), 0.3).alerts(tmp_path)
    ((labels, annotations),) = [alert for alert in alerts if alert[0]["alertname"] == "FabricLinkLoss"]
    assert (labels["component"], labels["dscp"]) == (BROKEN, "26")
    assert "probed paths over the link lose probes, those of the default class over it 18%;" in annotations["evidence"]


def test_a_loss_of_the_jobs_class_alone_says_that_the_default_class_lives(tmp_path: Path) -> None:
    alerts = Vote("udp", "udp/0").lose("udp", over(BROKEN), 0.3).alerts(tmp_path)
    assert components(alerts, "FabricLinkLoss") == [BROKEN]
    (annotations,) = notes(alerts, "FabricLinkLoss")
    assert "those of the default class over it 0%;" in annotations["evidence"]
    assert all("default class" not in each["description"] for each in notes(alerts, "FabricPathLoss"))


def test_a_loss_of_the_default_class_alone_says_so_in_each_notification(tmp_path: Path) -> None:
    alerts = Vote("udp", "udp/0").lose("udp/0", over(BROKEN), 0.3).alerts(tmp_path)
    assert [labels["dscp"] for labels, _ in alerts] == ["0"] * (1 + len(over(BROKEN)))
    assert components(alerts, "FabricLinkLoss") == [BROKEN]
    assert components(alerts, "FabricPathLoss") == [BROKEN] * len(over(BROKEN))
    (link,) = notes(alerts, "FabricLinkLoss")
    assert f"Link {BROKEN} loses 18% of the probes of the default class (DSCP 0) that cross it" in link["description"]
    path = notes(alerts, "FabricPathLoss")[0]["description"]
    assert path.endswith("loses 30% of its probes in the default class (DSCP 0), which is not the job's.")


def test_the_default_class_names_no_other_link_while_the_jobs_class_names_one(tmp_path: Path) -> None:
    """One port a pair tells fewer links apart: its two failing paths alone would accuse three links."""
    vote = Vote("udp").lose("udp", over(BROKEN), 0.3).lose("udp/0", ["a>c", "b>c"], 0.3)
    assert components(vote.alerts(tmp_path), "FabricLinkLoss") == [BROKEN]


def test_full_size_loss_is_compared_with_small_probes_of_its_own_class(tmp_path: Path) -> None:
    both_ways = [*over(BROKEN), *over(BROKEN, outward=False)]
    alerts = Vote("udp", "udp/0", "mtu").lose("mtu", both_ways, 1.0).lose("udp/0", both_ways, 1.0).alerts(tmp_path)
    assert components(alerts, "FabricLinkMtuMismatch") == [BROKEN]


def lossy(shares: dict[str, dict[str, float]], link: str, ratio: float, ports: int = 1) -> Vote:
    """Each path outward from leaf-0 loses what it sends over the link."""
    kinds = [f"udp/26/{port}" for port in range(ports)]
    vote = Vote(*kinds, shares=shares)
    for path, own in shares.items():
        if link in own and LEAF[path[0]] == 0:
            for kind in kinds:
                vote.lose(kind, [path], ratio * own[link])
    return vote


def test_where_packets_are_sprayed_the_fractions_name_the_link(tmp_path: Path) -> None:
    """Every path loses half of what the link does, and no path crosses it for certain as it does its own host's."""
    shares = sprayed_over({0: {0, 1, 2}, 1: {0, 1}, 2: {0, 2}})
    alerts = lossy(shares, BROKEN, 0.4).alerts(tmp_path)
    assert components(alerts, "FabricLinkLoss") == [BROKEN]
    (annotations,) = notes(alerts, "FabricLinkLoss")
    assert "loses 20% of the probes that cross it" in annotations["description"]  # 40 % one way, none the other
    assert annotations["evidence"].startswith("2 of 4 probed paths over the link lose probes;")  # 4 and 8 halves
    assert components(alerts, "FabricPathLoss") == [BROKEN] * 4


def test_where_packets_are_sprayed_a_hosts_own_link_is_told_from_the_links_above_it(tmp_path: Path) -> None:
    shares = sprayed_over({leaf: {0, 1, 2, 3} for leaf in range(3)})
    own = link_id("a:r0", "leaf-0:a")
    assert components(lossy(shares, own, 0.2).alerts(tmp_path), "FabricLinkLoss") == [own]


def test_links_that_all_sprayed_paths_cross_alike_are_each_named_as_one_of_several(tmp_path: Path) -> None:
    """All leaves on all spines: the shares of the four links up are the same."""
    shares = sprayed_over({leaf: {0, 1, 2, 3} for leaf in range(3)})
    alerts = lossy(shares, BROKEN, 0.4, ports=2).alerts(tmp_path)
    links_up = [link_id(f"leaf-0:up{spine}", f"spine-{spine}:down0") for spine in range(4)]
    assert components(alerts, "FabricLinkLoss") == links_up
    for note in notes(alerts, "FabricLinkLoss"):
        assert note["description"].endswith("It is one of 4 links that the probes of this job cannot tell apart.")


@pytest.mark.parametrize(("ports", "named"), [(1, []), (2, [BROKEN])])
def test_many_thin_votes_name_a_link_though_each_path_loses_little(
    ports: int, named: list[str], tmp_path: Path
) -> None:
    """Four paths a port cross it out of leaf-0, each with a third of its packets, and lose 4 %."""
    shares = sprayed_over({0: {0, 1, 2, 3, 4}, 1: {0, 1, 2}, 2: {0, 3, 4}})
    alerts = lossy(shares, BROKEN, 0.12, ports).alerts(tmp_path)
    assert components(alerts, "FabricLinkLoss") == named
    assert components(alerts, "FabricPathLoss") == []


def of_host(host: str) -> list[str]:
    return [path for path in SPINE if host in path]


def test_rdma_that_dies_where_udp_lives_accuses_the_rnic_and_no_link(tmp_path: Path) -> None:
    """All RDMA paths of one RNIC die: its cable used to be named, which carries their UDP twins unharmed."""
    dead = of_host("c")
    alerts = Vote("udp", "rdma").lose("rdma", dead, 1.0).alerts(tmp_path)
    assert {labels["alertname"] for labels, _ in alerts} == {"FabricRdmaOnlyLoss"}
    assert {labels["path"] for labels, _ in alerts} == {f"{path}/rdma" for path in dead}
    ((labels, annotations),) = [alert for alert in alerts if alert[0]["path"] == "a>c/rdma"]
    assert labels == {
        "alertname": "FabricRdmaOnlyLoss",
        "training_job": JOB,
        "role": "dp",
        "path": "a>c/rdma",
        "src_host": "a",
        "src_rnic": "r0",
        "dst_host": "c",
        "dst_rnic": "r0",
        "probe": "rdma",
        "dscp": "26",
        "severity": "critical",
        "component_kind": "path",
        "component": "a:r0 > c:r0",
        "suspect": f"paths of {JOB}",
        "symptom": "loss",
    }
    assert annotations["description"] == (
        f"Path a>c/rdma of job {JOB} loses 100% of its RDMA probes, and UDP between the same RNICs lives: look at the "
        "RNICs' RDMA configuration (GID, priority, PFC, filters of RoCE), not at a link."
    )
    from_a = [path for path in SPINE if path.startswith("a")]
    to_c = [path for path in SPINE if path.endswith("c")]
    assert annotations["evidence"] == (
        f"1 of {len(from_a)} RDMA paths from a:r0 fail so, and {len(to_c)} of {len(to_c)} to c:r0"
    )
    assert annotations["runbook_url"] == f"{RUNBOOKS}/FabricRdmaOnlyLoss.md"


def test_a_link_that_loses_rdma_and_udp_alike_is_a_link(tmp_path: Path) -> None:
    vote = Vote("udp", "rdma").lose("udp", over(BROKEN), 0.3).lose("rdma", over(BROKEN), 0.3)
    alerts = vote.alerts(tmp_path)
    assert components(alerts, "FabricLinkLoss") == [BROKEN, BROKEN]
    assert {labels["probe"] for labels, _ in alerts if labels["alertname"] == "FabricLinkLoss"} == {"udp", "rdma"}
    assert components(alerts, "FabricRdmaOnlyLoss") == []
    assert components(alerts, "FabricPathLoss") == [BROKEN] * 2 * len(over(BROKEN))


def test_where_rdma_alone_is_probed_its_paths_vote_and_nothing_is_compared(tmp_path: Path) -> None:
    alerts = Vote("rdma").lose("rdma", over(BROKEN), 0.3).alerts(tmp_path)
    assert components(alerts, "FabricLinkLoss") == [BROKEN]
    assert components(alerts, "FabricRdmaOnlyLoss") == []


def test_one_udp_way_that_fails_between_the_same_rnics_makes_an_rdma_path_like_any_other(tmp_path: Path) -> None:
    """RDMA takes another way than any UDP port: the link may be on that of one of them."""
    vote = Vote("udp", "udp/26/61001", "rdma").lose("rdma", ["a>c"], 0.5).lose("udp/26/61001", ["a>c"], 0.2)
    alerts = vote.alerts(tmp_path)
    assert components(alerts, "FabricRdmaOnlyLoss") == []
    assert {labels["path"] for labels, _ in alerts} == {"a>c/rdma", "a>c/udp/26/61001"}


def on_other_spines(probe: str) -> dict[str, dict[str, float]]:
    """Routes of all paths, with those of one probe over the spine that the others do not take."""
    shares = {path: dict.fromkeys(links(path), 1.0) for path in SPINE}
    other = {link: link.replace("0 -- spine-0", "1 -- spine-1") for route in shares.values() for link in route}
    other |= {link: link.replace("1 -- spine-1", "0 -- spine-0") for link in other if "spine-1" in link}
    return shares | {f"{path}/{probe}": {other[link]: 1.0 for link in shares[path]} for path in SPINE}


@pytest.mark.parametrize("failing", [["a>c", "b>c"], ["a>c"]], ids=["link named", "too few votes for the link"])
def test_a_link_that_udp_of_the_pairs_misses_is_not_taken_for_an_rnics_failure(
    failing: list[str], tmp_path: Path
) -> None:
    """Few source ports: RDMA crosses a lossy link that no UDP path does, and each path used to accuse its RNICs."""
    vote = Vote("udp", "rdma", shares=on_other_spines("udp"))
    vote.loss = {key: loss for key, loss in vote.loss.items() if key[1] in ("a>c", "b>c", "a>b")}
    alerts = vote.lose("rdma", failing, 0.3).alerts(tmp_path)
    assert components(alerts, "FabricRdmaOnlyLoss") == []
    assert {labels["path"] for labels, _ in alerts if labels["alertname"] == "FabricPathLoss"} == {
        f"{path}/rdma" for path in failing
    }
    named = components(alerts, "FabricLinkLoss")
    assert (BROKEN in named) == (len(failing) > 1)
    assert not [link for link in named if ":r0" in link], "UDP crosses the cables unharmed"


def test_a_dead_rnic_is_told_from_links_by_udp_of_any_pair(tmp_path: Path) -> None:
    """UDP of each pair misses the links of its RDMA path, and that of others crosses them unharmed."""
    dead = of_host("c")
    alerts = Vote("udp", "rdma", shares=on_other_spines("rdma")).lose("rdma", dead, 1.0).alerts(tmp_path)
    crossed = {link for path in SPINE for link in links(path)}
    routes = on_other_spines("rdma")
    told = {f"{path}/rdma" for path in dead if crossed.issuperset(routes[f"{path}/rdma"])}
    assert told
    assert {labels["path"] for labels, _ in alerts if labels["alertname"] == "FabricRdmaOnlyLoss"} == told


def test_a_dead_rnic_is_told_beside_a_lossy_link_too(tmp_path: Path) -> None:
    vote = Vote("udp", "rdma").lose("udp", over(BROKEN), 0.2).lose("rdma", over(BROKEN), 0.2)
    dead = of_host("d")
    alerts = vote.lose("rdma", dead, 1.0).alerts(tmp_path)
    assert BROKEN in components(alerts, "FabricLinkLoss")
    assert {labels["path"] for labels, _ in alerts if labels["alertname"] == "FabricRdmaOnlyLoss"} == {
        f"{path}/rdma" for path in dead
    }


@pytest.mark.parametrize(("ratio", "name"), [(0.06, "FabricPathLoss"), (0.08, "FabricRdmaOnlyLoss")])
def test_few_udp_probes_prove_nothing(ratio: float, name: str, tmp_path: Path) -> None:
    """Of the 75 in a window, 4.5 would have been lost had UDP fared as RDMA did, or 6: the service needs five."""
    alerts = Vote("udp", "rdma").lose("rdma", ["a>c"], ratio).alerts(tmp_path)
    assert {labels["alertname"] for labels, _ in alerts} == {name}


def test_udp_of_another_class_acquits_no_link_of_rdma(tmp_path: Path) -> None:
    alerts = Vote("udp/0", "rdma").lose("rdma", ["a>c"], 0.5).alerts(tmp_path)
    assert {labels["alertname"] for labels, _ in alerts} == {"FabricPathLoss"}


def test_rdma_loss_must_last_and_be_more_than_little(tmp_path: Path) -> None:
    assert Vote("udp", "rdma").lose("rdma", SPINE, 0.049).alerts(tmp_path) == []
    assert Vote("udp", "rdma").lose("rdma", ["a>c"], 1.0).alerts(tmp_path, "1m") == []
