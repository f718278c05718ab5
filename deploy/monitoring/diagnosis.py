"""The two answers that the dashboard gives at a glance, as PromQL: how a run is, and who holds it up.

Owns the codes of both and their order. Whatever is missing is a word of its own: a run is healthy only where its controller says that it trains and
nothing contradicts. `STALLED_AGE` and `PATIENCE` are what the rules record, so that dashboard and alert agree without the rules, too.
"""

from deploy.monitoring.expressions import IDLE_SHARE, STEPS, WAIT_SHARE, newest, select, total
from deploy.monitoring.panels import BLUE, GREEN, GREY, ORANGE, RED

_MEMORY = "6h"
"""A learner that was replaced has forgotten its steps; Prometheus has not."""
_CONTROLLER_START = select("process_start_time_seconds", 'role="controller"')
_CONTROLLER_UP, _CORE_UP = select("up", 'role="controller"'), select("up", 'role=~"queue|learner"')
_ANY_UP = select("up", 'role=~"controller|queue|generator|verifier|learner"')


def _is(states: str) -> str:
    """The runs that say so of themselves; states: a regular expression."""
    where = f'state=~"{states}"'
    return f"({newest('rlvr_run_state', where=where)} == 1)"


def _ended(state: str) -> str:
    """The last that was heard of a controller which Prometheus still knows."""
    where = f'state="{state}"'
    return f"max by (run) (last_over_time({select('rlvr_run_state', where)}[1d]) == 1 and on (run, instance) {_CONTROLLER_UP})"


STALLED_AGE = (
    f"time() - max by (run) (max_over_time({select('rlvr_learner_step_timestamp_seconds')}[{_MEMORY}]) or {_CONTROLLER_START}) "
    f"and on (run) {_is('starting|training')}"
)
"""Seconds since the last step, or since this start of the run; no value where no step is due."""


def _ever(name: str) -> str:
    return f"sum by (run) (max_over_time({select(name)}[{_MEMORY}]))"


PATIENCE = (
    f"900 + 2700 * ({total('rlvr_train_seconds_count')} == bool 0) "
    f"+ 10 * ({_ever('rlvr_train_seconds_sum')} + {_ever('rlvr_learner_wait_seconds_total')}) / clamp_min({_ever('rlvr_train_seconds_count')}, 1) "
    f"+ 2 * {total('rlvr_evaluation_seconds_sum')} / clamp_min({total('rlvr_evaluation_seconds_count')}, 1) "
    f"or 3600 + 0 * max by (run) ({_CONTROLLER_START})"
)
"""How old the last step may be; an hour where there is no learner to ask."""

LACKING = f"sum by (run) (clamp_min({newest('rlvr_actors_wanted', 'run, part')} - {newest('rlvr_actors', 'run, part')}, 0))"
"""Actors that are wanted and not alive; one too many of a part makes up for no other."""

_INCOMPLETE = (
    f"({LACKING} > 0 or (min by (run) ({_CORE_UP}) == 0) "
    f"or ({_is('training')} unless on (run) {newest('rlvr_learner_step')}) or ({_is('training')} unless on (run) {newest('rlvr_slots_limit')}))"
)
HEALTH = " or ".join(
    [
        f"6 + 0 * (({STALLED_AGE}) > ({PATIENCE}))",
        f"1 * {_is('evaluating')}",
        f"2 * {_is('starting')}",
        f"3 + 0 * ({_INCOMPLETE} and on (run) {_is('training')})",
        f"0 * {_is('training')}",
        f"7 * {_ended('failed')}",
        f"5 * {_ended('interrupted')}",
        f"4 * {_ended('finished')}",
        f"8 + 0 * max by (run) ({_ANY_UP})",
    ]
)
HEALTH_WORDS = (
    (0, 0, "healthy", GREEN),
    (1, 1, "evaluating", GREEN),
    (2, 2, "starting", BLUE),
    (3, 3, "part missing", ORANGE),
    (4, 4, "finished", GREY),
    (5, 5, "stopped", GREY),
    (6, 6, "stalled", RED),
    (7, 7, "failed", RED),
    (8, 8, "not answering", RED),
)


def _slots(state: str) -> str:
    """Their mean; `and`: those of the queue that is, not of the one before it."""
    where = f'state="{state}"'
    slots = select("rlvr_slots", where)
    return f"sum by (run) (avg_over_time({slots}[{STEPS}]) and {slots})"


_WAIT, _IDLE, _JUDGING = f"({WAIT_SHARE})", f"({IDLE_SHARE})", _slots("generated")
_SOMEBODY_WAITS = f"((({_WAIT} > bool 0.1) + ({_IDLE} > bool 0.1)) > bool 0)"
_VERIFIERS = f"({_JUDGING} > bool ({_slots('leased')} + {_slots('verified')}))"
_LEARNER = f"(({_IDLE} > bool {_WAIT}) * ({_WAIT} < bool 0.5))"
BOTTLENECK = f"{_SOMEBODY_WAITS} * (2 * {_VERIFIERS} + (1 - {_VERIFIERS}) * (1 + 2 * {_LEARNER}))"
"""Verifiers first: slots that wait for them make generators idle and the learner wait. Who waits half of its time is no bottleneck."""
BOTTLENECK_WORDS = ((0, 0, "balanced", GREEN), (1, 1, "generators", ORANGE), (2, 2, "verifiers", ORANGE), (3, 3, "learner", BLUE))
