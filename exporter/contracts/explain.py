"""What is wrong with a value that does not fit its type, in words that name what would fit."""

from __future__ import annotations

import difflib
import enum
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

_AT = re.compile(r"(?P<problem>.*?)(?: - at `\$?\.?(?P<where>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*)`", re.DOTALL)
_ENUM = re.compile(r"Invalid enum value (?P<value>.*)", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`")
_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")
_MOST_NAMED = 12


class Explanation(NamedTuple):
    problem: str
    where: str
    """The field, as ``mtu.tiers[...]``; empty for the document itself."""
    remedy: str = ""


def explain(error: msgspec.ValidationError, document: Any, kind: Any) -> Explanation:
    """Take msgspec's error apart, and add what it does not say: the names that are legal there, and how to write it."""
    match = _AT.fullmatch(str(error))
    if match is None or " in `" in (match["where"] or ""):
        return Explanation(str(error), "")
    problem, where = match["problem"], match["where"] or ""
    if unknown := _UNKNOWN.fullmatch(problem):
        key, keys = unknown["key"], [key for part in _types_at(kind, where) for key in _keys(part)]
        return Explanation(f"unknown key '{f'{where}.' if where else ''}{key}'", "", _nearest(key, keys) or "remove it")
    if wrong := _ENUM.fullmatch(problem):
        legal = [str(value) for part in _types_at(kind, where) for value in _members(part)]
        if legal:
            named = ", ".join(legal[:_MOST_NAMED]) + (", ..." if len(legal) > _MOST_NAMED else "")
            return Explanation(
                f"{wrong['value']} is none of {named}", where, _nearest(wrong["value"].strip("'"), legal)
            )
    if expected := _EXPECTED.fullmatch(problem):
        wanted, got = expected["wanted"].split(" | "), expected["got"]
        if got == "null":
            remedy = "leave it out" if "object" in wanted else "give it a value, or leave it out"
            return Explanation("is empty", where, remedy)
        if "array" in wanted and got in ("int", "str", "float", "bool"):
            return Explanation(problem, where, _in_brackets(document, where))
    return Explanation(problem, where)


def _nearest(given: str, legal: list[str]) -> str:
    nearest = difflib.get_close_matches(given, legal, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else ""


def _in_brackets(document: Any, where: str) -> str:
    values = [document]
    for step in _STEP.findall(where):
        values = [inner for value in values for inner in _inside(value, step)]
    scalars = [value for value in values if isinstance(value, int | float | str)]
    if not scalars:
        return "write a list"
    text = str(scalars[0]) if len(str(scalars[0])) < 40 else "..."
    return f"write [{text}]"


def _inside(value: Any, step: str) -> Iterator[Any]:
    if isinstance(value, dict):
        if step == "[...]":
            yield from value.values()
        elif step in value:
            yield value[step]
    elif isinstance(value, list) and step[1:-1].isdecimal() and int(step[1:-1]) < len(value):
        yield value[int(step[1:-1])]


def _types_at(kind: Any, where: str) -> list[Any]:
    """The types legal at a place such as ``switches.targets[...]``, found by walking the types."""
    found = list(_alternatives(kind))
    for step in _STEP.findall(where):
        found = [inner for each in found for one in _within(each, step) for inner in _alternatives(one)]
    return found


def _alternatives(kind: Any) -> Iterator[Any]:
    if typing.get_origin(kind) is typing.Annotated:
        yield from _alternatives(typing.get_args(kind)[0])
    elif typing.get_origin(kind) in (typing.Union, types.UnionType):
        for each in typing.get_args(kind):
            yield from _alternatives(each)
    else:
        yield kind


def _within(kind: Any, step: str) -> Iterator[Any]:
    """The types of what is in a list, a mapping or an object, at a step of a place."""
    if step.startswith("["):
        inner = [each for each in typing.get_args(kind) if each is not Ellipsis]
        if typing.get_origin(kind) is dict:
            yield inner[1]
        elif typing.get_origin(kind) in (list, tuple, set, frozenset):
            yield from inner
    elif _keys(kind):
        hints = typing.get_type_hints(kind)
        names = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
        if step in names:
            yield hints[names[step]]


def _keys(kind: Any) -> tuple[str, ...]:
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return tuple(kind.__struct_encode_fields__) if is_struct else ()


def _members(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    return tuple(each.value for each in kind) if isinstance(kind, type) and issubclass(kind, enum.Enum) else ()
