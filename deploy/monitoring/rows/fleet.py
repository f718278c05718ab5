"""Cost and fleet: dollars by role and by what they bought; actors, nodes, restarts."""

from deploy.monitoring.expressions import growth, newest, quantile, rate, ratio, total
from deploy.monitoring.panels import GREEN, ORANGE, Need, Panel, Query, Row, areas, bars, lines

_COST = growth("rlvr_cost_usd_total")
_SPENT = f"{_COST} > 0"
_SAMPLING_COST = growth("rlvr_cost_usd_total", where='part=~"generator|shared"')


def _per_million(of: str) -> str:
    return f"1e6 * {ratio(_SPENT, of)}"


_COSTS: tuple[Panel, ...] = (
    lines(
        "$ per million rollouts",
        "Over the last hour, of all nodes. Generated: the queue has accepted it. Correct: each right answer. Trained: the honest one, since "
        "dropped rollouts are paid for too. summary.json and firesteel status divide by the same.",
        Query(_per_million(growth("rlvr_rollouts_generated_total")), "{{run}} generated"),
        Query(_per_million(growth("rlvr_verdicts_total", where='kind="correct"')), "{{run}} verified correct"),
        Query(_per_million(growth("rlvr_rollouts_trained_total")), "{{run}} trained"),
        unit="currencyUSD",
        least=0,
        needs=Need.PRICE,
        if_empty="no price",
    ),
    lines(
        "$ per million tokens",
        "Completion tokens sampled, over the last hour: paid to all nodes, and to generator nodes alone, among which are nodes "
        "without a role, since these do everything.",
        Query(_per_million(growth("rlvr_tokens_generated_total")), "{{run}} all nodes"),
        Query(
            f"1e6 * {ratio(_SAMPLING_COST + ' > 0', growth('rlvr_tokens_generated_total'))}",
            "{{run}} generator nodes",
        ),
        unit="currencyUSD",
        least=0,
        needs=Need.PRICE,
        if_empty="no price",
    ),
    lines(
        "$ a step",
        "Over the last hour.",
        Query(ratio(_SPENT, growth("rlvr_train_seconds_count"))),
        unit="currencyUSD",
        least=0,
        needs=Need.PRICE,
        if_empty="no price",
    ),
    areas(
        "$ an hour, by part",
        "What the nodes alive cost. shared: nodes without a role, such as a laptop. Pods that wait for a node, and nodes without Ray, are not seen.",
        Query(total("rlvr_cost_usd_per_hour", "run, part"), "{{run}} {{part}}"),
        unit="currencyUSD",
    ),
    lines(
        "$ spent and the budget",
        "Earlier starts included. The budget is [cost] budget_usd, 0 = none.",
        Query(total("rlvr_cost_usd_total", "run, part"), "{{run}} {{part}}"),
        Query(newest("rlvr_cost_budget_usd"), "{{run}} budget"),
        unit="currencyUSD",
        least=0,
    ),
    bars(
        "Hours so far",
        "Hours of nodes and of their GPUs, by part, idle or not; earlier starts included.",
        Query(f"{total('rlvr_node_seconds_total', 'run, part')} / 3600", "{{run}} {{part}} nodes"),
        Query(f"{total('rlvr_gpu_seconds_total', 'run, part')} / 3600", "{{run}} {{part}} GPUs"),
        unit="suffix: h",
        least=0,
    ),
)

_FLEET: tuple[Panel, ...] = (
    lines(
        "Nodes, by part",
        "Ray nodes alive. Unpriced ones are missing from the cost: see docs/operations.md#nodesunpriced. Draining ones go away.",
        Query(newest("rlvr_nodes", "run, part"), "{{run}} {{part}}"),
        Query(newest("rlvr_nodes_unpriced"), "{{run}} unpriced"),
        Query(newest("rlvr_nodes_draining"), "{{run}} draining"),
        least=0,
    ),
    lines(
        "Actors, alive and wanted",
        "A lasting difference: an actor waits for a node, or dies as it starts. See firesteel status RUN_DIR.",
        Query(newest("rlvr_actors", "run, part"), "{{run}} {{part}}"),
        Query(newest("rlvr_actors_wanted", "run, part"), "{{run}} {{part}} wanted"),
        least=0,
    ),
    lines(
        "Targets that answer Prometheus",
        "By role. Fewer than actors: a port is closed, or a process hangs. Ray's own targets are not in it.",
        Query(total("up", "run, role", 'role!=""'), "{{run}} {{role}}"),
        least=0,
    ),
    lines(
        "Actors replaced",
        "In an hour, by part and cause. died and hung are faults, drained is planned.",
        Query(growth("rlvr_restarts_total", "run, part, cause"), "{{run}} {{part}} {{cause}}"),
        least=0,
        thresholds=((None, GREEN), (1, ORANGE)),
    ),
    lines(
        "Seconds of a recovery, p95",
        "From noticing a loss until the replacement works, over an hour.",
        Query(quantile(0.95, "rlvr_recovery_seconds", "run, part", window="1h"), "{{run}} {{part}}"),
        unit="s",
        least=0,
        needs=Need.LOSS,
        if_empty="nothing was lost",
    ),
    lines(
        "CPU, by process",
        "Cores in use by the processes that serve metrics; sandboxed children and vLLM's own processes are not in it.",
        Query(rate("process_cpu_seconds_total", "run, replica"), "{{run}} {{replica}}"),
        unit="suffix: cores",
        least=0,
    ),
    lines(
        "Memory, by process",
        "Resident bytes of the same processes. Growing without end: end that process, or on Kubernetes delete its "
        "pod; another takes over its work. Then report it.",
        Query(newest("process_resident_memory_bytes", "run, replica"), "{{run}} {{replica}}"),
        unit="bytes",
        least=0,
    ),
)

ROW = Row(title="Cost & fleet", panels=(*_COSTS, *_FLEET))
