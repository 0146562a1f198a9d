"""The right name for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 100
"""No name is longer, and to compare a text of a megabyte takes long."""


def nearest(word: str, known: Iterable[str], cutoff: float = 0.65) -> str:
    """The known name that is most like this one, or nothing where none is."""
    if len(word) > _LONGEST:
        return ""
    near = difflib.get_close_matches(word, [each for each in known if len(each) <= _LONGEST], n=1, cutoff=cutoff)
    return near[0] if near else ""


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "", cutoff: float = 0.65) -> str:
    """What a remedy says; ``otherwise`` where no name is like it."""
    near = nearest(word, known, cutoff)
    return f"did you mean {near}?" if near else otherwise
