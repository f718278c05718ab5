"""The first row: is it healthy, what is the bottleneck, what does a million rollouts cost?"""

from deploy.monitoring.diagnosis import BOTTLENECK, BOTTLENECK_WORDS, HEALTH, HEALTH_WORDS, LACKING
from deploy.monitoring.expressions import IDLE_SHARE, PACE, STEP_AGE, STEPS, WAIT_SHARE, growth, newest, quantile, rate, ratio, total
from deploy.monitoring.panels import GREEN, ORANGE, RED, Need, Panel, Query, Row, lines, stat

_COST = growth("rlvr_cost_usd_total")

_HEALTH_TEXT = (
    "Healthy: the controller says that it trains, and nothing contradicts. Part missing: fewer actors than wanted, or the queue or learner does not "
    "answer. Stalled: no step for 15 min + 10 mean steps + 2 evaluations, see docs/operations.md#learnerstalled. Not answering: the controller is "
    "gone and did not say that the run has ended, see docs/operations.md#controllerdown."
)
_BOTTLENECK_TEXT = (
    "Who holds the others up, over 30 min. Verifiers: more slots wait for a verdict than are sampled or ready; add verifiers. "
    "Learner: generators idle more than it waits; fewer generators cost less, more learner ranks train faster. Generators: the learner waits, and "
    "not for verdicts; add generators. Balanced: nobody waits more than 10 %."
)

_GLANCE: tuple[Panel, ...] = (
    stat(
        "Health",
        _HEALTH_TEXT,
        HEALTH,
        words=HEALTH_WORDS,
        if_empty="no run",
        is_instant=True,
    ),
    stat(
        "Bottleneck",
        _BOTTLENECK_TEXT,
        BOTTLENECK,
        words=BOTTLENECK_WORDS,
        if_empty="no step yet",
        is_instant=True,
    ),
    stat(
        "Rollouts a second",
        "Completions that generators finish, refused ones included. Falls to 0 while the only generator evaluates.",
        rate("rlvr_rollouts_generated_total"),
        unit="suffix: /s",
        least=0,
    ),
    stat(
        "Tokens a second",
        "Completion tokens that generators sample.",
        rate("rlvr_tokens_generated_total"),
        unit="suffix: /s",
        least=0,
    ),
    stat(
        "$ per million rollouts trained",
        "Over the last hour: what all nodes cost, idle ones too, over the rollouts that trained. Give nodes a price with the label "
        "rlvr.io/usd-per-hour, or [cost] in the run file; unpriced nodes are missing from it.",
        f"1e6 * {ratio(f'{_COST} > 0', growth('rlvr_rollouts_trained_total'))}",
        unit="currencyUSD",
        needs=Need.PRICE,
        if_empty="no price",
    ),
    stat(
        "Learner waits",
        "Share of the learner's time spent waiting for a batch, over 30 min; while all generators evaluate does not count. Aim: below 10 %. "
        "On-policy runs (max_staleness 0) wait by design.",
        WAIT_SHARE,
        unit="percentunit",
        decimals=1,
        least=0,
        most=1,
        thresholds=((None, GREEN), (0.1, ORANGE), (0.5, RED)),
        if_empty="no step yet",
    ),
    stat(
        "Staleness p95",
        "Versions between a rollout's oldest token and the step that trains it. Never above rollout.max_staleness: what is older is dropped. Over "
        "30 min.",
        quantile(0.95, "rlvr_rollout_staleness_versions", window=STEPS),
        unit="suffix: versions",
        decimals=1,
        least=0,
        if_empty="no batch in 30 min",
    ),
    stat(
        "Since the last step",
        "Seconds since the learner ended a step. An evaluation by the only generator may hold it up.",
        STEP_AGE,
        unit="s",
        decimals=0,
        least=0,
        thresholds=((None, GREEN), (300, ORANGE), (900, RED)),
        if_empty="no step yet",
        is_instant=True,
    ),
)

_SECOND_GLANCE: tuple[Panel, ...] = (
    stat(
        "Step",
        "Steps trained. It falls back when the run is rolled back to a checkpoint.",
        newest("rlvr_learner_step"),
        unit="none",
        decimals=0,
        height=3,
    ),
    stat(
        "Held-out accuracy",
        "The newest evaluation of the first greedy held-out set.",
        newest("rlvr_accuracy_ratio", where='split="held_out"'),
        unit="percentunit",
        decimals=1,
        least=0,
        most=1,
        height=3,
    ),
    stat("Reward", "Mean reward of the last batch.", newest("rlvr_reward_mean"), decimals=2, height=3),
    stat(
        "Actors missing",
        "Actors that there should be and are not: being started, or waiting for a node. One too many of a part makes up for no other.",
        LACKING,
        decimals=0,
        height=3,
        is_instant=True,
        thresholds=((None, GREEN), (1, ORANGE)),
    ),
    stat(
        "Alerts",
        "Firing alerts of firesteel, without those that only inform. Each has an entry in docs/operations.md.",
        'count(ALERTS{alertstate="firing", system="firesteel", severity!="info", run=~"$run|"}) or 0 * sum(rlvr:rules_loaded)',
        decimals=0,
        height=3,
        is_instant=True,
        thresholds=((None, GREEN), (1, RED)),
        needs=Need.RULES,
        if_empty="no rules loaded",
    ),
    stat(
        "$ an hour",
        "What the nodes alive now cost.",
        f"{total('rlvr_cost_usd_per_hour')} > 0",
        unit="currencyUSD",
        decimals=2,
        height=3,
        is_instant=True,
        needs=Need.PRICE,
        if_empty="no price",
    ),
    stat(
        "$ spent",
        "What the run has cost so far, earlier starts included.",
        f"{total('rlvr_cost_usd_total')} > 0",
        unit="currencyUSD",
        decimals=2,
        height=3,
        is_instant=True,
        needs=Need.PRICE,
        if_empty="no price",
    ),
    stat(
        "Of the budget",
        "Spent, as a share of [cost] budget_usd.",
        ratio(total("rlvr_cost_usd_total"), newest("rlvr_cost_budget_usd")),
        unit="percentunit",
        decimals=0,
        height=3,
        is_instant=True,
        thresholds=((None, GREEN), (0.9, ORANGE), (1, RED)),
        needs=Need.BUDGET,
        if_empty="no budget",
    ),
)

_COURSE: tuple[Panel, ...] = (
    lines(
        "From sampled to trained",
        "Rollouts a second at each station. A lasting gap between two lines is where they queue, or are dropped (see Queue & staleness).",
        Query(rate("rlvr_rollouts_generated_total"), "{{run}} generated"),
        Query(rate("rlvr_rollouts_accepted_total"), "{{run}} accepted"),
        Query(rate("rlvr_verdicts_total"), "{{run}} judged"),
        Query(rate("rlvr_rollouts_trained_total", window=PACE), "{{run}} trained"),
        unit="suffix: /s",
        least=0,
    ),
    lines(
        "Who waits for whom",
        "The learner waits: too few rollouts arrive. Generators idle: they stand at the staleness bound, the learner is too slow for them. Slots "
        "waiting for a verdict: verifiers are too slow. One line near 0 and another high names the bottleneck.",
        Query(WAIT_SHARE, "{{run}} learner waits"),
        Query(IDLE_SHARE, "{{run}} generators idle"),
        Query(ratio(total("rlvr_unverified_rollouts"), newest("rlvr_slots_limit")), "{{run}} slots waiting for a verdict"),
        unit="percentunit",
        least=0,
        most=1,
    ),
    lines(
        "Is it learning?",
        "Mean reward of each batch, and the newest accuracies.",
        Query(newest("rlvr_reward_mean"), "{{run}} reward"),
        Query(newest("rlvr_accuracy_ratio", by="run, split"), "{{run}} accuracy {{split}}"),
    ),
)

ROW = Row(title="Now", panels=(*_GLANCE, *_SECOND_GLANCE, *_COURSE))
