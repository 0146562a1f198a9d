"""PromQL as promtool reads it: what it refuses the linter refuses, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from skeleton_service.lint.document import Source
from skeleton_service.lint.findings import Settings
from skeleton_service.lint.linting import lint
from skeleton_service.lint.parsing import TooDeepError, parse
from skeleton_service.lint.tokens import PromqlError

EXPRESSIONS = (Path(__file__).parent / "golden/lint/expressions.promql").read_text().splitlines()
"""One a line, a line break in it as \\n. With what promtool 2.42 and later versions agree on."""

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH (apt: prometheus)")


def refused(expressions: list[str], directory: Path) -> list[bool]:
    """Which of them promtool refuses, each in a file of its own."""
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number}.yaml" for number in range(len(expressions))]
    for path, expression in zip(paths, expressions, strict=True):
        rule = {"record": "a:b:c", "expr": expression}
        path.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}, allow_unicode=True))
    command = ["promtool", "check", "rules", "--lint=none", *paths]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    found = set(re.findall(r"^(?:  )?(\S+\.yaml): ", said.stderr, re.MULTILINE))
    return [str(path) in found for path in paths]


def refuses(expression: str) -> bool:
    """What the linter says: no syntax, or not for every Prometheus."""
    text = yaml.safe_dump({"groups": [{"name": "g", "rules": [{"record": "a:b:c", "expr": expression}]}]})
    (linted,) = lint([Source("a.yaml", text)], Settings())
    newer = ("is known since Prometheus",)
    return any(
        problem.check in ("promql/syntax", "yaml/parse")
        or (problem.check == "promql/portable" and any(each in problem.message for each in newer))
        for problem in linted.problems
    )


@promtool
def test_promtool_and_the_linter_refuse_the_same(tmp_path: Path) -> None:
    expressions = [line.replace("\\n", "\n") for line in EXPRESSIONS]
    theirs = refused(expressions, tmp_path)
    ours = [refuses(expression) for expression in expressions]
    assert 100 < sum(theirs) < len(theirs) - 100, "neither all nor none"
    assert [each for each, one, other in zip(expressions, ours, theirs, strict=True) if one != other] == []


WORDS = (
    "up foo:bar sum rate by on ( ) { } [ ] , 5m 1h30m 5 1.5 0x1 'a' \"b\" = == != =~ > + - * / ^ % and or unless "
    "offset @ bool group_left ignoring topk abs a b : start() [5m] [5m:1m] {a='b'} by(a) without(a) NaN # "
)
PIECES = st.sampled_from([*WORDS.split(), "\n"])


@promtool
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(expressions=st.lists(st.lists(PIECES, min_size=1, max_size=7).map(" ".join), min_size=50, max_size=50))
def test_promtool_and_the_linter_agree_on_pieces_put_together(tmp_path: Path, expressions: list[str]) -> None:
    theirs = refused(expressions, tmp_path)
    ours = [refuses(expression) for expression in expressions]
    assert [each for each, one, other in zip(expressions, ours, theirs, strict=True) if one != other] == []


@given(st.text(max_size=80) | st.lists(PIECES, max_size=20).map(" ".join))
@example("up{a='" + "\ud7ff" + "'}")
def test_any_text_is_read_or_refused_at_a_place(text: str) -> None:
    try:
        node = parse(text)
    except PromqlError as error:
        place = (error.start, error.end)
    else:
        place = node.span
    assert 0 <= place[0] < place[1] <= max(len(text), place[0] + 1)


@pytest.mark.parametrize("text", ["(" * 200 + "up" + ")" * 200, " + ".join(["up"] * 500)])
def test_too_deep_is_said_and_is_no_error(text: str) -> None:
    with pytest.raises(TooDeepError):
        parse(text)
    (linted,) = lint([Source("a.yaml", yaml.safe_dump({"groups": [{"name": "g", "rules": [
        {"record": "a:b:c", "expr": text}]}]}, width=10**6))], Settings())  # fmt: skip
    (problem,) = linted.problems
    assert (problem.check, problem.severity) == ("promql/syntax", "warning")
