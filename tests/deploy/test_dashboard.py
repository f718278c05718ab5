"""The committed dashboard is what the generator makes, valid for Grafana, and speaks of metrics that exist: all of ours, and no others."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from promql import BOARD as JSON
from promql import ROOT, all_panels, catalogue_names, dashboard_queries, every_query, rule_queries, substitute

from deploy.monitoring.panels import Panel, Row
from deploy.monitoring.rows import ROWS
from rlvr.metrics import CATALOGUE

BOARD: dict[str, Any] = json.loads(JSON.read_text())
NAMES = {spec.name for spec in CATALOGUE}
VLLM = {
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
}
"""vLLM's metrics that the dashboard uses, as an engine exposes them."""
DCGM = {
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_XID_ERRORS",
}
OTHERS = {"up", "ALERTS", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"}


def names_of(pattern: str) -> set[str]:
    found = {name for asked in every_query() for name in re.findall(pattern, asked.expr)}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def the_panels() -> list[Panel]:
    return [panel for row in ROWS for panel in row.panels]


def test_the_committed_json_is_what_the_generator_makes_byte_for_byte() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the classic schema, which every Grafana reads
        from deploy.monitoring.dashboard import dashboard
    assert dashboard().encode() == JSON.read_bytes(), "run python -m deploy.monitoring.dashboard"


def test_every_metric_that_is_asked_for_is_in_the_catalogue() -> None:
    asked = {(asked.place, name) for asked in every_query() for name in catalogue_names(asked.expr)}
    assert {(place, name) for place, name in asked if name not in NAMES} == set()


def test_every_metric_of_the_catalogue_is_in_the_dashboard_or_the_rules() -> None:
    used = {name for asked in [*dashboard_queries(), *rule_queries()] for name in catalogue_names(asked.expr)}
    assert NAMES - used == set()


def test_metrics_of_other_projects_are_those_we_know() -> None:
    assert names_of(r"vllm:\w+") == VLLM
    assert names_of(r"DCGM_\w+") == DCGM
    words = {word for asked in dashboard_queries() for word in re.findall(r"\b(?:up|ALERTS|process_\w+)\b", asked.expr)}
    assert words == OTHERS


def test_vllm_has_every_metric_that_we_ask_of_it(shared: Path) -> None:
    rows = [line.split("\t") for line in (shared / "schemas" / "vllm_metric_names.tsv").read_text().splitlines()]
    exposed = {f"{name}_total" if kind == "counter" and not name.endswith("_total") else name for name, kind, *_ in rows}
    assert VLLM - exposed == set()


def test_labels_that_are_asked_for_are_those_of_the_metric_or_of_its_target() -> None:
    labels = {spec.name: {label: {value.value for value in values} for label, values in spec.labels} for spec in CATALOGUE}
    for asked in [*dashboard_queries(), *rule_queries()]:
        for name, matchers in re.findall(r"(rlvr_\w+)\{([^}]*)\}", asked.expr):
            known = labels[re.sub(r"_(bucket|sum|count)$", "", name)]
            for label, operator, value in re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', matchers):
                if label in ("run", "role", "replica"):
                    continue
                assert label in known, f"{asked.place}: {name} has no label {label}"
                assert set(value.split("|")) <= known[label], f"{asked.place}: {name} has no {label}{operator}{value}"


def test_every_query_asks_for_the_chosen_runs_alone() -> None:
    for asked in dashboard_queries():
        for name, braces in re.findall(r"\b((?:rlvr_|vllm:|process_)\w+)(\{[^}]*\})?", asked.expr):
            assert 'run=~"$run"' in braces, f"{asked.place}: {name} is not limited to $run"


def test_no_variable_is_left_over_when_grafanas_are_put_in() -> None:
    for asked in every_query():
        assert "$" not in substitute(asked.expr), asked.place


@pytest.mark.parametrize("panel", the_panels(), ids=lambda panel: panel.title)
def test_every_panel_says_what_it_shows_and_in_which_unit(panel: Panel) -> None:
    assert panel.text.endswith(".")
    assert 10 <= len(panel.text) <= 420
    assert panel.unit
    assert all(query.legend for query in panel.queries)
    anchors = re.findall(r"docs/operations\.md#([a-z]+)", panel.text)
    headings = {heading.lower() for heading in re.findall(r"^#+ (\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)}
    assert set(anchors) <= headings


def test_titles_and_ids_are_unique() -> None:
    panels = list(all_panels(BOARD))
    assert len({panel["title"] for panel in panels}) == len(panels)
    ids = [panel["id"] for panel in panels] + [panel["id"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert len(set(ids)) == len(ids)


def test_panels_lie_within_the_grid_and_never_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in [*all_panels(BOARD), *(panel for panel in BOARD["panels"] if panel["type"] == "row")]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_rows_come_in_the_order_of_an_engineers_questions() -> None:
    titles = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert titles == ["Now", "Generators", "Queue & staleness", "Verifiers", "Learner", "Policy", "Cost & fleet", "GPU"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_thresholds_and_words_are_in_order(row: Row) -> None:
    for panel in row.panels:
        bounds = [value for value, _ in panel.thresholds if value is not None]
        assert not panel.thresholds or panel.thresholds[0][0] is None
        assert len(bounds) == max(len(panel.thresholds) - 1, 0)
        assert bounds == sorted(bounds)
        assert all(first <= last for first, last, _, _ in panel.words)
        assert all(before[1] < after[0] for before, after in zip(panel.words, panel.words[1:], strict=False))


# --- Grafana's own schemas


def validator(shared: Path, schema: str, definition: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    text = json.loads((shared / "schemas" / "grafana" / f"{schema}.jsonschema.json").read_text())
    return jsonschema.Draft7Validator({**text, "$ref": f"#/definitions/{definition}"})


def faults_of_the_board(shared: Path, board: dict[str, Any]) -> list[str]:
    """What Grafana's schemas say against the dashboard: its frame, and of each panel its options, field configuration and queries."""
    found = [("dashboard", error) for error in validator(shared, "dashboard", "Dashboard").iter_errors(board)]
    query = validator(shared, "prometheus", "Dataquery")
    for panel in all_panels(board):
        found += [(panel["title"], error) for error in validator(shared, panel["type"], "Options").iter_errors(panel["options"])]
        custom = panel["fieldConfig"]["defaults"].get("custom")
        if custom is not None:
            found += [(panel["title"], error) for error in validator(shared, panel["type"], "FieldConfig").iter_errors(custom)]
        for target in panel["targets"]:
            found += [(panel["title"], error) for error in query.iter_errors(target)]
    return [f"{where}: {error.message[:200]}" for where, error in found]


def test_grafanas_schemas_accept_the_dashboard(shared: Path) -> None:
    assert faults_of_the_board(shared, BOARD) == []


@pytest.mark.parametrize(
    "path, value",
    [
        (("panels", 1, "options", "colourMode"), "value"),
        (("panels", 1, "options", "colorMode"), "backround"),
        (("panels", 1, "targets", 0, "legendFromat"), "x"),
        (("panels", 1, "fieldConfig", "defaults", "desimals"), 1),
        (("panels", 1, "gridPos", "w"), "3"),
        (("schemaVersion",), "42"),
        (("templating", "list", 1, "includeAl"), True),
    ],
    ids=lambda part: str(part),
)
def test_grafanas_schemas_refuse_a_damaged_dashboard(shared: Path, path: tuple[Any, ...], value: object) -> None:
    damaged = json.loads(json.dumps(BOARD))
    place = damaged
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert len(faults_of_the_board(shared, damaged)) >= 1
