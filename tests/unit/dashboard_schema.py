"""Whether a dashboard is what the schema of Grafana 11.6 says, as the types of the foundation SDK have it.

The SDK drops keys that it does not know, and takes values of any type; so what it read is written again and compared,
and each value is held against the annotation of its attribute.
"""

from __future__ import annotations

import enum
import json
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()


def violations(document: dict[str, Any]) -> list[str]:
    """Where, and what."""
    read = Dashboard.from_json(document)
    again = json.loads(json.dumps(read, cls=JSONEncoder))
    return [*_lost(document, again, ""), *_of_object(read, "")]


def _lost(before: object, after: object, where: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{where}.{key}: the schema does not know it"
            else:
                yield from _lost(value, after[key], f"{where}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _lost(old, new, f"{where}[{place}]")
    elif before != after:
        yield f"{where}: {before!r} is read as {after!r}"


def _of_object(value: object, where: str) -> Iterator[str]:
    kind = type(value)
    for name, hint in typing.get_type_hints(kind, vars(sys.modules[kind.__module__])).items():
        if hasattr(value, name):
            yield from _of(getattr(value, name), hint, f"{where}.{name}")


def _of(value: Any, hint: Any, where: str) -> Iterator[str]:
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        found = [list(_of(value, each, where)) for each in inner if each is not types.NoneType or value is None]
        if all(found):
            yield from max(found, key=len)
    elif kind is list and isinstance(value, list):
        for place, each in enumerate(value):
            yield from _of(each, inner[0], f"{where}[{place}]")
    elif kind is dict and isinstance(value, dict):
        for key, each in value.items():
            yield from _of(each, inner[1], f"{where}.{key}")
    elif kind is typing.Literal:
        if value not in inner:
            yield f"{where}: {value!r} is none of {inner}"
    elif hint is object or hint is Any:
        if hasattr(value, "to_json"):
            yield from _of_object(value, where)
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in [member.value for member in hint]:
            yield f"{where}: {value!r} is no {hint.__name__}"
    elif isinstance(hint, type) and hasattr(hint, "from_json"):
        # The SDK leaves some lists of objects as they were.
        found_object = hint.from_json(value) if isinstance(value, dict) else value
        if isinstance(found_object, hint):
            yield from _of_object(found_object, where)
        else:
            yield f"{where}: {value!r} is no {hint.__name__}"
    elif not _is_a(value, kind or hint):
        yield f"{where}: {value!r} is no {hint}"


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
