"""The shapes of PromQL that the dashboard is made of, each free of NaN.

Owns the selector of the chosen runs and how rates, quantiles and ratios are written. A quantile or ratio of nothing is no point, never NaN: comparing
with `>= 0` drops NaN and keeps zeros, dividing by `(x > 0)` drops zeros below the line. Counters are rated before they are summed, so that the
restart of one actor is no dip. Every sum keeps `run`, so that several runs stay apart.
"""

RUN = 'run=~"$run"'
WINDOW = "$__rate_interval"
STEPS = "30m"
"""For shares, means and quantiles of what happens once a step: `$__rate_interval` is often shorter than a step."""
RECENT = "10m"
"""For counts of events."""
PACE = "$window"
"""For a second's worth of the same: a variable of the dashboard, since a window longer than the run so far would show too little."""


def select(name: str, where: str = "") -> str:
    """A metric of the chosen runs; where: further matchers."""
    return f"{name}{{{RUN}{', ' + where if where else ''}}}"


def total(name: str, by: str = "run", where: str = "") -> str:
    return f"sum by ({by}) ({select(name, where)})"


def newest(name: str, by: str = "run", where: str = "") -> str:
    """A gauge that one actor of the run sets."""
    return f"max by ({by}) ({select(name, where)})"


def rate(name: str, by: str = "run", where: str = "", window: str = WINDOW) -> str:
    """A second."""
    return f"sum by ({by}) (rate({select(name, where)}[{window}]))"


def growth(name: str, by: str = "run", where: str = "", window: str = "1h") -> str:
    return f"sum by ({by}) (increase({select(name, where)}[{window}]))"


def quantile(q: float, name: str, by: str = "run", where: str = "", window: str = WINDOW) -> str:
    """Of a histogram."""
    return f"histogram_quantile({q}, sum by ({by}, le) (rate({select(name + '_bucket', where)}[{window}]))) >= 0"


def buckets(name: str, window: str = WINDOW) -> str:
    """Of a histogram, for a heatmap: of the chosen runs together."""
    return f"sum by (le) (increase({select(name + '_bucket')}[{window}]))"


def ratio(above: str, below: str) -> str:
    return f"({above}) / (({below}) > 0)"


def mean(name: str, by: str = "run", where: str = "", window: str = WINDOW) -> str:
    """Of what a histogram observed."""
    return ratio(rate(f"{name}_sum", by, where, window), rate(f"{name}_count", by, where, window))


_WAITED = f"{growth('rlvr_learner_wait_seconds_total', window=STEPS)} + clamp_max({newest('rlvr_learner_waiting_seconds')}, 1800)"
"""Waits that have ended, and the one that lasts: a run that has stalled waits, too."""
_ALL_EVALUATE = f"min by (run) (increase({select('rlvr_generator_evaluation_seconds_total')}[{STEPS}]))"
"""Seconds for which no generator could sample since it evaluated: 0 as soon as another one does not."""
_CLOCK = f"{_WAITED} + {growth('rlvr_train_seconds_sum', window=STEPS)}"
_IS_TRAINING = f"({newest('rlvr_train_seconds_count')} > 0)"
WAIT_SHARE = (
    f"clamp_min({_WAITED} - ({_ALL_EVALUATE} or 0 * {growth('rlvr_learner_wait_seconds_total', window=STEPS)}), 0) / (({_CLOCK}) > 0) "
    f"or 0 * {_IS_TRAINING}"
)
"""Of the learner's time: waiting for a batch / (waiting + training), less evaluations that stop all sampling; 0 within a step longer than STEPS."""

_IDLED = f"avg by (run) (increase({select('rlvr_generator_idle_seconds_total')}[{STEPS}]))"
IDLE_SHARE = f"clamp_max({_IDLED} / ((({_CLOCK}) > 0) or 1800 + 0 * {_IDLED}), 1)"
"""Of the generators' time: nothing to sample. The clock is the learner's time, so that a run's first minutes are not thinned out by the window."""

STEP_AGE = f"time() - max by (run) ({select('rlvr_learner_step_timestamp_seconds')} > 0)"
"""Seconds since the last step ended; no value before the first of this learner."""
