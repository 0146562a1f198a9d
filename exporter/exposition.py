"""Renders the stores as Prometheus text (exposition format 0.0.4).

A label prefix is made once per row and kept while the row lives, so a scrape costs little more than
formatting the values. Rendering happens in the control process, never on the probing loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from exporter.contracts.catalogue import Metric, Table
from exporter.store import Row, Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def label_text(names: Sequence[str], values: Sequence[str]) -> str:
    """``a="1",b="2"``; empty labels are left out, since Prometheus holds empty and absent to be the same."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in zip(names, values, strict=False) if value)


def number(value: float) -> str:
    if -1e15 < value < 1e15 and value == int(value):
        return str(int(value))
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text := repr(value), text)


def header(metric: Metric) -> str:
    return f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"


@dataclass(slots=True)
class Series:
    """A family that is not a column of a table: made at each scrape by joining others."""

    metric: Metric
    samples: Iterable[tuple[Sequence[str], float]]


@dataclass(slots=True)
class Renderer:
    """Holds the label prefixes between scrapes. One per /metrics endpoint; not for concurrent use."""

    _prefixes: dict[tuple[int, str], dict[int, str]] = field(default_factory=dict)

    def render(self, stores: Sequence[Store], joined: Iterable[Series] = ()) -> bytes:
        parts: list[str] = []
        for store in stores:
            for table in store.tables:
                if table.metrics:
                    self._render_table(parts, store, table)
        for family in joined:
            lines = [
                f"{family.metric.name}{{{label_text(family.metric.labels, labels)}}} {number(value)}\n"
                for labels, value in family.samples
            ]
            if lines:
                parts.append(header(family.metric))
                parts += lines
        return "".join(parts).encode()

    def _render_table(self, parts: list[str], store: Store, table: Table) -> None:
        rows = list(store.read(table))
        old = self._prefixes.get((id(store), table.name), {})
        labels = {row.identity: old.get(row.identity) or label_text(table.labels, row.labels) for row in rows}
        self._prefixes[id(store), table.name] = labels
        column = 0
        for metric in table.metrics:
            if metric.kind == "histogram":
                lines = _histogram(metric, column, rows, labels)
                column += len(metric.buckets) + 2
            else:
                name = metric.name
                lines = [
                    f"{name}{{{labels[row.identity]}}} {number(value)}\n"
                    if labels[row.identity]
                    else f"{name} {number(value)}\n"
                    for row in rows
                    if (value := row.values[column]) == value  # NaN is absent
                ]
                column += 1
            if lines:
                parts.append(header(metric))
                parts += lines


def _histogram(metric: Metric, column: int, rows: Sequence[Row], labels: dict[int, str]) -> list[str]:
    """Cumulative buckets, sum and count; the store keeps them apart so that an event touches one bucket."""
    lines: list[str] = []
    bounds = [f'le="{bound!r}"' for bound in metric.buckets] + ['le="+Inf"']
    for row in rows:
        prefix = labels[row.identity]
        joint = "," if prefix else ""
        total = 0.0
        for offset, bound in enumerate(bounds):
            total += row.values[column + offset]
            lines.append(f"{metric.name}_bucket{{{prefix}{joint}{bound}}} {number(total)}\n")
        lines.append(f"{metric.name}_sum{{{prefix}}} {number(row.values[column + len(bounds)])}\n")
        lines.append(f"{metric.name}_count{{{prefix}}} {number(total)}\n")
    return lines
