"""What a check works with: the rule, the metrics there are, and where to put what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skeleton_service.lint.labels import Labels, labels_of
from skeleton_service.lint.labelvalues import Values, values_of
from skeleton_service.lint.problem import Problem, Severity
from skeleton_service.lint.rulefile import Rule, RuleFile
from skeleton_service.lint.series import Info, Metrics
from skeleton_service.lint.syntax import Node, Selector, Span


@dataclass(frozen=True, slots=True)
class Settings:
    scrape_interval: float = 15.0
    strict: bool = False
    """Whether a metric that nobody knows is an error and no remark."""
    mimir: bool = False
    runbooks: Path | None = None
    """Where the pages of runbooks are; not looked for without it."""
    target_labels: Sequence[str] = ()
    """Labels that the scrape configuration adds beside the usual ones."""


@dataclass(slots=True, eq=False)
class World:
    """What is the same for all rules: settings, metrics, and what all given files record."""

    settings: Settings
    metrics: Metrics
    recorded: Mapping[str, Sequence[Rule]]
    _labels: dict[str, Labels] = field(default_factory=dict)
    _values: dict[tuple[str, str], Values] = field(default_factory=dict)
    _open: set[str] = field(default_factory=set)
    looking_back: dict[str, bool] = field(default_factory=dict)
    """Whether a record looks back in time, by name: what checks found out."""
    never_zero: dict[str, bool] = field(default_factory=dict)
    """Whether a record leaves zeros out, by name."""

    def labels_of_metric(self, name: str) -> Labels:
        """The labels that the series of a metric may have; None where it is not known."""
        if name not in self._labels:
            if name in self._open or len(self._open) > 30:  # records of one another, or a very long chain of them
                return None
            self._open.add(name)
            try:
                self._labels[name] = self._find(name)
            finally:
                self._open.discard(name)
        return self._labels[name]

    def _find(self, name: str) -> Labels:
        info = self.metrics.get(name)
        if info is not None:
            return None if info.labels is None else info.labels | self.metrics.target_labels
        found: frozenset[str] = frozenset()
        for rule in self.recorded.get(name, ()):
            labels = None if rule.tree is None else self.labels(rule.tree)
            if labels is None:
                return None
            found |= labels | rule.labels.keys()
        return found if name in self.recorded else None

    def labels(self, node: Node) -> Labels:
        try:
            return labels_of(node, self.labels_of_metric)
        except RecursionError:  # records of records, each nested as deep as may be
            return None

    def values_of_metric(self, name: str, label: str) -> Values:
        """The values that a label of a metric may have; None where that is not known."""
        if (name, label) not in self._values:
            self._values[name, label] = None  # of records of one another
            self._values[name, label] = self._find_values(name, label)
        return self._values[name, label]

    def _find_values(self, name: str, label: str) -> Values:
        if self.metrics.get(name) is not None or name not in self.recorded:
            return self.metrics.values(name, label)
        found: frozenset[str] = frozenset()
        for rule in self.recorded[name]:
            try:
                values = (
                    frozenset((rule.labels[label][1].text,))
                    if label in rule.labels
                    else None
                    if rule.tree is None
                    else values_of(rule.tree, label, self.values_of_metric, self.labels)
                )
            except RecursionError:
                return None
            if values is None:
                return None
            found |= values
        return found

    def info(self, selector: Selector) -> Info | None:
        return None if selector.name is None else self.metrics.get(selector.name.text)


@dataclass(slots=True, eq=False)
class Findings:
    """The problems of one rule."""

    world: World
    file: RuleFile
    rule: Rule
    problems: list[Problem] = field(default_factory=list)

    def at(self, check: str, severity: Severity, span: Span, message: str, remedy: str = "") -> None:
        """A problem at a place of the file."""
        self.problems.append(Problem(check, severity, *span, message, remedy))

    def inside(self, check: str, severity: Severity, span: Span, message: str, remedy: str = "") -> None:
        """A problem at a place of the expression."""
        self.at(check, severity, self.rule.at(span), message, remedy)
