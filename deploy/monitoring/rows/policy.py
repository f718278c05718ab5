"""Policy: whether it learns, and whether it still explores."""

from deploy.monitoring.expressions import STEPS, mean, newest, rate, ratio
from deploy.monitoring.panels import Need, Panel, Query, Row, lines

_PANELS: tuple[Panel, ...] = (
    lines(
        "Reward and groups that teach nothing",
        "Mean reward of the batch, and the share of groups whose rewards are all equal: near 1 there is no gradient left, the problem is solved or "
        "out of reach.",
        Query(newest("rlvr_reward_mean"), "{{run}} reward"),
        Query(newest("rlvr_uniform_groups_ratio"), "{{run}} uniform groups"),
    ),
    lines(
        "Accuracy",
        "The newest evaluations; held_out is the first greedy set.",
        Query(newest("rlvr_accuracy_ratio", "run, split"), "{{run}} {{split}}"),
        unit="percentunit",
        least=0,
        most=1,
    ),
    lines(
        "Evaluated version",
        "The version that the newest evaluation measured, beside the step trained.",
        Query(newest("rlvr_evaluated_version", "run, split"), "{{run}} {{split}}"),
        Query(newest("rlvr_learner_step"), "{{run}} learner"),
        unit="suffix: steps",
        least=0,
    ),
    lines(
        "Entropy",
        "Nats a completion token. Towards 0 the policy no longer explores: see docs/operations.md#entropycollapse.",
        Query(newest("rlvr_entropy_nats")),
        unit="suffix: nats",
        least=0,
    ),
    lines(
        "KL to the reference, gap to the sampler",
        "KL: how far the policy has gone. Gap: mean absolute difference between the logprobs of engine and learner; it should stay small and flat, "
        "a jump means that engines and learner do not hold the same weights or numerics.",
        Query(newest("rlvr_kl_nats"), "{{run}} KL"),
        Query(newest("rlvr_logprob_gap_nats"), "{{run}} gap"),
        unit="suffix: nats",
    ),
    lines("Loss", "Of the last step. It need not fall: watch reward and accuracy.", Query(newest("rlvr_loss")), unit="suffix: nats"),
    lines(
        "Gradient norm",
        "Before clipping. Spikes: a few extreme rollouts; steadily growing: lower optimizer.learning_rate.",
        Query(newest("rlvr_gradient_norm")),
        least=0,
    ),
    lines(
        "Clipped tokens, truncated completions",
        "Shares. Clipped: tokens whose ratio left the trust region, it grows with staleness. Truncated: completions cut at a limit.",
        Query(newest("rlvr_clipped_tokens_ratio"), "{{run}} clipped"),
        Query(newest("rlvr_truncated_ratio"), "{{run}} truncated"),
        unit="percentunit",
        least=0,
        most=1,
    ),
    lines("Learning rate", "Of the last step.", Query(newest("rlvr_learning_rate")), unit="sci", least=0),
    lines(
        "Tokens of a rollout",
        "Mean length: sampled, and trained. Growing is common as a policy learns to reason; at the limit it is truncation.",
        Query(mean("rlvr_completion_tokens", window=STEPS), "{{run}} sampled"),
        Query(
            ratio(rate("rlvr_tokens_trained_total", window=STEPS), rate("rlvr_rollouts_trained_total", window=STEPS)),
            "{{run}} trained",
        ),
        unit="suffix: tokens",
        least=0,
    ),
    lines(
        "Seconds of an evaluation",
        "Mean since the run started. The engine that evaluates samples no rollouts meanwhile.",
        Query(ratio('sum by (run) (rlvr_evaluation_seconds_sum{run=~"$run"})', 'sum by (run) (rlvr_evaluation_seconds_count{run=~"$run"})')),
        unit="s",
        least=0,
        needs=Need.EVALUATION,
        if_empty="no evaluation yet",
    ),
)

ROW = Row(title="Policy", panels=_PANELS)
