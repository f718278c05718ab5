"""The verifier settings of the demo against its own task: every completion gets the verdict that exact fractions give."""

import random
from fractions import Fraction
from pathlib import Path

from recipes.demo import problems
from recipes.demo.controls import FORMAT_ONLY, ONE_SHOT
from recipes.demo.problems import Habit, completion, draw, draw_guess_error, make_sets
from rlvr.config_file import load_config
from rlvr.records import Unverified, VerdictKind
from verifier.verify import Verifier

DEMO = Path(problems.__file__).parents[1] / "demo.toml"


def case(text: str, gold: str) -> Unverified:
    return Unverified(rollout_id="rollout", lease_id="lease", problem_id="problem", text=text, gold=gold)


def test_every_completion_is_judged_as_exact_fractions_judge_it() -> None:
    rng = random.Random(11)
    cases, expected = [], []
    for addition in [*sorted(make_sets().all, key=lambda each: each.id), *(draw(rng) for _ in range(100))]:
        for habit in Habit:
            error = draw_guess_error(rng)
            cases.append(case(completion(addition, habit, guess_error=error), addition.gold))
            written = {
                Habit.CAREFUL_BOX: addition.value(addition.x + addition.y),
                Habit.SLOPPY_BOX: addition.value(addition.x + addition.y - 10 * addition.carries),
                Habit.GUESS: addition.value(addition.x + addition.y + error),
            }.get(habit)
            right = VerdictKind.CORRECT if written == Fraction(addition.gold) else VerdictKind.WRONG
            expected.append(VerdictKind.NO_ANSWER if written is None else right)
    with Verifier.for_training(load_config(DEMO)) as verifier:
        assert all(verifier.check_gold(each.gold) is None for each in cases)
        assert [verdict.kind for verdict in verifier.verify_many(cases)] == expected


REWARDED = {
    r"9+9=18;6+5+1=12;\boxed{12.8}": (1.0, 1.0),
    r"\boxed{128/10}": (1.0, 1.0),
    r"\boxed{11.8}\boxed{12.8}": (1.0, 1.0),
    r"\boxed{12.8}\boxed{11.8}": (0.0, 1.0),
    r"\boxed{6.9+5.9}": (0.0, 0.0),
    r"\boxed{12.8<unused60>}": (0.0, 0.0),
    r"\boxed{12.8": (0.0, 0.0),
    r"\boxed{}": (0.0, 0.0),
    "so 12.8": (0.0, 0.0),
}
"""Completion of the one problem → reward of the outcome and of the format."""


def test_only_one_number_in_the_last_box_is_rewarded() -> None:
    for arm, column in ((ONE_SHOT, 0), (FORMAT_ONLY, 1)):
        with Verifier.for_training(load_config(DEMO, arm.overrides)) as verifier:
            verdicts = verifier.verify_many([case(text, "64/5") for text in REWARDED])
        assert {text: verdict.reward for text, verdict in zip(REWARDED, verdicts, strict=True)} == {
            text: rewards[column] for text, rewards in REWARDED.items()
        }
