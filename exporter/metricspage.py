"""The reference page of the metrics, made from the catalogue."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator

from exporter.contracts.catalogue import CATALOGUE, RECORDED, SERIES_TERMS
from exporter.contracts.label_values import LABEL_VALUES
from exporter.contracts.service_metrics import SERVED

_HEAD = """# Metrics

Made from `exporter/contracts/catalogue.py` by `fabric-exporter metrics`; do not edit.

*Series* is the most that one exporter emits, and `make bench-churn` holds it to that through an hour of
containers that come and go. Absent gauges are no series, so there may be fewer. Path series are keyed by physical
RNIC pair, so they outlive jobs and containers; `fabric_job_path_info` joins them to a job.

| term | what it counts |
|---|---|
{terms}
| Prometheus name | OpenTelemetry name | type | unit | labels | series | |
|---|---|---|---|---|---|---|
"""

_RECORDED = """
## Recorded by rules

The [rules of a job](rules.md) record this under a name such as an exporter's; their other records are named
`level:metric:operations`.

| Prometheus name | unit | labels | |
|---|---|---|---|
"""
_SERVED = """
## Of the service

[`skeleton-service serve`](service.md) tells of itself, on its own `/metrics`:

| Prometheus name | type | unit | labels | |
|---|---|---|---|---|
"""
_VALUES = """
## Values of labels

Of labels with few values, all of them; a label may also be empty. `skeleton-service lint` knows rules that ask for
[others](lint.md#values-of-labels).

| label | of | values |
|---|---|---|
"""


def markdown() -> str:
    rows = [
        f"| `{m.name}` | `{m.otel_name}` | {m.kind} | {m.unit or '–'} | "
        f"{_code(m.labels) or '–'} | {m.series} | {m.help} |\n"
        for m in CATALOGUE
    ]
    terms = "".join(f"| {term} | {meaning} |\n" for term, meaning in SERIES_TERMS.items())
    recorded = "".join(f"| `{m.name}` | {m.unit} | {_code(m.labels)} | {m.help} |\n" for m in RECORDED)
    served = "".join(
        f"| `{m.name}` | {m.kind} | {m.unit or '–'} | {_code(m.labels) or '–'} | {m.help} |\n" for m in SERVED
    )
    parts = (_HEAD.format(terms=terms), *rows, _RECORDED, recorded, _SERVED, served, _VALUES, *_values())
    return "".join(parts)


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _values() -> Iterator[str]:
    """A row for each label and each of its meanings: of which metrics, unless of all that have it, and its values."""
    metrics: dict[str, dict[tuple[str, ...], list[str]]] = {}
    having = Counter(label for metric in CATALOGUE for label in metric.labels)
    for name, labels in LABEL_VALUES.items():
        for label, values in labels.items():
            metrics.setdefault(label, {}).setdefault(values, []).append(name)
    for label, meanings in metrics.items():
        for values, names in meanings.items():
            of = "all" if len(names) == having[label] else _code(names)
            said = f"`{values[0]}` to `{values[-1]}`" if values[0].isdecimal() else _code(values)
            yield f"| `{label}` | {of} | {said} |\n"


def as_json() -> str:
    return json.dumps(
        [
            {
                "name": metric.name,
                "otel_name": metric.otel_name,
                "type": metric.kind,
                "unit": metric.unit,
                "labels": metric.labels,
                "label_values": LABEL_VALUES.get(metric.name, {}),
                "help": metric.help,
                "series": metric.series,
            }
            for metric in CATALOGUE
        ],
        indent=2,
    )
