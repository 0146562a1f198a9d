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
