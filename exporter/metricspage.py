"""The reference page of the metrics, made from the catalogue."""

from __future__ import annotations

import json

from exporter.contracts.catalogue import CATALOGUE, SERIES_TERMS

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


def markdown() -> str:
    rows = [
        f"| `{m.name}` | `{m.otel_name}` | {m.kind} | {m.unit or '–'} | "
        f"{', '.join(f'`{label}`' for label in m.labels) or '–'} | {m.series} | {m.help} |\n"
        for m in CATALOGUE
    ]
    terms = "".join(f"| {term} | {meaning} |\n" for term, meaning in SERIES_TERMS.items())
    return _HEAD.format(terms=terms) + "".join(rows)


def as_json() -> str:
    return json.dumps(
        [
            {
                "name": metric.name,
                "otel_name": metric.otel_name,
                "type": metric.kind,
                "unit": metric.unit,
                "labels": metric.labels,
                "help": metric.help,
                "series": metric.series,
            }
            for metric in CATALOGUE
        ],
        indent=2,
    )
