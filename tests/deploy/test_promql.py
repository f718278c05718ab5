"""Every query has data in a real Prometheus when all metrics move, none is NaN when nothing does, and a wrong one is found."""

import json
import re
import time
from collections.abc import Iterator

import pytest
from prometheus_process import prometheus
from promql import BOARD, Asked, Finding, ask, catalogue_names, check_queries, dashboard_queries, every_query, selectors, substitute
from simulated_run import SimulatedRun

from deploy.monitoring.panels import Need

MINUTE = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has seen a run `busy`, whose metrics move, a run `idle`, which has only started, and a target of somebody else.

    Its findings on `busy` are none.
    """
    with SimulatedRun("busy") as busy, SimulatedRun("idle") as idle, SimulatedRun("") as others:
        folder = tmp_path_factory.mktemp("prometheus")
        with prometheus(folder, {"static_configs": busy.targets + idle.targets + others.targets}) as url:
            deadline, unanswered = time.monotonic() + 60, every_query()
            while unanswered and time.monotonic() < deadline:
                busy.tick()
                time.sleep(0.2)
                unanswered = [asked for asked in unanswered if findings(url, "busy", [asked])]
            yield url


def findings(url: str, run: str, queries: list[Asked] | None = None) -> list[Finding]:
    return check_queries(url, run=run, queries=queries, seconds=MINUTE, rate_interval="10s")


@pytest.mark.processes
def test_every_query_has_data_when_all_metrics_move(server: str) -> None:
    assert findings(server, "busy") == []


@pytest.mark.processes
def test_a_run_that_has_only_started_shows_nothing_or_zero_but_never_nan(server: str) -> None:
    found = findings(server, "idle")
    assert [finding for finding in found if finding.fault != "empty"] == []


@pytest.mark.processes
def test_runs_stay_apart(server: str) -> None:
    trained = next(asked.expr for asked in dashboard_queries() if asked.place.startswith("panel 'Step'"))
    both = {row["metric"]["run"]: float(row["value"][1]) for row in ask(server, "query", query=substitute(trained))["result"]}
    assert both["busy"] > both["idle"] == 0.0


@pytest.mark.processes
def test_targets_without_a_run_are_in_no_panel(server: str) -> None:
    assert ask(server, "query", query='up{run="", role="learner"}')["result"], "Prometheus scrapes one"
    for asked in dashboard_queries():
        shown = {row["metric"].get("run", "") for row in ask(server, "query", query=substitute(asked.expr, rate_interval="10s"))["result"]}
        summed = re.search(r"sum by \(le\)|ALERTS|DCGM", asked.expr)
        assert summed or shown <= {"busy", "idle"}, asked.place


@pytest.mark.processes
@pytest.mark.parametrize(
    "right, wrong, fault",
    [
        ("rlvr_rollouts_generated_total", "rlvr_rollouts_genreated_total", "empty"),
        ('kind=\\"correct\\"', 'kind=\\"corect\\"', "empty"),
        ("histogram_quantile(", "histogram_quantil(", "error"),
        ("[10m]", "", "error"),
    ],
)
def test_a_misspelt_dashboard_is_found(server: str, right: str, wrong: str, fault: str) -> None:
    text = BOARD.read_text()
    assert right in text
    damaged = dashboard_queries(json.loads(text.replace(right, wrong)))
    touched = {asked.place for asked, before in zip(damaged, dashboard_queries(), strict=True) if asked.expr != before.expr}
    found = findings(server, "busy", [asked for asked in damaged if asked.place in touched])
    assert {finding.place for finding in found} == touched
    assert {finding.fault for finding in found} == {fault}


@pytest.mark.processes
def test_a_misspelt_alert_is_found_though_no_alert_fires(server: str) -> None:
    alert = Asked("alert X", 'max by (run) (rlvr_actors{part="generater"}) > 5 and on (run) max by (run) (rlvr_actors) > 5', may_be_empty=True)
    (found,) = findings(server, "busy", [alert])
    assert found.fault == "empty"
    assert found.detail == 'rlvr_actors{part="generater"}'


@pytest.mark.processes
def test_nan_and_infinity_are_found(server: str) -> None:
    for expr in ("0 * rlvr_slots / (0 * rlvr_slots)", "rlvr_slots / (0 * rlvr_slots)"):
        assert {finding.fault for finding in findings(server, "busy", [Asked("panel", expr)])} == {"nan"}


@pytest.mark.processes
def test_a_query_whose_need_is_not_met_need_only_be_accepted(server: str) -> None:
    there, absent = Asked("panel", "DCGM_FI_DEV_FB_USED", Need.GPU), Asked("panel", "DCGM_FI_DEV_FB_USED")
    broken = Asked("panel", "DCGM_FI_DEV_FB_USED[", Need.GPU)
    assert [finding.fault for finding in findings(server, "busy", [there, absent, broken])] == ["empty", "error"]


def test_selectors_and_names_are_found_in_an_expression() -> None:
    expr = 'sum by (run) (rate(rlvr_verify_seconds_bucket{run=~"a|b"}[5m])) > on (run) up == rlvr:learner_step_age_seconds'
    assert selectors(expr) == {'rlvr_verify_seconds_bucket{run=~"a|b"}', "up", "rlvr:learner_step_age_seconds"}
    assert catalogue_names(expr) == {"rlvr_verify_seconds"}
    assert catalogue_names('kuberay_job_deployment_status{name=~"(.*-)?rlvr(-.*)?"}') == set()


def test_what_waits_for_something_is_marked_and_little_does() -> None:
    waiting = {need: [asked.place for asked in every_query() if asked.needs is need] for need in Need}
    assert all(waiting.values())
    assert sum(len(places) for need, places in waiting.items() if need in (Need.GPU, Need.KUBERNETES)) == 6
