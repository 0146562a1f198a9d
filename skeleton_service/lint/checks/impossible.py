"""promql/impossible: comparisons that can never hold, as far as that can be proven."""

from __future__ import annotations

from math import inf, ulp

from skeleton_service.lint.findings import Findings
from skeleton_service.lint.fitting import COMPARISONS
from skeleton_service.lint.syntax import Aggregate, Binary, Call, Node, Number, Range, Selector, bare, walk

Bounds = tuple[float, float]
_ANY: Bounds = (-inf, inf)
_ONE: Bounds = (1, 1)
_NOT_NEGATIVE: Bounds = (0, inf)
_SHARE: Bounds = (ulp(0.0), 1)
"""More than nothing, and no more than all."""
_SHARES = frozenset(("fabric_path_link_info",))
"""Of sprayed paths the share of the packets that cross the link."""
_TRUTH: Bounds = (0, 1)
_KEEPING = frozenset(("max", "min", "avg", "topk", "bottomk", "quantile"))
_FUNCTIONS = {
    "absent": _ONE,
    "absent_over_time": _ONE,
    "present_over_time": _ONE,
    "count_over_time": (1, inf),
    **dict.fromkeys(("changes", "resets", "abs", "sqrt", "stddev_over_time", "stdvar_over_time"), _NOT_NEGATIVE),
}
_WHY = {
    "count": "nothing is counted as no series, not as 0: use absent(), or unless",
    "absent": "absent() is 1 or nothing",
}


def impossible(findings: Findings, tree: Node) -> None:
    """A comparison with a number that no value can satisfy: its rule does nothing."""
    for node, _ in walk(tree):
        if not isinstance(node, Binary) or node.op.text not in COMPARISONS or node.returns_bool:
            continue
        left, right = bounds(findings, node.left), bounds(findings, node.right)
        if _ANY in (left, right) or node.matching is not None:
            continue
        if not isinstance(bare(node.left), Number) and not isinstance(bare(node.right), Number):
            continue
        if not _can_hold(node.op.text, left, right):
            value = left if isinstance(bare(node.right), Number) else right
            message = f"this comparison can never hold: the value {_said(value)}"
            findings.inside("promql/impossible", "warning", node.span, message, _remedy(node))


def _said(value: Bounds) -> str:
    low, high = value
    if value == _SHARE:
        return "is over 0 and at most 1"
    if low == high:
        return f"is always {low:g}"
    return f"is never under {low:g}" if high == inf else f"is from {low:g} to {high:g}"


def _remedy(node: Binary) -> str:
    for side in (bare(node.left), bare(node.right)):
        name = side.op.text if isinstance(side, Aggregate) else side.function.text if isinstance(side, Call) else ""
        if name in _WHY:
            return _WHY[name]
    return "correct the number"


def _can_hold(op: str, left: Bounds, right: Bounds) -> bool:
    match op:
        case "==":
            return left[0] <= right[1] and right[0] <= left[1]
        case "!=":
            return not (left[0] == left[1] == right[0] == right[1])
        case "<":
            return left[0] < right[1]
        case "<=":
            return left[0] <= right[1]
        case ">":
            return left[1] > right[0]
    return left[1] >= right[0]


def bounds(findings: Findings, node: Node) -> Bounds:
    """The least and the greatest value that an expression can have; NaN aside, of which no comparison holds."""
    node = bare(node)
    match node:
        case Number(value=value):
            return (value, value)
        case Selector():
            return _of_selector(findings, node)
        case Range(selector=selector):
            return _of_selector(findings, selector)
        case Aggregate(op=op) if op.text == "count":
            return (1, inf)
        case Aggregate(op=op) if op.text == "group":
            return _ONE
        case Aggregate(op=op, expression=inner) if op.text in _KEEPING:
            quantile = op.text == "quantile"
            return _ANY if quantile else bounds(findings, inner)
        case Aggregate(op=op, expression=inner) if op.text == "sum":
            low, _ = bounds(findings, inner)
            return _NOT_NEGATIVE if low >= 0 else _ANY
        case Call():
            return _of_call(findings, node)
        case Binary(op=op) if op.text in COMPARISONS:
            return (
                _TRUTH
                if node.returns_bool
                else bounds(findings, node.left if node.left.type == "vector" else node.right)
            )
        case Binary(op=op, left=left) if op.text in ("and", "unless"):
            return bounds(findings, left)
        case Binary(op=op, right=right) if op.text == "^" and bounds(findings, right) == (0, 0):
            return _ONE
    return _ANY


def _of_selector(findings: Findings, node: Selector) -> Bounds:
    if node.name is None:
        return _ANY
    name, info = node.name.text, findings.world.info(node)
    if name == "up":
        return _TRUTH
    if info is not None and info.kind == "counter" and not name.endswith("_sum"):
        return _NOT_NEGATIVE
    if info is not None and info.kind == "gauge" and name.endswith("_info"):
        return _SHARE if name in _SHARES else _ONE
    return _ANY


def _of_call(findings: Findings, node: Call) -> Bounds:
    name = node.function.text
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    if name in ("rate", "increase", "irate"):
        return _NOT_NEGATIVE
    if name in ("max_over_time", "min_over_time", "avg_over_time", "last_over_time"):
        return bounds(findings, node.arguments[0])
    return _ANY
