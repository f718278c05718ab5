"""What the dashboard says at a glance is true: every word of Health and Bottleneck, the shares, what is missing, the dollars.

The expressions are those of the panels; promtool evaluates them over runs that are written out here, minute by minute.
"""

import re
from typing import Any

import pytest
import yaml
from promql import RULES, rules, substitute
from promtool_cases import outcomes

from deploy.monitoring import diagnosis, expressions
from deploy.monitoring.rows import ROWS

Series = dict[str, str]
PANELS = {panel.title: panel for row in ROWS for panel in row.panels}


def states(state: str, values: str = "1x90", instance: str = "c:1") -> Series:
    return {f'rlvr_run_state{{run="r", role="controller", instance="{instance}", state="{state}"}}': values}


def up(role: str, value: str = "1x90", instance: str = "c:1") -> Series:
    return {f'up{{run="r", role="{role}", instance="{instance}"}}': value}


def actors(alive: dict[str, int], wanted: dict[str, int]) -> Series:
    return {
        f'{name}{{run="r", part="{part}"}}': f"{n}x90"
        for name, parts in (("rlvr_actors", alive), ("rlvr_actors_wanted", wanted))
        for part, n in parts.items()
    }


def slots(generated: int, leased: int, verified: int, consumed: int = 0) -> Series:
    taken = {"generated": generated, "leased": leased, "verified": verified, "consumed": consumed}
    return {f'rlvr_slots{{run="r", state="{state}"}}': f"{number}x90" for state, number in taken.items()} | {'rlvr_slots_limit{run="r"}': "100x90"}


def clock(*, wait: float, train: float, idle: float, waiting: str = "0x90", evaluate: tuple[float, ...] = (0,)) -> Series:
    """Seconds of each minute."""
    return {
        'rlvr_learner_wait_seconds_total{run="r"}': f"0+{wait}x90",
        'rlvr_train_seconds_sum{run="r"}': f"0+{train}x90",
        'rlvr_train_seconds_count{run="r"}': "1+1x90",
        'rlvr_learner_waiting_seconds{run="r"}': waiting,
        'rlvr_generator_idle_seconds_total{run="r", replica="g"}': f"0+{idle}x90",
        **{f'rlvr_generator_evaluation_seconds_total{{run="r", replica="g{index}"}}': f"0+{spent}x90" for index, spent in enumerate(evaluate)},
    }


HALF = {"generator": 2, "verifier": 1, "learner": 1, "queue": 1}
TRAINS: Series = {
    **states("training"),
    **up("controller"),
    **up("queue", instance="q:1"),
    **up("learner", instance="l:1"),
    **actors(HALF, HALF),
    'process_start_time_seconds{run="r", role="controller"}': "-600x90",
    'rlvr_learner_step_timestamp_seconds{run="r"}': "0+60x90",
    'rlvr_learner_step{run="r"}': "0+1x90",
    'rlvr_slots_limit{run="r"}': "100x90",
    'rlvr_train_seconds_count{run="r"}': "0+1x90",
    'rlvr_train_seconds_sum{run="r"}': "0+50x90",
    'rlvr_learner_wait_seconds_total{run="r"}': "0+5x90",
    'rlvr_evaluation_seconds_sum{run="r"}': "0x90",
    'rlvr_evaluation_seconds_count{run="r"}': "0x90",
}
LOADS = {**states("training", "0x90"), **states("starting"), 'process_start_time_seconds{run="r", role="controller"}': "600x90"}
SINCE_LONG = {'process_start_time_seconds{run="r", role="controller"}': "-600x90"}
REPLACED = {
    'process_start_time_seconds{run="r", role="controller"}': "-7200x90",
    'rlvr_learner_step_timestamp_seconds{run="r"}': "0+60x48 stale",
    'rlvr_train_seconds_count{run="r"}': "0+1x48 stale",
    'rlvr_train_seconds_sum{run="r"}': "0+50x48 stale",
    'rlvr_learner_wait_seconds_total{run="r"}': "0+5x48 stale",
}
ENDS = "0x30 1x1 stale"
GONE = {name: values if name.startswith("up") else "stale" for name, values in TRAINS.items()} | up("controller", "1x31 0x60")


def without(*names: str) -> Series:
    return {name: values for name, values in TRAINS.items() if not name.startswith(names)}


HEALTH: dict[str, tuple[str | None, Series]] = {
    "a run that trains": ("healthy", TRAINS),
    "the end is evaluated, the learner has gone": (
        "evaluating",
        {**without("rlvr_run_state"), **states("evaluating"), **up("learner", "0x90", "l:1")},
    ),
    "models load": ("starting", {**without("rlvr_learner_step_timestamp", "rlvr_train"), **LOADS}),
    "models load for more than an hour": ("stalled", {**without("rlvr_learner_step_timestamp", "rlvr_train"), **LOADS, **SINCE_LONG}),
    "a generator is missing, a verifier too many": ("part missing", {**TRAINS, **actors({**HALF, "generator": 1, "verifier": 2}, HALF)}),
    "the learner does not answer": ("part missing", {**TRAINS, **up("learner", "0x90", "l:1")}),
    "one learner rank of two does not answer": ("part missing", {**TRAINS, **up("learner", "0x90", "l:2")}),
    "the queue does not answer": ("part missing", {**TRAINS, **up("queue", "0x90", "q:1")}),
    "the learner shows no step": ("part missing", without("rlvr_learner_step{")),
    "the queue shows no slots": ("part missing", without("rlvr_slots_limit")),
    "the learner hangs": ("stalled", {**TRAINS, 'rlvr_learner_step_timestamp_seconds{run="r"}': "600x90"}),
    "the learner hangs and does not answer": ("stalled", {**without("rlvr_learner_", "rlvr_train"), **up("learner", "0x90", "l:1")}),
    "the learner is being replaced, the last step is twelve minutes old": ("healthy", {**TRAINS, **REPLACED}),
    "the run has failed": ("failed", {**GONE, **states("failed", ENDS), **states("training", "1x30 0x1 stale")}),
    "it was stopped": ("stopped", {**GONE, **states("interrupted", ENDS), **states("training", "1x30 0x1 stale")}),
    "it has finished": ("finished", {**GONE, **states("finished", ENDS), **states("training", "1x30 0x1 stale")}),
    "it finishes just now": ("finished", {**without("rlvr_run_state"), **states("finished"), **actors({**HALF, "learner": 0}, HALF)}),
    "it was stopped, goes on elsewhere, and trains": (
        "healthy",
        {**TRAINS, **states("interrupted", ENDS, "old:1"), **up("controller", "1x31 0x60", "old:1")},
    ),
    "every target is down, but Ray's own": (
        "not answering",
        {**{name: "0x90" for name in TRAINS if name.startswith("up")}, 'up{run="r", node_role="controller"}': "1x90"},
    ),
    "a verifier alone answers": ("not answering", {**up("controller", "0x90"), **up("learner", "0x90", "l:1"), **up("verifier", "1x90", "v:1")}),
    "the controller says nothing": ("not answering", {**up("controller"), **states("training", "0x90")}),
    "it died while it trained": ("not answering", {**GONE, **states("training", "1x31 stale"), **states("finished", "0x31 stale")}),
    "it was stopped, went on elsewhere, and died there": (
        "not answering",
        {
            **states("interrupted", ENDS, "old:1"),
            **up("controller", "1x31 stale", "old:1"),
            **up("controller", "_x35 1x10 0x60"),
            **states("training", "_x35 1x10 stale"),
        },
    ),
    "targets of others": (None, {'up{job="node-exporter"}': "1x90", 'up{run="r", job="ray"}': "1x90"}),
}
LUMPS = {
    'rlvr_learner_wait_seconds_total{run="r"}': "0x4 300x14 600x14 900x14 1200x30",
    'rlvr_train_seconds_sum{run="r"}': "0x4 600x14 1200x14 1800x14 2400x30",
}
BOTTLENECK: dict[str, tuple[str | None, Series]] = {
    "nobody waits": ("balanced", {**clock(wait=3, train=57, idle=3), **slots(10, 60, 20, 10)}),
    "sampling is slow": ("generators", {**clock(wait=40, train=20, idle=0), **slots(5, 90, 5)}),
    "the learner is slow": ("learner", {**clock(wait=1, train=59, idle=40), **slots(15, 5, 72, 8)}),
    "judging takes 4, training 2, sampling 1": ("verifiers", {**clock(wait=30, train=30, idle=45), **slots(95, 3, 2)}),
    "more wait for a verdict than are leased or verified": ("verifiers", {**clock(wait=30, train=30, idle=10), **slots(40, 20, 10, 10)}),
    "on-policy, sampling takes longer": ("generators", {**clock(wait=42, train=18, idle=18), **slots(5, 40, 25, 30)}),
    "on-policy, training takes longer": ("learner", {**clock(wait=18, train=42, idle=42), **slots(5, 15, 10, 70)}),
    "on-policy, one long completion holds up all": ("generators", {**clock(wait=45, train=15, idle=50), **slots(2, 8, 65, 25)}),
    "the only generator evaluates half of the time": ("balanced", {**clock(wait=30, train=30, idle=0, evaluate=(30,)), **slots(5, 90, 5)}),
    "one of two generators evaluates half of the time": ("generators", {**clock(wait=30, train=30, idle=0, evaluate=(30, 0)), **slots(5, 90, 5)}),
    "the run has stalled, slots are leased": ("generators", {**clock(wait=0, train=0, idle=0, waiting="0+60x90"), **slots(0, 9, 0)}),
    "the run has stalled, verifiers hang": ("verifiers", {**clock(wait=0, train=0, idle=60, waiting="0+60x90"), **slots(100, 0, 0)}),
    "a step takes an hour": ("learner", {**clock(wait=0, train=0, idle=50), **slots(0, 0, 50, 50)}),
    "a step takes a quarter of an hour, and no counter moves meanwhile": (
        "generators",
        {**clock(wait=0, train=0, idle=0), **LUMPS, **slots(5, 90, 5)},
    ),
    "the queue has moved, its old slots waited for verdicts": (
        "generators",
        {**clock(wait=40, train=20, idle=0), **slots(5, 90, 5), 'rlvr_slots{run="r", state="generated", replica="old"}': "100x55 stale"},
    ),
    "before the first batch": (
        None,
        {**slots(0, 9, 0), 'rlvr_train_seconds_count{run="r"}': "0x90", 'rlvr_learner_waiting_seconds{run="r"}': "0x90"},
    ),
}
COSTS = {
    'rlvr_cost_usd_total{run="r", part="generator"}': "0+0.03x90",
    'rlvr_cost_usd_total{run="r", part="learner"}': "0+0.01x90",
    'rlvr_rollouts_trained_total{run="r"}': "0+480x90",
}
FIRING = {'ALERTS{alertname="LearnerStalled", alertstate="firing", severity="critical", system="firesteel", run="r"}': "1x90"}
ALIEN = {'ALERTS{alertname="Watchdog", alertstate="firing", severity="none"}': "1x90"}
FIGURES: dict[str, tuple[str, float | None, Series]] = {
    "0.02 USD in 30 s over 240 rollouts": ("$ per million rollouts trained", 83.33, COSTS),
    "nobody gave a price": ("$ per million rollouts trained", None, {name: "0x90" if "usd" in name else values for name, values in COSTS.items()}),
    "waits": ("Learner waits", 0.75, clock(wait=45, train=15, idle=0)),
    "waits, of which a third was for an evaluation": ("Learner waits", 0.5, clock(wait=45, train=15, idle=0, evaluate=(15,))),
    "waits, while one of two generators evaluates": ("Learner waits", 0.75, clock(wait=45, train=15, idle=0, evaluate=(15, 0))),
    "a surplus hides no lack": ("Actors missing", 1, actors({**HALF, "generator": 1, "verifier": 2}, HALF)),
    "one alert, and somebody else's": ("Alerts", 1, {**FIRING, **ALIEN}),
    "somebody else's alert": ("Alerts", 0, ALIEN),
}


def word_case(title: str, expected: str | None, series: Series) -> dict[str, Any]:
    code = next((float(first) for first, _, word, _ in PANELS[title].words if word == expected), None)
    assert (code is None) == (expected is None), expected
    return case(title, code, series)


def case(title: str, value: float | None, series: Series) -> dict[str, Any]:
    """After an hour the panel shows the value, or nothing."""
    (query,) = PANELS[title].queries
    expr = f"round({substitute(query.expr, rate_interval='1m')}, 0.01)"
    labels = "{}" if title == "Alerts" else '{run="r"}'
    shown = [] if value is None else [{"labels": labels, "value": value}]
    rows = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": rows, "promql_expr_test": [{"expr": expr, "eval_time": "1h", "exp_samples": shown}]}


def all_cases() -> dict[str, dict[str, Any]]:
    words = {
        f"{title}, {what}": word_case(title, *told)
        for title, about in (("Health", HEALTH), ("Bottleneck", BOTTLENECK))
        for what, told in about.items()
    }
    return words | {f"{title}, {what}": case(title, value, series) for what, (title, value, series) in FIGURES.items()}


@pytest.fixture(scope="module")
def comes_out(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    loaded = [rule for rule in rules() if rule.get("record") == "rlvr:rules_loaded"]
    return outcomes(tmp_path_factory.mktemp("glance"), {name: (loaded, [one]) for name, one in all_cases().items()})


@pytest.mark.processes
@pytest.mark.parametrize("name", all_cases())
def test_what_is_shown_at_a_glance_is_so(comes_out: dict[str, bool], name: str) -> None:
    assert comes_out[name], yaml.safe_dump(all_cases()[name])


@pytest.mark.parametrize("title, cases", [("Health", HEALTH), ("Bottleneck", BOTTLENECK)])
def test_every_word_has_a_case(title: str, cases: dict[str, tuple[str | None, Series]]) -> None:
    assert {word for word, _ in cases.values()} == {word for _, _, word, _ in PANELS[title].words} | {None}


@pytest.mark.parametrize(
    "record, expr",
    [
        ("rlvr:learner_step_age_seconds", diagnosis.STALLED_AGE),
        ("rlvr:learner_step_patience_seconds", diagnosis.PATIENCE),
        ("rlvr:learner_wait_ratio:rate30m", expressions.WAIT_SHARE),
    ],
)
def test_the_dashboard_and_the_alerts_mean_the_same(record: str, expr: str) -> None:
    recorded = next(rule["expr"] for rule in rules(RULES) if rule.get("record") == record)
    of_any_run = re.sub(r'run=~"\$run"(, )?', "", expr).replace("{}", "")
    assert "".join(recorded.split()) == "".join(of_any_run.split())


def test_one_choice_is_all_runs_and_no_target_of_others() -> None:
    text = (RULES.parent / "firesteel.json").read_text()
    assert '"allValue": ".+"' in text
