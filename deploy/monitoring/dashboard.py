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
    for name, (expr, color, text) in ANNOTATIONS.items():
        board.annotation(_annotation(name, expr, color, text))
    grafana.add_rows(board, ROWS)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _run_variable() -> build.QueryVariable:
    """The runs that have data in the time range."""
    variable = build.QueryVariable("run").label("Run").datasource(grafana.DATASOURCE).query("label_values(rlvr_slots_limit, run)")
    variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_DESC)
    variable.multi(True).include_all(True).all_value(".*")
    return variable.current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))


def _annotation(name: str, expr: str, color: str, text: str) -> build.AnnotationQuery:
    return build.AnnotationQuery().name(name).datasource(grafana.DATASOURCE).enable(True).icon_color(color).expr(expr).step("60s").title_format(text)


def main() -> None:
    JSON.write_text(dashboard(), encoding="utf-8")


if __name__ == "__main__":
    main()
