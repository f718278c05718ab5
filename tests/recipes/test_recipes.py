"""Every shipped run file loads, also with what the controls change, and says what the recipe says."""

from pathlib import Path

import pytest

from recipes.demo.controls import ARMS, FORMAT_ONLY, NO_CARRY, SIXTEEN_SHOT, WRONG_LABEL, Arm
from recipes.demo.problems import make_sets
from recipes.demo.recipe import Recipe
from rlvr import config_rules
from rlvr.config import Config
from rlvr.config_file import load_config
from rlvr.problems import load_problems, training_problems

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
DEMO = RECIPES / "demo.toml"


@pytest.mark.parametrize("run_file", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_passes_the_rules_of_a_run(run_file: Path) -> None:
    config_rules.check(load_config(run_file))


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_of_the_demo_can_run_and_trains_128_rollouts_a_step(arm: Arm, tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    config = load_config(DEMO, (f"model.policy={tmp_path}", *arm.overrides))
    problems = training_problems(config.prompts)
    config_rules.check_run(config, num_problems=len(problems))
    assert config_rules.rollouts_per_step(config, num_problems=len(problems)) == 128


def arm_of(arm: Arm) -> Config:
    return load_config(DEMO, arm.overrides)


def test_the_controls_change_what_they_are_named_for() -> None:
    demo = load_config(DEMO)
    assert [problem.answer for problem in training_problems(demo.prompts)] == ["64/5"]
    assert [problem.answer for problem in training_problems(arm_of(WRONG_LABEL).prompts)] == ["59/5"]
    assert [problem.answer for problem in training_problems(arm_of(NO_CARRY).prompts)] == ["119/10"]
    assert [problem.id for problem in training_problems(arm_of(SIXTEEN_SHOT).prompts)] == [addition.id for addition in make_sets().sixteen]
    assert (demo.reward.kind, arm_of(FORMAT_ONLY).reward.kind) == ("outcome", "format")


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_no_arm_trains_on_a_held_out_problem(arm: Arm) -> None:
    config = load_config(DEMO, arm.overrides)
    (heldout,) = config.evaluation.sets
    assert heldout.names == ("heldout",)
    held_out = {problem.prompt for problem in load_problems(Path(heldout.file))}
    assert len(held_out) == 200
    assert held_out.isdisjoint(problem.prompt for problem in training_problems(config.prompts))


def test_prompts_and_completions_of_the_demo_fit_the_model() -> None:
    config = load_config(DEMO)
    longest = max(len(addition.prompt) for addition in make_sets().all)
    assert longest <= config.rollout.max_prompt_tokens
    assert config.rollout.max_prompt_tokens + config.rollout.max_completion_tokens <= Recipe().max_positions


def test_the_paper_recipe_makes_1024_rollouts_a_step_and_trains_them_on_policy() -> None:
    config = load_config(RECIPES / "pi1-paper.toml")
    (problem,) = training_problems(config.prompts)
    assert (problem.id, problem.answer) == ("pi_1", "12.8")
    assert config_rules.rollouts_per_step(config, num_problems=1) == 1024
    assert (config.rollout.max_staleness, config.objective.old_logprobs, config.optimizer.updates_per_step) == (0, "recomputed", 1)


def test_the_preset_for_8_gpus_uses_8() -> None:
    config = load_config(RECIPES / "gpu-8.toml")
    assert config.generators.count * config.generators.tensor_parallel + config.learner.ranks == 8
    assert config.generators.count * config.generators.max_num_seqs == config_rules.rollouts_per_step(config, num_problems=1)
