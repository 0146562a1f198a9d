"""Which values a label of a result can have, as far as that is certain: by the catalogue, and through records."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from skeleton_service.lint.syntax import Aggregate, Binary, Call, Node, Paren, Range, Selector, String, Subquery, Unary

if TYPE_CHECKING:
    from skeleton_service.lint.labels import Labels

Values = frozenset[str] | None
"""None: any. A set: these and no others, and the label may be missing."""

_NONE: Values = frozenset()


def values_of(
    node: Node, label: str, of_metric: Callable[[str, str], Values], labels: Callable[[Node], Labels]
) -> Values:
    """The values that a label of a result may have; ``of_metric`` knows those of a metric's series."""
    known = labels(node)
    if known is not None and label not in known:
        return _NONE

    def of(inner: Node) -> Values:
        return values_of(inner, label, of_metric, labels)

    match node:
        case Selector():
            return None if node.name is None else of_metric(node.name.text, label)
        case Range(selector=inner) | Subquery(expression=inner) | Paren(expression=inner) | Unary(expression=inner):
            return of(inner)
        case Aggregate():
            made = node.op.text == "count_values" and getattr(node.parameter, "value", label) == label
            return None if made else of(node.expression)
        case Call():
            return _called(node, label, of)
        case Binary():
            return _combined(node, label, of)
    return None


def _called(node: Call, label: str, of: Callable[[Node], Values]) -> Values:
    name, given = node.function.text, node.arguments
    if name in ("info", "absent", "absent_over_time"):
        return None
    if name in ("label_replace", "label_join") and not (isinstance(given[1], String) and given[1].value != label):
        said = given[2] if name == "label_replace" else None
        if not isinstance(said, String) or "$" in said.value:
            return None
        before = of(given[0])
        return None if before is None else before | {said.value}
    vector = next((each for each in given if each.type in ("vector", "matrix")), None)
    return None if vector is None else of(vector)


def _combined(node: Binary, label: str, of: Callable[[Node], Values]) -> Values:
    if node.op.text in ("and", "unless") or node.right.type == "scalar":
        return of(node.left)
    if node.left.type == "scalar":
        return of(node.right)
    if node.op.text != "or" and node.matching is not None and node.matching.group:
        is_taken = label in {each.text for each in node.matching.include}
        return of(node.left if (node.matching.group == "left") != is_taken else node.right)
    left, right = of(node.left), of(node.right)
    if node.op.text == "or":
        return None if left is None or right is None else left | right
    return right if left is None else left  # a pair agrees on what it keeps
