"""Generators: how fast each samples, how old its weights are, what its engine is busy with."""

from deploy.monitoring.expressions import PACE, RECENT, buckets, growth, mean, newest, quantile, rate, ratio
from deploy.monitoring.panels import GREEN, ORANGE, RED, Panel, Query, Row, areas, heatmap, lines, stat

_EACH = "run, replica"
_NAME = "{{run}} {{replica}}"

_SAMPLING: tuple[Panel, ...] = (
    lines(
        "Tokens a second, by generator",
        "One that stays below half of the others has a slow or shared device: see docs/operations.md#generatorstraggler.",
        Query(rate("rlvr_tokens_generated_total", _EACH), _NAME),
        unit="suffix: /s",
        least=0,
    ),
    lines(
        "Rollouts a second, by generator",
        "Completions finished.",
        Query(rate("rlvr_rollouts_generated_total", _EACH), _NAME),
        unit="suffix: /s",
        least=0,
    ),
    lines(
        "Completions in flight",
        "Being sampled now. Near generators.max_num_seqs an engine is full; near 0 it idles.",
        Query(newest("rlvr_requests_in_flight", _EACH), _NAME),
        least=0,
    ),
    lines(
        "Versions behind the learner",
        "Newest published version - the version that the engine samples from. 1 while a broadcast is under way; growing: the generator evaluates, "
        "or hangs. Never below 0, where a generator is scraped later than the learner.",
        Query(f"clamp_min({newest('rlvr_published_version')} - on (run) group_right () {newest('rlvr_policy_version', _EACH)}, 0)", _NAME),
        unit="suffix: versions",
        thresholds=((None, GREEN), (3, ORANGE), (10, RED)),
    ),
    heatmap(
        "Completion length",
        "Completions by length. A band at the top edge is truncation: raise rollout.max_completion_tokens, or look at what the model says "
        "(firesteel rollouts).",
        buckets("rlvr_completion_tokens"),
        unit="suffix: tokens",
    ),
    lines(
        "Seconds of one completion",
        "From its first token asked to its last.",
        Query(quantile(0.5, "rlvr_rollout_seconds"), "{{run}} p50"),
        Query(quantile(0.99, "rlvr_rollout_seconds"), "{{run}} p99"),
        unit="s",
        least=0,
    ),
    areas(
        "Why completions end",
        "Completions a second: stop is the model's own end, length a limit.",
        Query(rate("rlvr_rollouts_generated_total", "run, finish_reason"), "{{run}} {{finish_reason}}"),
        unit="suffix: /s",
    ),
    lines(
        "Idle, by generator",
        "Share of the time without anything to sample. High on all: the learner is the bottleneck, fewer generators cost less.",
        Query(f"clamp_max({rate('rlvr_generator_idle_seconds_total', _EACH)}, 1)", _NAME),
        unit="percentunit",
        least=0,
        most=1,
    ),
    lines(
        "Sampling stands for new weights",
        "Share of the time for which sampling stood while weights were applied. Aim: below 5 %.",
        Query(f"clamp_max({rate('rlvr_weight_pause_seconds_sum', _EACH, window=PACE)}, 1)", _NAME),
        unit="percentunit",
        least=0,
        thresholds=((None, GREEN), (0.05, ORANGE)),
    ),
    lines(
        "Versions applied, joins, continued completions",
        "In the last 10 min, of all generators. Joins: a generator has entered the broadcast group. Continued: begun by a generator that left.",
        Query(growth("rlvr_weights_applied_total", window=RECENT), "{{run}} versions applied"),
        Query(growth("rlvr_broadcast_joins_total", window=RECENT), "{{run}} joins"),
        Query(growth("rlvr_completions_continued_total", window=RECENT), "{{run}} continued"),
        least=0,
    ),
)

_ENGINE: tuple[Panel, ...] = (
    lines(
        "vLLM: KV cache in use",
        "Share of the KV cache. Near 100 % requests are preempted: lower generators.max_num_seqs, or give the engine more memory.",
        Query(newest("vllm:kv_cache_usage_perc", _EACH), _NAME),
        unit="percentunit",
        least=0,
        most=1,
        thresholds=((None, GREEN), (0.95, ORANGE)),
    ),
    lines(
        "vLLM: requests running and waiting",
        "Waiting above 0 for long: the engine has more than it can batch.",
        Query(newest("vllm:num_requests_running", _EACH), f"{_NAME} running"),
        Query(newest("vllm:num_requests_waiting", _EACH), f"{_NAME} waiting"),
        least=0,
    ),
    lines(
        "vLLM: preemptions",
        "Requests whose cache was taken away, a second: their tokens are computed again.",
        Query(rate("vllm:num_preemptions_total", _EACH), _NAME),
        unit="suffix: /s",
        least=0,
    ),
    lines(
        "vLLM: prefix cache hits",
        "Share of prompt tokens found in the cache. The completions of one problem share their prompt, so this should be high.",
        Query(ratio(rate("vllm:prefix_cache_hits_total", _EACH), rate("vllm:prefix_cache_queries_total", _EACH)), _NAME),
        unit="percentunit",
        least=0,
        most=1,
    ),
    lines(
        "vLLM: time to the first token",
        "Mean and p99 of all engines: queueing and prompt.",
        Query(mean("vllm:time_to_first_token_seconds"), "{{run}} mean"),
        Query(quantile(0.99, "vllm:time_to_first_token_seconds"), "{{run}} p99"),
        unit="s",
        least=0,
    ),
    lines(
        "vLLM: time between tokens",
        "Of all engines. Rises with the batch; a jump at the same batch is a slower device.",
        Query(quantile(0.5, "vllm:inter_token_latency_seconds"), "{{run}} p50"),
        Query(quantile(0.99, "vllm:inter_token_latency_seconds"), "{{run}} p99"),
        unit="s",
        least=0,
    ),
    stat(
        "vLLM: prompt tokens a second",
        "Prompt tokens that all engines read, cached ones included.",
        rate("vllm:prompt_tokens_total"),
        unit="suffix: /s",
        width=8,
        height=8,
    ),
    stat(
        "vLLM: generated tokens a second",
        "As the engines count them: rollouts and evaluations.",
        rate("vllm:generation_tokens_total"),
        unit="suffix: /s",
        width=8,
        height=8,
    ),
)

ROW = Row(title="Generators", panels=(*_SAMPLING, *_ENGINE))
