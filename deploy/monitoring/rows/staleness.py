"""Queue and staleness: what is held, how old it trains, what is lost on the way, and the journal that makes it durable."""

from deploy.monitoring.expressions import RECENT, STEPS, buckets, growth, mean, newest, quantile, rate, select, total
from deploy.monitoring.panels import GREEN, ORANGE, RED, Panel, Query, Row, areas, heatmap, lines

_QUEUE: tuple[Panel, ...] = (
    areas(
        "Slots",
        "What the rollouts in the queue are doing. At the limit generators get no more work: the staleness bound holds. Mostly leased: sampling is "
        "the bottleneck; mostly generated: judging; mostly verified or consumed: the learner.",
        Query(total("rlvr_slots", "run, state"), "{{run}} {{state}}"),
        unit="suffix: slots",
    ),
    lines(
        "Slots taken and their limit",
        "The limit is (max_staleness + 1) x rollouts of a step.",
        Query(total("rlvr_slots"), "{{run}} taken"),
        Query(newest("rlvr_slots_limit"), "{{run}} limit"),
        Query(newest("rlvr_rollouts_held"), "{{run}} rollouts held"),
        least=0,
    ),
    lines(
        "Waiting",
        "Rollouts without a verdict (verifiers are slow), generators that wait for a lease (the learner is slow).",
        Query(newest("rlvr_unverified_rollouts"), "{{run}} rollouts for a verdict"),
        Query(newest("rlvr_generators_waiting"), "{{run}} generators for a lease"),
        least=0,
    ),
    heatmap(
        "Staleness of the trained rollouts",
        "Versions between a rollout's oldest token and the step that trained it.",
        buckets("rlvr_rollout_staleness_versions", window=STEPS),
        unit="suffix: versions",
    ),
    lines(
        "Staleness and its bound",
        "The bound is rollout.max_staleness. All mass at the bound: generators run as far ahead as they may.",
        Query(mean("rlvr_rollout_staleness_versions", window=STEPS), "{{run}} mean"),
        Query(quantile(0.95, "rlvr_rollout_staleness_versions", window=STEPS), "{{run}} p95"),
        Query(newest("rlvr_max_staleness_versions"), "{{run}} bound"),
        unit="suffix: versions",
        least=0,
    ),
    lines(
        "Age of the oldest rollout held",
        "Rises without end where a group cannot be completed: look at firesteel status, leases.",
        Query(newest("rlvr_queue_oldest_seconds")),
        unit="s",
        least=0,
    ),
    areas(
        "Dropped rollouts, by reason",
        "Accepted, and not trained. stale: weights arrive too late, see docs/operations.md#stalenesshigh. excluded: the verdict failed through our "
        "fault.",
        Query(rate("rlvr_rollouts_dropped_total", "run, reason"), "{{run}} {{reason}}"),
        unit="suffix: /s",
    ),
    lines(
        "Dropped tokens, by reason",
        "The sampling that was paid for and did not train.",
        Query(rate("rlvr_tokens_dropped_total", "run, reason"), "{{run}} {{reason}}"),
        unit="suffix: /s",
        least=0,
    ),
    lines(
        "Refused, missing, taken back",
        "In 10 min. Refused: handed in after their lease had ended. Missing: places of groups that trained smaller. Leases taken back: of workers "
        "that died or were too slow (queue.lease_s).",
        Query(growth("rlvr_rollouts_refused_total", window=RECENT), "{{run}} refused"),
        Query(growth("rlvr_rollouts_missing_total", window=RECENT), "{{run}} missing"),
        Query(growth("rlvr_leases_expired_total", window=RECENT), "{{run}} leases taken back"),
        least=0,
        thresholds=((None, GREEN), (1, ORANGE)),
    ),
    lines(
        "Length: accepted and trained",
        "Mean completion length. Trained below accepted means that long completions are lost on the way: the policy learns from a tilted sample.",
        Query(mean("rlvr_accepted_completion_tokens", window=STEPS), "{{run}} accepted"),
        Query(mean("rlvr_trained_completion_tokens", window=STEPS), "{{run}} trained"),
        unit="suffix: tokens",
        least=0,
    ),
    lines(
        "Unfinished completions handed back",
        "In 10 min, by what became of them, when generators leave or their nodes drain.",
        Query(growth("rlvr_partials_total", "run, fate", window=RECENT), "{{run}} {{fate}}"),
        least=0,
    ),
    lines(
        "Lineage and starts of the queue",
        "Roll-backs to a checkpoint so far, the oldest lineage that a generator still samples from, and how often the queue has started again.",
        Query(newest("rlvr_lineage"), "{{run}} lineage"),
        Query(f"min by (run) ({select('rlvr_generator_lineage')})", "{{run}} oldest at a generator"),
        Query(newest("rlvr_queue_incarnation"), "{{run}} starts of the queue"),
        least=0,
    ),
)

_JOURNAL: tuple[Panel, ...] = (
    lines(
        "Journal: bytes a second",
        "What the queue writes before it acknowledges.",
        Query(rate("rlvr_journal_bytes_total")),
        unit="Bps",
        least=0,
    ),
    lines(
        "Journal: size",
        "What no checkpoint covers yet. It falls at each checkpoint; growing without end: see docs/operations.md#checkpointold.",
        Query(newest("rlvr_journal_size_bytes")),
        unit="bytes",
        least=0,
    ),
    lines(
        "Journal: seconds of a group commit",
        "Every hand-in waits for one. Above 0.1 s the volume is too slow for it.",
        Query(quantile(0.5, "rlvr_journal_commit_seconds"), "{{run}} p50"),
        Query(quantile(0.99, "rlvr_journal_commit_seconds"), "{{run}} p99"),
        unit="s",
        least=0,
        thresholds=((None, GREEN), (0.1, ORANGE)),
    ),
    lines(
        "Journal: errors and torn bytes",
        "Group commits that failed, in 10 min: a full or broken volume, see docs/operations.md#journalerrors. Torn bytes: cut from the tail at a "
        "restart.",
        Query(growth("rlvr_journal_errors_total", window=RECENT), "{{run}} errors"),
        Query(newest("rlvr_journal_torn_bytes_total"), "{{run}} torn bytes"),
        least=0,
        thresholds=((None, GREEN), (1, RED)),
    ),
)

ROW = Row(title="Queue & staleness", panels=(*_QUEUE, *_JOURNAL))
