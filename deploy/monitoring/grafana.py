"""The dashboard's panels as Grafana's classic JSON (schema version 42), by way of grafana-foundation-sdk.

Owns layout and looks: how a `Panel` becomes a stat, lines, a heatmap or bars. Called by `dashboard.py`; knows no metric.
"""

from collections.abc import Iterable
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.monitoring.panels import GREEN, Look, Panel, Row

DATASOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLUMNS = 24


def add_rows(board: build.Dashboard, rows: Iterable[Row]) -> None:
    """Each row below the last, its panels from left to right in as many lines as they need."""
    y, number = 0, 1
    for row in rows:
        head = build.Row(row.title).id(number).collapsed(row.is_folded).grid_pos(models.GridPos(h=1, w=COLUMNS, x=0, y=y))
        y, number = y + 1, number + 1
        places, y = _places(row.panels, y)
        drawn = [_draw(panel).id(number + index).grid_pos(place) for index, (panel, place) in enumerate(zip(row.panels, places, strict=True))]
        number += len(drawn)
        if row.is_folded:
            for panel in drawn:
                head.with_panel(panel)
        board.with_row(head)
        if not row.is_folded:
            for panel in drawn:
                board.with_panel(panel)


def _places(panels: tuple[Panel, ...], y: int) -> tuple[list[models.GridPos], int]:
    """Where each panel lies, and the first free line below them."""
    places, x, tallest = [], 0, 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        places.append(models.GridPos(h=panel.height, w=panel.width, x=x, y=y))
        x, tallest = x + panel.width, max(tallest, panel.height)
    return places, y + tallest


def _draw(panel: Panel) -> Any:
    looks: dict[Look, Any] = {Look.STAT: _stat, Look.LINES: _lines, Look.AREAS: _areas, Look.HEATMAP: _heatmap, Look.BARS: _bars}
    drawn = looks[panel.look](panel).title(panel.title).description(panel.text).datasource(DATASOURCE).unit(panel.unit).no_value(panel.if_empty)
    drawn.thresholds(_thresholds(panel))
    if panel.decimals is not None:
        drawn.decimals(panel.decimals)
    if panel.least is not None:
        drawn.min(panel.least)
    if panel.most is not None:
        drawn.max(panel.most)
    if panel.words:
        drawn.mappings([_word(*word, index=index) for index, word in enumerate(panel.words)])
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().ref_id(chr(ord("A") + index)).expr(query.expr).legend_format(query.legend).datasource(DATASOURCE)
        if panel.look is Look.HEATMAP:
            target.format(PromQueryFormat.HEATMAP)
        drawn.with_target(target.instant() if panel.is_instant or panel.look is Look.BARS else target.range())
    return drawn


def _stat(panel: Panel) -> stat.Panel:
    drawn = stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    drawn.graph_mode(common_models.BigValueGraphMode.NONE if panel.is_instant else common_models.BigValueGraphMode.AREA)
    return drawn.color_mode(common_models.BigValueColorMode.BACKGROUND if panel.words else common_models.BigValueColorMode.VALUE)


def _lines(panel: Panel) -> timeseries.Panel:
    drawn = timeseries.Panel().line_width(1).fill_opacity(0).show_points(common_models.VisibilityMode.AUTO).span_nulls(True)
    drawn.color_scheme(build.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
    drawn.legend(
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.TABLE)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )
    drawn.tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI).sort(common_models.SortOrder.DESCENDING))
    if panel.thresholds:
        drawn.thresholds_style(common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED))
    return drawn


def _areas(panel: Panel) -> timeseries.Panel:
    return _lines(panel).fill_opacity(30).stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))


def _heatmap(panel: Panel) -> heatmap.Panel:
    drawn = heatmap.Panel().calculate(False).y_axis(heatmap.YAxisConfig().unit(panel.unit).axis_placement(common_models.AxisPlacement.LEFT))
    drawn.color(heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Spectral").steps(64))
    return drawn.cell_gap(1).show_legend()


def _bars(_: Panel) -> bargauge.Panel:
    drawn = bargauge.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).display_mode(common_models.BarGaugeDisplayMode.BASIC)
    return drawn.orientation(common_models.VizOrientation.HORIZONTAL)


def _thresholds(panel: Panel) -> build.ThresholdsConfig:
    steps = panel.thresholds or ((None, GREEN),)
    return build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps([models.Threshold(value=value, color=color) for value, color in steps])


def _word(first: float, last: float, word: str, color: str, *, index: int) -> models.RangeMap:
    return models.RangeMap(
        options=models.DashboardRangeMapOptions(from_val=first, to=last, result=models.ValueMappingResult(text=word, color=color, index=index))
    )
