"""What a metric is: name, kind, unit, labels, help, number of series; and a table of those with the same labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

# UCUM unit -> Prometheus suffix. Annotations in braces carry no suffix. The unit "1" is not used:
# translators disagree on its suffix, so a ratio has no unit and says ``ratio`` in its name.
_SUFFIX = {
    "s": "_seconds",
    "By": "_bytes",
    "By/s": "_bytes_per_second",
    "W": "_watts",
    "A": "_amperes",
    "V": "_volts",
    "Cel": "_celsius",
    "": "",
}


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    otel_name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str
    series: str
    """The most series an exporter emits: numbers and terms (``catalogue.SERIES_TERMS``) joined by `` x ``."""
    buckets: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """The Prometheus name."""
        base = self.otel_name.replace(".", "_")
        suffix = "" if self.unit.startswith("{") else _SUFFIX[self.unit]
        if suffix and not base.endswith(suffix):
            base += suffix
        return base + "_total" if self.kind == "counter" else base

    def series_bound(self, terms: Mapping[str, int]) -> int:
        """The formula ``series`` worked out with these values; raise KeyError for a term that has none."""
        return prod(int(factor) if factor.isdecimal() else terms[factor] for factor in self.series.split(" x "))


@dataclass(frozen=True, slots=True)
class Table:
    """Metrics that share their labels: one row a label set, one column a metric (see exporter/store.py)."""

    name: str
    labels: tuple[str, ...]
    metrics: tuple[Metric, ...]
    hidden_labels: tuple[str, ...] = ()
    """Text a row carries for readers inside the exporter, after its labels; never rendered."""
    counts_from_zero: bool = True
    """Whether counters are 0 when their row is made; a device's own counters began at a time that nobody knows."""
    label_bytes: int = 1024
    """Room for the labels of a row, all together (exporter/store.py): a table of very many rows has less."""


def table(
    name: str,
    labels: tuple[str, ...],
    *metrics: Metric,
    hidden: tuple[str, ...] = (),
    counts_from_zero: bool = True,
    label_bytes: int = 1024,
) -> Table:
    for metric in metrics:
        if metric.labels != labels:
            raise AssertionError(f"{metric.name} and table {name} disagree on labels")
    return Table(name, labels, metrics, hidden, counts_from_zero, label_bytes)
