"""`firesteel run --dry-run`: everything that can be checked without model, GPU and network, and the plan of the run.

Owns the plan's wording. A file that is not there, which a run would refuse, is said as not checked: the run may be meant for another machine.
Needs neither Ray nor torch.
"""

from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from actors.evaluation import is_evaluated
from actors.prepare import check_golds, check_sandbox
from actors.run_folder import check_can_create, default_path
from actors.service import check_port
from rlvr import config_rules
from rlvr.config import Config
from rlvr.config_file import load_config
from rlvr.config_paths import BUILT_IN_TEMPLATES, missing_files
from rlvr.problems import Problem, load_problems, render, training_problems
from verifier.verify import Verifier


def dry_run(file: Path, overrides: Sequence[str], run_dir: Path | None) -> int:
    """Check what needs neither model nor GPU nor network, and print the plan. Raises UserError where a run would be refused for it."""
    config = load_config(file, overrides)
    check_can_create(run_dir or default_path(config.run.name), config)
    check_port(config.metrics.bind, config.metrics.port)
    check_sandbox(config)
    missing = missing_files(config)
    problems = None if config.prompts.file in missing else training_problems(config.prompts)
    if problems is not None:
        _check_problems(config, problems, missing)
    for _, problem_file, _ in config_rules.evaluation_files(config):
        if str(problem_file) not in missing:
            check_golds(load_problems(problem_file), Verifier.for_evaluation(config))
    Console().print("\n".join([*_plan(config, problems), *_end(missing.values())]), markup=False, highlight=False, soft_wrap=True)
    return 0


def _check_problems(config: Config, problems: Sequence[Problem], missing: Container[str]) -> None:
    config_rules.check_sizes(config, num_problems=len(problems))
    check_golds(problems, Verifier.for_training(config))
    for template in (config.prompts.template, config.evaluation.template):
        if template and template not in BUILT_IN_TEMPLATES and template not in missing:
            render(problems[0], template=template, user_suffix=config.prompts.user_suffix)


def _end(unchecked: Iterable[str]) -> list[str]:
    found = [f"not checked: {sentence}" for sentence in unchecked]
    return [*found, "nothing of what was checked would be refused; the model, its tokenizer and the GPUs are looked at when the run starts"]


def _plan(config: Config, problems: Sequence[Problem] | None) -> list[str]:
    if problems is None:
        known = f"problems: those of {config.prompts.file}"
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
    ]
