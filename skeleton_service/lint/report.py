"""Problems as text with a caret, as JSON, and as GitHub's workflow commands."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from skeleton_service.lint.document import Source
from skeleton_service.lint.linting import Linted
from skeleton_service.lint.problem import SEVERITIES, Problem, Severity

_COLOURS: dict[Severity, str] = {"error": "\x1b[31m", "warning": "\x1b[33m", "info": "\x1b[36m"}
_BOLD, _RESET = "\x1b[1m", "\x1b[0m"
_GITHUB = {"error": "error", "warning": "warning", "info": "notice"}
_WIDTH, _BEFORE, _LONGEST = 160, 80, 400


def text(linted: Sequence[Linted], *, colour: bool = False) -> Iterable[str]:
    """Three lines a problem, and a last one that counts."""
    for each in linted:
        for problem in each.problems:
            yield from _lines(each.source, problem, colour=colour)
    yield closing(linted)


def closing(linted: Sequence[Linted]) -> str:
    """The last line: how many problems, or that there is nothing to say."""
    counted = Counter(problem.severity for each in linted for problem in each.problems)
    files = _plural(len(linted), "file")
    if not counted:
        return f"{files}, {_plural(sum(each.rules for each in linted), 'rule')}: nothing to say"
    words = {"error": "error", "warning": "warning", "info": "remark"}
    parts = ", ".join(_plural(counted[severity], words[severity]) for severity in SEVERITIES if counted[severity])
    return f"{_plural(counted.total(), 'problem')} ({parts}) in {files}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _lines(source: Source, problem: Problem, *, colour: bool) -> Iterable[str]:
    line, column = source.place(problem.start)
    painted = _COLOURS[problem.severity] if colour else ""
    bold, reset = (_BOLD, _RESET) if colour else ("", "")
    where = f"{_visible(source.path)}:{line}:{column}"
    said = _visible(problem.message)
    yield f"{bold}{where}:{reset} {painted}{problem.severity}:{reset} {said} ({problem.check})"
    shown, before, length = _window(source, problem, line, column)
    margin = f" {line} | "
    yield margin + shown
    caret = " " * (len(margin) - 2) + "| " + " " * before + painted + "^" * length + reset
    yield f"{caret} {_visible(problem.remedy)}".rstrip()


def _window(source: Source, problem: Problem, line: int, column: int) -> tuple[str, int, int]:
    """The line as far as it is shown, the cells before the caret, and the caret's length."""
    whole = source.line(line)
    start = column - 1
    end = min(max(start + 1, start + problem.end - problem.start), max(len(whole), start + 1))
    first = 0 if len(whole) <= _WIDTH else max(0, min(start - _BEFORE, len(whole) - _WIDTH))
    last = min(len(whole), first + _WIDTH)
    mark, tail = ("..." if first else ""), ("..." if last < len(whole) else "")
    shown = mark + _visible(whole[first:last]) + tail
    return shown, len(mark) + _cells(whole[first:start]), max(1, _cells(whole[start : min(end, last)]))


def _visible(text_: str) -> str:
    """What a terminal may be given: no control characters, and a tab as one blank."""
    if len(text_) > _LONGEST:
        text_ = text_[:_LONGEST] + "..."
    return "".join(
        each if each.isprintable() else " " if each == "\t" else "\N{REPLACEMENT CHARACTER}" for each in text_
    )


def _cells(text_: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text_
    )


def _places(source: Source, problem: Problem) -> tuple[int, int, int, int]:
    line, column = source.place(problem.start)
    last_line, last_column = source.place(min(max(problem.end - 1, problem.start), len(source.text)))
    return line, column, last_line, last_column


def as_json(linted: Sequence[Linted]) -> str:
    """One document: ``problems``, and how many ``files`` and ``rules`` there are. Columns are from 1, inclusive."""
    problems = []
    for each in linted:
        for problem in each.problems:
            line, column, last_line, last_column = _places(each.source, problem)
            problems.append(
                {
                    "file": each.source.path,
                    "line": line,
                    "column": column,
                    "end_line": last_line,
                    "end_column": last_column,
                    "severity": problem.severity,
                    "check": problem.check,
                    "message": problem.message,
                    "remedy": problem.remedy,
                }
            )
    found = {"files": len(linted), "rules": sum(each.rules for each in linted), "problems": problems}
    return json.dumps(found, indent=2, ensure_ascii=False)


def github(linted: Sequence[Linted]) -> Iterable[str]:
    """A line a problem, which GitHub Actions shows at its place in the change."""
    for each in linted:
        for problem in each.problems:
            line, column, last_line, last_column = _places(each.source, problem)
            fields = {
                "file": each.source.path,
                "line": str(line),
                "endLine": str(last_line),
                "col": str(column),
                "endColumn": str(last_column),
                "title": problem.check,
            }
            said = problem.message + (f" ({problem.remedy})" if problem.remedy else "")
            stated = ",".join(f"{name}={_property(value)}" for name, value in fields.items())
            yield f"::{_GITHUB[problem.severity]} {stated}::{_data(said)}"


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
