"""Checks of what is computed: counter, rate, nan, regexp, fragile, portable."""

from __future__ import annotations

import re

from skeleton_service.lint.checks.impossible import bounds
from skeleton_service.lint.findings import Findings
from skeleton_service.lint.fitting import COMPARISONS
from skeleton_service.lint.functions import FUNCTIONS, NEWER_AGGREGATIONS, OF_CHANGE, OF_COUNTERS, PICKING
from skeleton_service.lint.syntax import (
    Aggregate,
    Binary,
    Call,
    Node,
    Number,
    Paren,
    Range,
    Selector,
    Subquery,
    Unary,
    bare,
    walk,
)

_EXISTENCE = frozenset(("absent", "absent_over_time", "present_over_time", "count_over_time", "timestamp", "scalar"))
_OF_SAMPLES = OF_COUNTERS | {"resets", "changes", "idelta", "absent_over_time", "present_over_time", "count_over_time"}
_SCRAPES = 4
_SPECIAL = re.compile(r"[.+*?()|\[\]{}^$\\]")
_MAY_BE_ZERO = frozenset(("sum", "avg", "max", "min", "quantile"))
_OVER_TIME = frozenset(("sum_over_time", "avg_over_time", "max_over_time", "min_over_time", "quantile_over_time"))


def counter(findings: Findings, tree: Node) -> None:
    """A counter's value says when its exporter started; its rate says what happens. A gauge has no rate."""
    for node, above in walk(tree):
        if not isinstance(node, Selector) or node.name is None:
            continue
        info = findings.world.info(node)
        if info is None:
            continue
        call = next((each for each in reversed(above) if isinstance(each, Call)), None)
        name = node.name.text
        if (
            info.kind == "gauge"
            and above
            and isinstance(above[-1], Range)
            and call
            and call.function.text in OF_COUNTERS
        ):
            message = f"{call.function.text}() of {name}, which is a gauge: each fall of it counts as a restart"
            findings.inside("promql/counter", "error", call.function.span, message, "use delta(), deriv() or changes()")
        elif info.kind == "counter" and not _is_used_as_counter(node, above):
            message = f"{name} is a counter, whose value depends on when its exporter started"
            findings.inside("promql/counter", "warning", node.name.span, message, "use rate() or increase()")


def _is_used_as_counter(node: Selector, above: tuple[Node, ...]) -> bool:
    if node.name is not None and node.name.text.endswith("_bucket") and not above:
        return False
    below: Node = node
    for over in reversed(above):
        if isinstance(over, Range | Subquery):
            below = over
            continue
        if isinstance(over, Call):
            if over.function.text in _EXISTENCE | _OF_SAMPLES:
                return True
        elif isinstance(over, Aggregate):
            if over.op.text in ("count", "group"):
                return True
        elif isinstance(over, Binary):
            if over.op.text in ("and", "unless") and over.right is below:
                return True  # asked only whether it is there
            if over.op.text == "-" and _is_difference(over):
                return True
            zero = next((side for side in (over.left, over.right) if isinstance(bare(side), Number)), None)
            if zero is not None and over.op.text in ("*", "^") and getattr(bare(zero), "value", 1) == 0:
                return True
        below = over
    return False


def _is_difference(node: Binary) -> bool:
    """A counter less what it was, or less another: a difference may be meant."""
    sides = [each for side in (node.left, node.right) for each, _ in walk(side) if isinstance(each, Selector)]
    return len(sides) > 1


def rate(findings: Findings, tree: Node) -> None:
    """A range holds four scrapes: one may be late or lost, and two samples are the least that a rate is made of."""
    least = _SCRAPES * findings.world.settings.scrape_interval
    for node, _ in walk(tree):
        if not isinstance(node, Call) or node.function.text not in OF_CHANGE:
            continue
        for argument in node.arguments:
            if isinstance(argument, Range) and argument.seconds < least:
                message = f"the range of {node.function.text}() is under four scrapes of {duration(least / _SCRAPES)}"
                remedy = f"at least {duration(least)}, or say --scrape-interval"
                findings.inside("promql/rate", "warning", argument.range_span, message, remedy)


def duration(value: float) -> str:
    """Seconds in Prometheus' notation."""
    if value != int(value):
        return f"{value * 1000:.0f}ms"
    return f"{value / 60:.0f}m" if value >= 60 and not value % 60 else f"{value:.0f}s"


def nan(findings: Findings, tree: Node) -> None:
    """0 / 0 is NaN, which an aggregation over it or a recorded series keeps for all."""
    for node, above in walk(tree):
        if isinstance(node, Binary) and node.op.text in ("/", "%") and node.right.type == "vector":
            below = bare(node.right)
            if _may_be_zero(findings, below) and not _leaves_nan_out(node, above):
                message = "the denominator may be 0, and the quotient NaN or infinite"
                findings.inside("promql/nan", "warning", node.right.span, message, "(... > 0) leaves such series out")


def _leaves_nan_out(node: Node, above: tuple[Node, ...]) -> bool:
    """Whether the value is compared with a number that it must be above, as NaN is not; sums with numbers aside."""
    below = node
    for over in reversed(above):
        if isinstance(over, Binary):
            is_left = over.left is below
            if not _is_number(over.right if is_left else over.left):
                return False
            if over.op.text in COMPARISONS:
                return over.op.text in ((">", ">=") if is_left else ("<", "<="))
        elif not isinstance(over, Paren | Unary):
            return False
        below = over
    return False


def _is_number(node: Node) -> bool:
    node = bare(node)
    return isinstance(node, Number) or (isinstance(node, Unary) and _is_number(node.expression))


def _may_be_zero(findings: Findings, node: Node) -> bool:
    """Whether a rate or an aggregation decides the value, and nothing keeps it from being 0."""
    node = bare(node)
    match node:
        case Aggregate():
            return node.op.text in _MAY_BE_ZERO and not _is_guarded(findings, node.expression)
        case Call(function=function):
            return function.text in OF_COUNTERS | _OVER_TIME
        case Binary(op=op) if op.text in COMPARISONS:
            return node.returns_bool or not _is_guarded(findings, node)
        case Binary(op=op) if op.text in ("+", "*"):
            return _may_be_zero(findings, node.left) and _may_be_zero(findings, node.right)
        case Binary(op=op) if op.text in ("and", "unless"):
            return _may_be_zero(findings, node.left)
        case Binary(op=op) if op.text == "or":
            return _may_be_zero(findings, node.left) or _may_be_zero(findings, node.right)
        case Unary(expression=inner):
            return _may_be_zero(findings, inner)
    return False


def _is_guarded(findings: Findings, node: Node) -> bool:
    """Whether a comparison leaves zeros out, or the value cannot be 0."""
    node = bare(node)
    if bounds(findings, node)[0] > 0:
        return True
    if isinstance(node, Aggregate):
        return _is_guarded(findings, node.expression)
    if isinstance(node, Selector) and node.name is not None:
        return _record_is_guarded(findings, node.name.text)
    if isinstance(node, Binary) and node.op.text in ("*", "/"):
        return _is_guarded(findings, node.left) and _is_guarded(findings, node.right)
    if isinstance(node, Binary) and node.op.text in COMPARISONS and not node.returns_bool:
        number = bare(node.right)
        return not isinstance(number, Number) or not _holds_for_zero(node.op.text, number.value)
    if isinstance(node, Call) and node.function.text in ("clamp_min", "clamp"):
        return True
    return isinstance(node, Binary) and node.op.text in ("and", "unless") and _is_guarded(findings, node.left)


def _record_is_guarded(findings: Findings, name: str) -> bool:
    """Whether all rules that record it leave zeros out."""
    world = findings.world
    if name not in world.never_zero:
        world.never_zero[name] = False  # of records of one another, too
        rules = world.recorded.get(name, ())
        world.never_zero[name] = bool(rules) and all(
            rule.tree is not None and _is_guarded(findings, rule.tree) for rule in rules
        )
    return world.never_zero[name]


def _holds_for_zero(op: str, value: float) -> bool:
    match op:
        case ">" | ">=":
            return value < 0 or (op == ">=" and value == 0)
        case "<" | "<=":
            return value > 0 or (op == "<=" and value == 0)
    return (value == 0) == (op == "==")


def regexp(findings: Findings, tree: Node) -> None:
    """=~ costs more than =, and says that more than one value is meant."""
    for node, _ in walk(tree):
        for matcher in node.matchers if isinstance(node, Selector) else ():
            if "~" in matcher.op and _SPECIAL.search(matcher.value) is None:
                plain = "=" if matcher.op == "=~" else "!="
                message = f"{matcher.op} with a pattern that matches one value alone"
                findings.inside("promql/regexp", "warning", matcher.value_span, message, f"use {plain}")
            elif "~" in matcher.op and len(matcher.value) > 1 and (matcher.value[0] == "^" or matcher.value[-1] == "$"):
                if matcher.value.endswith("\\$"):
                    continue
                message = "a pattern matches the whole value: ^ and $ say nothing"
                findings.inside("promql/regexp", "info", matcher.value_span, message, "take them out")


def fragile(findings: Findings, tree: Node) -> None:
    """An alert is its labels: where the winners change, alerts resolve and fire anew."""
    for node, _ in walk(tree):
        if findings.rule.alert and isinstance(node, Aggregate) and node.op.text in PICKING:
            message = f"{node.op.text}() in an alert: as its winners change, alerts resolve and others fire"
            findings.inside("promql/fragile", "warning", node.op.span, message, "compare with a threshold instead")


def portable(findings: Findings, tree: Node) -> None:
    """What some of the Prometheus versions in use do not know."""
    for node, _ in walk(tree):
        name = node.function if isinstance(node, Call) else node.op if isinstance(node, Aggregate) else None
        if name is None:
            continue
        since = FUNCTIONS[name.text].since if isinstance(node, Call) else NEWER_AGGREGATIONS.get(name.text, "")
        if since:
            message = f"{name.text}() is known since Prometheus {since} alone"
            findings.inside(
                "promql/portable", "warning", name.span, message, "disable the check if all of yours know it"
            )
        elif name.text == "holt_winters":
            message = "Prometheus 3 does not know holt_winters()"
            remedy = "it is double_exponential_smoothing() there, behind a feature flag"
            findings.inside("promql/portable", "warning", name.span, message, remedy)
