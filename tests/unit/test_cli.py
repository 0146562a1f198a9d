"""The commands: exit codes, one line for bad input, and --check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter import __version__
from exporter.cli import main as exporter_main
from exporter.contracts.plan import read_plan
from exporter.contracts.skeleton import read_skeleton
from exporter.contracts.topology import read_topology
from skeleton_service.alertlinks import GRAFANA, RUNBOOKS
from skeleton_service.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
TOPOLOGY, SKELETON = str(EXAMPLES / "topology.yaml"), str(EXAMPLES / "skeleton.json")


def rules(output: Path, *more: str) -> int:
    return main(["rules", "--skeleton", SKELETON, "--topology", TOPOLOGY, "--output", str(output), *more])


def test_check_is_0_when_fresh_and_1_with_a_diff_when_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rules(tmp_path) == 0
    (written,) = tmp_path.iterdir()
    assert capsys.readouterr().out == f"{written}\n"
    assert rules(tmp_path, "--check") == 0
    assert capsys.readouterr().out == ""
    written.write_text(written.read_text().replace("severity: critical", "severity: page", 1))
    stale = written.read_bytes()
    assert rules(tmp_path, "--check") == 1
    difference = capsys.readouterr().out
    assert "-          severity: page\n+          severity: critical\n" in difference
    assert written.read_bytes() == stale  # --check writes nothing


def test_check_of_a_directory_without_rules_is_1_and_makes_none(tmp_path: Path) -> None:
    assert rules(tmp_path / "none", "--check") == 1
    assert not (tmp_path / "none").exists()


def test_thresholds_change_the_rules(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("scrape_interval: 1s\nlink_loss_ratio: 0.001\n")
    assert rules(tmp_path / "out", "--thresholds", str(tmp_path / "t.yaml"), "--runbooks", "https://r.example") == 0
    (text,) = (path.read_text() for path in (tmp_path / "out").iterdir())
    assert "> 0.001" in text
    assert "interval: 1s" in text
    assert "runbook_url: https://r.example/FabricLinkLoss.md" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rules", "--skeleton", "none.json", "--topology", TOPOLOGY], "none.json: No such file or directory"),
        (["rules", "--skeleton", TOPOLOGY, "--topology", TOPOLOGY], f"{TOPOLOGY}: Object missing required field `job`"),
        (
            ["plan", "--skeleton", SKELETON, "--topology", SKELETON],
            f"{SKELETON}: Object missing required field `hosts`",
        ),
        (
            ["diagnose", "--probes", TOPOLOGY, "--topology", TOPOLOGY, "--skeleton", SKELETON],
            f"{TOPOLOGY}: is not valid CSV: its first line is '# Two pods",
        ),
        (["infer", "--throughput", "none.csv", "--topology", TOPOLOGY], "none.csv: No such file or directory"),
    ],
)
def test_bad_input_is_exit_2_with_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"skeleton-service: {message}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


THROUGHPUT = "time,job,host,container,rnic,tx_bytes_per_second,rx_bytes_per_second\n"


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ("1,j,h9,c,r,1,1\n", [], f"{TOPOLOGY}: host 'h9' is missing, needed by endpoint 'c/r' (add it)"),
        ("1,j,host-p0-0,c,r,1,1\n", [], f"{TOPOLOGY}: RNIC 'r' of host 'host-p0-0' is missing"),
        (
            "1,j,host-p0-0,c,mlx5_0,1,1\n1,j,host-p0-1,c,mlx5_0,1,1\n",
            [],
            "t.csv: column 'container': 'c' is on two hosts, host-p0-0 and host-p0-1 (name containers uniquely",
        ),
        ("1,j,h,c,r,-1,1\n", [], "t.csv: column 'tx_bytes_per_second' is negative (was it a counter reset? leave"),
        ("1,k,h,c,r,1,1\n", ["--job", "j"], "t.csv: no rows of job 'j', but of k (observe the job for"),
        ("", [], "t.csv: holds no rows"),
        (
            "1,j,h,c,r,1,1\n",
            ["--window", "15m"],
            "--throughput: --window, --step, --end and --prometheus-token-file are",
        ),
    ],
)
def test_bad_throughput_is_exit_2_with_one_line_and_nothing_written(
    rows: str, more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text(THROUGHPUT + rows)
    arguments = ["infer", "--throughput", str(tmp_path / "t.csv"), "--topology", TOPOLOGY, *more]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.removeprefix("skeleton-service: ").removeprefix(f"{tmp_path}/").startswith(message)
    assert output.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("option", ["--window=15", "--window=0s", "--step=1x", "--end=noon", "--end=nan"])
def test_a_wrong_time_is_exit_2(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["infer", "--throughput", "prometheus:http://h", "--topology", TOPOLOGY, "--output", "o", option])
    assert option.partition("=")[0] in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "none" / "plan.json"
    assert main(["plan", "--skeleton", SKELETON, "--topology", TOPOLOGY, "--output", str(output)]) == 2
    assert capsys.readouterr().err.endswith("plan.json: cannot be written: No such file or directory\n")


def test_a_failure_found_is_exit_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probes, output = str(EXAMPLES / "probe-records.csv"), tmp_path / "d.json"
    options = ["--topology", TOPOLOGY, "--skeleton", SKELETON, "--output", str(output)]
    assert main(["diagnose", "--probes", probes, *options]) == 0
    assert capsys.readouterr().out.startswith("loss: link host-p0-0:mlx5_0 -- leaf-p0-r0:Ethernet8 ")
    assert len(json.loads(output.read_text())["failures"]) == 1


@pytest.mark.parametrize("module", ["exporter.cli", "skeleton_service.cli"])
def test_help_and_version_need_no_heavy_library(module: str) -> None:
    program = (
        "import sys, importlib\n"
        f"sys.argv = ['x', '--version']\n"
        f"try: importlib.import_module('{module}').main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'pysnmp', 'opentelemetry', 'scipy', 'pyarrow'} & set(sys.modules)\n"
        "print(code, sorted(heavy))"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout == f"{__version__}\n0 []\n"


def test_the_exporters_reference_is_printed_in_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert exporter_main(["metrics"]) == 0
    assert capsys.readouterr().out.startswith("# Metrics\n")
    assert exporter_main(["metrics", "--format", "json"]) == 0
    assert {"name", "type", "labels"} <= set(json.loads(capsys.readouterr().out)[0])


def test_the_committed_reference_is_the_printed_one(capsys: pytest.CaptureFixture[str]) -> None:
    exporter_main(["metrics"])
    assert (EXAMPLES.parent / "docs/metrics.md").read_text() == capsys.readouterr().out


@pytest.mark.parametrize("command", ["exporter.cli", "skeleton_service.cli"])
def test_no_command_is_exit_2(command: str) -> None:
    run = subprocess.run([sys.executable, "-m", command], check=False, capture_output=True, text=True, env=os.environ)
    assert run.returncode == 2
    assert "COMMAND" in run.stderr


@pytest.mark.parametrize("coverage", ["1", "0", "-0.5", "nan", "all"])
def test_a_coverage_that_cannot_be_reached_is_exit_2(
    coverage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 used to end in a traceback: no number of ports covers all paths for certain."""
    arguments = ["plan", "--skeleton", SKELETON, "--topology", TOPOLOGY, "--output", str(tmp_path / "plan.json")]
    with pytest.raises(SystemExit) as end:
        main([*arguments, f"--coverage={coverage}"])
    assert end.value.code == 2
    assert "argument --coverage: " in capsys.readouterr().err
    assert not (tmp_path / "plan.json").exists()


def test_a_keep_firing_for_that_is_no_duration_is_exit_2_with_the_name_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It used to be written into rules that Prometheus then refused."""
    thresholds = tmp_path / "t.yaml"
    thresholds.write_text("keep_firing_for: banana\n")
    assert rules(tmp_path / "out", "--thresholds", str(thresholds)) == 2
    assert capsys.readouterr().err == (
        f"skeleton-service: {thresholds}: field 'keep_firing_for': 'banana' is not a duration "
        "(write 15s, 1m or 500ms)\n"
    )
    assert not (tmp_path / "out").exists()


def planned(output: Path, *more: str) -> int:
    return main(["plan", "--topology", TOPOLOGY, "--output", str(output), *more])


def test_a_preload_list_needs_a_topology_and_the_name_of_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everyone = [host.name for host in read_topology(TOPOLOGY).hosts]
    assert planned(tmp_path / "all.json", "--phase", "preload", "--job", "j") == 0
    plan = read_plan(tmp_path / "all.json")
    assert (plan.job, plan.phase, {target.active for target in plan.targets}) == ("j", "preload", {False})
    assert {target.source.partition("/")[0] for target in plan.targets} == set(everyone)
    capsys.readouterr()
    (tmp_path / "hosts").write_text(f"# the job's\n{everyone[0]}, {everyone[1]}\n{everyone[2]} # spare\n")
    for hosts in (",".join(everyone[:3]), str(tmp_path / "hosts")):
        options = ["--phase", "preload", "--job", "j", "--hosts", hosts, "--split-by-host"]
        assert planned(tmp_path / "parts", *options) == 0
        assert sorted(path.stem for path in (tmp_path / "parts").iterdir()) == sorted(everyone[:3])
        part = read_plan(tmp_path / "parts" / f"{everyone[0]}.json")
        assert {target.source_host for target in part.targets} == {everyone[0]}
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'parts'}: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--skeleton: is missing, and phase skeleton is planned from it (or --phase preload, "),
        (["--phase", "preload"], "--job: is missing, and no --skeleton names the job (name the job)"),
        (["--skeleton", SKELETON, "--job", "j"], "--job: is of no use with --skeleton"),
        (["--skeleton", SKELETON, "--hosts", "a"], "--hosts: is of no use with --skeleton"),
        (
            ["--phase", "preload", "--job", "j", "--hosts", "host-p0-0,host-p0-11"],
            "--hosts: host 'host-p0-11' is not in the topology (did you mean 'host-p0-1'?)",
        ),
        (
            ["--phase", "preload", "--job", "j", "--hosts", "host-p0-0,host-p0-0"],
            "--hosts: host 'host-p0-0' appears twice",
        ),
    ],
)
def test_what_a_plan_is_made_from_is_said_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(tmp_path / "plan.json", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"skeleton-service: {message}")
    assert error.count("\n") == 1
    assert not (tmp_path / "plan.json").exists()


def test_the_classes_of_a_plan_can_be_chosen_and_one_that_ecn_drops_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    options = ["--skeleton", SKELETON, "--traffic-class"]
    assert planned(file, *options, "98", "--default-traffic-class", "none") == 0
    assert {target.traffic_class for target in read_plan(file).targets} == {98}
    assert planned(file, *options, "98") == 0
    assert {target.traffic_class for target in read_plan(file).targets} == {98, 2}
    capsys.readouterr()
    assert planned(file, *options, "96") == 2
    error = capsys.readouterr().err
    assert error.startswith("skeleton-service: planning: field 'traffic_class': 96 is not ECN-capable, ECT(0): a queue")
    assert error.endswith("(write 98 for DSCP 24)\n")


@pytest.mark.parametrize("option", ["--max-paths=0", "--max-paths=x", "--exploration=-0.1", "--exploration=nan"])
def test_limits_out_of_range_are_exit_2(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        planned(tmp_path / "plan.json", "--skeleton", SKELETON, option)
    assert end.value.code == 2
    assert f"argument {option.partition('=')[0]}: " in capsys.readouterr().err


def test_a_host_whose_name_leads_out_of_the_directory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topology = tmp_path / "t.yaml"
    topology.write_text(
        "version: 1\nlinks: [{a: 'a:r', b: 'leaf:1'}, {a: '../b:r', b: 'leaf:2'}]\n"
        "switches: [{name: leaf, tier: leaf}]\n"
        "hosts: [{name: a, rnics: [{name: r, ip: 10.0.0.1}]}, {name: ../b, rnics: [{name: r, ip: 10.0.0.2}]}]\n"
    )
    options = ["--phase", "preload", "--job", "j", "--split-by-host", "--output", str(tmp_path / "parts")]
    assert main(["plan", "--topology", str(topology), *options]) == 2
    assert "host '../b' cannot name a file" in capsys.readouterr().err
    assert not (tmp_path / "b.json").exists()


def test_a_skeleton_that_holds_is_kept_and_a_job_may_be_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    throughput, output = str(EXAMPLES / "throughput.csv"), tmp_path / "skeleton.json"
    arguments = ["infer", "--throughput", throughput, "--topology", TOPOLOGY, "--output", str(output)]
    assert main([*arguments, "--previous", SKELETON]) == 0
    assert "as before" in capsys.readouterr().out
    assert read_skeleton(output).edges == read_skeleton(SKELETON).edges
    assert main([*arguments, "--basic"]) == 0
    assert "no structure" in capsys.readouterr().out
    assert read_skeleton(output).fallback == "basic"
    assert main([*arguments, "--basic", "--previous", SKELETON]) == 2


@pytest.mark.parametrize("command", ["rules", "lint"])
def test_help_says_what_each_option_is_and_what_exit_codes_mean(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    options = [line.strip() for line in text.partition("options:")[2].splitlines() if line.startswith("  -")]
    assert len(options) > 8
    lines = [line.strip() for line in text.splitlines()]
    after = {line: lines[lines.index(line) + 1] for line in options}
    bare = [line for line in options if "  " not in line and (not after[line] or after[line].startswith("-"))]
    assert bare == []
    assert "Exit codes: 0: " in text
    assert f"/docs/{command}.md" in text
    if command == "rules":
        assert f"default: {RUNBOOKS}" in text
        assert f"default: {GRAFANA}" in text
