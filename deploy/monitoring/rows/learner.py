"""Learner: where its time goes, how weights reach the generators, whether checkpoints are made."""

from deploy.monitoring.expressions import PACE, RECENT, STEPS, growth, mean, newest, quantile, rate, select
from deploy.monitoring.panels import GREEN, RED, Need, Panel, Query, Row, areas, lines


def _share(name: str) -> str:
    """Seconds of it in a second."""
    return rate(name, window=PACE)


_PANELS: tuple[Panel, ...] = (
    areas(
        "Where the learner's time goes",
        "Seconds a second. Waiting for a batch, training, standing for a checkpoint; what is missing to 1 is handing over weights and starting.",
        Query(_share("rlvr_learner_wait_seconds_total"), "{{run}} waits for a batch"),
        Query(_share("rlvr_train_seconds_sum"), "{{run}} trains"),
        Query(_share("rlvr_checkpoint_pause_seconds_sum"), "{{run}} stands for a checkpoint"),
        unit="percentunit",
    ),
    lines(
        "Steps an hour",
        "Over the window chosen above.",
        Query(f"3600 * {rate('rlvr_train_seconds_count', window=PACE)}"),
        unit="suffix: /h",
        least=0,
    ),
    lines(
        "Seconds of a step",
        "Training alone, without waiting.",
        Query(quantile(0.5, "rlvr_train_seconds", window=STEPS), "{{run}} p50"),
        Query(quantile(0.95, "rlvr_train_seconds", window=STEPS), "{{run}} p95"),
        unit="s",
        least=0,
    ),
    lines(
        "Tokens trained a second",
        "Completion tokens, over all time and over the time that was training.",
        Query(rate("rlvr_tokens_trained_total", window=PACE), "{{run}} of all time"),
        Query(
            f"{rate('rlvr_tokens_trained_total', window=PACE)} / ({rate('rlvr_train_seconds_sum', window=PACE)} > 0)",
            "{{run}} while training",
        ),
        unit="suffix: /s",
        least=0,
    ),
    lines(
        "Seconds of a weight broadcast",
        "From its start to the last receiver's digest. It runs beside the next step; longer than a step, the learner waits for it.",
        Query(quantile(0.5, "rlvr_weight_broadcast_seconds", window=STEPS), "{{run}} p50"),
        Query(quantile(0.95, "rlvr_weight_broadcast_seconds", window=STEPS), "{{run}} p95"),
        Query(mean("rlvr_train_seconds", window=STEPS), "{{run}} mean step, for comparison"),
        unit="s",
        least=0,
    ),
    lines(
        "Weights sent",
        "Bytes a second, and while a broadcast is under way.",
        Query(rate("rlvr_weight_bytes_sent_total", window=PACE), "{{run}} of all time"),
        Query(
            f"{rate('rlvr_weight_bytes_sent_total', window=PACE)} / ({rate('rlvr_weight_broadcast_seconds_sum', window=PACE)} > 0)",
            "{{run}} while broadcasting",
        ),
        unit="Bps",
        least=0,
    ),
    lines(
        "Seconds that sampling stands for new weights",
        "Of one generator, each time.",
        Query(mean("rlvr_weight_pause_seconds", window=STEPS), "{{run}} mean"),
        Query(quantile(0.95, "rlvr_weight_pause_seconds", window=STEPS), "{{run}} p95"),
        unit="s",
        least=0,
    ),
    lines(
        "Broadcast group",
        "Receivers now, those lost in 10 min, and how often the group was formed. Forming it again at each step: a generator comes and goes.",
        Query(newest("rlvr_weight_receivers"), "{{run}} receivers"),
        Query(growth("rlvr_weight_receivers_lost_total", window=RECENT), "{{run}} lost"),
        Query(newest("rlvr_weight_epoch"), "{{run}} epoch"),
        least=0,
    ),
    lines(
        "Steps since the checkpoint",
        "What a crash would train again; the interval is run.checkpoint_every_steps (0 = only at the end).",
        Query(f"{newest('rlvr_learner_step')} - {newest('rlvr_checkpoint_step')}", "{{run}} steps since"),
        Query(newest("rlvr_checkpoint_every_steps"), "{{run}} interval"),
        least=0,
    ),
    lines(
        "Age of the checkpoint",
        "Since the newest one became durable.",
        Query(f"time() - max by (run) ({select('rlvr_checkpoint_timestamp_seconds')} > 0)"),
        unit="s",
        least=0,
        needs=Need.CHECKPOINT,
        if_empty="no checkpoint yet",
    ),
    lines(
        "Seconds of a checkpoint",
        "Until it is durable, and for how long training stood for it. Means since the learner started.",
        Query(
            f"sum by (run) ({select('rlvr_checkpoint_seconds_sum')}) / (sum by (run) ({select('rlvr_checkpoint_seconds_count')}) > 0)",
            "{{run}} until durable",
        ),
        Query(
            f"sum by (run) ({select('rlvr_checkpoint_pause_seconds_sum')}) / (sum by (run) ({select('rlvr_checkpoint_pause_seconds_count')}) > 0)",
            "{{run}} training stood",
        ),
        unit="s",
        least=0,
        needs=Need.CHECKPOINT,
        if_empty="no checkpoint yet",
    ),
    lines(
        "Checkpoints that failed, version log",
        "Failed or found damaged in an hour, see docs/operations.md#checkpointfailed; p95 seconds of one entry of the version log, from which late "
        "generators start.",
        Query(growth("rlvr_checkpoint_failures_total"), "{{run}} failed"),
        Query(quantile(0.95, "rlvr_version_log_seconds", window=STEPS), "{{run}} version log p95, s"),
        least=0,
        thresholds=((None, GREEN), (1, RED)),
    ),
)

ROW = Row(title="Learner", panels=_PANELS)
