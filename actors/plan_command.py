"""`firesteel run --dry-run`: everything that can be checked without model, GPU and network, and the plan of the run.

Owns the plan's wording. Needs neither Ray nor torch.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from actors.evaluation import is_evaluated
from rlvr import config_rules
from rlvr.config import Config
from rlvr.config_file import load_config
from rlvr.errors import ProblemError
from rlvr.problems import training_problems


def dry_run(file: Path, overrides: Sequence[str]) -> int:
    """Check what needs neither model nor GPU nor network, and print the plan."""
    config = load_config(file, overrides)
    config_rules.check(config)
    Console().print("\n".join(_plan(config)), markup=False, highlight=False, soft_wrap=True)
    return 0


def _plan(config: Config) -> list[str]:
    try:
        problems = training_problems(config.prompts)
    except ProblemError as error:
        known = f"problems: not checked ({error})"
    else:
        per_step = config_rules.rollouts_per_step(config, num_problems=len(problems))
        known = (
            f"problems: {', '.join(problem.id for problem in problems[:8])}{' …' if len(problems) > 8 else ''}; {per_step} rollouts a step, "
            f"{per_step * config.run.num_steps} in all"
        )
    evaluations = sum(is_evaluated(step, config.run) for step in range(config.run.num_steps + 1))
    return [
        f"run {config.run.name}: {config.run.num_steps} steps, seed {config.run.seed}",
        f"model: {config.model.policy}, computed in {config.model.compute_dtype}, masters in {config.model.param_dtype}",
        known,
        f"generators: {config.generators.count} × {config.generators.tensor_parallel} ({config.generators.device}), up to "
        f"{config.generators.max_num_seqs} completions each, staleness at most {config.rollout.max_staleness}",
        f"verifiers: {config.verifiers.count} with {config.verifiers.workers} sandboxed children each; "
        f"reward {config.reward.kind}, grader {config.reward.grader}",
        f"learner: {config.learner.ranks} ranks ({config.learner.device}), {config.optimizer.updates_per_step} updates a step",
        f"evaluations: {evaluations}, of {len(config.evaluation.sets)} sets and the training problems",
        "the run file can work",
    ]
