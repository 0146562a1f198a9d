"""PromQL to its syntax tree, by precedence climbing; every error names its place."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan
from typing import NoReturn

from skeleton_service.lint.fitting import check_binary, check_call, check_selector
from skeleton_service.lint.functions import AGGREGATIONS, FUNCTIONS, WITH_PARAMETER
from skeleton_service.lint.nearest import did_you_mean
from skeleton_service.lint.syntax import (
    Aggregate,
    Binary,
    Call,
    Matcher,
    Matching,
    Name,
    Node,
    Number,
    Paren,
    Range,
    Selector,
    Span,
    String,
    Subquery,
    Type,
    Unary,
)
from skeleton_service.lint.tokens import PromqlError, Token, seconds, tokenize, unquote

MOST_DEPTH = 200
"""How deep a tree may be; a chain of operators is as deep as it is long."""

_MOST_NESTED = 80
"""How deep parentheses, calls and signs may be nested: each takes several frames of the stack."""
_POWER, _UNARY = 6, 5
_PRECEDENCE = {
    "or": 1,
    **dict.fromkeys(("and", "unless"), 2),
    **dict.fromkeys(("==", "!=", "<=", "<", ">=", ">"), 3),
    **dict.fromkeys(("+", "-"), 4),
    **dict.fromkeys(("*", "/", "%", "atan2"), _UNARY),
    "^": _POWER,
}
_NUMBERS = {"inf": inf, "nan": nan}
_NO_METRIC = {"bool", "group_left", "group_right", "ignoring", "on", "atan2"}
"""Words that name no metric; other words of the language do where a metric may stand."""


def parse(text: str) -> Node:
    """Return the tree of an expression; raise PromqlError for what Prometheus would refuse."""
    parser = _Parser(tokenize(text))
    node = parser.expression()
    if parser.now.kind != "end":
        parser.unexpected("an operator, or the end")
    waiting = [(node, 1)]
    while waiting:
        each, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise TooDeepError(*each.span)
        waiting += [(child, depth + 1) for child in each.children]
    return node


class _Parser:
    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    @property
    def now(self) -> Token:
        return self._tokens[self._at]

    @property
    def _word(self) -> str:
        """The word of the language that stands here, if one does: they may be written in capitals."""
        return self.now.text.lower() if self.now.kind == "name" else ""

    @property
    def _next(self) -> Token:
        return self._tokens[min(self._at + 1, len(self._tokens) - 1)]

    def _take(self) -> Token:
        token = self.now
        self._at += token.kind != "end"
        return token

    def _is(self, symbol: str) -> bool:
        return self.now.kind == "symbol" and self.now.text == symbol

    def _expect(self, symbol: str, opened: Token | None = None) -> Token:
        if self._is(symbol):
            return self._take()
        if opened is not None and self.now.kind == "end":
            raise PromqlError(f"{opened.text} is not closed", opened.start, opened.end, f"add {symbol}")
        return self.unexpected(symbol)

    def unexpected(self, wanted: str) -> NoReturn:
        self._refuse(self.now, wanted)

    def _refuse(self, token: Token, wanted: str) -> NoReturn:
        if token.kind == "end":
            before = self._tokens[-2] if len(self._tokens) > 1 else token
            raise PromqlError(
                "the expression ends too early", before.start, before.end, f"{wanted} is missing after it"
            )
        raise PromqlError(f"unexpected {token.text}", token.start, token.end, f"expected {wanted}")

    def _end(self) -> int:
        return self._tokens[self._at - 1].end

    def expression(self, lowest: int = 1) -> Node:
        self._depth += 1
        if self._depth > _MOST_NESTED:
            raise TooDeepError(self.now.start, self.now.end)
        node = self._unary()
        while (operator := self._operator()) and _PRECEDENCE[operator] >= lowest:
            node = self._binary(node, operator)
        self._depth -= 1
        return node

    def _operator(self) -> str:
        word = self.now.text if self.now.kind == "symbol" else self._word
        return word if word in _PRECEDENCE else ""

    def _binary(self, left: Node, operator: str) -> Node:
        token = self._take()
        returns_bool = self._word == "bool"
        if returns_bool:
            self._take()
        matching = self._matching()
        above = _PRECEDENCE[operator] + (operator != "^")
        right = self.expression(above)
        name = Name(operator, (token.start, token.end))
        returns: Type = "scalar" if left.type == right.type == "scalar" else "vector"
        node = Binary((left.span[0], right.span[1]), name, left, right, returns_bool, matching, returns)
        check_binary(node)
        return node

    def _matching(self) -> Matching | None:
        word, start = self._word, self.now.start
        if word not in ("on", "ignoring"):
            return None
        self._take()
        labels = self._labels()
        span = (start, self._end())
        side = self._word
        if side not in ("group_left", "group_right"):
            return Matching(word == "on", labels, "", (), span)
        self._take()
        include = self._labels() if self._is("(") else ()
        return Matching(word == "on", labels, "left" if side == "group_left" else "right", include, span)

    def _labels(self) -> tuple[Name, ...]:
        opened = self._expect("(")
        names = []
        while not self._is(")"):
            if self.now.kind != "name" or ":" in self.now.text:
                if self.now.kind == "end":
                    self._expect(")", opened)
                self.unexpected("the name of a label")
            token = self._take()
            names.append(Name(token.text, (token.start, token.end)))
            if not self._is(")"):
                self._expect(",", opened)
        self._take()
        return tuple(names)

    def _unary(self) -> Node:
        if self._is("-") or self._is("+"):
            start = self._take().start
            node = self.expression(_POWER)
            if node.type not in ("scalar", "vector"):
                raise PromqlError(f"a sign before a {_SAID[node.type]}", *node.span, "it takes a number or a vector")
            return Unary((start, node.span[1]), node)
        return self._modifiers(self._primary())

    def _primary(self) -> Node:
        token = self.now
        if token.kind == "number":
            self._take()
            return Number((token.start, token.end), _number(token))
        if token.kind == "string":
            self._take()
            return String((token.start, token.end), unquote(token))
        if self._is("("):
            self._take()
            inner = self.expression()
            self._expect(")", token)
            return Paren((token.start, self._end()), inner)
        if self._is("{"):
            return self._selector(None)
        if token.kind != "name":
            return self.unexpected("a metric, a function or a number")
        word = self._word
        if word in _NUMBERS:
            self._take()
            return Number((token.start, token.end), _NUMBERS[word])
        following = self._next.text if self._next.kind == "symbol" else self._next.text.lower()
        if word in AGGREGATIONS and following in ("(", "by", "without"):
            return self._aggregate()
        if following == "(" and self._next.kind == "symbol":
            return self._call()
        if word in _NO_METRIC:
            return self.unexpected("a metric, a function or a number")
        self._take()
        return self._selector(Name(token.text, (token.start, token.end)))

    def _arguments(self) -> tuple[Node, ...]:
        opened = self._expect("(")
        found: list[Node] = []
        while not self._is(")"):
            found.append(self.expression())
            if self._is(","):
                comma = self._take()
                if self._is(")"):
                    raise PromqlError("a comma after the last argument", comma.start, comma.end, "take it away")
            elif not self._is(")"):
                self._expect(")", opened)
        self._take()
        return tuple(found)

    def _call(self) -> Node:
        token = self._take()
        function = FUNCTIONS.get(token.text)
        if function is None:
            remedy = did_you_mean(token.text, [*FUNCTIONS, *AGGREGATIONS])
            raise PromqlError(f"there is no function {token.text}", token.start, token.end, remedy)
        arguments = self._arguments()
        node = Call((token.start, self._end()), Name(token.text, (token.start, token.end)), arguments, function.returns)
        check_call(node, function)
        return node

    def _grouping(self) -> tuple[bool, tuple[Name, ...]] | None:
        word = self._word
        if word not in ("by", "without"):
            return None
        self._take()
        return word == "without", self._labels()

    def _aggregate(self) -> Node:
        token = self._take()
        op = Name(token.text.lower(), (token.start, token.end))
        grouping = self._grouping()
        if not self._is("("):
            self.unexpected("(")
        arguments = self._arguments()
        grouping = grouping or self._grouping()
        wanted = 2 if op.text in WITH_PARAMETER else 1
        if len(arguments) != wanted:
            raise PromqlError(f"{op.text} takes {wanted} argument{'s'[: wanted - 1]}, not {len(arguments)}", *op.span)
        expression = arguments[-1]
        if wanted == 2:
            _expect_type(arguments[0], WITH_PARAMETER[op.text], op.text)
        _expect_type(expression, "vector", op.text)
        without, labels = grouping or (False, None)
        parameter = arguments[0] if wanted == 2 else None
        return Aggregate((token.start, self._end()), op, parameter, expression, without, labels)

    def _selector(self, name: Name | None) -> Selector:
        start = name.span[0] if name else self.now.start
        matchers: list[Matcher] = []
        if self._is("{"):
            opened = self._take()
            while not self._is("}"):
                if self.now.kind == "end":
                    self._expect("}", opened)
                matchers.append(self._matcher())
                if not self._is("}"):
                    self._expect(",", opened)
            self._take()
        node = Selector((start, self._end()), name, tuple(matchers))
        check_selector(node)
        return node

    def _matcher(self) -> Matcher:
        if self.now.kind == "string" and self._next.text in (",", "}", "=", "!=", "=~", "!~"):
            remedy = "Prometheus reads names in quotes from version 3 on"
            raise PromqlError("a name in quotes", self.now.start, self.now.end, remedy)
        if self.now.kind != "name":
            self.unexpected("the name of a label")
        label = self._take()
        operator = self._take()
        if operator.text not in ("=", "!=", "=~", "!~"):
            self._refuse(operator, "one of = != =~ !~")
        value = self._take()
        if value.kind != "string":
            self._refuse(value, "a string")
        name = Name(label.text, (label.start, label.end))
        return Matcher(name, operator.text, unquote(value), (value.start, value.end))

    def _modifiers(self, node: Node) -> Node:
        """Ranges, subqueries, offset and @ after an expression."""
        moved: set[str] = set()
        while True:
            if self._is("["):
                if moved and isinstance(node, Selector):
                    raise PromqlError("a range after offset or @", self.now.start, self.now.end, "put the range first")
                node = self._range(node)
                moved = set()
            elif self._is("@") or self._word == "offset":
                kind = self._take().text.lower()
                if not isinstance(node, Selector | Range | Subquery):
                    problem = f"{kind} after what is neither a selector nor a subquery"
                    raise PromqlError(problem, self._end() - len(kind), self._end())
                if kind in moved:
                    raise PromqlError(f"{kind} twice", self._end() - len(kind), self._end(), "take one away")
                moved.add(kind)
                self._time(kind)
                node = _displaced(node, self._end())
            else:
                return node

    def _time(self, kind: str) -> None:
        if kind == "@" and self._word in ("start", "end"):
            self._take()
            self._expect("(")
            self._expect(")")
            return
        if self._is("-") or (kind == "@" and self._is("+")):
            self._take()
        if kind == "@" and self._word in _NUMBERS:
            self.unexpected("a time")
        if self.now.kind != ("duration" if kind == "offset" else "number"):
            self.unexpected("a duration such as 5m" if kind == "offset" else "a time in seconds")
        self._take()

    def _range(self, node: Node) -> Node:
        opened = self._take()
        if self.now.kind != "duration":
            self.unexpected("a duration such as 5m")
        token = self._duration()
        if self._is(":"):
            self._take()
            if self.now.kind == "duration":
                self._duration()
            self._expect("]", opened)
            if node.type != "vector":
                raise PromqlError(f"a subquery of a {_SAID[node.type]}", *node.span, "it takes a vector")
            return Subquery((node.span[0], self._end()), node, seconds(token.text))
        self._expect("]", opened)
        if not isinstance(node, Selector):
            remedy = f"a subquery has a colon: [{token.text}:]"
            raise PromqlError("a range after what is no selector", opened.start, self._end(), remedy)
        return Range((node.span[0], self._end()), node, seconds(token.text), (opened.start, self._end()))

    def _duration(self) -> Token:
        token = self._take()
        if seconds(token.text) <= 0:
            raise PromqlError("a duration of zero", token.start, token.end, "it has to be longer")
        return token


class TooDeepError(PromqlError):
    """More nesting than is followed here. Prometheus might still read it."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__("too long or too deep to be followed here", start, end, "record a part of it by itself")


_SAID: dict[Type, str] = {"scalar": "number", "string": "string", "vector": "vector", "matrix": "range of samples"}


def _number(token: Token) -> float:
    """The value of a number as Go reads it: 010 is octal, and what is out of range is refused."""
    text = token.text
    base = 16 if text[:2] in ("0x", "0X") else 8 if text[0] == "0" and set(text) <= set("01234567") else 0
    value = float(text) if base != 16 else inf
    if base:
        whole = int(text, base)
        value = float(whole) if whole < 1 << 63 else value
    if value == inf:
        raise PromqlError("a number out of range", token.start, token.end)
    return value


def _displaced(node: Node, end: int) -> Node:
    span: Span = (node.span[0], end)
    if isinstance(node, Selector):
        return Selector(span, node.name, node.matchers, offset=True)
    if isinstance(node, Range):
        selector = Selector(node.selector.span, node.selector.name, node.selector.matchers, offset=True)
        return Range(span, selector, node.seconds, node.range_span)
    assert isinstance(node, Subquery)  # noqa: S101 - the caller has looked
    return Subquery(span, node.expression, node.seconds)


def _expect_type(node: Node, wanted: Type, of: str) -> None:
    if node.type != wanted:
        raise PromqlError(f"{of} takes a {_SAID[wanted]} here, not a {_SAID[node.type]}", *node.span)
