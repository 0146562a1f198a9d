"""What is chosen on top of a page. ``job`` and ``instance`` are the scrape's; the rest are ours."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard

from grafana.panels import DATASOURCE

Variable = builders.DatasourceVariable | builders.QueryVariable


_TELLS = "fabric_exporter_process_restarts_total"
"""What every exporter has."""


def base() -> list[Variable]:
    """Of every dashboard: where to ask, and of which cluster and exporters."""
    source = builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
    return [
        source,
        several("cluster", "Cluster", "label_values(fabric_exporter_process_restarts_total, cluster)", everything=".*"),
        several("job", "Job", 'label_values(fabric_exporter_process_restarts_total{cluster=~"$cluster"}, job)'),
        several(
            "instance",
            "Instance",
            'label_values(fabric_exporter_process_restarts_total{cluster=~"$cluster", job=~"$job"}, instance)',
        ),
    ]


def several(name: str, label: str, query: str, *, everything: str = ".+") -> builders.QueryVariable:
    """Any number of values, at first all; ``everything`` is what all is asked for by, so that it stays short."""
    return (
        _query(name, label, query)
        .multi(True)
        .include_all(True)
        .all_value(everything)
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    )


def one(name: str, label: str, query: str) -> builders.QueryVariable:
    """One value: what the page is about. A link may bring one that is no longer listed."""
    return _query(name, label, query).multi(False).include_all(False)


def _query(name: str, label: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(DATASOURCE)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .allow_custom_value(True)
    )
