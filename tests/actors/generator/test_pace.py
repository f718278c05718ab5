"""Laws of a generator's pace: what is sampled is capped on average, whatever the lengths of the completions."""

import random

import pytest

from actors.generator.pace import BURST_S, Pace


def sampled_in(seconds: float, *, rate: float | None, lengths: list[int], first_guess: int, speed: float = 1e9) -> float:
    """Tokens sampled in that time by a generator that leases up to 8 at once and ends each completion at `speed` tokens a second."""
    now = 0.0
    pace = Pace(rate, first_guess=first_guess, clock=lambda: now)
    stream = random.Random(0)
    total = 0
    while now < seconds:
        if wait_s := pace.wait_s():
            now += max(wait_s, 1e-6)
            continue
        count = pace.affordable(8)
        charged = pace.charge(count)
        drawn = [stream.choice(lengths) for _ in range(count)]
        now += max(drawn) / speed
        for length in drawn:
            pace.settle(length, charged=charged)
            total += length
    return total / now


@pytest.mark.parametrize("lengths", [[40], [1, 500], [10, 20, 30, 1000]])
@pytest.mark.parametrize("first_guess", [4, 3072])
def test_the_cap_holds_on_average_and_is_reached(lengths: list[int], first_guess: int) -> None:
    measured = sampled_in(1000.0, rate=100.0, lengths=lengths, first_guess=first_guess)
    assert measured == pytest.approx(100.0, rel=0.05)


def test_an_engine_that_is_slower_than_the_cap_is_not_held_up() -> None:
    assert sampled_in(1000.0, rate=1e6, lengths=[40], first_guess=40, speed=100.0) == pytest.approx(800.0, rel=0.05)


def test_without_a_cap_everything_may_start_at_once() -> None:
    pace = Pace(None, first_guess=3072, clock=lambda: 0.0)
    pace.charge(10_000)
    assert (pace.wait_s(), pace.affordable(64)) == (0.0, 64)


def test_an_idle_generator_saves_up_no_more_than_a_burst() -> None:
    now = 0.0
    pace = Pace(100.0, first_guess=10, clock=lambda: now)
    now = 3600.0
    assert pace.wait_s() == 0.0
    pace.charge(1 + round(BURST_S * 100.0 / 10))
    assert pace.wait_s() == pytest.approx(0.1)
