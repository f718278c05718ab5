"""The two run files that the system is made for: the paper's main run and the demo."""

import re
from pathlib import Path

from rlvr.config import Config
from rlvr.config_file import dump_config, parse_config
from rlvr.config_rules import evaluation_files, rollouts_per_step
from rlvr.problems import training_problems

DEMO = """
[run]
name = "demo"
num_steps = 60
eval_every_steps = 5
[model]
policy = "./base"
compute_dtype = "float32"
[prompts]
file = "problems.jsonl"
problems = ["dec_carry"]
copies_per_step = 1
template = "raw"
[rollout]
group_size = 128
temperature = 1.0
max_completion_tokens = 36
stop_tokens = ["<eos>"]
max_staleness = 2
[reward]
extract = "last_boxed"
[advantage]
group_by = "problem"
std_ddof = 0
[objective]
kl_coef = 0
entropy_coef = 0
aggregation = "token_mean"
old_logprobs = "sampler"
[optimizer]
learning_rate = 3e-5
schedule = "linear"
betas = [0.9, 0.999]
[evaluation]
template = "raw"
extract = "last_boxed"
[[evaluation.sets]]
file = "held_out.jsonl"
"""


def recipe(shared: Path) -> Config:
    blocks = re.findall(r"```toml\n(.*?)```", (shared / "RECIPE.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return parse_config(blocks[0], folder=Path("/runs"))


def test_the_papers_main_run_loads_as_it_is_printed(shared: Path) -> None:
    config = recipe(shared)
    assert rollouts_per_step(config, len(training_problems(config.prompts))) == 1024
    assert [name for name, _, _ in evaluation_files(config)] == ["math500", "minerva_math", "olympiadbench", "aime24", "aime25", "amc23"]
    assert parse_config(dump_config(config), folder=Path("/elsewhere")) == config


def test_what_a_run_file_leaves_out_has_the_papers_value_but_for_the_named_exceptions(shared: Path) -> None:
    printed, default = recipe(shared), Config()
    assert default.model == printed.model
    assert default.optimizer == printed.optimizer
    assert (default.rollout.max_staleness, default.objective.old_logprobs, default.objective.aggregation) == (2, "sampler", "token_mean")
    assert (default.advantage.group_by, default.prompts.copies_per_step, default.prompts.problems_per_step) == ("problem", 1, None)
    assert (default.reward.grader, default.reward.extract, default.prompts.template) == ("firesteel", "last_boxed", "")
    assert (printed.prompts.user_suffix, printed.rollout.temperature) == (default.prompts.user_suffix, default.rollout.temperature)


def test_the_demos_run_loads() -> None:
    config = parse_config(DEMO, folder=Path("/runs"))
    assert rollouts_per_step(config, 1) == 128
    assert config.optimizer.learning_rate == 3e-5


def test_the_sixteen_shot_demo_is_the_demo_with_overrides() -> None:
    ids = ", ".join(f'"p{number}"' for number in range(16))
    config = parse_config(DEMO, [f"prompts.problems=[{ids}]", "rollout.group_size=8"], folder=Path("/runs"))
    assert rollouts_per_step(config, 16) == 128
