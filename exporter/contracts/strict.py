"""Configuration files and command lines are strict: a misspelt key is an error that names the right one."""

from __future__ import annotations

import argparse
from typing import Any, TypeVar

import msgspec

from exporter.contracts.codec import ContractError
from exporter.contracts.explain import explain

T = TypeVar("T")


def convert_strictly(document: dict[str, Any], kind: type[T], source: str) -> T:
    """Convert a parsed file; raise ContractError that names the place of a wrong key and the nearest right one."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        problem, where, remedy = explain(error, document, kind)
        place = f"at '{where}'" if where else ""
        raise ContractError(source, problem, "; ".join(filter(None, (place, remedy)))) from error


class Parser(argparse.ArgumentParser):
    """Options are written out: an abbreviation would change its meaning with the next option added.

    ``intermixed``: arguments may stand between options, as in ``a.yaml --strict b.yaml``. Not for one with subcommands.
    """

    def __init__(self, *, intermixed: bool = False, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)
        self._intermixed = intermixed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # of several overloads
        if not self._intermixed:
            return super().parse_known_args(args, namespace)
        self._intermixed = False  # in Python 3.11 it asks this very method
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = True
