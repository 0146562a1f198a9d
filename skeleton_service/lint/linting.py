"""All checks over all files: text in, problems out."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from exporter.contracts.codec import ContractError
from skeleton_service.lint.checks import alerts, impossible, matchers, metrics, rules, templates, values
from skeleton_service.lint.document import Source
from skeleton_service.lint.findings import Findings, Settings, World
from skeleton_service.lint.problem import CHECKS, SEVERITIES, Problem, Severity
from skeleton_service.lint.rulefile import Rule, RuleFile, read_rules
from skeleton_service.lint.series import Metrics
from skeleton_service.lint.syntax import Node, Selector, walk

RULE_CHECKS: dict[str, Callable[[Findings, Node], None]] = {
    "promql/series": metrics.series,
    "promql/label": metrics.label,
    "promql/value": matchers.value,
    "promql/cluster": metrics.cluster,
    "promql/counter": values.counter,
    "promql/rate": values.rate,
    "promql/nan": values.nan,
    "promql/fragile": values.fragile,
    "promql/regexp": values.regexp,
    "promql/portable": values.portable,
    "promql/impossible": impossible.impossible,
    "alerts/for": alerts.for_,
    "alerts/annotation": alerts.annotation,
    "alerts/severity": alerts.severity,
    "alerts/labels": alerts.labels,
    "alerts/template": templates.template,
    "rule/name": rules.name,
    "runbook/missing": alerts.runbook,
}
_COMMENT = re.compile(r"fabric-lint[ \t]+(file/)?disable[ \t]+([\w/]+(?:[ \t]*,[ \t]*[\w/]+)*)")
_FROM_HASH = 400
"""Characters between a comment's beginning and what it disables: room to say why."""


@dataclass(frozen=True, slots=True)
class Linted:
    """A file, and its problems in the order of the text."""

    source: Source
    rules: int
    problems: Sequence[Problem]


def lint(
    sources: Sequence[Source], settings: Settings, disabled: Iterable[str] = (), others: Sequence[Source] = ()
) -> list[Linted]:
    """Return what the checks find; raise ContractError for the first source that is no rule file.

    ``others`` are files whose records are known, and of which nothing is said.
    """
    return lint_files([read_rules(source) for source in sources], settings, disabled, map(read_rules, others))


def lint_files(
    files: Sequence[RuleFile], settings: Settings, disabled: Iterable[str] = (), others: Iterable[RuleFile] = ()
) -> list[Linted]:
    recorded: dict[str, list[Rule]] = {}
    for file in (*files, *others):
        for rule in file.rules:
            if not rule.alert:
                recorded.setdefault(rule.name.text, []).append(rule)
    world = World(settings, Metrics(settings.target_labels), recorded)
    twice = rules.duplicates(files)
    off = frozenset(disabled)
    linted = []
    for number, file in enumerate(files):
        problems = [*file.problems, *twice.get(number, ())]
        for group in file.groups:
            problems += rules.group(group, settings)
        for rule in file.rules:
            problems += _of_rule(world, file, rule)
        comments = _Comments(file)
        problems = [each for each in problems if each.check not in off and not comments.silence(file, each)]
        problems += [each for each in comments.problems if each.check not in off]
        order = sorted(set(problems), key=lambda each: (each.start, each.check, each.message))
        linted.append(Linted(file.source, len(file.rules), _told_once(order)))
    return linted


def _told_once(problems: Iterable[Problem]) -> list[Problem]:
    """Of a metric of others that nobody knows one remark a file is enough, at its first place."""
    told: set[str] = set()
    kept = []
    for each in problems:
        if each.severity == "info" and each.check == "promql/series":
            if each.message in told:
                continue
            told.add(each.message)
        kept.append(each)
    return kept


def at_least(linted: Iterable[Linted], least: Severity) -> list[Linted]:
    """The same without what is less severe."""
    kept = SEVERITIES[: SEVERITIES.index(least) + 1]
    return [replace(each, problems=[one for one in each.problems if one.severity in kept]) for each in linted]


def refusal(path: str, data: bytes, error: ContractError) -> Linted:
    """A file that cannot be read, as a problem at the place that the error names."""
    source = Source(path, data.removeprefix(b"\xef\xbb\xbf").decode(errors="replace"))
    place = re.fullmatch(r":(\d+)(?::(\d+))?", error.source.removeprefix(path))
    start = source.offset(int(place[1]), int(place[2] or 1)) if place else 0
    return Linted(source, 0, [Problem("yaml/parse", "error", start, start + 1, error.problem, error.remedy)])


def _of_rule(world: World, file: RuleFile, rule: Rule) -> list[Problem]:
    findings = Findings(world, file, rule)
    if rule.tree is not None:
        for check in RULE_CHECKS.values():
            check(findings, rule.tree)
    return findings.problems


def unresolved(files: Iterable[RuleFile]) -> set[str]:
    """The recorded metrics that the files read and do not make."""
    files = list(files)
    made = {rule.name.text for file in files for rule in file.rules if not rule.alert}
    read = {
        node.name.text
        for file in files
        for rule in file.rules
        if rule.tree is not None
        for node, _ in walk(rule.tree)
        if isinstance(node, Selector) and node.name is not None and ":" in node.name.text
    }
    return read - made


class _Comments:
    """A comment with `fabric-lint disable CHECK` in or above a rule or a group; with `fabric-lint file/disable CHECK`
    anywhere in the file."""

    def __init__(self, file: RuleFile) -> None:
        self.problems: list[Problem] = []
        self._everywhere: set[str] = set()
        self._lines: dict[int, set[str]] = {}
        text = file.source.text
        for match in _COMMENT.finditer(text):
            begin = max(text.rfind("\n", 0, match.start()) + 1, match.start() - _FROM_HASH)
            if text.rfind("#", begin, match.start()) < 0:
                continue
            checks = {each.strip() for each in match[2].split(",")}
            for unknown in sorted(checks - set(CHECKS)):
                start = match.start(2) + match[2].index(unknown)
                place = (start, start + len(unknown))
                message = f"there is no check {unknown} to disable"
                self.problems.append(Problem("lint/comment", "warning", *place, message, "docs/lint.md lists them"))
            if match[1]:
                self._everywhere |= checks
            else:
                line, _ = file.source.place(match.start())
                self._lines.setdefault(line, set()).update(checks)
        groups, rules_ = (file.groups, file.rules) if self._lines else ([], [])
        self._scopes = [
            sorted((self._scope(file, each.lines, each.lines[0] - 1) for each in groups), key=itemgetter(0)),
            sorted((self._scope(file, each.lines, each.lines[1]) for each in rules_), key=itemgetter(0)),
        ]
        """First and last line of each group and rule, with what is disabled there."""

    def _scope(self, file: RuleFile, lines: tuple[int, int], last: int) -> tuple[int, int, set[str]]:
        """What the comments right above these lines disable, and those down to ``last``."""
        above = lines[0]
        while above > 1 and file.source.line(above - 1).lstrip().startswith("#"):
            above -= 1
        checks = {check for line in range(above, last + 1) for check in self._lines.get(line, ())}
        return *lines, checks

    def silence(self, file: RuleFile, problem: Problem) -> bool:
        if problem.check in self._everywhere:
            return True
        line, _ = file.source.place(problem.start)
        if problem.check in self._lines.get(line, ()):
            return True
        for scopes in self._scopes:
            number = bisect.bisect_right(scopes, line, key=itemgetter(0)) - 1
            if number >= 0 and line <= scopes[number][1] and problem.check in scopes[number][2]:
                return True
        return False
