"""The one error of the lab that a person is meant to read."""

from __future__ import annotations


class LabError(Exception):
    """Something a person can mend. ``str()`` is one line: the problem and, in brackets, the remedy."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem + (f" ({remedy})" if remedy else ""))
