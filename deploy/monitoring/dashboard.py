"""The Grafana dashboard, generated: `python -m deploy.monitoring.dashboard` writes firesteel.json beside this file.

Owns the variables and the annotations. Needs grafana-foundation-sdk; who only loads the JSON into Grafana does not. It asks
for the labels `run`, `role` and `replica` alone, which service discovery gives on a laptop, a bare Ray cluster and Kubernetes alike.
"""

from pathlib import Path

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from deploy.monitoring import grafana
from deploy.monitoring.expressions import select
from deploy.monitoring.rows import ROWS

WINDOWS = ("1m", "2m", "5m", "10m", "30m", "2h")
JSON = Path(__file__).with_name("firesteel.json")
ANNOTATIONS = {
    "Replaced actors": (f"sum by (run, part, cause) (increase({select('rlvr_restarts_total')}[1m])) > 0", "orange", "{{run}}: {{part}} {{cause}}"),
    "Roll-backs": (f"max by (run) (delta({select('rlvr_lineage')}[1m])) > 0", "red", "{{run}}: rolled back to a checkpoint"),
}
"""Events as vertical lines in every panel: expression, colour, text."""


def dashboard() -> str:
    """The dashboard as JSON, the same bytes every time."""
    board = build.Dashboard("firesteel").uid("firesteel").tags(["firesteel", "rlvr"]).editable().timezone("browser").version(1)
    board.description("Reinforcement learning with verifiable rewards: is it healthy, what is the bottleneck, what does a million rollouts cost?")
    board.refresh("10s").time("now-30m", "now").tooltip(models.DashboardCursorSync.CROSSHAIR)
    board.with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    board.with_variable(_run_variable())
    board.with_variable(_window_variable())
    for name, (expr, color, text) in ANNOTATIONS.items():
        board.annotation(_annotation(name, expr, color, text))
    grafana.add_rows(board, ROWS)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _run_variable() -> build.QueryVariable:
    """The runs that have data in the time range. All of them: `.+`, since targets without `run` are not ours."""
    variable = build.QueryVariable("run").label("Run").datasource(grafana.DATASOURCE).query("label_values(rlvr_slots_limit, run)")
    variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_DESC)
    variable.multi(True).include_all(True).all_value(".+")
    return variable.current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))


def _window_variable() -> build.IntervalVariable:
    """Over how long what happens once a step is averaged; a run whose steps take longer than the automatic choice needs a longer one."""
    auto = models.VariableOption(selected=True, text="auto", value="$__auto_interval_window")
    choices = [auto, *(models.VariableOption(selected=False, text=window, value=window) for window in WINDOWS)]
    variable = build.IntervalVariable("window").label("Window").auto(True).step_count(30).min_interval(WINDOWS[0]).values(",".join(WINDOWS))
    return variable.current(auto).options(choices)


def _annotation(name: str, expr: str, color: str, text: str) -> build.AnnotationQuery:
    return build.AnnotationQuery().name(name).datasource(grafana.DATASOURCE).enable(True).icon_color(color).expr(expr).step("60s").title_format(text)


def main() -> None:
    JSON.write_text(dashboard(), encoding="utf-8")


if __name__ == "__main__":
    main()
