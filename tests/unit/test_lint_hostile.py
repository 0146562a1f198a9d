"""A rule file may be anything: one clear line, in bounded time, and never a traceback."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.contracts.codec import ContractError
from skeleton_service.cli import main
from skeleton_service.lint import report
from skeleton_service.lint.document import read_source
from skeleton_service.lint.findings import Settings
from skeleton_service.lint.linting import lint
from skeleton_service.ruleset import Thresholds, job_rules

HEAD = "groups:\n  - name: g\n    rules:\n"
RULE = HEAD + "      - record: a:b:c\n        expr: "
SECONDS = 20.0
"""Of a processor: others may use the machine too. Far above what any of them takes."""

NO_RULE_FILE = {
    "empty": ("", "is empty (a rule file begins with groups:)"),
    "a comment": ("# nothing\n", "is empty (a rule file begins with groups:)"),
    "a list": ("- a\n", "is no rule file (a rule file begins with groups:)"),
    "a text": ("hello\n", "is no rule file (a rule file begins with groups:)"),
    "another file": ("scrape_configs: []\n", "is no rule file: it has no groups (a rule file begins with groups:)"),
    "a NUL byte": ("groups:\n - a\0\n", ":2:5: holds a NUL byte (is it a text file?)"),
    "Latin-1": (b"groups: \xe9\n", "is not UTF-8: byte 8 (save it as UTF-8)"),
    "a tab": ("groups:\n\t- name: g\n", ":2:1: is not YAML: "),
    "a brace": ("groups: {\n", "is not YAML: "),
    "a colon": ("groups: a: b\n", ":1:10: is not YAML: mapping values are not allowed"),
    "an unknown alias": ("groups: *nobody\n", ":1:9: is not YAML: no anchor 'nobody'"),
    "a control character": ("groups: \x01\n", "is not YAML: "),
    "depth": ("[" * 100_000, ":1: is nested deeper than 50 (no rule file is like that)"),
    "depth by lines": ("".join(" " * depth + "a:\n" for depth in range(300)), "is nested deeper than 50"),
    "many values": ("[" + "a," * 500_000 + "]", "has too many values"),
    "ten megabytes": ("a" * (10 << 20), "is larger than 4 MiB (split it: no rule file is that large)"),
    "aliases of aliases": (
        "a: &a [x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(8 * ['*' + chr(97 + n)])}]\n" for n in range(9)),
        "is no rule file: it has no groups",
    ),
    "an alias of much, often": (
        f"groups:\n  - name: g\n    rules:\n      - {{record: 'a:b:c', expr: &e '{'up + ' * 10_000}up'}}\n"
        + "      - {record: 'a:b:c', expr: *e}\n" * 5000,
        "its aliases repeat too much",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_RULE_FILE)
def test_what_is_no_rule_file_is_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, line = NO_RULE_FILE[case]
    path = tmp_path / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    begun = time.process_time()
    assert main(["lint", str(path)]) == 2
    assert time.process_time() - begun < SECONDS
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"skeleton-service: {path}")
    assert line in said.err
    assert said.err.count("\n") == 1


DEEP = "(" * 90 + "up" + ")" * 90
HOSTILE = {
    "parentheses": "(" * 100_000,
    "braces": "{" * 100_000,
    "signs": "-" * 100_000 + "up",
    "a chain": " + ".join(["up"] * 50_000),
    "a chain of powers": " ^ ".join(["up"] * 50_000),
    "calls": "abs(" * 50_000,
    "an open string": "'up{a=\"" + "x" * 100_000,
    "digits": "9" * 100_000,
    "a long duration": f"up[{'9' * 100_000}d]",
    "hexadecimal digits": "0x" + "f" * 100_000,
    "a long name": "fabric_" + "a" * 1_000_000,
    "many matchers": "up{" + "a='b'," * 6_000 + "}",
    "many labels": f"sum by ({'a,' * 6_000}) (fabric_path_rtt_seconds)",
    "many open templates": "up",
    "a pattern that matches for ever": "up{a=~'" + "(|)" * 40 + "x'}",
    "a pattern that repeats": "up{a=~'((((|){20}){20}){20}){20}x'}",
    "a deep pattern": "up{a=~'" + "(" * 2000 + ")" * 2000 + "'}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_expression_takes_no_long_time(case: str) -> None:
    begun = time.process_time()
    text = RULE + "|\n          " + HOSTILE[case] + "\n"
    if case == "many open templates":
        text = (
            text.replace("record: a:b:c", "alert: A")
            + "        annotations:\n          description: '"
            + "{{" * 500_000
        )
        text += "'\n"
    (linted,) = lint([read_source("a.yaml", text.encode())], Settings())
    lines = list(report.text([linted]))
    assert time.process_time() - begun < SECONDS
    assert all(len(line) < 1000 for line in lines)


def test_records_of_records_end() -> None:
    chain = "".join(
        f"      - record: a:b:c{number}\n        expr: {DEEP.replace('up', f'a:b:c{number + 1} + a:b:c{number + 1}')}\n"
        for number in range(200)
    )
    circle = "      - record: a:b:c200\n        expr: a:b:c0\n"
    begun = time.process_time()
    assert lint([read_source("a.yaml", (HEAD + chain + circle).encode())], Settings())
    assert time.process_time() - begun < SECONDS


def test_a_file_as_large_as_may_be_takes_no_long_time() -> None:
    rule = "      - alert: FabricA{}\n        # fabric-lint disable promql/nan\n        expr: fabric_nosuch{} / x > 1\n"
    text = HEAD + "".join(rule.format(number, number) for number in range(6_000))
    begun = time.process_time()
    (linted,) = lint([read_source("a.yaml", text.encode())], Settings())
    list(report.text([linted]))
    assert time.process_time() - begun < SECONDS
    assert linted.rules == 6_000


(PACK,) = job_rules("any", Thresholds()).values()
BASE = PACK[: PACK.index("- record: job_path_link")] + RULE.partition("rules:\n")[2] + "up\n"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_rule_files_never_raise(data: st.DataObject) -> None:
    text = BASE
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 12))
        put = data.draw(st.text(st.sampled_from([*"\"'`\\{}[]()&*!|>%@#:-,.=~ \t\n09aé\x85\u2028"]), max_size=6))
        text = text[:start] + put + text[start + length :]
    try:
        (linted,) = lint([read_source("a.yaml", text.encode())], Settings())
    except ContractError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert "\n" not in refusal
    if refusal:
        return
    assert list(report.text([linted]))
    assert all(0 <= problem.start < problem.end <= len(text) + 1 for problem in linted.problems)
    report.as_json([linted])
    list(report.github([linted]))
