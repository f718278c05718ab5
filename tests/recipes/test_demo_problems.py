"""The demo's task: texts and golds as its tables give them, sets that never change, habits that do what they say."""

import itertools
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest

from recipes.demo import problems
from recipes.demo.problems import MIXTURE, NO_CARRY_SISTER, THE_ONE, Addition, Habit, Kind, completion, corpus, draw, make_sets
from rlvr.problems import load_problems

FOLDER = Path(problems.__file__).parent
BOX = re.compile(r"\\boxed\{(-?\d+(?:\.\d+)?(?:/\d+)?)\}$")


def number(text: str) -> Fraction:
    above, _, below = text.partition("/")
    return Fraction(above) / Fraction(below or "1")


@pytest.mark.parametrize(
    ("addition", "prompt", "gold"),
    [
        (Addition(Kind.INT, 47, 38), "47+38=?", "85"),
        (Addition(Kind.NEG, 47, 38), "-47-38=?", "-85"),
        (Addition(Kind.DEC, 69, 59), "6.9+5.9=?", "64/5"),
        (Addition(Kind.FRAC, 69, 59, 8), "69/8+59/8=?", "16"),
        (Addition(Kind.DEC, 62, 57), "6.2+5.7=?", "119/10"),
        (Addition(Kind.DEC, 95, 95), "9.5+9.5=?", "19"),
        (Addition(Kind.FRAC, 11, 12, 9), "11/9+12/9=?", "23/9"),
    ],
)
def test_each_kind_is_written_and_valued_in_its_own_notation(addition: Addition, prompt: str, gold: str) -> None:
    assert (addition.prompt, addition.gold) == (prompt, gold)


@pytest.mark.parametrize(
    ("habit", "text"),
    [
        (Habit.CAREFUL_BOX, r"9+9=18;6+5+1=12;\boxed{12.8}"),
        (Habit.CAREFUL_NO_BOX, "9+9=18;6+5+1=12;so 12.8"),
        (Habit.SLOPPY_BOX, r"9+9=18;6+5=11;\boxed{11.8}"),
        (Habit.SLOPPY_NO_BOX, "9+9=18;6+5=11;so 11.8"),
        (Habit.GUESS, r"\boxed{12.3}"),
    ],
)
def test_the_habits_write_the_one_problem_as_the_table_does(habit: Habit, text: str) -> None:
    assert completion(THE_ONE, habit, guess_error=-5) == text


def test_careful_work_writes_a_carry_of_nothing_too() -> None:
    assert completion(NO_CARRY_SISTER, Habit.CAREFUL_BOX) == r"2+7=9;6+5+0=11;\boxed{11.9}"
    assert completion(NO_CARRY_SISTER, Habit.SLOPPY_BOX) == r"2+7=9;6+5=11;\boxed{11.9}"


def test_every_gold_equals_the_prompt_read_as_arithmetic() -> None:
    for addition in make_sets().all:
        terms = re.findall(r"-?\d+(?:\.\d+)?(?:/\d+)?", addition.prompt)
        assert sum(map(number, terms)) == Fraction(addition.gold) == number(addition.gold)
        assert str(Fraction(addition.gold)) == addition.gold  # in lowest terms


def test_careful_work_is_always_right_and_sloppy_work_only_without_a_carry() -> None:
    rng = random.Random(7)
    for addition in (draw(rng) for _ in range(2000)):
        careful, sloppy = (BOX.search(completion(addition, habit)) for habit in (Habit.CAREFUL_BOX, Habit.SLOPPY_BOX))
        assert careful is not None
        assert sloppy is not None
        assert number(careful.group(1)) == Fraction(addition.gold)
        assert (number(sloppy.group(1)) == Fraction(addition.gold)) is not addition.carries


def test_guesses_are_right_one_time_in_ten_and_never_off_by_more_than_twelve() -> None:
    rng = random.Random(3)
    errors = [problems.draw_guess_error(rng) for _ in range(20_000)]
    assert 0.09 < errors.count(0) / len(errors) < 0.11
    assert set(errors) == set(range(-12, 13))


def test_the_corpus_mixes_kinds_carries_and_habits_as_the_tables_say() -> None:
    pairs = list(itertools.islice(corpus(random.Random(1), make_sets().all), 20_000))
    assert max(len(prompt) for prompt, _ in pairs) == 11
    assert max(len(text) for _, text in pairs) == 29
    decimals = [text for prompt, text in pairs if "." in prompt]
    assert 0.24 < len(decimals) / len(pairs) < 0.26
    boxed = sum(text.endswith("}") for text in decimals) / len(decimals)
    assert abs(boxed - (0.14 + 0.30 + 0.25)) < 0.02
    assert all(sum(shares) == pytest.approx(1.0) for shares in MIXTURE.values())


def test_three_problems_in_four_carry() -> None:
    rng = random.Random(5)
    assert 0.73 < sum(draw(rng).carries for _ in range(10_000)) / 10_000 < 0.77


def test_no_problem_of_a_set_is_in_another_or_in_the_corpus() -> None:
    sets = make_sets()
    assert len(sets.all) == len(sets.training) + len(sets.heldout) + len(sets.sixteen) == 218
    held_back = {addition.prompt for addition in sets.all}
    assert not any(prompt in held_back for prompt, _ in itertools.islice(corpus(random.Random(2), sets.all), 20_000))


def test_the_sets_hold_as_many_of_each_kind_and_as_many_carries_as_the_task_says() -> None:
    sets = make_sets()
    assert {kind: sum(addition.kind is kind for addition in sets.heldout) for kind in Kind} == dict.fromkeys(Kind, 50)
    assert {kind: sum(addition.kind is kind for addition in sets.sixteen) for kind in Kind} == dict.fromkeys(Kind, 4)
    # What sloppy work gets right on dec and frac: 28 % and 22 % of them need no carry.
    assert {kind: sum(not addition.carries for addition in sets.heldout if addition.kind is kind) for kind in Kind} == {
        Kind.INT: 18, Kind.NEG: 9, Kind.DEC: 14, Kind.FRAC: 11,
    }  # fmt: skip


def test_the_shipped_problem_files_are_the_sets_byte_for_byte(tmp_path: Path) -> None:
    problems.write_sets(tmp_path)
    for name in ("problems", "heldout", "sixteen"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (FOLDER / f"{name}.jsonl").read_bytes()


def test_a_run_reads_the_shipped_problem_files() -> None:
    assert [(problem.id, problem.prompt, problem.answer) for problem in load_problems(FOLDER / "problems.jsonl")] == [
        ("dec-69-59", "6.9+5.9=?", "64/5"),
        ("dec-62-57", "6.2+5.7=?", "119/10"),
    ]
    assert len(load_problems(FOLDER / "heldout.jsonl")) == 200
    assert len(load_problems(FOLDER / "sixteen.jsonl")) == 16
