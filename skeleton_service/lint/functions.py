"""The functions of PromQL: what they take and return, and since which version, where that is after 2.42."""

from __future__ import annotations

from dataclasses import dataclass

from skeleton_service.lint.syntax import Type


@dataclass(frozen=True, slots=True)
class Function:
    takes: tuple[Type, ...]
    returns: Type = "vector"
    optional: int = 0
    """How many of the last arguments may be left out; -1: the last may be given any number of times, or not at all."""
    since: str = ""


_VECTOR = Function(("vector",))
_RANGE = Function(("matrix",))
_OF_TIME = Function(("vector",), optional=1)

FUNCTIONS = {
    **dict.fromkeys(
        [
            "abs",
            "absent",
            "acos",
            "acosh",
            "asin",
            "asinh",
            "atan",
            "atanh",
            "ceil",
            "cos",
            "cosh",
            "deg",
            "exp",
            "floor",
            "histogram_count",
            "histogram_sum",
            "ln",
            "log10",
            "log2",
            "rad",
            "sgn",
            "sin",
            "sinh",
            "sort",
            "sort_desc",
            "sqrt",
            "tan",
            "tanh",
            "timestamp",
        ],
        _VECTOR,
    ),
    **dict.fromkeys(
        [
            "absent_over_time",
            "avg_over_time",
            "changes",
            "count_over_time",
            "delta",
            "deriv",
            "idelta",
            "increase",
            "irate",
            "last_over_time",
            "max_over_time",
            "min_over_time",
            "present_over_time",
            "rate",
            "resets",
            "stddev_over_time",
            "stdvar_over_time",
            "sum_over_time",
        ],
        _RANGE,
    ),
    **dict.fromkeys(
        ["day_of_month", "day_of_week", "day_of_year", "days_in_month", "hour", "minute", "month", "year"], _OF_TIME
    ),
    "clamp": Function(("vector", "scalar", "scalar")),
    "clamp_max": Function(("vector", "scalar")),
    "clamp_min": Function(("vector", "scalar")),
    "histogram_fraction": Function(("scalar", "scalar", "vector")),
    "histogram_quantile": Function(("scalar", "vector")),
    "holt_winters": Function(("matrix", "scalar", "scalar")),
    "label_join": Function(("vector", "string", "string", "string"), optional=-1),
    "label_replace": Function(("vector", "string", "string", "string", "string")),
    "pi": Function((), "scalar"),
    "predict_linear": Function(("matrix", "scalar")),
    "quantile_over_time": Function(("scalar", "matrix")),
    "round": Function(("vector", "scalar"), optional=1),
    "scalar": Function(("vector",), "scalar"),
    "time": Function((), "scalar"),
    "vector": Function(("scalar",)),
    "histogram_avg": Function(("vector",), since="2.48"),
    "histogram_stddev": Function(("vector",), since="2.48"),
    "histogram_stdvar": Function(("vector",), since="2.48"),
    "mad_over_time": Function(("matrix",), since="2.48"),
    "sort_by_label": Function(("vector", "string"), optional=-1, since="2.49"),
    "sort_by_label_desc": Function(("vector", "string"), optional=-1, since="2.49"),
    "double_exponential_smoothing": Function(("matrix", "scalar", "scalar"), since="3.0"),
    "info": Function(("vector", "vector"), optional=1, since="3.0"),
    "ts_of_first_over_time": Function(("matrix",), since="3.5"),
    "ts_of_last_over_time": Function(("matrix",), since="3.5"),
    "ts_of_max_over_time": Function(("matrix",), since="3.5"),
    "ts_of_min_over_time": Function(("matrix",), since="3.5"),
    "first_over_time": Function(("matrix",), since="3.5"),
}

AGGREGATIONS = frozenset(
    [
        "avg",
        "bottomk",
        "count",
        "count_values",
        "group",
        "max",
        "min",
        "quantile",
        "stddev",
        "stdvar",
        "sum",
        "topk",
        "limitk",
        "limit_ratio",
    ]
)
WITH_PARAMETER: dict[str, Type] = {
    "bottomk": "scalar",
    "count_values": "string",
    "quantile": "scalar",
    "topk": "scalar",
    "limitk": "scalar",
    "limit_ratio": "scalar",
}
PICKING = frozenset(("topk", "bottomk", "limitk", "limit_ratio"))
"""Aggregations that keep series as they are, and leave others out."""
NEWER_AGGREGATIONS = {"limitk": "3.0", "limit_ratio": "3.0"}

OF_COUNTERS = frozenset(("rate", "irate", "increase"))
OF_CHANGE = OF_COUNTERS | {"delta", "idelta", "deriv", "changes", "resets"}
"""Functions that need several samples in their range."""
