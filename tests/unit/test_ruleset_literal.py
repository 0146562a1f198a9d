"""Rules that name each path: thresholds learnt from probe records, in a capped number of rules."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from exporter.contracts.codec import ContractError
from skeleton_service.cli import main
from skeleton_service.reading.records import read_records
from skeleton_service.ruleset import Thresholds
from skeleton_service.ruleset.histories import path_histories
from skeleton_service.ruleset.literal import LiteralPath, literal_rules, rtt_threshold

EXAMPLES = Path(__file__).parents[2] / "examples"
JOB = "ember-f8cb83"
PATH = "h1:r0>h2:r0/udp/106/61000"
START = 1_760_000_000
COLUMNS = (
    "task_type", "ping_time", "src_node_id", "dst_node_id", "src_node_sn", "dst_node_sn", "src_port", "dial", "latency",
    "loss_rate", "job", "src_rnic", "dst_rnic", "dscp", "packets_sent", "packets_lost", "starved",
)  # fmt: skip


def records(place: Path, latency: dict[int, float | None], **more: object) -> Path:
    """A probe every ten seconds of each minute; None is one that was lost."""
    is_new = not place.exists()
    with place.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        for minute, found in latency.items():
            for second in range(0, 60, 10):
                row = {
                    "task_type": "UDP_PING", "ping_time": (START // 60 * 60 + minute * 60 + second) * 10**9,
                    "src_node_id": "c1", "dst_node_id": "c2", "src_node_sn": "h1", "dst_node_sn": "h2",
                    "src_port": 61000, "dial": "fail" if found is None else "success", "latency": found,
                    "loss_rate": float(found is None), "job": JOB, "src_rnic": "r0", "dst_rnic": "r0", "dscp": 26,
                }  # fmt: skip
                writer.writerow(row | more)
    return place


def learnt(place: Path, job: str = JOB) -> list[LiteralPath]:
    return path_histories(read_records([place]), job, Thresholds(), str(place))


def test_a_path_is_named_as_the_plan_does_with_the_medians_of_its_minutes(tmp_path: Path) -> None:
    place = records(tmp_path / "p.csv", dict.fromkeys(range(40), 16.0))
    assert learnt(place) == [LiteralPath(PATH, (16e-6,) * 40)]
    plan = json.loads((EXAMPLES / "plan.json").read_text())
    named = {path.path for path in learnt(EXAMPLES / "probe-records.csv")}
    assert len(named & {target["path"] for target in plan["targets"]}) > 10


def test_minutes_that_lose_or_are_starved_teach_nothing(tmp_path: Path) -> None:
    place = records(tmp_path / "p.csv", {0: 16.0, 1: None, 2: 17.0})
    records(place, {3: 900.0}, starved=1)
    records(place, {2: None}, packets_sent=1, packets_lost=1)
    assert learnt(place) == [LiteralPath(PATH, (16e-6,))]


def test_records_of_other_jobs_are_not_this_jobs_and_those_of_none_are(tmp_path: Path) -> None:
    place = records(tmp_path / "p.csv", {0: 16.0}, job="other", src_node_sn="h9")
    records(place, {0: 16.0}, job="")
    records(place, {0: 16.0}, task_type="RDMA_PING", dscp=0)
    assert [path.path for path in learnt(place)] == ["h1:r0>h2:r0/rdma/2/61000", PATH]
    assert learnt(place, "other")[-1].path.startswith("h9:r0>")


def test_records_that_name_no_path_are_refused(tmp_path: Path) -> None:
    place = records(tmp_path / "p.csv", {0: 16.0}, src_rnic="")
    with pytest.raises(ContractError, match=r"p\.csv: no record of job 'ember-f8cb83' has src_node_sn, src_rnic"):
        learnt(place)


def test_the_threshold_is_that_of_the_series() -> None:
    minutes = tuple(float(each) for each in np.linspace(15e-6, 17e-6, 60))
    found = rtt_threshold(LiteralPath("p", minutes), Thresholds())
    assert found == pytest.approx(1.5 * np.quantile(minutes, 0.99) + 10e-6)
    faulty = LiteralPath("p", minutes[:40] + (120e-6,) * 20)
    assert rtt_threshold(faulty, Thresholds()) == rtt_threshold(LiteralPath("p", minutes[:40]), Thresholds())
    assert rtt_threshold(LiteralPath("p", minutes[:29]), Thresholds()) is None


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)")
@pytest.mark.parametrize("job", ["plain", 'quo"te', "{{ $labels.x }}", "a: b #c", "line\nbreak", "größe", "-"])
def test_each_path_has_its_alerts_and_one_that_is_little_known_no_round_trip(job: str, tmp_path: Path) -> None:
    young = "h2:r0>h1:r0/udp/106/61000"
    ((name, text),) = literal_rules(
        job, [LiteralPath(young, (16e-6,) * 5), LiteralPath(PATH, (16e-6,) * 60)], Thresholds()
    ).items()
    found = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    assert [(rule["alert"], rule["labels"]["path"]) for rule in found] == [
        ("FabricPathLoss", PATH), ("FabricPathSlow", PATH), ("FabricPathLoss", young),
    ]  # fmt: skip
    assert "# No alert on its round trips" in text
    (tmp_path / name).write_text(text)
    series = [
        {"series": f'fabric_path_probes_sent_total{{path="{PATH}"}}', "values": "0+15x20"},
        {"series": f'fabric_path_probes_lost_total{{path="{PATH}"}}', "values": "0+3x20"},
        {"series": f'fabric_path_probes_lost_return_total{{path="{PATH}"}}', "values": "0+0x20"},
        {"series": f'fabric_path_rtt_seconds{{path="{PATH}"}}', "values": "0.000035x20"},
        {"series": f'fabric_path_probes_sent_total{{path="{young}"}}', "values": "0+15x20"},
        {"series": f'fabric_path_probes_lost_total{{path="{young}"}}', "values": "0+0x20"},
        {"series": f'fabric_path_rtt_seconds{{path="{young}"}}', "values": "0.5x20"},
    ]
    labels = {
        "path": PATH, "training_job": job, "severity": "warning", "component_kind": "path",
        "suspect": f"paths of {job}",
    }  # fmt: skip
    links = {"runbook_url": "https://github.com/fabric-skeleton/fabric-skeleton/blob/main/docs/runbooks/{}.md"}
    links["dashboard_url"] = (
        "http://localhost:3000/d/fabric-path?var-cluster=&var-path=h1%3Ar0%3Eh2%3Ar0%2Fudp%2F106%2F61000"
    )
    expected = {
        "FabricPathLoss": (
            "loss", "A path of a training job loses probes.", f"Path {PATH} of job {job} loses 20% of its probes."
        ),
        "FabricPathSlow": (
            "latency", "Round trips on a path of a training job take longer than they did.",
            f"Round trips on path {PATH} of job {job} take 35us; it learnt that 3.4e-05 s are enough.",
        ),
    }  # fmt: skip
    test = {
        "interval": "15s",
        "input_series": series,
        "alert_rule_test": [
            {
                "eval_time": "4m",
                "alertname": alert,
                "exp_alerts": [
                    {
                        "exp_labels": labels | {"symptom": symptom},
                        "exp_annotations": {
                            "summary": summary, "description": description, "jobs": job,
                            "runbook_url": links["runbook_url"].format(alert), "dashboard_url": links["dashboard_url"],
                        },
                    }
                ],
            }
            for alert, (symptom, summary, description) in expected.items()
        ],
    }  # fmt: skip
    document = {"rule_files": [name], "evaluation_interval": "15s", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document, allow_unicode=True))
    for argv in (["check", "rules", "--lint=all", "--lint-fatal", name], ["test", "rules", "test.yaml"]):
        run = subprocess.run(["promtool", *argv], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr


def test_more_paths_than_may_be_are_refused_with_the_remedy() -> None:
    paths = [LiteralPath(f"p{number}") for number in range(501)]
    with pytest.raises(ContractError, match=re.escape("501 paths of job 'j' are more than the 500 of --max-paths")):
        literal_rules("j", paths, Thresholds())
    assert len(literal_rules("j", paths, Thresholds(), max_paths=501)) == 1


def test_the_command_makes_them_and_refuses_too_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "rules", "--skeleton", str(EXAMPLES / "skeleton.json"), "--topology", str(EXAMPLES / "topology.yaml"),
        "--literal", "--probes", str(EXAMPLES / "probe-records.csv"), "--output", str(tmp_path),
    ]  # fmt: skip
    assert main(argv) == 0
    (written,) = tmp_path.iterdir()
    assert "alert: FabricPathLoss" in written.read_text()
    assert main([*argv, "--check"]) == 0
    capsys.readouterr()
    assert main([*argv, "--max-paths", "3"]) == 2
    assert "are more than the 3 of --max-paths (leave out --literal" in capsys.readouterr().err


def test_paths_that_are_too_little_known_for_round_trips_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = records(tmp_path / "p.csv", dict.fromkeys(range(30), 16.0))
    argv = [
        "rules", "--skeleton", str(EXAMPLES / "skeleton.json"), "--topology", str(EXAMPLES / "topology.yaml"),
        "--literal", "--probes", str(place), "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(argv) == 0
    assert capsys.readouterr().err == ""
    records(place, dict.fromkeys(range(29), 16.0), src_node_sn="h3")
    assert main(argv) == 0
    assert capsys.readouterr().err == (
        f"1 of 2 paths of job '{JOB}' get no alert on round trips: "
        "the records hold fewer than 30 healthy minutes of each\n"
    )
