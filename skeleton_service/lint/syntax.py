"""The syntax tree of PromQL. Every node knows its place in the expression: [start, end) in characters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Type = Literal["scalar", "string", "vector", "matrix"]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Name:
    """A name as it stands in the expression: of a label, say."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Matcher:
    label: Name
    op: str
    value: str
    value_span: Span


@dataclass(frozen=True, slots=True)
class Node:
    span: Span

    @property
    def children(self) -> tuple[Node, ...]:
        return ()

    @property
    def type(self) -> Type:
        return "vector"


@dataclass(frozen=True, slots=True)
class Number(Node):
    value: float

    @property
    def type(self) -> Type:
        return "scalar"


@dataclass(frozen=True, slots=True)
class String(Node):
    value: str

    @property
    def type(self) -> Type:
        return "string"


@dataclass(frozen=True, slots=True)
class Selector(Node):
    name: Name | None
    matchers: tuple[Matcher, ...]
    offset: bool = False
    """Whether it is displaced in time, by offset or @."""


@dataclass(frozen=True, slots=True)
class Range(Node):
    selector: Selector
    seconds: float
    range_span: Span

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.selector,)

    @property
    def type(self) -> Type:
        return "matrix"


@dataclass(frozen=True, slots=True)
class Subquery(Node):
    expression: Node
    seconds: float

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.expression,)

    @property
    def type(self) -> Type:
        return "matrix"


@dataclass(frozen=True, slots=True)
class Call(Node):
    function: Name
    arguments: tuple[Node, ...]
    returns: Type

    @property
    def children(self) -> tuple[Node, ...]:
        return self.arguments

    @property
    def type(self) -> Type:
        return self.returns


@dataclass(frozen=True, slots=True)
class Aggregate(Node):
    op: Name
    parameter: Node | None
    expression: Node
    without: bool
    labels: tuple[Name, ...] | None
    """None where there is neither ``by`` nor ``without``."""

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.parameter, self.expression) if self.parameter is not None else (self.expression,)


@dataclass(frozen=True, slots=True)
class Matching:
    """on(...) or ignoring(...), with group_left(...) or group_right(...)."""

    on: bool
    labels: tuple[Name, ...]
    group: Literal["", "left", "right"]
    include: tuple[Name, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Binary(Node):
    op: Name
    left: Node
    right: Node
    returns_bool: bool
    matching: Matching | None
    returns: Type
    """Stated, not asked of the sides: a chain of operators is a deep tree."""

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    @property
    def type(self) -> Type:
        return self.returns


@dataclass(frozen=True, slots=True)
class Unary(Node):
    expression: Node

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.expression,)

    @property
    def type(self) -> Type:
        return self.expression.type


@dataclass(frozen=True, slots=True)
class Paren(Node):
    expression: Node

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.expression,)

    @property
    def type(self) -> Type:
        return self.expression.type


def bare(node: Node) -> Node:
    """The node without the parentheses around it."""
    while isinstance(node, Paren):
        node = node.expression
    return node


def walk(node: Node, above: tuple[Node, ...] = ()) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """Every node, in the order of the text, with those above it from the outermost in."""
    waiting = [(node, above)]
    while waiting:
        each, over = waiting.pop()
        yield each, over
        waiting += [(child, (*over, each)) for child in reversed(each.children)]
