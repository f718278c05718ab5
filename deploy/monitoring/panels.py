"""What a panel of the dashboard is: its title, what it tells, its queries, and how its values read.

Owns the records in which `rows/` describe the dashboard and which `grafana.py` turns into Grafana's JSON. Knows no Grafana.
"""

import enum

import msgspec

BLUE, GREEN, ORANGE, RED, GREY = "blue", "green", "orange", "red", "text"


class Need(enum.StrEnum):
    """What a panel waits for: without it the panel is rightly empty."""

    GPU = "gpu"  # NVIDIA's DCGM exporter
    KUBERNETES = "kubernetes"  # the KubeRay operator's metrics
    RULES = "rules"  # Prometheus has loaded firesteel.rules.yml
    PRICE = "price"  # a node with a price
    BUDGET = "budget"  # [cost] budget_usd
    CHECKPOINT = "checkpoint"  # a first checkpoint
    EVALUATION = "evaluation"  # a first evaluation
    LOSS = "loss"  # an actor that was replaced


class Look(enum.StrEnum):
    STAT = "stat"  # one number a run, with its course behind it
    LINES = "lines"
    AREAS = "areas"  # lines on top of each other, where the sum means something
    HEATMAP = "heatmap"  # of a histogram's buckets
    BARS = "bars"  # the newest values, side by side


class Query(msgspec.Struct, frozen=True):
    """One PromQL expression; legend: Grafana's pattern for the name of each series."""

    expr: str
    legend: str = "{{run}}"


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """width: of 24 columns. height: of Grafana's 30 pixel rows. thresholds: from which value on which colour.
    words: what to show instead of a value."""

    title: str
    text: str
    queries: tuple[Query, ...]
    look: Look = Look.LINES
    unit: str = "short"
    width: int = 8
    height: int = 8
    decimals: int | None = None
    least: float | None = None
    most: float | None = None
    thresholds: tuple[tuple[float | None, str], ...] = ()
    words: tuple[tuple[float, float, str, str], ...] = ()
    """From, to, the word, its colour."""
    if_empty: str = "no data"
    is_instant: bool = False
    """Show what is now, and nothing where nothing is; else the newest value of the time range, with its course behind it."""
    needs: Need | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    panels: tuple[Panel, ...]
    is_folded: bool = False


def stat(title: str, text: str, expr: str, **how: object) -> Panel:
    """A small panel with one number."""
    return _panel(title, text, (Query(expr),), look=Look.STAT, **{"width": 3, "height": 4, **how})


def lines(title: str, text: str, *queries: Query, **how: object) -> Panel:
    return _panel(title, text, queries, look=Look.LINES, **how)


def areas(title: str, text: str, *queries: Query, **how: object) -> Panel:
    return _panel(title, text, queries, look=Look.AREAS, **{"least": 0.0, **how})


def heatmap(title: str, text: str, expr: str, **how: object) -> Panel:
    """expr: buckets of one histogram, summed by `le`."""
    return _panel(title, text, (Query(expr, "{{le}}"),), look=Look.HEATMAP, **how)


def bars(title: str, text: str, *queries: Query, **how: object) -> Panel:
    return _panel(title, text, queries, look=Look.BARS, **how)


def _panel(title: str, text: str, queries: tuple[Query, ...], **how: object) -> Panel:
    return msgspec.convert({"title": title, "text": text, "queries": queries, **how}, Panel)
