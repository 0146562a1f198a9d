"""The linter's checks: what each prints, to the character, and that near misses print nothing."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from skeleton_service.cli import main
from skeleton_service.lint.linting import RULE_CHECKS
from skeleton_service.lint.problem import CHECKS

GOLDEN = Path(__file__).parent / "golden/lint"
SMALL = "groups:\n  - name: g\n    rules:\n      - record: a:b:c\n        expr: {}\n"


def said(path: Path) -> str:
    """What the check that the file is named after prints of it: all others are disabled."""
    (check,) = (each for each in CHECKS if path.stem.startswith(each.replace("/", "-")))
    options = re.match(r"# options: (.*)", path.read_text())
    others = [option for each in CHECKS if each != check for option in ("--disable", each)]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.chdir(GOLDEN):
        main(["lint", path.name, *others, *(options[1].split() if options else ())])
    return output.getvalue()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_check_prints_what_it_finds_and_nothing_of_near_misses(path: Path) -> None:
    assert said(path) == path.with_suffix(".txt").read_text()


def test_every_check_has_a_case() -> None:
    tested = {check for check in CHECKS for path in GOLDEN.glob("*.txt") if f"({check})" in path.read_text()}
    assert tested | {"group/size", "runbook/missing"} == set(CHECKS)  # these two have tests of their own
    assert set(RULE_CHECKS) < set(CHECKS)


def files(tmp_path: Path, **texts: str) -> list[str]:
    paths = []
    for name, text in texts.items():
        paths.append(str(tmp_path / f"{name}.yaml"))
        Path(paths[-1]).write_text(text)
    return paths


@pytest.mark.parametrize(
    ("expr", "fail_on", "code"),
    [
        ("fabric_nosuch", "error", 1),
        ("rate(fabric_path_probes_sent_total[5s])", "error", 0),
        ("rate(fabric_path_probes_sent_total[5s])", "warning", 1),
        ("node_load1", "warning", 0),
        ("node_load1", "info", 1),
        ("up", "info", 0),
    ],
)
def test_the_exit_code_is_that_of_the_worst_problem(tmp_path: Path, expr: str, fail_on: str, code: int) -> None:
    assert main(["lint", *files(tmp_path, a=SMALL.format(expr)), "--fail-on", fail_on]) == code


def test_nothing_to_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", *files(tmp_path, a=SMALL.format("up"), b=SMALL.format("1 - up"))]) == 0
    assert capsys.readouterr().out == "2 files, 2 rules: nothing to say\n"


def test_a_file_that_cannot_be_read_hides_no_problem_of_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, missing = *files(tmp_path, a=SMALL.format("fabric_nosuch")), str(tmp_path / "missing.yaml")
    assert main(["lint", missing, good]) == 2
    said = capsys.readouterr()
    assert "fabric_nosuch is no metric" in said.out
    assert said.err == f"skeleton-service: {missing}: No such file or directory\n"


def test_json_holds_the_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = files(tmp_path, a=SMALL.format("rate(fabric_path_probes_lots_total[5m])"))
    assert main(["lint", path, "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "files": 1,
        "rules": 1,
        "problems": [
            {
                "file": path,
                "line": 5,
                "column": 20,
                "end_line": 5,
                "end_column": 48,
                "severity": "error",
                "check": "promql/series",
                "message": "fabric_path_probes_lots_total is no metric of the catalogue",
                "remedy": "did you mean fabric_path_probes_lost_total?",
            }
        ],
    }


def test_github_gets_workflow_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = files(tmp_path, **{"a,b": SMALL.format("fabric_path_probes_lots_total{a=~'100%'}")})
    assert main(["lint", path, "--format", "github", "--disable", "promql/label"]) == 1
    place = f"file={path.replace(',', '%2C')},line=5,endLine=5,col="
    assert capsys.readouterr().out.splitlines() == [
        f"::error {place}15,endColumn=43,title=promql/series::fabric_path_probes_lots_total is no metric of the "
        "catalogue (did you mean fabric_path_probes_lost_total?)",
        f"::warning {place}48,endColumn=53,title=promql/regexp::=~ with a pattern that matches one value alone (use =)",
        "2 problems (1 error, 1 warning) in 1 file",
    ]


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_only_on_a_terminal_that_wants_it(
    tmp_path: Path, no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("NO_COLOR", no_color)
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        main(["lint", *files(tmp_path, a=SMALL.format("fabric_nosuch"))])
    assert ("\x1b[" in terminal.getvalue()) == coloured


RULES = """groups:
  # fabric-lint disable promql/nan
  - name: g
    rules:
      {}
      - record: a:b:c
        expr: rate(fabric_path_probes_sent_total[5s]){}
      - record: a:b:d
        expr: up / sum(up)
"""


@pytest.mark.parametrize(
    ("above", "beside", "count"),
    [
        ("", "", 1),
        ("# fabric-lint disable promql/rate", "", 0),
        ("# So it is meant. fabric-lint disable promql/nan, promql/rate", "", 0),
        ("", " # fabric-lint disable promql/rate", 0),
        ("# fabric-lint disable promql/counter", "", 1),
        ("# fabric-lint file/disable promql/rate", "", 0),
    ],
)
def test_comments_disable_checks(
    tmp_path: Path, above: str, beside: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["lint", *files(tmp_path, a=RULES.format(above or "#", beside))])
    assert capsys.readouterr().out.count("(promql/") == count


def test_a_comment_above_a_rule_is_not_for_the_one_after_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = "      - record: a:b:{}\n        expr: rate(fabric_path_probes_sent_total[5s])\n"
    text = (
        "groups:\n  - name: g\n    rules:\n      # fabric-lint disable promql/rate\n"
        + bad.format("c")
        + bad.format("d")
    )
    main(["lint", *files(tmp_path, a=text)])
    said = capsys.readouterr().out
    assert ":8:" in said
    assert ":6:" not in said


@pytest.mark.parametrize(("rules", "fires"), [(20, False), (21, True)])
def test_mimir_takes_twenty_rules_a_group(
    tmp_path: Path, rules: int, fires: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "groups:\n  - name: g\n    rules:\n" + "".join(
        f"      - {{record: 'a:b:c{number}', expr: up}}\n" for number in range(rules)
    )
    (path,) = files(tmp_path, a=text)
    assert main(["lint", path]) == 0
    assert main(["lint", path, "--mimir"]) == int(fires)
    assert ("21 rules in a group: Mimir takes 20 by default (group/size)" in capsys.readouterr().out) == fires


def test_runbooks_are_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "groups:\n  - name: g\n    rules:\n" + "".join(
        f"      - alert: {name}\n        expr: up == 0\n        annotations:\n          runbook_url: {url}\n"
        for name, url in {
            "There": "https://example.com/blob/main/There.md",
            "Here": "https://example.com/Here/#meaning",
            "Gone": "https://example.com/Gone.md",
            "Made": '"https://example.com/{{ $labels.job }}"',
            "Root": "https://example.com/..",
        }.items()
    )
    for name in ("There", "Here"):
        (tmp_path / f"{name}.md").touch()
    (path,) = files(tmp_path, a=text)
    others = [option for check in CHECKS if check != "runbook/missing" for option in ("--disable", check)]
    assert main(["lint", path, "--runbooks", str(tmp_path), *others]) == 1
    said = capsys.readouterr().out
    assert re.findall(r": error: (\S+) ", said) == ["Gone.md", "the"]
    assert f"Gone.md is not in {tmp_path} (runbook/missing)" in said


def test_files_are_linted_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = SMALL.format("max by (cluster, path) (fabric_path_rtt_seconds)")
    two = SMALL.replace("a:b:c", "a:b:d").format("a:b:c{path='x', src_host='y'}")
    assert main(["lint", *files(tmp_path, one=one, two=two)]) == 1
    said = capsys.readouterr().out
    assert "a:b:c has no label src_host, so nothing matches (promql/label)" in said
    assert said.count("(promql/") == 1


def test_duplicates_over_files_are_the_same_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of two jobs record the same metrics of different series: no fault."""
    jobs = {job: SMALL.format(f"fabric_job_path_info{{training_job='{job}'}}") for job in "ab"}
    assert main(["lint", *files(tmp_path, **jobs)]) == 0
    paths = files(tmp_path, a=jobs["a"], c=jobs["a"])
    assert main(["lint", *paths]) == 1
    assert f"the same rule is in {paths[0]}:4 (rule/duplicate)" in capsys.readouterr().out


def test_a_prometheusrule_of_kubernetes_is_a_rule_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: a}\nspec:\n"
    text = head + "".join(f"  {line}\n" for line in SMALL.format("fabric_nosuch").splitlines())
    (path,) = files(tmp_path, a=text)
    assert main(["lint", path]) == 1
    assert f"{path}:9:17: error: fabric_nosuch is no metric of the catalogue" in capsys.readouterr().out
    (path,) = files(tmp_path, a="\n---\n".join([text, "kind: Service\nspec: {}", text.replace("nosuch", "neither")]))
    assert main(["lint", path]) == 1
    said = capsys.readouterr().out
    assert "fabric_nosuch is" in said
    assert "fabric_neither is" in said
    assert "yaml/parse" not in said


def test_labels_of_targets_are_told(tmp_path: Path) -> None:
    (path,) = files(tmp_path, a=SMALL.format("max by (cluster, rack) (fabric_path_rtt_seconds)"))
    assert main(["lint", path]) == 1
    assert main(["lint", path, "--target-label", "rack"]) == 0


def test_an_unknown_label_of_a_scraped_metric_says_how_to_name_those_of_targets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scraped, made = "max by (cluster, rack) (up)", "max by (rack) (max by (cluster) (up))"
    for expr, is_said in ((scraped, True), (made, False)):
        assert main(["lint", *files(tmp_path, a=SMALL.format(expr))]) == 1
        assert ("name it by --target-label" in capsys.readouterr().out) is is_said


BROKEN = {
    "a: b: c\n": (1, 5),
    SMALL.format("up") + "\t- x\n": (6, 1),
    "scrape_configs: []\n": (1, 1),
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_is_no_rule_file_is_a_problem_for_machines_too(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, good = files(tmp_path, broken=text, good=SMALL.format("fabric_nosuch"))
    assert main(["lint", good, broken, "--format", "json", "--min-severity", "error"]) == 2
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["files"] == 2
    line, column = BROKEN[text]
    first, second = document["problems"]
    assert (first["file"], first["line"], first["column"]) == (broken, line, column)
    assert (first["check"], first["severity"]) == ("yaml/parse", "error")
    assert first["message"] in told.err
    assert (second["file"], second["check"]) == (good, "promql/series")
    assert main(["lint", good, broken, "--format", "github"]) == 2
    assert f"::error file={broken},line={line},endLine={line},col={column}," in capsys.readouterr().out


def test_a_missing_file_is_a_problem_for_machines_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(tmp_path / "none.yaml"), "--format", "json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["line"], problem["message"]) == (1, "No such file or directory")


def test_what_is_less_severe_may_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = files(tmp_path, a=SMALL.format("node_load1 + rate(fabric_path_probes_sent_total[5s]) + fabric_nosuch"))
    for least, said in (
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ):
        assert main(["lint", path, "--min-severity", least]) == 1
        assert re.findall(r"^\S+: (\w+): ", capsys.readouterr().out, re.MULTILINE) == said
    (path,) = files(tmp_path, a=SMALL.format("node_load1"))
    assert main(["lint", path, "--fail-on", "info"]) == 1
    assert main(["lint", path, "--fail-on", "info", "--min-severity", "warning"]) == 0


def test_checks_to_disable_may_be_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = files(tmp_path, a=SMALL.format("rate(fabric_path_probes_sent_total[5s]) + fabric_nosuch"))
    assert main(["lint", path, "--disable", "promql/rate,promql/series"]) == 0
    assert main(["lint", path, "--disable", "promql/rate, promql/nan", "--disable", "promql/series"]) == 0
    assert main(["lint", path, "--disable", "promql/rate"]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["lint", path, "--disable", "promql/rate,promql/serie"])
    assert "there is no check 'promql/serie': did you mean promql/series?" in capsys.readouterr().err


def test_files_may_stand_between_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = files(tmp_path, one=SMALL.format("node_load1"), two=SMALL.format("node_load5"))
    assert main(["lint", one, "--strict", two, "--format", "text"]) == 1
    assert capsys.readouterr().out.endswith("2 problems (2 errors) in 2 files\n")
    with pytest.raises(SystemExit, match="2"):
        main(["lint", one, "--strick", two])
    assert "unrecognized arguments: --strick" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["lint", "--strict"])
    assert "the following arguments are required: FILE" in capsys.readouterr().err


def test_the_page_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/lint.md").read_text()
    command, *printed = re.findall(r"```console\n\$ (.*?)```", page, re.DOTALL)[0].splitlines()
    line = printed[1].partition("| ")[2]
    monkeypatch.chdir(tmp_path)
    path = Path(command.split()[-1])
    path.parent.mkdir()
    path.write_text("\n" * 32 + SMALL.partition("        expr")[0] + line + "\n")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main(command.split()[1:]) == 1
    assert output.getvalue().splitlines() == printed


def test_the_page_lists_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs/lint.md").read_text()
    assert re.findall(r"^\| `(\w+/\w+)` \|", page, re.MULTILINE) == list(CHECKS)


def test_the_projects_own_rules_are_clean() -> None:
    from skeleton_service.lint.document import Source
    from skeleton_service.lint.findings import Settings
    from skeleton_service.lint.linting import lint
    from skeleton_service.ruleset import Thresholds, job_rules, resource

    texts = {each.name: each.read_text() for each in resource("static").iterdir() if each.name.endswith(".yaml")}
    (texts["job"],) = job_rules('gpt "7\\b', Thresholds()).values()
    linted = lint([Source(name, text) for name, text in texts.items()], Settings())
    assert sum(each.rules for each in linted) > 40
    found = [
        f"{each.source.path}:{each.source.place(problem.start)[0]}: {problem.message} ({problem.check})"
        for each in linted
        for problem in each.problems
    ]
    assert found == []


def test_values_are_followed_through_the_projects_own_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The records are those of the pack, which is known without being given."""
    paths = files(tmp_path, a=SMALL.format('job_path:fabric_path_mtu_below_promise:bytes{kind=~"frag_neded|local"}'))
    assert main(["lint", *paths]) == 1
    said = capsys.readouterr().out
    assert "kind of job_path:fabric_path_mtu_below_promise:bytes is never frag_neded, so this matches nothing" in said
    assert said.count("did you mean frag_needed?") == said.count("warning: ") == 1


def test_what_a_rule_disables_ends_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = SMALL.format("up # fabric-lint disable group/interval")
    (path,) = files(tmp_path, a=rule + "  - name: h\n    interval: 10m\n    rules: []\n")
    assert main(["lint", path]) == 1
    assert f"{path}:7:15: warning: interval 10m is over 5m" in capsys.readouterr().out
