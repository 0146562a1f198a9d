"""alerts/template: templates name labels that the expression can have, and close what they open."""

from __future__ import annotations

import difflib
import re

from skeleton_service.lint.document import Scalar
from skeleton_service.lint.findings import Findings, listed
from skeleton_service.lint.syntax import Node

_ACTION = re.compile(r"\{\{(?:[^}\"`]|\"(?:[^\"\\]|\\.)*\"|`[^`]*`|\}(?!\}))*\}\}", re.S)
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
        rest = scalar.text
        for action in _ACTION.finditer(scalar.text):
            rest = rest.replace(action[0], "", 1)
            _labels(findings, scalar, action, known)
            value = _VALUE.search(_STRING.sub(lambda text: " " * len(text[0]), action[0]))
            if of_label and value is not None:
                at = action.start() + value.start()
                message = "the value in a label: whenever it changes, one alert resolves and another fires"
                place = scalar.span(at, at + len(value[0]))
                findings.at("alerts/template", "warning", place, message, "put it into the description")
        if "{{" in rest:
            at = scalar.text.rindex("{{")
            findings.at("alerts/template", "error", scalar.span(at, at + 2), "{{ is not closed", "add }}")


def _labels(findings: Findings, scalar: Scalar, action: re.Match[str], known: frozenset[str] | None) -> None:
    if known is None:
        return
    rule = findings.rule
    block = _BLOCK.search(scalar.text)  # within one the dot is something else
    for match in _LABEL.finditer(action[0]):
        if match[0].startswith(".") and block is not None and block.start() < action.start():
            continue
        group = 1 if match[1] else 2
        name = match[group]
        if name in known or name in ("alertname", "__name__"):
            continue
        place = scalar.span(action.start() + match.start(group), action.start() + match.end(group))
        if name in rule.labels:
            message = f"{name} is a label of the rule, which its templates do not see"
            findings.at("alerts/template", "warning", place, message, "write what it is made of")
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1)
        few = known - findings.world.metrics.target_labels or known
        remedy = f"did you mean {near[0]}?" if near else f"it has {listed(few)}" if few else "it has no labels"
        findings.at("alerts/template", "error", place, f"the expression has no label {name}", remedy)
