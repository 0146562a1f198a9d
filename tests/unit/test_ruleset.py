"""The generated rules of a job, judged by promtool: the link vote on small votes made by hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from exporter.contracts.codec import ContractError
from exporter.contracts.names import link_id
from exporter.contracts.sizes import roce_packet_bytes
from skeleton_service.ruleset import Thresholds, job_rules, read_thresholds, rule_file_name, timing

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)")

JOB = 'gpt "7\\b'  # every quote of this has to survive YAML, PromQL and a Go template
RUNBOOKS = "https://runbooks.example"
BROKEN = "leaf-0:up0 -- spine-0:down0"

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


class Vote:
    """What the exporters of a job counted: each probe type of each path, as series for promtool."""

    def __init__(self, *probes: str) -> None:
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

        for (probe, path), (ratio, back) in self.loss.items():
            name = f"{path}/{probe}"
            labels = {
                "path": name, "src_host": path[0], "src_rnic": "r0", "dst_host": path[2], "dst_rnic": "r0",
                "probe": probe,
            }  # fmt: skip
            add("fabric_path_probes_sent_total", labels, "0+15x40")
            add("fabric_path_probes_lost_total", labels, f"0+{15 * ratio}x40")
            add("fabric_path_probes_lost_return_total", labels, f"0+{15 * back}x40")
            add("fabric_job_path_info", {"training_job": JOB, "path": name, "role": "dp"}, "1x40")
            add("fabric_job_path_info", {"training_job": "other", "path": name, "role": "pp"}, "1x40")
            for link in links(path):
                # The same again from a second exporter instance: an overlap must not become many-to-many.
                for instance in ("x", "y"):
                    add("fabric_path_link_info", {"path": name, "link": link, "instance": instance}, "1x40")
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
        for name, text in job_rules(JOB, Thresholds(), RUNBOOKS).items():
            (directory / name).write_text(text)
        names = (
            "FabricLinkLoss", "FabricLinkMtuMismatch", "FabricPathLoss", "FabricPathMtuBelowPromise",
            "FabricPathMtuBelowRoce",
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
        "link": BROKEN,
        "component": BROKEN,
        "component_kind": "link",
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
    assert annotations["evidence"].endswith("its switch ports count nothing (not polled) and nothing (not polled)")
    assert annotations["evidence"].startswith(f"{failing} of {crossing} probed paths over the link lose probes;")
    assert annotations["runbook_url"] == f"{RUNBOOKS}/FabricLinkLoss.md"


def test_paths_carry_the_suspect_they_cross_so_that_it_inhibits_them(tmp_path: Path) -> None:
    alerts = Vote().lose("udp", over(BROKEN), 0.3).alerts(tmp_path)
    assert components(alerts, "FabricPathLoss") == [BROKEN] * len(over(BROKEN))
    assert {labels["path"] for labels, _ in alerts if labels["alertname"] == "FabricPathLoss"} == {
        f"{path}/udp" for path in over(BROKEN)
    }


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
    for name, text in job_rules(job, Thresholds()).items():
        (tmp_path / name).write_text(text)
        argv = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", name]
        run = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        selectors = re.findall(r'training_job=("(?:[^"\\]|\\.)*")', text)
        assert selectors
        assert {json.loads(selector) for selector in selectors} == {job}
        for group in yaml.safe_load(text)["groups"]:
            assert group["name"].startswith(f"fabric-job-{job}-")


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
        ("link_votes: two\n", "Expected `int`, got `str` (at 'link_votes')"),
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
