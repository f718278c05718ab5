"""The plan of a step: group sizes, the order of problems, and that it depends on the step alone."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.config import AdvantageConfig, Config, PromptsConfig, RolloutConfig, RunConfig
from rlvr.problems import Problem
from rlvr.step_plan import StepPlanner

settings.load_profile("ci")  # no deadlines, which a busy machine would miss, and the same examples each time


def problems(number: int) -> list[Problem]:
    return [Problem(id=f"p{index}", prompt="?", answer="1") for index in range(number)]


def planner(
    number: int, *, per_step: int | None = None, copies: int = 1, size: int = 8, sampler: str = "fixed", group_by: str = "problem", seed: int = 1
) -> StepPlanner:
    config = Config(
        run=RunConfig(seed=seed),
        prompts=PromptsConfig(problems_per_step=per_step, copies_per_step=copies, sampler=sampler),  # type: ignore[arg-type]
        rollout=RolloutConfig(group_size=size),
        advantage=AdvantageConfig(group_by=group_by),  # type: ignore[arg-type]
    )
    return StepPlanner(problems(number), config)


def ids_of(plan: StepPlanner, step: int) -> list[str]:
    return [group.problem_id for group in plan.groups_of_step(step)]


def test_the_rollouts_of_one_problem_are_one_group() -> None:
    (group,) = planner(1, copies=128).groups_of_step(1)
    assert (group.problem_id, group.size) == ("p0", 1024)


def test_by_copy_each_copy_is_a_group_as_in_the_paper() -> None:
    groups = planner(1, copies=128, group_by="copy").groups_of_step(1)
    assert len(groups) == 128
    assert {group.size for group in groups} == {8}


PLANS = st.builds(
    lambda number, extra, **more: planner(number, per_step=None if extra is None else 1 + extra % number, **more),
    number=st.integers(1, 12),
    extra=st.none() | st.integers(0, 11),
    copies=st.integers(1, 3),
    size=st.integers(1, 4),
    sampler=st.sampled_from(["fixed", "shuffle_drop_last"]),
    group_by=st.sampled_from(["problem", "copy"]),
    seed=st.integers(0, 5),
)


@given(PLANS, st.integers(1, 100))
def test_every_step_has_exactly_the_rollouts_of_a_step_and_no_problem_twice(plan: StepPlanner, step: int) -> None:
    groups = plan.groups_of_step(step)
    assert sum(group.size for group in groups) == plan.rollouts_per_step
    assert len(set(Counter(group.problem_id for group in groups).values())) == 1
    assert plan.groups_of_step(step) == groups


@given(PLANS, st.integers(1, 99999), st.integers(1, 99999))
def test_group_ids_are_unique_and_sort_as_the_steps_do(plan: StepPlanner, one: int, other: int) -> None:
    first, second = ([group.group_id for group in plan.groups_of_step(step)] for step in (one, other))
    assert first == sorted(set(first))
    assert (one < other) == (first < second)
    assert one == other or not set(first) & set(second)


def test_in_fixed_order_the_file_goes_round_and_round() -> None:
    plan = planner(3, per_step=2)
    assert [ids_of(plan, step) for step in (1, 2, 3, 4)] == [["p0", "p1"], ["p2", "p0"], ["p1", "p2"], ["p0", "p1"]]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_a_shuffled_epoch_has_each_problem_at_most_once_and_drops_the_rest(number: int, per_step: int, epoch: int) -> None:
    per_step = min(number, per_step)
    plan = planner(number, per_step=per_step, sampler="shuffle_drop_last")
    steps = number // per_step
    seen = [id_ for step in range(epoch * steps + 1, (epoch + 1) * steps + 1) for id_ in ids_of(plan, step)]
    assert len(seen) == len(set(seen)) == steps * per_step


def test_shuffles_differ_between_epochs_and_seeds_and_never_between_runs() -> None:
    plan = planner(50, sampler="shuffle_drop_last")
    assert ids_of(plan, 1) != ids_of(plan, 2)
    assert ids_of(plan, 1) != ids_of(planner(50, sampler="shuffle_drop_last", seed=2), 1)
    assert ids_of(planner(5, sampler="shuffle_drop_last"), 1) == ["p2", "p3", "p4", "p0", "p1"]


def test_the_pool_of_the_paper_makes_nine_steps_an_epoch() -> None:
    plan = planner(1209, per_step=128, sampler="shuffle_drop_last")
    visits = Counter(id_ for step in range(1, 501) for id_ in ids_of(plan, step))
    assert visits.total() == 64_000
    assert 44 <= min(visits.values()) <= max(visits.values()) <= 57


def test_more_different_problems_than_there_are_and_steps_before_the_first_are_refused() -> None:
    with pytest.raises(ValueError, match="a step of 3 different problems cannot be made of 2"):
        planner(2, per_step=3)
    with pytest.raises(ValueError, match="steps count from 1, got 0"):
        planner(2).groups_of_step(0)
