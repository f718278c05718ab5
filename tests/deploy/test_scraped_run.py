"""Laws of the monitoring, on a real Prometheus that finds and scrapes a real run: every query has data, and what is told is what is in the catalogue.

One run of the demo's task with two generators feeds all tests of this file. It loses a verifier on the way, so that there is a loss to be seen; what
Prometheus knows is asked while the run trains.
"""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_process import free_port, prometheus
from promql import BOARD, Finding, ask, check_queries, dashboard_queries
from rich.console import Console

from recipes.demo.base import Recipe, cached_base
from rlvr.metrics import CATALOGUE

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))

from whole_runs import ROOT, Finished, follow, process_of, start

pytestmark = [pytest.mark.ray, pytest.mark.engine]

STEPS = 120
WINDOW = {"seconds": 90.0, "rate_interval": "15s"}
USD_PER_HOUR = 0.36

SEEN: dict[str, Any] = {}
"""What Prometheus answered while the run trained."""


def kill_verifier(folder: Path) -> None:
    os.kill(process_of(folder, "verifier-1"), signal.SIGKILL)


def look(url: str) -> None:
    SEEN["findings"] = check_queries(url, **WINDOW)
    misspelt = BOARD.read_text().replace("rlvr_tokens_generated_total", "rlvr_tokens_genreated_total")
    SEEN["misspelt"] = check_queries(url, queries=dashboard_queries(json.loads(misspelt)), **WINDOW)
    SEEN["up"] = [series["metric"] for series in ask(url, "query", query="up == 1")["result"]]
    SEEN["names"] = set(ask(url, "label/__name__/values"))
    SEEN["rules"] = [rule for group in ask(url, "rules")["groups"] for rule in group["rules"]]
    SEEN["usd"] = float(ask(url, "query", query='rlvr_cost_usd_total{part="shared"}')["result"][0]["value"][1])


@pytest.fixture(scope="module", autouse=True)
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    port, folder = free_port(), tmp_path_factory.mktemp("scraped")
    discovery = {"http_sd_configs": [{"url": f"http://127.0.0.1:{port}/sd", "refresh_interval": "1s"}]}
    with prometheus(tmp_path_factory.mktemp("prometheus"), discovery) as url:
        base = cached_base(Recipe(seed=0), Console(quiet=True))
        process = start(
            ROOT / "recipes" / "demo.toml",
            folder / "run",
            f"model.policy={base}",
            f"run.num_steps={STEPS}",
            "run.eval_every_steps=20",
            "run.checkpoint_every_steps=20",
            "generators.count=2",
            "verifiers.count=2",
            f"metrics.port={port}",
            f"cost.shared_usd_per_hour={USD_PER_HOUR}",
            "cost.budget_usd=1",
            "metrics.linger_s=4",
        )
        acts = [(f"step 12/{STEPS}", kill_verifier), (f"step {STEPS - 12}/{STEPS}", lambda _: look(url))]
        finished = follow(process, folder / "run", acts=acts)
        SEEN["finished"] = ask(url, "query", query='max_over_time(rlvr_run_state{state="finished"}[1m])')["result"]
    assert finished.code == 0, finished.said[-20:]
    return finished


def test_every_query_that_can_have_data_on_a_cpu_has_it_and_none_is_nan() -> None:
    assert SEEN["findings"] == []


def test_a_misspelt_metric_is_found() -> None:
    found: list[Finding] = SEEN["misspelt"]
    assert found
    assert all("rlvr_tokens_genreated_total" in finding.detail for finding in found)


def test_every_process_is_found_by_run_role_and_replica() -> None:
    assert Counter(labels["role"] for labels in SEEN["up"]) == {"controller": 1, "queue": 1, "generator": 2, "verifier": 2, "learner": 1}
    assert {labels["run"] for labels in SEEN["up"]} == {"demo"}
    assert len({labels["replica"] for labels in SEEN["up"]}) == 7


def test_what_prometheus_knows_of_a_run_is_the_catalogue_and_nothing_else() -> None:
    families: set[str] = set()
    for spec in CATALOGUE:
        families |= {f"{spec.name}_{part}" for part in ("bucket", "sum", "count")} if spec.kind == "histogram" else {spec.name}
    assert {name for name in SEEN["names"] if name.startswith("rlvr_")} == families
    assert "vllm:generation_tokens_total" in SEEN["names"], "vLLM's own metrics, under the names that its users know"


def test_every_rule_is_healthy_and_none_fires_on_a_healthy_run() -> None:
    assert [rule["name"] for rule in SEEN["rules"] if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in SEEN["rules"] if rule.get("state") == "firing"] == []


def test_prometheus_learns_that_the_run_has_finished() -> None:
    assert [series["value"][1] for series in SEEN["finished"]] == ["1"]


def test_the_run_is_paid_by_the_second_and_its_summary_says_so(run: Finished) -> None:
    cost, seconds = run.summary["cost"], run.summary["seconds"]["total"]
    assert 0 < SEEN["usd"] <= cost["usd"] <= USD_PER_HOUR * seconds / 3600
    assert cost["usd"] >= 0.5 * USD_PER_HOUR * seconds / 3600
    assert cost["usd_per_million_trained"] == pytest.approx(1e6 * cost["usd"] / run.summary["rollouts"]["consumed"])
    assert cost["unpriced_node_hours"] == 0.0
