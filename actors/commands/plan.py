"""`firesteel run --dry-run`: everything that can be checked without model, GPU and network, and the plan of the run.

Owns the plan's wording. A file that is not there, which a run would refuse, is said as not checked: the run may be meant for another machine.
Needs neither Ray nor torch.
"""

from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from actors.evaluation import is_evaluated
from actors.prepare import check_golds, check_sandbox
from actors.run.folder import check_can_create
from actors.run.resume import Finished, Mode, Resume, Start, decide
from actors.run.service import check_port
from rlvr import config_rules
from rlvr.config import Config
from rlvr.config_file import load_config
from rlvr.config_paths import BUILT_IN_TEMPLATES, missing_files
from rlvr.problems import Problem, load_problems, render, training_problems
from verifier.verify import Verifier


def dry_run(file: Path, overrides: Sequence[str], run_dir: Path | None, *, resume: Mode | None = None) -> int:
    """Check what needs neither model nor GPU nor network, and print the plan. Raises UserError where a run would be refused for it."""
    config = load_config(file, overrides)
    decided = decide(resume, config, run_dir)
    if isinstance(decided, Finished):
        Console().print(decided.sentence, markup=False, highlight=False, soft_wrap=True)
        return 0
    if isinstance(decided, Start):
        check_can_create(decided.run_dir, config)
    check_port(config.metrics.bind, config.metrics.port)
    check_sandbox(config)
    missing = missing_files(config)
    problems = None if config.prompts.file in missing else training_problems(config.prompts)
    if problems is not None:
        _check_problems(config, problems, missing)
    for _, problem_file, _ in config_rules.evaluation_files(config):
        if str(problem_file) not in missing:
            check_golds(load_problems(problem_file), Verifier.for_evaluation(config))
    Console().print("\n".join([*_plan(config, problems, decided), *_end(missing.values())]), markup=False, highlight=False, soft_wrap=True)
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


def _plan(config: Config, problems: Sequence[Problem] | None, decided: Start | Resume) -> list[str]:
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
        f"run {config.run.name}: {config.run.num_steps} steps, seed {config.run.seed}"
        + (f"; it goes on in {decided.run_dir}, where {decided.facts.steps} steps were trained" if isinstance(decided, Resume) else ""),
        f"model: {config.model.policy}, computed in {config.model.compute_dtype}, masters in {config.model.param_dtype}",
        known,
        f"generators: {config.generators.count} × {config.generators.tensor_parallel} ({config.generators.device}), up to "
        f"{config.generators.max_num_seqs} completions each, staleness at most {config.rollout.max_staleness}",
        f"verifiers: {config.verifiers.count} with {config.verifiers.workers} sandboxed children each; "
        f"reward {config.reward.kind}, grader {config.reward.grader}",
        f"learner: {config.learner.ranks} ranks ({config.learner.device}), {config.optimizer.updates_per_step} updates a step",
        f"evaluations: {evaluations}, of {len(config.evaluation.sets)} sets and the training problems",
    ]
