"""What fits together in PromQL: the types of operands and arguments, as Prometheus checks them."""

from __future__ import annotations

import re
import warnings

from skeleton_service.lint.functions import Function
from skeleton_service.lint.syntax import Binary, Call, Selector, Type
from skeleton_service.lint.tokens import PromqlError

COMPARISONS = frozenset(("==", "!=", "<=", "<", ">=", ">"))
SET_OPERATORS = frozenset(("and", "or", "unless"))
_SAID: dict[Type, str] = {"scalar": "number", "string": "string", "vector": "vector", "matrix": "range of samples"}

_NOT_COMPARED = re.compile(r"\\[pPzQC]|\\x\{|\(\?(?!:|P<)|\[\[:")
"""Of RE2's syntax what Python's differs in: nothing is said of such a pattern."""
_MOST_PATTERN = 4096


def check_binary(node: Binary) -> None:
    """Raise PromqlError where the operands do not suit the operator."""
    for side in (node.left, node.right):
        if side.type not in ("scalar", "vector"):
            remedy = "wrap it in rate() or the like" if side.type == "matrix" else ""
            raise PromqlError(f"{node.op.text} does not take a {_SAID[side.type]}", *side.span, remedy)
    both = node.left.type == node.right.type == "vector"
    op, span = node.op.text, node.op.span
    if node.returns_bool and op not in COMPARISONS:
        raise PromqlError(f"bool after {op}", *span, "only comparisons take it")
    if op in COMPARISONS and node.type == "scalar" and not node.returns_bool:
        raise PromqlError("a comparison of two numbers", *span, f"write {op} bool")
    if op in SET_OPERATORS and not both:
        raise PromqlError(f"{op} takes a vector on both sides", *span)
    matching = node.matching
    if matching is None:
        return
    if not both and (matching.labels or matching.group):
        raise PromqlError("on and ignoring are for two vectors", *matching.span)
    if matching.group and op in SET_OPERATORS:
        raise PromqlError(f"{op} takes neither group_left nor group_right", *span)
    for name in matching.include if matching.on else ():
        if name.text in {label.text for label in matching.labels}:
            group = f"group_{matching.group}"
            raise PromqlError(f"label {name.text} both in on and in {group}", *name.span, f"take it out of {group}")


def check_call(node: Call, function: Function) -> None:
    """Raise PromqlError where the arguments do not suit the function."""
    name, takes, given = node.function.text, function.takes, node.arguments
    most = None if function.optional < 0 else len(takes)
    least = len(takes) - (1 if function.optional < 0 else function.optional)
    if len(given) < least or (most is not None and len(given) > most):
        wanted = f"at least {least}" if most is None else str(most) if least == most else f"{least} to {most}"
        raise PromqlError(
            f"{name} takes {wanted} argument{'' if wanted == '1' else 's'}, not {len(given)}", *node.function.span
        )
    for number, argument in enumerate(given):
        wanted_type = takes[min(number, len(takes) - 1)]
        if argument.type != wanted_type:
            remedy = ""
            if wanted_type == "matrix" and argument.type == "vector":
                remedy = (
                    "add a range such as [5m]" if isinstance(argument, Selector) else "add a subquery such as [5m:]"
                )
            problem = f"{name} takes a {_SAID[wanted_type]} here, not a {_SAID[argument.type]}"
            raise PromqlError(problem, *argument.span, remedy)


def check_selector(node: Selector) -> None:
    """Raise PromqlError where a selector names two metrics, or nothing that is not empty, or no regular expression."""
    for matcher in node.matchers:
        if node.name is not None and matcher.label.text == "__name__":
            raise PromqlError(f"the metric is named twice, also as {node.name.text}", *matcher.label.span)
        if "~" in matcher.op:
            check_pattern(matcher.value, *matcher.value_span)
    if node.name is None and all(matches_empty(matcher.op, matcher.value) for matcher in node.matchers):
        remedy = "name the metric, or a label that is not empty"
        raise PromqlError("a selector that may match every series", *node.span, remedy)


def check_pattern(pattern: str, start: int, end: int) -> None:
    """Raise PromqlError for what RE2 refuses for sure."""
    if len(pattern) > _MOST_PATTERN:
        return
    bare = re.sub(r"\\.|\[\^?\]?[^\]]*\]", lambda found: found[0] if found[0][0] == "\\" else "[]", pattern)
    if re.search(r"\(\?(?:=|!|<=|<!|>)|\\[1-9uUNZ]", bare):
        raise PromqlError("this is no syntax of Prometheus' regular expressions (RE2)", start, end)
    if _NOT_COMPARED.search(pattern):
        return
    plain = re.sub(r"\\.", "", bare)
    if re.search(r"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\+", plain) or any(
        int(each) > 1000 for each in re.findall(r"[{,]([0-9]{1,9})(?=[,}])", plain)
    ):
        raise PromqlError("a repetition that Prometheus' regular expressions (RE2) do not have", start, end)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        said = error.msg if isinstance(error, re.error) else "too large"
        raise PromqlError(f"not a regular expression: {said}", start, end) from error


def matches_empty(op: str, value: str) -> bool:
    """Whether a matcher is satisfied by a series without the label; True where that cannot be known."""
    if op == "=":
        return not value
    if op == "!=":
        return bool(value)
    if len(value) > _MOST_PATTERN:
        return True
    # Alternatives within repetitions may take for ever to refuse the empty string.
    if "(" in value and (value.count("|") > 10 or re.search(r"\)[*+?{]", value)):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = re.fullmatch(value, "") is not None
    except (re.error, OverflowError, RecursionError):
        return True
    return found if op == "=~" else not found
