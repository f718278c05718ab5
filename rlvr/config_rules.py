"""The rules between keys of a run file.

Owns every bound that takes more than one value to break; a bound of one value stands on its field in `rlvr.config`.
`check` asks no file and no machine.
"""

import re
from collections.abc import Callable
from pathlib import Path

from rlvr.config import Config, CriticConfig, EvaluationSet
from rlvr.config_paths import check_files, is_folder_name
from rlvr.errors import ConfigError

RESERVED_SET = "train"
"""Evaluation of the training problems themselves."""


def check(config: Config) -> None:
    """Raise ConfigError, one sentence, for the first combination of settings that cannot work."""
    for rule in _RULES:
        rule(config)
    known = _num_problems_known(config)
    if known is not None:
        check_sizes(config, num_problems=known)


def check_run(config: Config, *, num_problems: int) -> None:
    """As `check`, when the problems are read and the run is about to start: sizes are known, and every file that it needs must be there."""
    check(config)
    check_sizes(config, num_problems=num_problems)
    check_files(config)


def evaluation_files(config: Config) -> tuple[tuple[str, Path, EvaluationSet], ...]:
    """Name, problem file and settings of each evaluation set. The configuration must be a loaded one."""
    return tuple((one.names[0], Path(one.file), one) for one in config.evaluation.sets)


def rollouts_per_step(config: Config, num_problems: int) -> int:
    """problems_per_step * copies_per_step * group_size; all problems where problems_per_step is left out."""
    return (config.prompts.problems_per_step or num_problems) * config.prompts.copies_per_step * config.rollout.group_size


def engines_known(config: Config) -> int:
    """Engines that a run asks for; 1 where the cluster's nodes will say."""
    return 1 if config.generators.count == "auto" else config.generators.count


def _num_problems_known(config: Config) -> int | None:
    prompts = config.prompts
    if prompts.problems is not None:
        return len(prompts.problems)
    if not prompts.file:
        return 1
    return prompts.problems_per_step


def check_sizes(config: Config, *, num_problems: int) -> None:
    """Raise ConfigError where problems, rollouts, updates and ranks do not go into each other."""
    per_step, updates, ranks = config.prompts.problems_per_step, config.optimizer.updates_per_step, config.learner.ranks
    if per_step is not None and per_step > num_problems:
        raise ConfigError(f"prompts.problems_per_step must be at most the number of problems, {num_problems}, got {per_step}")
    rollouts = rollouts_per_step(config, num_problems)
    if rollouts % updates:
        raise ConfigError(f"optimizer.updates_per_step must divide the rollouts of a step, {rollouts}, got {updates}")
    if rollouts // updates < ranks:
        raise ConfigError(f"learner.ranks must be at most the rollouts of an update, {rollouts // updates}, got {ranks}")


def _names(config: Config) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", config.run.name, re.ASCII):
        raise ConfigError(f"run.name names a folder: letters, digits and . _ + - only, got {config.run.name!r}")
    problems = config.prompts.problems
    if problems is not None and not problems:
        raise ConfigError("prompts.problems is empty: name at least one problem, or leave it out")
    if problems is not None and len(set(problems)) < len(problems):
        raise ConfigError(f"prompts.problems names {_first_double(problems)!r} twice; prompts.copies_per_step trains copies")
    if "" in config.rollout.stop_tokens or "" in (config.evaluation.stop_tokens or ()):
        raise ConfigError("stop_tokens holds an empty string, which would end every completion at once")
    if not config.metrics.bind.strip():
        raise ConfigError("metrics.bind must be an address such as 127.0.0.1 or 0.0.0.0, got an empty string")


def _model(config: Config) -> None:
    model = config.model
    if model.revision and is_folder_name(model.policy):
        raise ConfigError(f"model.revision goes with a hub id, but model.policy is the folder {model.policy}")
    if config.generators.device == "cpu" and config.generators.tensor_parallel > 1:
        raise ConfigError(f"generators.tensor_parallel must be 1 on a CPU, got {config.generators.tensor_parallel}")
    if model.compute_dtype == "float16":
        raise ConfigError('model.compute_dtype = "float16" would need loss scaling, which is not built: use "bfloat16" or "float32"')


def _not_built(config: Config) -> None:
    if config.advantage.estimator == "gae":
        raise ConfigError('advantage.estimator = "gae" is not built yet; "grpo" is')
    if config.critic != CriticConfig():
        raise ConfigError('[critic] acts only with advantage.estimator = "gae", which is not built yet: leave it out')


def _evaluation_sets(config: Config) -> None:
    names = [name for one in config.evaluation.sets for name in one.names]
    if len(set(names)) < len(names):
        raise ConfigError(f"evaluation.sets has two sets with the name {_first_double(names)!r}")
    if RESERVED_SET in names:
        raise ConfigError(f"evaluation.sets: the name {RESERVED_SET!r} is kept for the training problems, which every run evaluates too")
    for one in config.evaluation.sets:
        if one.temperature == 0.0 and one.samples_per_problem > 1:
            raise ConfigError(
                f"evaluation.sets {', '.join(one.names)}: temperature 0 gives the same completion {one.samples_per_problem} times; "
                "set a temperature, or samples_per_problem = 1"
            )


def _objective(config: Config) -> None:
    objective, rollout = config.objective, config.rollout
    uses_sampler = objective.old_logprobs == "sampler" or objective.importance_cap is not None
    if objective.importance_cap is not None and objective.old_logprobs == "sampler":
        raise ConfigError('objective.importance_cap needs objective.old_logprobs = "recomputed": the sampler\'s ratio is corrected already')
    if objective.old_logprobs == "recomputed" and rollout.max_staleness > 0 and objective.importance_cap is None:
        raise ConfigError(
            'objective.old_logprobs = "recomputed" leaves stale rollouts uncorrected: set objective.importance_cap, or rollout.max_staleness = 0'
            f" (it is {rollout.max_staleness})"
        )
    if uses_sampler and (rollout.top_p < 1.0 or rollout.top_k > 0):
        raise ConfigError(
            f"rollout.top_p = {rollout.top_p:g} and rollout.top_k = {rollout.top_k} cut the support of the sampler, "
            'to whose logprobs the ratio is taken; set top_p = 1 and top_k = -1, or objective.old_logprobs = "recomputed" without importance_cap'
        )
    if uses_sampler and not objective.temperature_in_logprobs and rollout.temperature != 1.0:
        raise ConfigError(
            "objective.temperature_in_logprobs = false needs rollout.temperature = 1 where the ratio is taken to the sampler's logprobs, "
            f"got {rollout.temperature:g}"
        )
    if not (objective.policy_coef or objective.kl_coef or objective.entropy_coef):
        raise ConfigError("objective.policy_coef, kl_coef and entropy_coef are all 0: nothing would be trained")


def _groups(config: Config) -> None:
    copies, size = config.prompts.copies_per_step, config.rollout.group_size
    rollouts = size if config.advantage.group_by == "copy" else size * copies
    if config.objective.policy_coef and rollouts < 2:
        raise ConfigError(
            f"a baseline needs at least 2 rollouts: rollout.group_size is {size}, prompts.copies_per_step {copies}"
            f" and advantage.group_by {config.advantage.group_by!r}"
        )


def _optimizer(config: Config) -> None:
    optimizer, rollout = config.optimizer, config.rollout
    if not all(0.0 <= beta < 1.0 for beta in optimizer.betas):
        raise ConfigError(f"optimizer.betas must be two numbers >= 0 and < 1, got {list(optimizer.betas)}")
    if optimizer.warmup_steps > config.run.num_steps:
        raise ConfigError(f"optimizer.warmup_steps must be at most run.num_steps, {config.run.num_steps}, got {optimizer.warmup_steps}")
    longest = rollout.max_prompt_tokens + rollout.max_completion_tokens
    if optimizer.max_tokens_per_micro_batch < longest:
        raise ConfigError(
            "optimizer.max_tokens_per_micro_batch must hold the longest rollout: rollout.max_prompt_tokens + max_completion_tokens = "
            f"{longest}, got {optimizer.max_tokens_per_micro_batch}"
        )


def _queue(config: Config) -> None:
    queue = config.queue
    if (queue.order == "window") != (queue.window > 0):
        raise ConfigError(f'queue.window must be > 0 with queue.order = "window" and 0 otherwise, got {queue.window} with {queue.order!r}')


def _weights(config: Config) -> None:
    ends = (config.generators.device, config.learner.device)
    if config.weights.backend == "nccl" and "cpu" in ends:
        raise ConfigError(f"weights.backend = nccl needs GPUs at both ends; generators.device is {ends[0]}, learner.device {ends[1]}: use gloo")


def _counts(config: Config) -> None:
    generators, verifiers = config.generators, config.verifiers
    if generators.min > generators.max:
        raise ConfigError(f"generators.min must be at most generators.max, {generators.max}, got {generators.min}")
    if generators.count != "auto" and not generators.min <= generators.count <= generators.max:
        raise ConfigError(f"generators.count must lie between generators.min = {generators.min} and max = {generators.max}, got {generators.count}")
    if generators.count == "auto" and generators.scaling == "metrics":
        raise ConfigError('generators.scaling = "metrics" needs a number in generators.count: with "auto" the cluster\'s nodes say how many')
    if verifiers.count > verifiers.max:
        raise ConfigError(f"verifiers.count must be at most verifiers.max = {verifiers.max}, got {verifiers.count}")


def _verifiers(config: Config) -> None:
    verifiers = config.verifiers
    if verifiers.wall_s < verifiers.cpu_budget_s:
        raise ConfigError(f"verifiers.wall_s must be at least verifiers.cpu_budget_s, {verifiers.cpu_budget_s:g}, got {verifiers.wall_s:g}")


def _deterministic(config: Config) -> None:
    if not config.run.deterministic:
        return
    needed = (
        ("rollout.max_staleness", config.rollout.max_staleness, 0),
        ("generators.count", config.generators.count, 1),
        ("generators.scaling", config.generators.scaling, "manual"),
        ("generators.threads", config.generators.threads, 1),
        ("learner.threads", config.learner.threads, 1),
    )
    for key, value, only in needed:
        if value != only:
            raise ConfigError(f"run.deterministic = true needs {key} = {only}, got {value}")


def _first_double(names: list[str] | tuple[str, ...]) -> str:
    return next(name for index, name in enumerate(names) if name in names[:index])


_RULES: tuple[Callable[[Config], None], ...] = (
    _not_built,
    _names,
    _model,
    _evaluation_sets,
    _objective,
    _groups,
    _optimizer,
    _queue,
    _weights,
    _counts,
    _verifiers,
    _deterministic,
)
