"""Every PromQL expression of the dashboard, the rules and the runbook, and a checker that asks a real Prometheus for each.

`check_queries(url, run=...)` returns what is wrong: an expression that Prometheus refuses, one without data, one with NaN or infinity. A query that
is right to be empty in a healthy run (an alert, an annotation) is asked for the series that it selects instead. Shared by the tests of this folder.
"""

import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from deploy.monitoring.panels import Need
from deploy.monitoring.rows import ROWS

ROOT = Path(__file__).resolve().parents[2]
BOARD = ROOT / "deploy" / "monitoring" / "firesteel.json"
RULES = ROOT / "deploy" / "monitoring" / "firesteel.rules.yml"
RUNBOOK = ROOT / "docs" / "operations.md"

SELECTOR = re.compile(r"(?<![\w:])((?:rlvr|vllm)[_:][\w:]+|(?:kuberay|DCGM|process)_\w+|up|ALERTS)(?![\w:(])(\{[^}]*\})?")
NAME = re.compile(r"(?<![\w:.-])(rlvr_\w+)")
FENCE = re.compile(r"```promql\n(.*?)```", re.DOTALL)
HISTOGRAM_PART = re.compile(r"_(bucket|sum|count)$")


class Asked(NamedTuple):
    """One expression; may_be_empty: a healthy run has no such series, but it has those that the expression selects."""

    place: str
    expr: str
    needs: Need | None = None
    may_be_empty: bool = False


class Finding(NamedTuple):
    place: str
    fault: Literal["error", "empty", "nan"]
    detail: str


def dashboard_queries(board: Mapping[str, Any] | None = None) -> list[Asked]:
    """Of the committed JSON, or of `board`: panels, those of folded rows too, and annotations."""
    board = json.loads(BOARD.read_text()) if board is None else board
    needs = {panel.title: panel.needs for row in ROWS for panel in row.panels}
    panels = [
        Asked(f"panel {panel['title']!r}, query {target['refId']}", target["expr"], needs.get(panel["title"]))
        for panel in all_panels(board)
        for target in panel.get("targets", [])
    ]
    return panels + [Asked(f"annotation {note['name']!r}", note["expr"], may_be_empty=True) for note in board["annotations"]["list"]]


def all_panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Panels, not rows."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels") or ()
        else:
            yield panel


def rules(path: Path = RULES) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def rule_queries(path: Path = RULES) -> list[Asked]:
    """Records have data in a healthy run, alerts have none."""
    found = []
    for rule in rules(path):
        needs = Need.KUBERNETES if "kuberay_" in rule["expr"] else None
        name = f"alert {rule['alert']}" if "alert" in rule else f"record {rule['record']}"
        found.append(Asked(name, rule["expr"], needs, may_be_empty="alert" in rule))
    return found


def runbook_queries(path: Path = RUNBOOK) -> list[Asked]:
    return [Asked(f"{path.name}, expression {number}", expr) for number, expr in enumerate(FENCE.findall(path.read_text()), 1)]


def every_query() -> list[Asked]:
    return [*dashboard_queries(), *rule_queries(), *runbook_queries()]


def catalogue_names(expr: str) -> set[str]:
    """The rlvr_* metrics of an expression or text, histograms by their base name, unless the name as it stands is a metric of its own."""
    return {HISTOGRAM_PART.sub("", name) for name in NAME.findall(expr)}


def selectors(expr: str) -> set[str]:
    """The series that an expression asks for."""
    return {match[0] for match in SELECTOR.finditer(expr)}


def substitute(expr: str, *, run: str = ".+", rate_interval: str = "1m", length: str = "1h") -> str:
    """What Grafana would send."""
    for variable, value in (
        ("$__rate_interval", rate_interval),
        ("$__interval", rate_interval),
        ("$__range", length),
        ("$window", rate_interval),
        ("$run", run),
    ):
        expr = expr.replace(variable, value)
    return expr


def check_queries(
    prometheus_url: str,
    *,
    run: str = ".+",
    skip: Collection[Need] = (Need.GPU, Need.KUBERNETES),
    queries: Iterable[Asked] | None = None,
    seconds: float = 600.0,
    rate_interval: str = "1m",
) -> list[Finding]:
    """Ask for each query over the last `seconds`, as Grafana does, and say what is wrong.

    run: a regular expression, as of the dashboard's variable. skip: needs that this run does not meet; such queries need only be accepted.
    """
    found: list[Finding] = []
    for asked in every_query() if queries is None else queries:
        expr = substitute(asked.expr, run=run, rate_interval=rate_interval)
        found += _faults(prometheus_url, asked.place, expr, seconds=seconds, may_be_empty=asked.may_be_empty or asked.needs in skip)
        if asked.may_be_empty and asked.needs not in skip:
            for selector in sorted(selectors(expr) - {"up"}):
                if not selector.startswith("ALERTS"):
                    found += _faults(prometheus_url, f"{asked.place}, series {selector}", selector, seconds=seconds, may_be_empty=False)
    return found


def ask(prometheus_url: str, path: str, **params: object) -> Any:
    """The `data` of an answer of Prometheus' HTTP API. Raises ValueError with its refusal."""
    url = f"{prometheus_url}/api/v1/{path}?{urllib.parse.urlencode(params)}"
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=20) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as refusal:
        with refusal:
            raise ValueError(json.load(refusal)["error"]) from refusal


def _faults(url: str, place: str, expr: str, *, seconds: float, may_be_empty: bool) -> Iterator[Finding]:
    now = time.time()
    try:
        over_time = ask(url, "query_range", query=expr, start=now - seconds, end=now, step=max(seconds / 120, 1.0))["result"]
        at_once = ask(url, "query", query=expr)["result"]
    except ValueError as error:
        yield Finding(place, "error", f"{error} in {expr}")
        return
    if not over_time and not may_be_empty:
        yield Finding(place, "empty", expr)
    values = [float(value) for series in over_time for _, value in series["values"]] + [float(series["value"][1]) for series in at_once]
    if not all(math.isfinite(value) for value in values):
        yield Finding(place, "nan", expr)
