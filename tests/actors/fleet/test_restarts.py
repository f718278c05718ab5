"""Deaths in a row end the run; deaths far apart do not."""

import pytest

from actors.fleet.restarts import LONGEST_WAIT_S, WORKED_S, Restarts
from rlvr.errors import ActorError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_death_in_a_row_waits_longer_up_to_a_bound() -> None:
    restarts = Restarts(most=20, clock=Clock())
    waits = [restarts.died("queue", ValueError("x")) for _ in range(12)]
    assert waits == sorted(waits)
    assert waits[0] < waits[1]
    assert waits[-1] == LONGEST_WAIT_S


def test_a_crash_loop_ends_the_run_with_the_last_error() -> None:
    restarts = Restarts(most=2, clock=Clock())
    for _ in range(2):
        restarts.started("generator-0")
        restarts.died("generator-0", ValueError("an early error"))
    with pytest.raises(ActorError, match=r"generator-0 died 3 times.*the last one"):
        restarts.died("generator-0", ValueError("the last one"))


def test_a_part_that_has_worked_begins_a_new_count() -> None:
    clock = Clock()
    restarts = Restarts(most=1, clock=clock)
    for _ in range(5):
        restarts.started("learner")
        clock.now += WORKED_S
        restarts.died("learner", ValueError("x"))
    assert restarts.total["learner"] == 5


def test_a_part_that_never_worked_is_in_a_row_however_long_its_start_took() -> None:
    clock = Clock()
    restarts = Restarts(most=1, clock=clock)
    restarts.died("verifier-0", ValueError("x"))
    clock.now += 10 * WORKED_S
    with pytest.raises(ActorError):
        restarts.died("verifier-0", ValueError("x"))


def test_parts_are_counted_apart() -> None:
    restarts = Restarts(most=1, clock=Clock())
    restarts.died("generator-0", ValueError("x"))
    restarts.died("generator-1", ValueError("x"))
    assert restarts.total == {"generator-0": 1, "generator-1": 1}
