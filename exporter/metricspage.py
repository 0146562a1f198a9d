"""The reference page of the metrics, made from the catalogue."""

from __future__ import annotations

import json

from exporter.contracts.catalogue import CATALOGUE

_HEAD = """# Metrics

Made from `exporter/contracts/catalogue.py` by `fabric-exporter metrics`; do not edit.

*Series* is the number an exporter emits: `paths` is the number of planned paths that start on the host
(pairs x source ports x probe types), `rnics` the RNICs of the host. Path series are keyed by physical RNIC
pair, so they outlive jobs and containers; `fabric_job_path_info` joins them to a job.

| Prometheus name | OpenTelemetry name | type | unit | labels | series | |
|---|---|---|---|---|---|---|
"""


def markdown() -> str:
    rows = [
        f"| `{m.name}` | `{m.otel_name}` | {m.kind} | {m.unit or '–'} | "
        f"{', '.join(f'`{label}`' for label in m.labels) or '–'} | {m.series} | {m.help} |\n"
        for m in CATALOGUE
    ]
    return _HEAD + "".join(rows)


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
