"""What is chosen on top of a page. ``job`` and ``instance`` are the scrape's; the rest are ours."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard

from grafana.expressions import scoped
from grafana.panels import DATASOURCE

Variable = builders.DatasourceVariable | builders.QueryVariable

_TELLS = "fabric_exporter_process_restarts_total"
"""What every exporter has."""


def base(*, of_exporters: bool) -> list[Variable]:
    """Of every dashboard: where to ask, and of which cluster and exporters.

    A page of exporters shows the last two. On others they stay all: a port is told by its poller and a path by its
    host, so that a choice of either would leave half of the page empty.
    """
    source = builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
    scraped = [
        several("job", "Job", f'label_values({_TELLS}{{cluster=~"$cluster"}}, job)'),
        several("instance", "Instance", f'label_values({_TELLS}{{cluster=~"$cluster", job=~"$job"}}, instance)'),
    ]
    if not of_exporters:
        for each in scraped:
            each.hide(dashboard.VariableHide.HIDE_VARIABLE).build().skip_url_sync = True
    return [source, several("cluster", "Cluster", f"label_values({_TELLS}, cluster)", everything=".*"), *scraped]


def several(name: str, label: str, query: str, *, everything: str = ".+") -> builders.QueryVariable:
    """Any number of values, at first all; ``everything`` is what all is asked for by, so that it stays short."""
    return (
        _query(name, label, query)
        .multi(True)
        .include_all(True)
        .all_value(everything)
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )


def found(name: str, label: str, expression: str) -> builders.QueryVariable:
    """Values of a label of what ``expression`` finds, which nobody sees.

    A matcher of them spares Prometheus what a join would throw away: all ports, read to show those of one path.
    """
    # Without a value for all, Grafana asks by the values themselves: (leaf-0|spine-1), or () where there are none.
    variable = (
        _query(name, name.capitalize(), f"query_result(group by ({label}) ({scoped(expression)}))")
        .regex(f'/{label}="([^"]+)"/')
        .multi(True)
        .include_all(True)
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .hide(dashboard.VariableHide.HIDE_VARIABLE)
    )
    variable.build().skip_url_sync = True
    return variable


def one(name: str, label: str, query: str) -> builders.QueryVariable:
    """One value: what the page is about.

    A link may bring one that is no longer listed. Grafana keeps that until it looks again, so it looks once.
    """
    return (
        _query(name, label, query).multi(False).include_all(False).refresh(dashboard.VariableRefresh.ON_DASHBOARD_LOAD)
    )


def _query(name: str, label: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(DATASOURCE)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .allow_custom_value(True)
    )
