"""Which labels the result of an expression can have, as far as that is certain."""

from __future__ import annotations

from collections.abc import Callable

from skeleton_service.lint.fitting import SET_OPERATORS, matches_empty
from skeleton_service.lint.functions import PICKING
from skeleton_service.lint.syntax import (
    Aggregate,
    Binary,
    Call,
    Matching,
    Node,
    Paren,
    Range,
    Selector,
    String,
    Subquery,
    Unary,
)

Labels = frozenset[str] | None
"""None: any. A set: these and no others, though a series may lack some of them."""
OfMetric = Callable[[str], Labels]

_NONE: Labels = frozenset()


def labels_of(node: Node, of_metric: OfMetric) -> Labels:
    """The labels that a result may have; ``of_metric`` knows those of a metric's series."""
    match node:
        case Selector():
            return selector_labels(node, of_metric)
        case Range(selector=inner) | Subquery(expression=inner) | Paren(expression=inner) | Unary(expression=inner):
            return labels_of(inner, of_metric)
        case Aggregate():
            return _aggregated(node, of_metric)
        case Call():
            return _called(node, of_metric)
        case Binary():
            return _combined(node, of_metric)
    return _NONE


def selector_labels(node: Selector, of_metric: OfMetric) -> Labels:
    if node.name is not None:
        return of_metric(node.name.text)
    for matcher in node.matchers:
        if matcher.label.text == "__name__" and matcher.op == "=":
            return of_metric(matcher.value)
    return None


def _aggregated(node: Aggregate, of_metric: OfMetric) -> Labels:
    inner = labels_of(node.expression, of_metric)
    if node.op.text in PICKING:
        return inner
    named = frozenset(label.text for label in node.labels or ())
    by = named if inner is None else inner & named
    kept = (None if inner is None else inner - named) if node.without else by
    if node.op.text == "count_values" and isinstance(node.parameter, String):
        kept = None if kept is None else kept | {node.parameter.value}
    return kept


def _called(node: Call, of_metric: OfMetric) -> Labels:
    name, given = node.function.text, node.arguments
    if name in ("absent", "absent_over_time"):
        return _of_absent(given[0])
    if name in ("label_replace", "label_join") and len(given) > 1:
        inner, made = labels_of(given[0], of_metric), given[1]
        if inner is None or not isinstance(made, String):
            return None
        return inner | {made.value}
    if name == "info":
        return None
    vector = next((each for each in given if each.type in ("vector", "matrix")), None)
    if vector is None or node.type == "scalar":
        return _NONE
    inner = labels_of(vector, of_metric)
    return inner - {"le"} if name.startswith("histogram_") and inner is not None else inner


def _of_absent(node: Node) -> Labels:
    """absent() has the labels that its selector asks to be equal to something."""
    while isinstance(node, Range | Paren):
        node = node.selector if isinstance(node, Range) else node.expression
    if not isinstance(node, Selector):
        return _NONE
    asked = [matcher.label.text for matcher in node.matchers if matcher.label.text != "__name__"]
    equal = {matcher.label.text for matcher in node.matchers if matcher.op == "=" and matcher.value}
    return frozenset(name for name in equal if asked.count(name) == 1)


def _combined(node: Binary, of_metric: OfMetric) -> Labels:
    left, right = labels_of(node.left, of_metric), labels_of(node.right, of_metric)
    if node.left.type == "scalar":
        return right
    if node.right.type == "scalar":
        return left
    if node.op.text == "or":
        return None if left is None or right is None else left | right
    if node.op.text in SET_OPERATORS:
        return left
    matching = node.matching
    if matching is not None and matching.group:
        many = left if matching.group == "left" else right
        return None if many is None else many | {label.text for label in matching.include}
    return one_to_one(left, right, matching)


def one_to_one(left: Labels, right: Labels, matching: Matching | None) -> Labels:
    """The labels of matched pairs: those that they are matched on."""
    named = frozenset(label.text for label in matching.labels) if matching else frozenset()
    if matching is not None and matching.on:
        return named if left is None else named & left
    if left is None or right is None:  # a pair agrees on all its labels but those ignored
        known = right if left is None else left
        return None if known is None else known - named
    return (left & right) - named


def is_certainly_empty(label: str, labels: Labels) -> bool:
    """Whether no series can have this label."""
    return labels is not None and label not in labels


def needs(op: str, value: str) -> bool:
    """Whether a matcher is satisfied only by a series that has the label."""
    return not matches_empty(op, value)
