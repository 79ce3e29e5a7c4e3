"""A panel in Grafana's model, one function for each kind."""

from collections.abc import Callable
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import (
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as words
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from monitoring.dashboards.definition import NEEDS, Kind, Panel, Query

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

B = TypeVar(
    "B",
    bargauge.Panel,
    heatmap.Panel,
    stat.Panel,
    statetimeline.Panel,
    table.Panel,
    timeseries.Panel,
)


def panel_of(panel: Panel, number: int, grid: models.GridPos) -> Builder[models.Panel]:
    """A panel with its queries, at its place."""
    return BUILDERS[panel.kind](panel, number, grid)


def _common(builder: B, panel: Panel, number: int, grid: models.GridPos) -> B:
    """The settings of all kinds."""
    nothing = NEEDS[panel.needs] if panel.needs else "no data"
    builder.id(number).grid_pos(grid).datasource(SOURCE)
    builder.title(panel.title).description(panel.description)
    builder.unit(panel.unit).no_value(nothing).thresholds(_thresholds(panel))
    for place, query in enumerate(panel.queries):
        builder.with_target(_target(panel.kind, query, _letter(place)))
    if panel.minimum is not None:
        builder.min(panel.minimum)
    if panel.maximum is not None:
        builder.max(panel.maximum)
    if panel.texts:
        results = {
            str(value): models.ValueMappingResult(text=text, index=value)
            for value, text in enumerate(panel.texts)
        }
        builder.mappings([models.ValueMap(options=results)])
    return builder


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def _target(kind: Kind, query: Query, letter: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(letter).datasource(SOURCE)
    target.expr(query.expr).legend_format(query.legend)
    if kind == "table":
        return target.instant().format(PromQueryFormat.TABLE)
    if kind in ("stat", "bargauge"):
        return target.instant().format(PromQueryFormat.TIME_SERIES)
    if kind == "heatmap":
        return target.range().format(PromQueryFormat.HEATMAP)
    return target.range().format(PromQueryFormat.TIME_SERIES)


def _thresholds(panel: Panel) -> build.ThresholdsConfig:
    steps = [models.Threshold(value=None, color=panel.base)]
    steps += [models.Threshold(value=value, color=colour) for value, colour in panel.thresholds]
    return build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _colour(mode: models.FieldColorModeId) -> build.FieldColor:
    return build.FieldColor().mode(mode)


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _timeseries(panel: Panel, number: int, grid: models.GridPos) -> Builder[models.Panel]:
    builder = _common(timeseries.Panel(), panel, number, grid)
    builder.color_scheme(_colour(models.FieldColorModeId.PALETTE_CLASSIC))
    builder.line_width(1).fill_opacity(60 if panel.stacked else 5)
    builder.show_points(words.VisibilityMode.NEVER)
    builder.legend(
        common.VizLegendOptions()
        .display_mode(words.LegendDisplayMode.LIST)
        .placement(words.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    builder.tooltip(
        common.VizTooltipOptions()
        .mode(words.TooltipDisplayMode.MULTI)
        .sort(words.SortOrder.DESCENDING)
    )
    if panel.stacked:
        builder.stacking(common.StackingConfig().mode(words.StackingMode.NORMAL).group("A"))
    if panel.thresholds:
        dashed = words.GraphThresholdsStyleMode.DASHED
        builder.thresholds_style(common.GraphThresholdsStyleConfig().mode(dashed))
    for place, query in enumerate(panel.queries):
        if query.style != "line":
            builder.override_by_query(_letter(place), _style(query))
    return builder


def _style(query: Query) -> list[models.DynamicConfigValue]:
    """Dashes for accompanying lines, and red dashes for limits."""
    value = models.DynamicConfigValue
    settings = [value("custom.lineStyle", {"fill": "dash", "dash": [8, 6]})]
    settings.append(value("custom.fillOpacity", 0))
    if query.style == "limit":
        settings.append(value("color", {"mode": "fixed", "fixedColor": "red"}))
    return settings


def _stat(panel: Panel, number: int, grid: models.GridPos) -> Builder[models.Panel]:
    builder = _common(stat.Panel(), panel, number, grid)
    builder.color_scheme(_colour(models.FieldColorModeId.THRESHOLDS)).reduce_options(_last())
    coloured = words.BigValueColorMode.VALUE if panel.thresholds else words.BigValueColorMode.NONE
    return builder.color_mode(coloured).graph_mode(words.BigValueGraphMode.NONE)


def _bargauge(panel: Panel, number: int, grid: models.GridPos) -> Builder[models.Panel]:
    builder = _common(bargauge.Panel(), panel, number, grid)
    builder.color_scheme(_colour(models.FieldColorModeId.THRESHOLDS)).reduce_options(_last())
    builder.display_mode(words.BarGaugeDisplayMode.BASIC)
    return builder.orientation(words.VizOrientation.HORIZONTAL)


def _statetimeline(panel: Panel, number: int, grid: models.GridPos) -> Builder[models.Panel]:
    builder = _common(statetimeline.Panel(), panel, number, grid)
    builder.color_scheme(_colour(models.FieldColorModeId.THRESHOLDS)).merge_values(True)
    spoken = bool(panel.texts) or not panel.thresholds
    builder.show_value(words.VisibilityMode.AUTO if spoken else words.VisibilityMode.NEVER)
    return builder.row_height(0.9).fill_opacity(70).per_page(100)  # all on one page


def _heatmap(panel: Panel, number: int, grid: models.GridPos) -> Builder[models.Panel]:
    builder = _common(heatmap.Panel(), panel, number, grid)
    builder.calculate(False).cell_gap(0).show_legend()
    builder.color(
        heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Blues").steps(32)
    )
    return builder.y_axis(heatmap.YAxisConfig().unit(panel.unit))


def _table(panel: Panel, number: int, grid: models.GridPos) -> Builder[models.Panel]:
    builder = _common(table.Panel(), panel, number, grid)
    if panel.matrix:
        row, column = panel.matrix
        crossed = {"rowField": row, "columnField": column, "valueField": "Value"}
        return builder.with_transformation(
            models.DataTransformerConfig("groupingToMatrix", options=crossed)
        )
    names = {"Value": panel.queries[0].legend}
    if len(panel.queries) > 1:
        builder.with_transformation(models.DataTransformerConfig("merge", options={}))
        names = {f"Value #{_letter(i)}": q.legend for i, q in enumerate(panel.queries)}
    tidy = {"excludeByName": {"Time": True}, "renameByName": names}
    return builder.with_transformation(models.DataTransformerConfig("organize", options=tidy))


BUILDERS: dict[Kind, Callable[[Panel, int, models.GridPos], Builder[models.Panel]]] = {
    "bargauge": _bargauge,
    "heatmap": _heatmap,
    "stat": _stat,
    "statetimeline": _statetimeline,
    "table": _table,
    "timeseries": _timeseries,
}
