"""Checks of metrics and labels against what there is: series, label, cluster."""

from __future__ import annotations

from skeleton_service.lint.findings import Findings
from skeleton_service.lint.functions import PICKING
from skeleton_service.lint.labels import Labels, needs
from skeleton_service.lint.nearest import nearest
from skeleton_service.lint.problem import Severity
from skeleton_service.lint.series import OURS
from skeleton_service.lint.syntax import Aggregate, Binary, Call, Name, Node, Selector, bare, walk


def series(findings: Findings, tree: Node) -> None:
    """Every metric is one that something emits or records."""
    world = findings.world
    for node, _ in walk(tree):
        if not isinstance(node, Selector) or node.name is None:
            continue
        name = node.name.text
        if name in world.recorded or world.metrics.get(name) is not None:
            continue
        ours = name.startswith(OURS)
        severity: Severity = "error" if ours or world.settings.strict or (":" in name and OURS in name) else "info"
        if world.metrics.is_histogram(name):
            message = f"{name} is a histogram, which has no series of its own"
            remedy = f"use {name}_bucket, {name}_sum or {name}_count"
        else:
            near = world.metrics.like(name, world.recorded)
            remedy = f"did you mean {near}?" if near else ""
            message = f"{name} is no metric of the catalogue"
            if ":" in name:
                message = f"no given file records {name}"
                remedy = remedy or "lint it together with the file that records it"
            elif not ours:
                message = f"{name} is no metric that is known here"
                remedy = remedy or "is it spelt right? docs/lint.md says whose metrics are known"
        findings.inside("promql/series", severity, node.name.span, message, remedy)


def label(findings: Findings, tree: Node) -> None:
    """Labels of matchers, groupings and joins are ones that the series have."""
    for node, _ in walk(tree):
        if isinstance(node, Selector) and node.name is not None:
            _matchers(findings, node, node.name.text)
        elif isinstance(node, Aggregate) and node.labels:
            inner = _labels(findings, node.expression)
            for name in node.labels:
                if node.without and inner is not None and name.text not in inner:
                    _missing(findings, name, inner, "what is aggregated has no label", "so there is nothing to drop")
                elif inner is not None and name.text not in inner:
                    _missing(findings, name, inner, "what is aggregated has no label")
        elif isinstance(node, Binary) and node.matching is not None:
            _join(findings, node)


def _labels(findings: Findings, node: Node) -> Labels:
    return findings.world.labels(node)


def _matchers(findings: Findings, node: Selector, metric: str) -> None:
    labels = findings.world.labels_of_metric(metric)
    for matcher in node.matchers:
        name = matcher.label
        if labels is None or name.text in labels or name.text == "__name__":
            continue
        if needs(matcher.op, matcher.value):
            _missing(findings, name, labels, f"{metric} has no label", "so nothing matches")
        elif matcher.op == "!=" and matcher.value:
            _missing(findings, name, labels, f"{metric} has no label", "so everything matches")


def _join(findings: Findings, node: Binary) -> None:
    matching = node.matching
    assert matching is not None  # noqa: S101 - the caller has looked
    left, right = _labels(findings, node.left), _labels(findings, node.right)
    for name in matching.labels:
        if matching.on and _is_constant(node.right) and node.op.text in ("and", "unless"):
            if left is not None and name.text not in left:
                _missing(findings, name, left, "the left side has no label", "so all match")
        elif matching.on:
            for side, labels in (("left", left), ("right", right)):
                if labels is not None and name.text not in labels:
                    _missing(findings, name, labels, f"the {side} side has no label", "so nothing matches on it")
                    break
        elif left is not None and right is not None and name.text not in left | right:
            _missing(findings, name, left | right, "neither side has a label", "so there is nothing to ignore")
    one = right if matching.group == "left" else left
    for name in matching.include:
        if one is not None and name.text not in one:
            side = "right" if matching.group == "left" else "left"
            _missing(findings, name, one, f"the {side} side has no label", f"for group_{matching.group} to take")


def _is_constant(node: Node) -> bool:
    """vector(1), which has no labels on purpose: `unless on (link) vector(1)` are the series that have a link."""
    node = bare(node)
    return isinstance(node, Call) and node.function.text == "vector"


def _missing(findings: Findings, name: Name, labels: frozenset[str], whose: str, so: str = "") -> None:
    metrics = findings.world.metrics
    near = nearest(name.text, sorted(labels))
    remedy = f"did you mean {near}?" if near else metrics.having(labels)
    message = f"{whose} {name.text}" + (f", {so}" if so.startswith("so") else f" {so}" if so else "")
    findings.inside("promql/label", "error", name.span, message, remedy)


def cluster(findings: Findings, tree: Node) -> None:
    """``cluster`` is kept wherever metrics of the fabric are aggregated or joined: names are unique in one alone."""
    for node, _ in walk(tree):
        if isinstance(node, Aggregate) and _of_fabric(node) and "cluster" in (_labels(findings, node.expression) or ()):
            named = {name.text for name in node.labels or ()}
            if node.op.text in PICKING or ("cluster" in named) != node.without:
                continue
            remedy = "take cluster out" if node.without else f"{node.op.text} by (cluster, ...)"
            message = f"{node.op.text} drops cluster, so several fabrics become one"
            findings.inside("promql/cluster", "warning", node.op.span, message, remedy)
        elif isinstance(node, Binary) and node.matching is not None and _of_fabric(node):
            named = {name.text for name in node.matching.labels}
            both = [_labels(findings, side) for side in (node.left, node.right)]
            if (
                any(labels is None or "cluster" not in labels for labels in both)
                or ("cluster" in named) == node.matching.on
            ):
                continue
            word = "on" if node.matching.on else "ignoring"
            message = f"{word}() does not match cluster, so series of several fabrics meet"
            remedy = "add cluster" if node.matching.on else "take cluster out"
            findings.inside("promql/cluster", "warning", node.matching.span, message, remedy)


def _of_fabric(tree: Node) -> bool:
    return any(
        isinstance(node, Selector) and node.name is not None and OURS in node.name.text for node, _ in walk(tree)
    )
