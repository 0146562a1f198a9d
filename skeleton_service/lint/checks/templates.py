"""alerts/template: templates name labels that the expression can have, and close what they open."""

from __future__ import annotations

import re
from collections.abc import Iterator

from skeleton_service.lint.document import Scalar
from skeleton_service.lint.findings import Findings
from skeleton_service.lint.labels import Labels
from skeleton_service.lint.nearest import did_you_mean
from skeleton_service.lint.syntax import Node

_PIECE = re.compile(r"\}\}|\"(?:[^\"\\\n]|\\.)*\"|`[^`]*`")
_LABEL = re.compile(r"(?:\$labels|(?<![\w$)])\.Labels)\.([A-Za-z_][A-Za-z0-9_]*)|index\s+\$labels\s+\"([^\"]+)\"")
_BLOCK = re.compile(r"\{\{-?\s*(?:range|with|define|block)\b")
_VALUE = re.compile(r"\$value\b|(?<![\w\])])\.Value\b")
_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|`[^`]*`", re.S)


def template(findings: Findings, tree: Node) -> None:
    """A label that is not there prints nothing, and nobody sees that before the night it matters."""
    rule = findings.rule
    if not rule.alert:
        return
    known = findings.world.labels(tree)
    for name, (_, scalar) in (*rule.labels.items(), *rule.annotations.items()):
        of_label = name in rule.labels and rule.labels[name][1] is scalar
        for start, end in _actions(scalar.text):
            if end < 0:
                findings.at("alerts/template", "error", scalar.span(start, start + 2), "{{ is not closed", "add }}")
                break
            action = scalar.text[start:end]
            _labels(findings, scalar, start, action, known)
            value = _VALUE.search(_STRING.sub(lambda text: " " * len(text[0]), action))
            if of_label and value is not None:
                message = "the value in a label: whenever it changes, one alert resolves and another fires"
                place = scalar.span(start + value.start(), start + value.end())
                findings.at("alerts/template", "warning", place, message, "put it into the description")


def _actions(text: str) -> Iterator[tuple[int, int]]:
    """Where each {{ begins and its }} ends, strings aside; -1 for one that is not closed."""
    start = text.find("{{")
    while start >= 0:
        end = next((piece.end() for piece in _PIECE.finditer(text, start) if piece[0] == "}}"), -1)
        yield start, end
        if end < 0:
            return
        start = text.find("{{", end)


def _labels(findings: Findings, scalar: Scalar, start: int, action: str, known: Labels) -> None:
    if known is None:
        return
    rule = findings.rule
    block = _BLOCK.search(scalar.text)  # within one the dot is something else
    for match in _LABEL.finditer(action):
        if match[0].startswith(".") and block is not None and block.start() < start:
            continue
        group = 1 if match[1] else 2
        name = match[group]
        if name in known or name in ("alertname", "__name__"):
            continue
        place = scalar.span(start + match.start(group), start + match.end(group))
        if name in rule.labels:
            message = f"{name} is a label of the rule, which its templates do not see"
            findings.at("alerts/template", "warning", place, message, "write what it is made of")
            continue
        remedy = did_you_mean(name, sorted(known), findings.world.metrics.having(known))
        findings.at("alerts/template", "error", place, f"the expression has no label {name}", remedy)
