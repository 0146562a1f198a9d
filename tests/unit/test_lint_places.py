"""The caret stands under the right character of the file, however YAML writes the expression."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeleton_service.lint import report
from skeleton_service.lint.document import Scalar, Source, compose, read_source
from skeleton_service.lint.findings import Settings
from skeleton_service.lint.linting import lint
from skeleton_service.lint.syntax import Selector, walk

BAD = "fabric_nosuch"
HEAD = "groups:\n  - name: g\n    rules:\n"

STYLES = {
    "plain": f"expr: up + {BAD}",
    "plain over lines": f"expr: up +\n          up\n\n         + {BAD}",
    "plain on the next line": f"expr:\n          {BAD}",
    "single quotes": f"expr: 'up{{a=\"it''s\"}} + {BAD}'",
    "single quotes over lines": f"expr: 'up\n\n    + {BAD}'",
    "double quotes": f'expr: "up{{a=\\"\\u00e9\\\\\\\\\\"}} + {BAD}"',
    "double quotes with escaped blanks": f'expr: "up\\t+\\n\\x20{BAD}"',
    "double quotes over lines": f'expr: "up{{a=\\"x\\\n          y\\"}}\n\n          + {BAD}"',
    "folded": f"expr: >-\n          up\n          + {BAD}",
    "folded with blank lines": f"expr: >-\n\n          up\n\n\n          + {BAD}\n",
    "folded with more indentation": f"expr: >\n          up\n              +\n            {BAD}\n          + up",
    "folded, kept, told indentation": f"expr: >2+ # a comment\n            up\n          + {BAD}\n\n",
    "literal": f"expr: |\n          up\n          + {BAD}",
    "literal, told indentation": f"expr: |1-\n            up\n         + {BAD}",
    "literal with comments": f"expr: |\n          # {BAD[:-1]}: none\n          up # {BAD[:-2]}\n            + {BAD}",
    "literal in the first column of the block": f"expr: |\n         {BAD}",
    "a tab within": f"expr: up\t+\t{BAD}",
    "other scripts before it": f"expr: 'up{{a=\"日本𝔘é\"}} + {BAD}'",
    "tagged": f"expr: !!str up + {BAD}",
    "anchored": f"expr: &a >-\n          up + {BAD}",
    "flow": None,
}


def text_of(style: str) -> str:
    head = "groups:\n  - name: g\n    rules:\n"
    if STYLES[style] is None:
        return f"groups: [{{name: g, rules: [{{record: 'a:b:c', expr: 'up\n + {BAD}'}}]}}]\n"
    return f"{head}      - record: a:b:c\n        {STYLES[style]}\n      - record: a:b:d\n        expr: up\n"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
@pytest.mark.parametrize("style", STYLES)
def test_the_caret_is_under_the_metric(style: str, mark: bytes, ends: str) -> None:
    data = mark + text_of(style).replace("\n", ends).encode()
    (linted,) = lint([read_source("a.yaml", data)], Settings(), ["promql/label"])
    (problem,) = linted.problems
    assert linted.source.text[problem.start : problem.end] == BAD
    header, line, caret, _ = report.text([linted])
    number, column = map(int, re.findall(r"a.yaml:(\d+):(\d+):", header)[0])
    written = data.removeprefix(mark).decode().split("\n")[number - 1]
    assert written[column - 1 :].startswith(BAD)
    # A cell of a terminal is half of a Japanese character.
    before = line[: line.index(BAD)]
    assert caret.index("^") == len(before) + sum(character in "日本" for character in before)
    assert caret.count("^") == len(BAD)


def test_a_token_over_lines_is_marked_on_its_first() -> None:
    text = f"{HEAD}      - record: a:b:c\n        expr: >-\n          count(\n          up) == 0\n"
    (linted,) = lint([Source("a.yaml", text)], Settings())
    _, line, caret, _ = report.text([linted])
    assert line == " 6 |           count("
    assert caret.startswith("   |           ^^^^^^ ")


def test_a_long_line_is_shown_about_its_caret() -> None:
    text = (
        f"groups:\n  - name: g\n    rules:\n      - {{record: 'a:b:c', expr: '{'up + ' * 100}{BAD}{' + up' * 90}'}}\n"
    )
    (linted,) = lint([Source("a.yaml", text)], Settings())
    _, line, caret, _ = report.text([linted])
    assert len(line) < 200
    assert line[caret.index("^") :].startswith(BAD)


def test_control_characters_do_not_reach_the_terminal() -> None:
    text = 'groups:\n  - name: g\n    rules:\n      - {record: "a:b:c", expr: "up{a=\\"\\x1b[31m\\"} + \\e"}\n'
    (linted,) = lint([Source("\x1b.yaml", text)], Settings())
    assert not any("\x1b" in line for line in report.text([linted]))


CHARACTERS = st.sampled_from("ab'\"\\#:|>{}[]&*!%@,-? \té日\n")


@given(st.text(CHARACTERS, max_size=60), st.sampled_from(["'", '"', "|", ">"]))
def test_every_character_that_is_not_blank_has_its_own_place(value: str, style: str) -> None:
    """Whatever libyaml reads, its characters are found where they stand."""
    if style == '"':
        written = '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    elif style == "'":
        written = "'" + value.replace("'", "''").replace("\n", "\n  ") + "'"
    else:
        written = f"{style}2\n" + "".join(f"  {line}\n" for line in value.split("\n"))
    source = Source("a.yaml", f"key: {written}\n")
    (root,) = compose(source)
    scalar = Scalar(source, root.items[1])
    places = [scalar.place(index) for index in range(len(scalar.text))]
    visible = [(character, place) for character, place in zip(scalar.text, places, strict=True) if character.strip()]
    assert all(source.text[place] == character or source.text[place] == "\\" for character, place in visible)
    assert [place for _, place in visible] == sorted({place for _, place in visible})


def test_the_rules_of_the_project_are_where_they_are() -> None:
    """Each selector of the committed rules, against the text of its file."""
    from skeleton_service.lint.rulefile import read_rules
    from skeleton_service.ruleset import Thresholds, job_rules, resource

    texts = {each.name: each.read_text() for each in resource("static").iterdir() if each.name.endswith(".yaml")}
    count = 0
    for name, text in {**texts, **job_rules("any", Thresholds())}.items():
        for rule in read_rules(Source(name, text)).rules:
            assert rule.tree is not None
            for node, _ in walk(rule.tree):
                if isinstance(node, Selector) and node.name is not None:
                    start, end = rule.at(node.name.span)
                    assert text[start:end] == node.name.text
                    count += 1
    assert count > 80
