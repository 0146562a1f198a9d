"""What all dashboards have in common: variables, annotations of alerts, links to one another, and rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from grafana.expressions import scoped
from grafana.panels import DATASOURCE, RUNBOOKS, Panel
from grafana.variables import Variable, base
from skeleton_service.jobalerts import FIRING

TAG = "fabric"
_COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()
    alerts: str = FIRING
    """What is marked on its time axes: an expression of ALERTS."""
    runbook: str = "README.md"
    """The page of docs/runbooks to begin with."""
    span: str = "now-1h"
    of_exporters: bool = False
    """Whether one chooses among scrape targets."""

    def build(self) -> dashboard.Dashboard:
        made = (
            builders.Dashboard(f"Fabric / {self.title}")
            .uid(self.uid)
            .description(self.description)
            .tags([TAG])
            .readonly()
            .time(self.span, "now")
            .refresh("30s")
            .timezone("browser")
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .variables([*base(of_exporters=self.of_exporters), *self.variables])
            .annotation(_alerts(self.alerts))
            .link(_boards())
            .link(_runbook(self.runbook))
        )
        for row in self.rows:
            made.with_row(_row(row))
            if not row.collapsed:
                for panel in row.panels:
                    made.with_panel(panel)
        return _numbered(_placed(made.build()))


def _row(row: Row) -> builders.Row:
    made = builders.Row(row.title)
    if row.collapsed:
        for panel in row.panels:
            made.with_panel(panel)
    return made.collapsed(row.collapsed)


def _placed(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """Each panel as high up below its row as it fits, left before right; a row that is closed takes no more than its
    title."""
    heights = [0] * _COLUMNS
    for item in made.panels or ():
        if isinstance(item, dashboard.RowPanel):
            top = max(heights)
            item.grid_pos = dashboard.GridPos(x=0, y=top, w=_COLUMNS, h=1)
            heights = [top + 1] * _COLUMNS
            below = list(heights)
            for panel in item.panels or ():
                below = _place(panel, below)
        else:
            heights = _place(item, heights)
    return made


def _place(panel: dashboard.Panel, heights: Sequence[int]) -> list[int]:
    """Return how far down each column is taken then."""
    at = panel.grid_pos
    if at is None:
        raise ValueError(f"panel {panel.title!r} has no size")
    tops = [max(heights[x : x + at.w]) for x in range(_COLUMNS - at.w + 1)]
    at.y = min(tops)
    at.x = tops.index(at.y)
    return [at.y + at.h if at.x <= x < at.x + at.w else height for x, height in enumerate(heights)]


def _numbered(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """With an id for each panel, in the order of the page: links to a panel keep what they meant while no panel comes
    before it."""
    number = 0
    for item in made.panels or ():
        for panel in (item, *(item.panels if isinstance(item, dashboard.RowPanel) else ())):
            number += 1
            panel.id_val = number
    return made


def _alerts(expression: str) -> builders.AnnotationQuery:
    made = builders.AnnotationQuery().name("Alerts").datasource(DATASOURCE).enable(True).icon_color("red")
    return made.expr(scoped(f"max by (cluster, alertname, suspect) ({expression})"))


def encoded(made: dashboard.Dashboard) -> dict[str, Any]:
    """As JSON has it, with what the SDK has no field for: what an annotation says, and its query in the place where
    Grafana looks for it since 11.6.2."""
    encoded: dict[str, Any] = json.loads(json.dumps(made, cls=JSONEncoder))
    for each in encoded["annotations"]["list"]:
        each["target"] = {"refId": "Alerts", "expr": each["expr"], "datasource": each["datasource"]}
        each |= {"titleFormat": "{{alertname}}", "textFormat": "{{suspect}}"}
    return encoded


def _boards() -> builders.DashboardLink:
    return (
        builders.DashboardLink("Fabric")
        .type(dashboard.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
    )


def _runbook(page: str) -> builders.DashboardLink:
    return (
        builders.DashboardLink("Runbooks")
        .type(dashboard.DashboardLinkType.LINK)
        .icon("doc")
        .url(f"{RUNBOOKS}/{page}")
        .target_blank(True)
    )
