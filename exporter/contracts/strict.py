"""Configuration files and command lines are strict: a misspelt key is an error that names the right one."""

from __future__ import annotations

import argparse
import difflib
import re
import typing
from typing import Any, TypeVar

import msgspec

from exporter.contracts.codec import ContractError

T = TypeVar("T")

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`(?: - at `\$\.?(?P<where>[^`]*)`)?")


def convert_strictly(document: dict[str, Any], kind: type[T], source: str) -> T:
    """Convert a parsed file; raise ContractError that names the place of a wrong key and the nearest right one."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        match = _UNKNOWN.match(str(error))
        if match is None:
            problem = re.sub(r" - at `\$\.?([^`]*)`", r" (at '\1')", str(error))
            raise ContractError(source, problem) from error
        key, where = match["key"], match["where"] or ""
        nearest = difflib.get_close_matches(key, _keys_at(kind, where), n=1)
        remedy = f"did you mean {nearest[0]!r}?" if nearest else "remove it"
        raise ContractError(source, f"unknown key '{f'{where}.' if where else ''}{key}'", remedy) from error


def _keys_at(kind: Any, where: str) -> tuple[str, ...]:
    """The keys legal at a place such as ``switches.targets[...]``, found by walking the types."""
    for step in re.findall(r"[A-Za-z_]+", where):
        kind = typing.get_type_hints(kind).get(step)
        while not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            inner = [part for part in typing.get_args(kind) if part not in (type(None), Ellipsis)]
            if not inner:
                return ()
            kind = inner[0]
    return tuple(kind.__struct_fields__)


class Parser(argparse.ArgumentParser):
    """Options are written out: an abbreviation would change its meaning with the next option added."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)
