"""A picture of the dashboard with a run's real data, where no Grafana is at hand.

`python -m deploy.monitoring.picture --prometheus URL --run NAME --seconds 600 --rows Now,Generators --out docs/dashboard.png` asks Prometheus for
every query of firesteel.json, substituted as Grafana does, and draws the panels where the JSON puts them. Owns the drawing alone; a panel whose
query is refused is an error, one without data says so, as in Grafana.
"""

import argparse
import json
import math
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from deploy.monitoring.values import in_unit, legend_of, reading

BOARD = Path(__file__).with_name("firesteel.json")
BACK, PANEL, TEXT, FAINT, GRID = "#111217", "#181b1f", "#d8d9da", "#8e9197", "#2c3035"
COLORS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "text": "#8e9197", "yellow": "#fade2a"}
SERIES = ("#73bf69", "#fade2a", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0", "#96d98d", "#c0d8ff")
COLUMN_IN, LINE_IN = 0.8, 0.34
MOST_IN_LEGEND = 6
POINTS = 240

Points = list[tuple[float, float]]
Named = Sequence[tuple[str, Points]]
Box = tuple[float, float, float, float]
"""Left, bottom, width, height, as shares of the figure."""


class Source:
    """Prometheus, asked as Grafana asks it."""

    def __init__(self, url: str, *, run: str, seconds: float, rate_interval: str, end: float) -> None:
        self._url, self._run, self._rate = url.rstrip("/"), run, rate_interval
        self.end, self.start = end, end - seconds
        self._step = max(seconds / POINTS, 1.0)

    def series(self, target: Mapping[str, Any]) -> list[tuple[dict[str, str], Points]]:
        """Over the whole range; of an instant query the newest point of the range. Raises OSError for a query that is refused."""
        expr = str(target["expr"])
        for name, value in (
            ("$__rate_interval", self._rate),
            ("$__interval", self._rate),
            ("$window", self._rate),
            ("$__range", f"{int(self.end - self.start)}s"),
            ("$run", self._run),
        ):
            expr = expr.replace(name, value)
        if target.get("instant"):
            found = self._ask("query", query=expr, time=self.end)
            return [(series["metric"], [_point(series["value"])]) for series in found]
        found = self._ask("query_range", query=expr, start=self.start, end=self.end, step=self._step)
        return [(series["metric"], [_point(value) for value in series["values"]]) for series in found]

    def _ask(self, path: str, **parameters: object) -> list[dict[str, Any]]:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


def _point(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def draw(board: Mapping[str, Any], source: Source, *, rows: Sequence[str]) -> Figure:
    """The rows of these titles, from top to bottom; empty = all that are not folded. Raises ValueError for a title that no row has."""
    chosen = _lines(board, rows)
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in chosen)
    figure = plt.figure(figsize=(24 * COLUMN_IN, height * LINE_IN), facecolor=BACK)
    for panel in chosen:
        place = panel["gridPos"]
        box = (place["x"] / 24, 1 - (place["y"] + place["h"]) / height, place["w"] / 24, place["h"] / height)
        if panel["type"] == "row":
            figure.text(box[0] + 0.006, box[1] + box[3] / 2, f"▾ {panel['title']}", color=TEXT, fontsize=12, weight="bold", va="center")
        else:
            _draw_panel(figure, panel, box, source, size=(place["w"] * COLUMN_IN, place["h"] * LINE_IN))
    return figure


def _lines(board: Mapping[str, Any], rows: Sequence[str]) -> list[dict[str, Any]]:
    """The panels of the chosen rows, moved up so that nothing is between them."""
    titles = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    if unknown := [title for title in rows if title not in titles]:
        raise ValueError(f"the dashboard has no row {unknown[0]!r}; its rows are {', '.join(titles)}")
    chosen: list[dict[str, Any]] = []
    bottom, shift, is_in = 0, 0, False
    for panel in board["panels"]:
        place = panel["gridPos"]
        if panel["type"] == "row":
            is_in = panel["title"] in rows if rows else not panel["collapsed"]
            shift = place["y"] - bottom
        if is_in:
            moved = {**place, "y": place["y"] - shift}
            chosen.append({**panel, "gridPos": moved})
            bottom = max(bottom, moved["y"] + moved["h"])
    return chosen


def _draw_panel(figure: Figure, panel: Mapping[str, Any], box: Box, source: Source, *, size: tuple[float, float]) -> None:
    left, bottom, width, height = box
    gap_x, gap_y = 0.05 / size[0] * width, 0.05 / size[1] * height
    back = FancyBboxPatch(
        (left + gap_x, bottom + gap_y), width - 2 * gap_x, height - 2 * gap_y, boxstyle="square,pad=0", fc=PANEL, ec=GRID, lw=0.8, zorder=-2
    )
    figure.add_artist(back)
    title_in = 0.22
    figure.text(left + 2.5 * gap_x, bottom + height - 0.17 / size[1] * height, panel["title"], color=TEXT, fontsize=9, va="center")
    found = [(target, source.series(target)) for target in panel["targets"]]
    named = [(legend_of(target.get("legendFormat", ""), labels), points) for target, series in found for labels, points in series]
    inner = (left + 0.13 * width, bottom + 0.1 * height, 0.84 * width, height * (1 - (title_in + 0.1 * size[1] + 0.08) / size[1]))
    if panel["type"] == "stat":
        _draw_stat(figure, panel, named, (left, bottom, width, height - title_in / size[1] * height), back)
    elif panel["type"] == "bargauge":
        _draw_bars(_axes(figure, inner), panel, named)
    elif panel["type"] == "heatmap":
        _draw_heatmap(_axes(figure, inner), panel, named, source)
    else:
        _draw_lines(_axes(figure, inner), panel, named, source, stands_at=0.24 if size[1] > 2 else 0.0)


def _axes(figure: Figure, box: Box) -> Axes:
    axes: Axes = figure.add_axes(box, facecolor=PANEL)
    axes.tick_params(colors=FAINT, labelsize=7, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _empty(axes: Axes, panel: Mapping[str, Any]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, panel["fieldConfig"]["defaults"].get("noValue", "no data"), color=FAINT, fontsize=10, ha="center", transform=axes.transAxes)


def _draw_stat(figure: Figure, panel: Mapping[str, Any], named: Named, box: Box, back: FancyBboxPatch) -> None:
    """One number a series, side by side, with its name where there are several."""
    left, bottom, width, height = box
    values = [(name, points) for name, points in named if points]
    if not values:
        text = panel["fieldConfig"]["defaults"].get("noValue", "no data")
        figure.text(left + width / 2, bottom + height / 2, text, color=FAINT, fontsize=14, ha="center", va="center")
        return
    share = width / len(values)
    for index, (name, points) in enumerate(values):
        _draw_number(figure, panel, points, (left + index * share, bottom, share, height), back, name=name if len(values) > 1 else "")


def _draw_number(figure: Figure, panel: Mapping[str, Any], points: Points, box: Box, back: FancyBboxPatch, *, name: str) -> None:
    left, bottom, width, height = box
    words, color = reading(points[-1][1], panel["fieldConfig"]["defaults"])
    shade = COLORS.get(color, color)
    is_filled = panel["options"]["colorMode"] == "background" and not name
    if is_filled:
        back.set_facecolor(shade)
    if len(points) > 2 and panel["options"]["graphMode"] == "area":
        axes = _axes(figure, (left + 0.03 * width, bottom + 0.05 * height, 0.94 * width, 0.3 * height))
        axes.set_xticks([])
        axes.set_yticks([])
        times, heights = zip(*points, strict=True)
        axes.plot(times, heights, color=shade, lw=1)
        axes.fill_between(times, heights, min(heights), color=shade, alpha=0.15)
    size = min(24.0, 1.5 * 72 * width * 24 * COLUMN_IN / max(len(words), 4))
    place = (left + width / 2, bottom + 0.55 * height)
    figure.text(*place, words, color="white" if is_filled else shade, fontsize=size, weight="bold", ha="center", va="center")
    if name:
        figure.text(left + width / 2, bottom + 0.9 * height, name, color=TEXT, fontsize=7, ha="center", va="center")


def _draw_lines(axes: Axes, panel: Mapping[str, Any], named: Named, source: Source, *, stands_at: float) -> None:
    if not any(points for _, points in named):
        return _empty(axes, panel)
    how = panel["fieldConfig"]["defaults"]
    if how.get("custom", {}).get("stacking", {}).get("mode") == "normal":
        _stack(axes, named)
    else:
        for index, (name, points) in enumerate(named):
            times, values = zip(*points, strict=True)
            shade = SERIES[index % len(SERIES)]
            axes.plot([_date(at) for at in times], values, color=shade, lw=1.1, label=name, marker="o" if len(points) < 3 else None, ms=2)
    lowest, highest = axes.get_ylim()
    axes.set_ylim(how.get("min", lowest), how.get("max", highest))
    _dress(axes, how, source)
    handles, labels = axes.get_legend_handles_labels()
    if (hidden := len(labels) - MOST_IN_LEGEND) > 0:
        handles = [*handles[:MOST_IN_LEGEND], Line2D([], [], lw=0)]
        labels = [*labels[:MOST_IN_LEGEND], f"+{hidden} more"]
    axes.legend(
        handles,
        labels,
        loc="upper left",
        fontsize=6.5,
        labelcolor=TEXT,
        facecolor=PANEL,
        edgecolor="none",
        framealpha=0.6,
        ncols=2 if stands_at else 1,
        handlelength=1.0,
    )
    return None


def _stack(axes: Axes, named: Named) -> None:
    times = sorted({at for _, points in named for at, _ in points})
    heights = [[dict(points).get(at, 0.0) for at in times] for _, points in named]
    shades = [SERIES[index % len(SERIES)] for index in range(len(named))]
    axes.stackplot([_date(at) for at in times], *heights, labels=[name for name, _ in named], colors=shades, alpha=0.45)


def _draw_heatmap(axes: Axes, panel: Mapping[str, Any], named: Named, source: Source) -> None:
    """Buckets are cumulative: each row shows what lies between its bound and the one below."""
    bounds = sorted(((math.inf if name == "+Inf" else float(name)), dict(points)) for name, points in named if points)
    if not bounds:
        return _empty(axes, panel)
    times = sorted({at for _, points in bounds for at in points})
    below = dict.fromkeys(times, 0.0)
    cells: list[list[float]] = []
    for _, points in bounds:
        cells.append([max(points.get(at, 0.0) - below[at], 0.0) or math.nan for at in times])
        below = {at: points.get(at, below[at]) for at in times}
    axes.pcolormesh([_date(at) for at in times], range(len(bounds)), cells, cmap="Spectral_r", shading="nearest")
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    axes.set_yticks(range(len(bounds)), ["∞" if math.isinf(bound) else in_unit(bound, unit) for bound, _ in bounds])
    _dress(axes, {}, source, is_labelled=True)
    return None


def _draw_bars(axes: Axes, panel: Mapping[str, Any], named: Named) -> None:
    values = [(name, points[-1][1]) for name, points in named if points]
    if not values:
        return _empty(axes, panel)
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    names, lengths = zip(*reversed(values), strict=True)
    axes.barh(names, lengths, color=COLORS["green"], alpha=0.7)
    for index, length in enumerate(lengths):
        axes.text(length, index, f" {in_unit(length, unit)}", color=TEXT, fontsize=7, va="center")
    axes.set_xticks([])
    axes.margins(x=0.2)
    return None


def _dress(axes: Axes, how: Mapping[str, Any], source: Source, *, is_labelled: bool = False) -> None:
    axes.set_xlim(_date(source.start), _date(source.end))
    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    if not is_labelled:
        axes.grid(color=GRID, lw=0.5)
        unit = how.get("unit", "short")
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda value, _: in_unit(value, unit))
        for step in how.get("thresholds", {}).get("steps", []):
            if step.get("value") is not None and how.get("custom", {}).get("thresholdsStyle", {}).get("mode") == "dashed":
                axes.axhline(step["value"], color=COLORS.get(step["color"], step["color"]), lw=0.8, ls="--")


def _date(at: float) -> float:
    """Unix time as matplotlib has it, in UTC."""
    return float(date2num(datetime.fromtimestamp(at, tz=UTC)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--prometheus", required=True, help="address, such as http://127.0.0.1:9090")
    options.add_argument("--run", default=".+", help="name of the run, or a regular expression")
    options.add_argument("--seconds", type=float, default=1800.0, help="length of the time range")
    options.add_argument("--end", type=float, default=None, help="Unix time at which the range ends; default: now")
    options.add_argument("--rate-interval", default="30s", help="what $__rate_interval stands for: four scrape intervals or more")
    options.add_argument("--rows", default="", help="titles of rows, with commas; default: all that are not folded")
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    end = time.time() if given.end is None else given.end
    source = Source(given.prometheus, run=given.run, seconds=given.seconds, rate_interval=given.rate_interval, end=end)
    try:
        figure = draw(json.loads(BOARD.read_text()), source, rows=[row.strip() for row in given.rows.split(",") if row.strip()])
    except (OSError, ValueError) as error:
        options.exit(2, f"picture: {error}\n")
    figure.savefig(given.out, dpi=100, facecolor=BACK)


if __name__ == "__main__":
    main()
