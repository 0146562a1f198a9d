"""promql/value: what matchers ask for is something that the label can say."""

from __future__ import annotations

import re
from collections.abc import Iterator

from skeleton_service.lint.findings import Findings
from skeleton_service.lint.nearest import did_you_mean
from skeleton_service.lint.series import listed
from skeleton_service.lint.syntax import Matcher, Node, Selector, Span, walk

_WORDS = re.compile(r"\^?(?:\((?:\?:)?)?(?P<words>[\w \-]*(?:\|[\w \-]*)*)\)?\$?")
"""A pattern that is some words and no more."""


def value(findings: Findings, tree: Node) -> None:
    """A value that the label never has matches nothing, or with != leaves nothing out."""
    for node, _ in walk(tree):
        if not isinstance(node, Selector) or node.name is None:
            continue
        for matcher in node.matchers:
            known = findings.world.values_of_metric(node.name.text, matcher.label.text)
            for word, span in _words(matcher) if known else ():
                if word and known and word not in known:
                    _unknown(findings, node.name.text, matcher, word, span, known)


def _words(matcher: Matcher) -> Iterator[tuple[str, Span]]:
    """The values that are asked for, each with its place; none of a pattern that is more than a list of words."""
    words, first = matcher.value, 0
    if "~" in matcher.op:
        pattern = _WORDS.fullmatch(words)
        if pattern is None:
            return
        words, first = pattern["words"], pattern.start("words")
    start, end = matcher.value_span
    is_plain = end - start == len(matcher.value) + 2  # no escapes, so characters are where they are read
    for word in words.split("|") if "~" in matcher.op else [words]:
        place = start + 1 + first
        yield word, (place, place + len(word)) if is_plain else matcher.value_span
        first += len(word) + 1


def _unknown(findings: Findings, metric: str, matcher: Matcher, word: str, span: Span, known: frozenset[str]) -> None:
    so = "leaves nothing out" if matcher.op.startswith("!") else "matches nothing"
    if all(each.isdecimal() for each in known):
        numbers = sorted(map(int, known))
        remedy = f"it is from {numbers[0]} to {numbers[-1]}"
    else:
        remedy = did_you_mean(word, sorted(known), f"one of {listed(known)}")
    message = f"{matcher.label.text} of {metric} is never {word}, so this {so}"
    findings.inside("promql/value", "warning", span, message, remedy)
