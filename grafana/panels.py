"""Panels of queries. Each has a title that says what is seen, a description that says what it means, and a unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from grafana_foundation_sdk.builders import bargauge, heatmap, nodegraph, stat, statetimeline, table, text, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.expressions import scoped

_Built = TypeVar("_Built", bound=Any)

DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOKS = "https://github.com/fabric-skeleton/fabric-skeleton/blob/main/docs/runbooks"
GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "text"

Levels = Sequence[tuple[float | None, str]]
"""(from this value on, colour), the first from None."""
LOSS: Levels = ((None, GREEN), (0.0001, YELLOW), (0.01, ORANGE), (0.05, RED))
"""A packet in 10,000 costs go-back-N a hundredth of its throughput; one in 20 is what the rules call a failing path."""
BAD_ABOVE_ZERO: Levels = ((None, GREEN), (1e-9, RED))


Panel = Builder[dashboard.Panel]


@dataclass(frozen=True, slots=True)
class Query:
    expr: str
    legend: str = ""
    """In Grafana's notation: ``{{label}}``."""
    ref: str = ""
    """Of several queries of a panel, what columns and frames are known by; by default A, B and so on."""


@dataclass(frozen=True, slots=True)
class Column:
    """Of a table: a label, or ``Value #A`` of query A."""

    field: str
    title: str
    unit: str = ""
    link: str = ""
    """A URL with Grafana's variables."""
    link_title: str = ""
    levels: Levels = ()
    width: int = 0
    decimals: int | None = None


def counted(expression: str, among: str) -> str:
    """How many series there are, and 0 where there are none of those that there could be: without these, unknown."""
    return f"count({expression}) or 0 * count({among})"


def to_board(uid: str, **variables: str) -> str:
    """Where another dashboard shows the same time, source and cluster, with these variables.

    A value is a column of the row, as it is shown; with ``label.`` before it, a label of the series.
    """
    chosen = "".join(
        f"&var-{name}=${{__field.labels.{value.removeprefix('label.')}:percentencode}}"
        if value.startswith("label.")
        else f"&var-{name}=${{__data.fields.{value}:percentencode}}"
        for name, value in variables.items()
    )
    return f"/d/{uid}?${{datasource:queryparam}}&${{cluster:queryparam}}&${{__url_time_range}}{chosen}"


def trend(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    height: int = 8,
    least: float | None = 0.0,
    levels: Levels = (),
    stacked: bool = False,
    dashed: str = "",
    link: str = "",
) -> timeseries.Panel:
    """Lines over time. ``least`` is where the axis begins at least; series whose name matches ``dashed`` are limits."""
    panel = _common(timeseries.Panel(), title, description, queries, width, height)
    panel.unit(unit).line_width(1).fill_opacity(20 if stacked else 5).show_points(common.VisibilityMode.AUTO)
    panel.span_nulls(False)
    panel.legend(
        common_builders.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.TABLE)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["last", "max"])
    )
    panel.tooltip(
        common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    if least is not None:
        panel.axis_soft_min(least)
    if unit == "percentunit":
        panel.axis_soft_max(0.01)  # where all is 0 the axis would end at 10,000 %
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if levels:
        panel.thresholds(_thresholds(levels)).thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        )
    if dashed:
        properties = [
            dashboard.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
            dashboard.DynamicConfigValue("custom.fillOpacity", 0),
            dashboard.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": RED}),
        ]
        panel.override_by_regexp(dashed, properties)
    if link:
        panel.data_links([builders.DashboardLink("Open").url(link)])
    return panel


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    levels: Levels = ((None, GREEN),),
    width: int = 4,
    height: int = 4,
    nothing: str = "unknown",
    decimals: int | None = None,
) -> stat.Panel:
    """One number, coloured. ``nothing`` stands, grey, where the query finds nothing: see ``counted``."""
    panel = _common(stat.Panel(), title, description, [query], width, height, "now")
    panel.unit(unit).thresholds(_thresholds(levels)).no_value(nothing).mappings([_null(nothing)])
    panel.color_mode(common.BigValueColorMode.BACKGROUND if len(levels) > 1 else common.BigValueColorMode.VALUE)
    panel.graph_mode(common.BigValueGraphMode.NONE).text_mode(common.BigValueTextMode.VALUE)
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    if decimals is not None:
        panel.decimals(decimals)
    return panel


def ranking(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    levels: Levels = BAD_ABOVE_ZERO,
    width: int = 8,
    height: int = 8,
    nothing: str = "none",
    link: str = "",
) -> bargauge.Panel:
    """Bars, as many as the query finds: for what ``topk`` left."""
    panel = _common(bargauge.Panel(), title, description, [query], width, height, "now")
    panel.unit(unit).thresholds(_thresholds(levels)).no_value(nothing).min(0)
    panel.orientation(common.VizOrientation.HORIZONTAL).display_mode(common.BarGaugeDisplayMode.BASIC)
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    if link:
        panel.data_links([builders.DashboardLink("Open").url(link)])
    return panel


def rows(
    title: str,
    description: str,
    columns: Sequence[Column],
    *queries: Query,
    width: int = 24,
    height: int = 8,
    sort: str = "",
    descending: bool = True,
) -> table.Panel:
    """A table: a row for each set of labels, whose values from several queries stand beside each other.

    It has no unit of its own, by which Grafana would print labels of digits as numbers.
    """
    panel = _common(table.Panel(), title, description, queries, width, height, "table")
    panel.no_value("–").filterable(len(columns) > 3)
    if len(queries) > 1:
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="filterFieldsByName", options={"include": {"names": [each.field for each in columns]}}
        )
    )
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "indexByName": {each.field: place for place, each in enumerate(columns)},
                "renameByName": {each.field: each.title for each in columns},
                "excludeByName": {},
            },
        )
    )
    for each in columns:
        if properties := list(_properties(each)):
            panel.override_by_name(each.title, properties)
    if sort:
        panel.sort_by([common_builders.TableSortByFieldState().display_name(sort).desc(descending)])
    return panel


def matrix(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    rows: str,
    columns: str,
    levels: Levels,
    width: int = 12,
    height: int = 8,
) -> table.Panel:
    """One value for each pair of two labels' values, coloured."""
    panel = _common(table.Panel(), title, description, [query], width, height, "table")
    panel.unit(unit).no_value("–").thresholds(_thresholds(levels))
    panel.cell_options(common.TableColoredBackgroundCellOptions())
    return panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="groupingToMatrix",
            options={"columnField": columns, "rowField": rows, "valueField": "Value", "emptyValue": "empty"},
        )
    )


def states(
    title: str,
    description: str,
    query: Query,
    meanings: Mapping[str, tuple[str, str]],
    *,
    width: int = 12,
    height: int = 8,
) -> statetimeline.Panel:
    """What was when, one bar for each series. ``meanings`` is {value: (text, colour)}."""
    panel = _common(statetimeline.Panel(), title, description, [query], width, height)
    panel.unit("short").mappings([_mapping(meanings)]).show_value(common.VisibilityMode.NEVER).merge_values(True)
    panel.row_height(0.8).fill_opacity(80).legend(common_builders.VizLegendOptions().show_legend(True))
    panel.color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    return panel


def density(
    title: str, description: str, unit: str, query: Query, *, width: int = 12, height: int = 8
) -> heatmap.Panel:
    """A histogram over time; the query gives a series for each ``le``."""
    panel = _common(heatmap.Panel(), title, description, [query], width, height)
    panel.unit(unit).calculate(False)
    panel.y_axis(heatmap.YAxisConfig().unit(unit))
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(heatmap_models.HeatmapColorMode.SCHEME)
        .scheme("Spectral")
        .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.4)
        .steps(64)
        .reverse(True)
    )
    for target in panel.build().targets or ():
        target.format_val = PromQueryFormat.HEATMAP  # type: ignore[attr-defined]
    return panel


def graph(
    title: str, description: str, nodes: str, edges: str, *, width: int = 24, height: int = 16
) -> nodegraph.Panel:
    """Nodes (label ``id``) and edges (labels ``id``, ``source``, ``target``): an edge's ends must all be nodes."""
    queries = [Query(nodes, ref="nodes"), Query(edges, ref="edges")]
    panel = _common(nodegraph.Panel(), title, description, queries, width, height, "table")
    return panel.unit("short")


def words(title: str, markdown: str, *, width: int = 24, height: int = 4) -> text.Panel:
    """Words in place of numbers."""
    return text.Panel().title(title).content(markdown).mode("markdown").span(width).height(height)  # type: ignore[arg-type]


def _common(
    panel: _Built,
    title: str,
    description: str,
    queries: Sequence[Query],
    width: int,
    height: int,
    kind: Literal["range", "now", "table"] = "range",
) -> _Built:
    panel.title(title).description(description).datasource(DATASOURCE).span(width).height(height)
    for place, query in enumerate(queries):
        target = Dataquery().expr(scoped(query.expr)).ref_id(query.ref or chr(ord("A") + place)).datasource(DATASOURCE)
        if query.legend:
            target.legend_format(query.legend)
        if kind == "range":
            target.range()
        else:
            target.instant().format(PromQueryFormat.TABLE if kind == "table" else PromQueryFormat.TIME_SERIES)
        panel.with_target(target)
    return panel


def _thresholds(levels: Levels) -> builders.ThresholdsConfig:
    return (
        builders.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value, colour) for value, colour in levels])
    )


def _null(told: str) -> dashboard.SpecialValueMap:
    return dashboard.SpecialValueMap(
        dashboard.DashboardSpecialValueMapOptions(
            match=dashboard.SpecialValueMatch.NULL_AND_NAN,
            result=dashboard.ValueMappingResult(text=told, color=GREY),
        )
    )


def _mapping(meanings: Mapping[str, tuple[str, str]]) -> dashboard.ValueMap:
    return dashboard.ValueMap(
        {
            value: dashboard.ValueMappingResult(text=told, color=colour, index=place)
            for place, (value, (told, colour)) in enumerate(meanings.items())
        }
    )


def _properties(column: Column) -> Iterator[dashboard.DynamicConfigValue]:
    value = dashboard.DynamicConfigValue
    if column.unit:
        yield value("unit", column.unit)
    if column.decimals is not None:
        yield value("decimals", column.decimals)
    if column.width:
        yield value("custom.width", column.width)
    if column.link:
        yield value("links", [{"title": column.link_title or "Open", "url": column.link}])
    if column.levels:
        steps = [{"value": level, "color": colour} for level, colour in column.levels]
        yield value("thresholds", {"mode": "absolute", "steps": steps})
        yield value("custom.cellOptions", {"type": "color-text"})
