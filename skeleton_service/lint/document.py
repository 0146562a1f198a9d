"""YAML to nodes that know their place in the file, to the character. Bounded in time and depth, whatever the text."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from exporter.contracts.codec import ContractError

MAX_BYTES = 4 << 20
"""Prometheus Operator's limit is half a megabyte for a whole PrometheusRule."""
_MOST_EVENTS = 400_000
_MOST_DEPTH = 50
_BLANK = " \t\n\r\x85\u2028\u2029\ufeff"
_ESCAPES = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b",
    " ": " ", '"': '"', "/": "/", "\\": "\\", "N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029",
}  # fmt: skip
_PROPERTIES = re.compile(r"(?:[!&][^ \t\r\n]*[ \t\r\n]+)*")
"""A tag, an anchor: no plain scalar begins as they do."""
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True, eq=False)
class YamlNode:
    kind: Literal["scalar", "sequence", "mapping"]
    start: int
    end: int
    text: str = ""
    """Of a scalar: what it says."""
    style: str = ""
    tag: str = ""
    items: list[YamlNode] = field(default_factory=list)
    """Of a sequence its items; of a mapping its keys and values by turns."""

    def pairs(self) -> Iterator[tuple[YamlNode, YamlNode]]:
        return zip(self.items[::2], self.items[1::2], strict=False)


class Source:
    """The text of a file, and where its lines begin."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text
        self._lines = [0]
        at = text.find("\n")
        while at >= 0:
            self._lines.append(at + 1)
            at = text.find("\n", at + 1)

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of a character, both from 1."""
        line = bisect.bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def offset(self, line: int, column: int) -> int:
        """Where a place is in the text, or its end where the text has no such place."""
        return min(self._lines[min(line, len(self._lines)) - 1] + column - 1, len(self.text))

    def line(self, number: int) -> str:
        """A line of the file, from 1, without its end."""
        end = self._lines[number] - 1 if number < len(self._lines) else len(self.text)
        return self.text[self._lines[number - 1] : end].rstrip("\r")

    @property
    def line_count(self) -> int:
        return len(self._lines)


def read_source(path: str, data: bytes) -> Source:
    """Return the text of a file; raise ContractError where it cannot be a rule file."""
    if len(data) > MAX_BYTES:
        raise ContractError(path, f"is larger than {MAX_BYTES >> 20} MiB", "split it: no rule file is that large")
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise ContractError(path, f"is not UTF-8: byte {error.start}", "save it as UTF-8") from error
    if (at := text.find("\0")) >= 0:
        line, column = Source(path, text).place(at)
        raise ContractError(f"{path}:{line}:{column}", "holds a NUL byte", "is it a text file?")
    return Source(path, text)


def compose(source: Source) -> list[YamlNode]:
    """Return the documents of a YAML file; raise ContractError, with the place, for what is no YAML.

    An alias is the node that it names, so a file of aliases of aliases is no larger than its text.
    """
    documents: list[YamlNode] = []
    open_: list[YamlNode] = []
    named: dict[str, YamlNode] = {}
    try:
        for count, event in enumerate(yaml.parse(source.text, Loader=_Loader)):
            if count > _MOST_EVENTS or len(open_) > _MOST_DEPTH:
                line, _ = source.place(min(_span(event)[0], len(source.text)))
                what = f"is nested deeper than {_MOST_DEPTH}" if len(open_) > _MOST_DEPTH else "has too many values"
                raise ContractError(f"{source.path}:{line}", what, "no rule file is like that")
            node = _node(event, named, source)
            if isinstance(event, yaml.CollectionEndEvent):
                open_.pop().end = _span(event)[1]
            if node is None:
                continue
            if open_:
                open_[-1].items.append(node)
            else:
                documents.append(node)
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append(node)
    except yaml.MarkedYAMLError as error:
        raise _refusal(source, error) from error
    except yaml.YAMLError as error:  # of characters that YAML does not allow
        said = str(getattr(error, "reason", None) or error).splitlines()[0]
        raise ContractError(source.path, f"is not YAML: {said}") from error
    return documents


def _span(event: Any) -> tuple[int, int]:
    return event.start_mark.index, event.end_mark.index


def _node(event: Any, named: dict[str, YamlNode], source: Source) -> YamlNode | None:
    start, end = _span(event)
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in named:
            line, column = source.place(start)
            raise ContractError(f"{source.path}:{line}:{column}", f"is not YAML: no anchor {event.anchor!r}")
        return named[event.anchor]
    if isinstance(event, yaml.ScalarEvent):
        tag = event.tag or ("" if event.style else _plain_tag(event.value))
        node = YamlNode("scalar", start, end, event.value, event.style or "", tag)
    elif isinstance(event, yaml.SequenceStartEvent):
        node = YamlNode("sequence", start, end)
    elif isinstance(event, yaml.MappingStartEvent):
        node = YamlNode("mapping", start, end)
    else:
        return None
    if event.anchor:
        named[event.anchor] = node
    return node


def _plain_tag(text: str) -> str:
    return "null" if text in ("", "~", "null", "Null", "NULL") else ""


def _refusal(source: Source, error: yaml.MarkedYAMLError) -> ContractError:
    mark = error.problem_mark or error.context_mark
    said = " ".join(filter(None, (error.problem, error.context)))
    if mark is None:
        return ContractError(source.path, f"is not YAML: {said}")
    line, column = source.place(min(mark.index, len(source.text)))
    remedy = "YAML is indented by spaces" if "\t" in source.line(line)[:column] else ""
    return ContractError(f"{source.path}:{line}:{column}", f"is not YAML: {said}", remedy)


class Scalar:
    """A scalar, and the place in the file of each of its characters.

    YAML folds lines and strips indentation, but it neither adds, drops nor moves a character that is not blank, escapes
    aside. So those of the value and of the text are the same in the same order, in every style.
    """

    def __init__(self, source: Source, node: YamlNode) -> None:
        self.text = node.text
        self._start = node.start
        self._places: list[int] | None = None
        self._source, self._node = source, node

    def place(self, index: int) -> int:
        """Where in the file the character of this index stands."""
        if self._places is None:
            self._places = self._map()
        return self._places[min(index, len(self._places) - 1)] if self._places else self._start

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where in the file a piece of it stands, of which the first and the last character are not blank."""
        first = self.place(start)
        return first, max(first, self.place(max(end - 1, start))) + 1

    def whole(self) -> tuple[int, int]:
        """Where in the file it stands, without blanks around it."""
        stripped = self.text.strip(_BLANK)
        if not stripped:
            return self._start, self._start + 1
        first = self.text.index(stripped[0])
        return self.span(first, first + len(stripped))

    def _map(self) -> list[int]:
        written = [each for each in _written(self._source.text, self._node) if each[0] not in _BLANK]
        places: list[int] = []
        following = 0
        before = self._start - 1
        for character in self.text:
            if character in _BLANK:
                before += 1
            elif following < len(written) and written[following][0] == character:
                before = written[following][1]
                following += 1
            else:  # cannot be: then at least the scalar's own place
                return [self._start]
            places.append(before)
        return places


def _written(text: str, node: YamlNode) -> Iterator[tuple[str, int]]:
    """The characters as they are written, escapes read, with their places."""
    start, end = _PROPERTIES.match(text, node.start, node.end).end(), node.end  # type: ignore[union-attr]
    if node.style in ("|", ">"):
        start = text.find("\n", start) + 1 or end
    elif node.style in ("'", '"'):
        start, end = start + 1, end - 1
    at = start
    while at < end:
        character = text[at]
        if node.style == "'" and character == "'":
            yield character, at
            at += 2
        elif node.style == '"' and character == "\\" and at + 1 < end:
            kind = text[at + 1]
            digits = _HEXADECIMAL.get(kind, 0)
            if digits:
                yield chr(int(text[at + 2 : at + 2 + digits], 16)), at
            elif kind in _ESCAPES:
                yield _ESCAPES[kind], at
            at += 2 + digits
        else:
            yield character, at
            at += 1
