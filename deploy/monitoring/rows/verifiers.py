"""Verifiers: what they decide, how fast, and what the sandbox gives up."""

from deploy.monitoring.expressions import RECENT, growth, quantile, rate, ratio, total
from deploy.monitoring.panels import GREEN, ORANGE, Panel, Query, Row, areas, lines

_PANELS: tuple[Panel, ...] = (
    areas(
        "Verdicts, by kind",
        "A second. correct, wrong, no_answer and undecided train; timeout and sandbox are our fault and do not.",
        Query(rate("rlvr_verdicts_total", "run, kind"), "{{run}} {{kind}}"),
        unit="suffix: /s",
    ),
    lines(
        "Shares of the verdicts",
        "Correct: the sampled accuracy. No answer: the model has lost the format, or is cut off. Ours: timeouts and broken workers, aim below 1 %.",
        Query(ratio(rate("rlvr_verdicts_total", where='kind="correct"'), rate("rlvr_verdicts_total")), "{{run}} correct"),
        Query(ratio(rate("rlvr_verdicts_total", where='kind="no_answer"'), rate("rlvr_verdicts_total")), "{{run}} no answer"),
        Query(ratio(rate("rlvr_verdicts_total", where='kind=~"timeout|sandbox"'), rate("rlvr_verdicts_total")), "{{run}} ours"),
        unit="percentunit",
        least=0,
        most=1,
    ),
    lines(
        "Where verdicts are decided",
        "Shares. cache: the same answer was judged before. parent: by cheap rules. worker: by sympy in a sandboxed child.",
        Query(
            f"{rate('rlvr_verdicts_total', 'run, stage')} / on (run) group_left () ({rate('rlvr_verdicts_total')} > 0)",
            "{{run}} {{stage}}",
        ),
        unit="percentunit",
        least=0,
        most=1,
    ),
    lines(
        "Seconds of one verdict, by stage",
        "p50 and p99 of the last 10 min. p99 of worker near verifiers.wall_s: hostile or heavy answers, see the kills.",
        Query(quantile(0.5, "rlvr_verify_seconds", "run, stage", window=RECENT), "{{run}} {{stage}} p50"),
        Query(quantile(0.99, "rlvr_verify_seconds", "run, stage", window=RECENT), "{{run}} {{stage}} p99"),
        unit="s",
        least=0,
    ),
    areas(
        "Sandboxed children given up, by reason",
        "In 10 min. wall, cpu, memory: heavy answers. forbidden: a system call outside the list. See docs/operations.md#sandboxkillshigh.",
        Query(growth("rlvr_verifier_kills_total", "run, reason", window=RECENT), "{{run}} {{reason}}"),
    ),
    lines(
        "Retried and misjudged",
        "In 10 min. Retried: asked again of a fresh child. Misjudged: verdicts of a child that was found broken, judged again and different.",
        Query(growth("rlvr_verifier_retries_total", window=RECENT), "{{run}} retried"),
        Query(growth("rlvr_verdicts_misjudged_total", window=RECENT), "{{run}} misjudged"),
        least=0,
        thresholds=((None, GREEN), (1, ORANGE)),
    ),
    lines(
        "Children, and comparisons that wait for one",
        "Waiting above the number of children for long: raise verifiers.workers, or firesteel scale RUN_DIR --verifiers N.",
        Query(total("rlvr_verifier_workers"), "{{run}} children"),
        Query(total("rlvr_verifier_waiting"), "{{run}} waiting"),
        least=0,
    ),
    lines(
        "Verdicts a second, by verifier",
        "One that gives none while others do is starting, or hangs.",
        Query(rate("rlvr_verdicts_total", "run, replica"), "{{run}} {{replica}}"),
        unit="suffix: /s",
        least=0,
    ),
)

ROW = Row(title="Verifiers", panels=_PANELS)
