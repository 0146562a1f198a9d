"""Checks of alerts: for, annotation, severity, labels, and the pages of runbooks."""

from __future__ import annotations

import re
from typing import get_args

from exporter.contracts.diagnosis import ComponentKind, Symptom
from skeleton_service.lint.checks.values import duration
from skeleton_service.lint.findings import Findings, World
from skeleton_service.lint.nearest import did_you_mean
from skeleton_service.lint.problem import Severity
from skeleton_service.lint.syntax import Call, Node, Range, Selector, Subquery, walk

SEVERITIES = ("critical", "warning", "info", "none")
_WANTED = {
    "summary": "a sentence that says what is wrong",
    "description": "what is wrong where, with its labels and value",
    "runbook_url": "the page that says what to do",
}
_KNOWN = {"component_kind": (*get_args(ComponentKind), "path"), "symptom": get_args(Symptom)}
_SCRAPES = 2


def for_(findings: Findings, tree: Node) -> None:
    """One scrape may be late, and a restart takes as long: what is not there for one is not gone."""
    rule = findings.rule
    if not rule.alert:
        return
    least = _SCRAPES * findings.world.settings.scrape_interval
    absent = next((node for node, _ in walk(tree) if isinstance(node, Call) and node.function.text == "absent"), None)
    held = 0.0 if rule.for_ is None else rule.for_.seconds
    if absent is not None and not held:
        message = "absent() without for: it fires with one late scrape, and whenever Prometheus starts"
        findings.inside("alerts/for", "warning", absent.function.span, message, "add for: 5m")
    elif rule.for_ is not None and 0 < held < least:
        scrapes = f"two scrapes of {duration(least / _SCRAPES)}"
        message = f"for: {rule.for_.text} is under {scrapes}: no second sample is waited for"
        findings.at("alerts/for", "warning", rule.for_.span, message, f"at least {duration(least)}, or none")
    elif not held and not _looks_back(findings.world, tree):
        message = "without for, one sample decides"
        remedy = f"add for: {duration(least)} or longer, or say why not and disable this check"
        findings.at("alerts/for", "warning", rule.name.whole(), message, remedy)


def _looks_back(world: World, tree: Node) -> bool:
    """Whether more than one sample has a say: a range, or a record that is made of one or that is not known.

    Or none has, as in vector(1).
    """
    if not any(isinstance(node, Selector) for node, _ in walk(tree)):
        return True
    for node, _ in walk(tree):
        if isinstance(node, Range | Subquery):
            return True
        if isinstance(node, Selector) and (node.name is None or _record_looks_back(world, node.name.text)):
            return True
    return False


def _record_looks_back(world: World, name: str) -> bool:
    if name not in world.looking_back:
        rules = world.recorded.get(name, ())
        world.looking_back[name] = ":" in name and not rules  # of those that read one another, too
        if any(rule.tree is None or _looks_back(world, rule.tree) for rule in rules):
            world.looking_back[name] = True
    return world.looking_back[name]


def annotation(findings: Findings, _: Node) -> None:
    """Whoever is woken is told what, where, and what to do."""
    rule = findings.rule
    if not rule.alert:
        return
    for name, what in _WANTED.items():
        if name not in rule.annotations or not rule.annotations[name][1].text.strip():
            findings.at("alerts/annotation", "warning", rule.name.whole(), f"no annotation {name}", f"add it: {what}")
    if "summary" not in rule.annotations:
        return
    summary = rule.annotations["summary"][1]
    text = summary.text.strip()
    form: Severity = "warning" if rule.name.text.startswith("Fabric") else "info"  # it is this project's style
    if "{{" in text:
        start = summary.text.index("{{")
        message = "a templated summary: alerts that are grouped differ in it"
        place = summary.span(start, start + 2)
        findings.at("alerts/annotation", form, place, message, "what differs goes into the description")
    elif text and not text.endswith("."):
        end = len(summary.text.rstrip())
        message = "the summary does not end in a full stop"
        findings.at("alerts/annotation", form, summary.span(end - 1, end), message, "write a sentence")


def severity(findings: Findings, _: Node) -> None:
    """Routes and inhibition go by it."""
    rule = findings.rule
    if not rule.alert:
        return
    if "severity" not in rule.labels:
        remedy = f"add one of {', '.join(SEVERITIES)}"
        findings.at("alerts/severity", "warning", rule.name.whole(), "no label severity", remedy)
        return
    value = rule.labels["severity"][1]
    if "{{" not in value.text and value.text not in SEVERITIES:
        message = f"severity {value.text} is none that Alertmanager's routes know"
        findings.at("alerts/severity", "warning", value.whole(), message, f"one of {', '.join(SEVERITIES)}")


def labels(findings: Findings, _: Node) -> None:
    """Notifications of the fabric are grouped by the component that they are about."""
    rule = findings.rule
    if not rule.alert or not rule.name.text.startswith("Fabric"):
        return
    missing = [name for name in ("component_kind", "component") if name not in rule.labels]
    missing = [name for name in missing if not _has(findings, name)]
    if missing == ["component"] and _is_of_a_path(findings):
        missing = []  # its component is the link that is suspected, if one is
    if missing:
        message = f"no label {' nor '.join(missing)}: the alert names no component"
        findings.at("alerts/labels", "warning", rule.name.whole(), message, "name the box or cable that it is about")
    for name, known in _KNOWN.items():
        value = rule.labels[name][1] if name in rule.labels else None
        if value is not None and "{{" not in value.text and value.text not in known:
            remedy = did_you_mean(value.text, known, f"one of {', '.join(known)}")
            findings.at("alerts/labels", "warning", value.whole(), f"there is no {name} {value.text}", remedy)


def _is_of_a_path(findings: Findings) -> bool:
    labels = findings.rule.labels
    kind = labels["component_kind"][1].text if "component_kind" in labels else ""
    return kind == "path" and ("path" in labels or _has(findings, "path"))


def _has(findings: Findings, name: str) -> bool:
    tree = findings.rule.tree
    found = None if tree is None else findings.world.labels(tree)
    return found is not None and name in found


def runbook(findings: Findings, _: Node) -> None:
    """The page that the alert names is there."""
    rule, directory = findings.rule, findings.world.settings.runbooks
    if not rule.alert or directory is None or "runbook_url" not in rule.annotations:
        return
    url = rule.annotations["runbook_url"][1]
    if "{{" in url.text:
        return
    name = runbook_page(url.text)
    if not name or not (directory / name).is_file():
        message = f"{name or 'the page'} is not in {directory}"
        findings.at("runbook/missing", "error", url.whole(), message, "write it, or correct the link")


def runbook_page(url: str) -> str:
    """The file that a link leads to: FabricX.md of https://.../FabricX, /FabricX.md and /FabricX/#meaning alike."""
    last = url.strip().partition("#")[0].partition("?")[0].rstrip("/").rpartition("/")[2]
    name = re.sub(r"\.(md|html?)$", "", last)
    return f"{name}.md" if re.fullmatch(r"[\w.-]+", name) and name.strip(".") else ""
