"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


CHECKS = (
    "yaml/parse",
    "promql/syntax",
    "promql/series",
    "promql/label",
    "promql/value",
    "promql/cluster",
    "promql/counter",
    "promql/rate",
    "promql/nan",
    "promql/fragile",
    "promql/regexp",
    "promql/portable",
    "promql/impossible",
    "alerts/for",
    "alerts/annotation",
    "alerts/severity",
    "alerts/labels",
    "alerts/template",
    "rule/name",
    "rule/duplicate",
    "group/size",
    "group/interval",
    "runbook/missing",
    "lint/comment",
)
"""The names of all checks. Here, so that the command line knows them without loading the checks."""


@dataclass(frozen=True, slots=True)
class Problem:
    """``start`` and ``end`` are characters of the file; ``remedy`` is printed under the caret."""

    check: str
    severity: Severity
    start: int
    end: int
    message: str
    remedy: str = ""
