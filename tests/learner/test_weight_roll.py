"""Laws of the judgement who lives, on a clock of our own."""

from learner.weight_roll import BAR_MAX_S, LOOK_S, SILENT_S, Roll


def look_for(roll: Roll, seconds: float, counts: dict[str, int], *, now: float, step_s: float = 0.5) -> tuple[float, tuple[str, ...]]:
    """Look every `step_s` for `seconds` while the counts stand still."""
    ready = roll.look(counts, now)
    for _ in range(round(seconds / step_s)):
        now += step_s
        ready = roll.look(counts, now)
    return now, ready


def test_only_a_count_that_was_seen_to_grow_is_life() -> None:
    roll = Roll()
    assert roll.look({"never": 0, "dead": 7, "alive": 7}, 0.0) == ()
    assert roll.look({"never": 0, "dead": 7, "alive": 8}, 0.5) == ("alive",)


def test_silence_ends_life_and_a_new_sign_brings_it_back() -> None:
    roll = Roll()
    roll.look({"a": 1}, 0.0)
    now, ready = look_for(roll, SILENT_S - 0.5, {"a": 2}, now=0.5)
    assert ready == ("a",)
    now, ready = look_for(roll, 0.5, {"a": 2}, now=now + 0.5)
    assert ready == ()
    assert roll.look({"a": 3}, now + 0.5) == ("a",)


def test_who_could_not_look_for_long_thinks_nobody_dead() -> None:
    roll = Roll()
    roll.look({"a": 1}, 0.0)
    roll.look({"a": 2}, 0.5)
    assert LOOK_S < SILENT_S
    assert roll.look({"a": 2}, 1000.0) == ("a",)


def test_a_lost_one_is_ready_again_after_a_fresh_sign_and_later_the_more_often_it_was_lost() -> None:
    roll = Roll()
    roll.look({"a": 1}, 0.0)
    roll.look({"a": 2}, 0.5)
    roll.lose("a", 0.5)
    assert roll.look({"a": 2}, 0.6) == ()
    assert roll.look({"a": 3}, 1.0) == ("a",)
    roll.lose("a", 1.0)
    assert roll.look({"a": 4}, 1.5) == ()
    assert roll.look({"a": 5}, 2.0) == ("a",)
    for _ in range(20):
        roll.lose("a", 3.0)
    assert roll.look({"a": 6}, 3.0 + BAR_MAX_S - 0.1) == ()
    assert roll.look({"a": 7}, 3.0 + BAR_MAX_S) == ("a",)
    roll.prove("a")
    roll.lose("a", 100.0)
    assert roll.look({"a": 8}, 100.1) == ("a",)


def test_one_that_is_not_wanted_is_forgotten() -> None:
    roll = Roll()
    roll.look({"a": 1}, 0.0)
    roll.look({"a": 2}, 0.5)
    roll.look({}, 1.0)
    assert roll.look({"a": 3}, 1.5) == ()
