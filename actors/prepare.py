"""Everything a run can be refused for before anything is started or written.

Owns the step from a configuration to a `Plan`: problems, rendered and tokenised prompts, evaluation prompts, token limits. Called by the CLI;
leaves nothing running, writes nothing. Raises UserError with one sentence.
"""

import logging
import os
from collections.abc import Callable, Sequence

import msgspec

from actors.evaluation import TRAIN_SET, EvaluationPrompt, headline_set
from actors.tokenizer import Tokenizer, check_model
from rlvr import config_rules
from rlvr.config import Config, EvaluationSet
from rlvr.errors import ConfigError, ProblemError
from rlvr.problems import Problem, load_problems, render, training_problems
from verifier.verify import Verifier

logger = logging.getLogger(__name__)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A run that can start: what is trained, evaluated and where a completion ends."""

    problems: tuple[Problem, ...]
    prompts: dict[str, tuple[int, ...]]
    """Prompt token ids by problem id."""
    golds: dict[str, str]
    evaluation: tuple[EvaluationPrompt, ...]
    stop_token_ids: tuple[int, ...]
    evaluation_stop_token_ids: tuple[int, ...]
    evaluation_max_tokens: int
    max_model_len: int
    rollouts_per_step: int


def prepare(config: Config) -> Plan:
    """Resolve everything that a run needs to know before it starts. Reads files, needs no GPU and no Ray."""
    problems = training_problems(config.prompts)
    config_rules.check_run(config, num_problems=len(problems))
    tokenizer = Tokenizer(config.model)
    if config.objective.kl_coef and config.model.reference != "initial":
        check_model(config.model, config.model.reference, key="model.reference")
    check_golds(problems, Verifier.for_training(config))
    prompts = render_prompts(problems, tokenizer, config)
    evaluation = _evaluation_prompts(config, tokenizer, problems)
    if config.evaluation.sets and headline_set(evaluation) is None:
        logger.warning("no set of evaluation.sets is greedy, so the summary has no accuracy before and after: give one temperature = 0")
    for problem_id, prompt_ids in prompts.items():
        if not 0 < len(prompt_ids) <= config.rollout.max_prompt_tokens:
            raise ProblemError(
                f"problem {problem_id}: its prompt has {len(prompt_ids)} tokens, "
                f"rollout.max_prompt_tokens allows 1 to {config.rollout.max_prompt_tokens}"
            )
    evaluation_max_tokens = config.evaluation.max_completion_tokens or config.rollout.max_completion_tokens
    longest_evaluation = max((len(prompt.prompt_ids) for prompt in evaluation), default=0) + evaluation_max_tokens
    max_model_len = max(max(map(len, prompts.values())) + config.rollout.max_completion_tokens, longest_evaluation)
    if max_model_len > tokenizer.max_model_len:
        raise ConfigError(
            f"prompts and completions reach {max_model_len} tokens together, the model holds {tokenizer.max_model_len}; "
            "lower rollout.max_completion_tokens or evaluation.max_completion_tokens"
        )
    stop_token_ids = tokenizer.stop_token_ids(config.rollout.stop_tokens, key="rollout.stop_tokens")
    evaluation_stops = config.evaluation.stop_tokens
    return Plan(
        problems=tuple(problems),
        prompts=prompts,
        golds={problem.id: problem.answer for problem in problems},
        evaluation=tuple(evaluation),
        stop_token_ids=stop_token_ids,
        evaluation_stop_token_ids=(
            stop_token_ids if evaluation_stops is None else tokenizer.known_stop_token_ids(evaluation_stops, key="evaluation.stop_tokens")
        ),
        evaluation_max_tokens=evaluation_max_tokens,
        max_model_len=max_model_len,
        rollouts_per_step=config_rules.rollouts_per_step(config, num_problems=len(problems)),
    )


def check_golds(problems: Sequence[Problem], verifier: Verifier) -> None:
    """Refuse a gold answer that the verifier itself cannot parse: as a reward it would be 0 for ever. The verifier need not be started."""
    for problem in problems:
        fault = verifier.check_gold(problem.answer)
        if fault is not None:
            raise ProblemError(
                f"problem {problem.id}: its gold answer {problem.answer!r} cannot be graded: {fault}; correct it, or set prompts.answers.{problem.id}"
            )


def check_sandbox(config: Config) -> None:
    """Where layers of the sandbox are required: bring one up on this machine, and end it. Raises UserError for a layer that the kernel lacks.

    Verifiers of a joined Ray may live on other machines: there each checks itself.
    """
    if config.verifiers.require and not os.environ.get("RAY_ADDRESS"):
        with Verifier.for_training(config):
            pass


def render_prompts(problems: Sequence[Problem], tokenizer: Tokenizer, config: Config, *, template: str = "") -> dict[str, tuple[int, ...]]:
    """Prompt token ids by problem id, under `template` (default: the training template)."""
    chosen = template or config.prompts.template or ("chat" if tokenizer.has_chat_template else "raw")
    if chosen == "chat" and not tokenizer.has_chat_template:
        raise ConfigError('template = "chat", but the tokenizer of this model has no chat template; use "raw" or a template file')
    chat: Callable[[list[dict[str, str]]], str] | None = tokenizer.chat if tokenizer.has_chat_template else None
    return {problem.id: tokenizer.encode(render(problem, template=chosen, user_suffix=config.prompts.user_suffix, chat=chat)) for problem in problems}


def _evaluation_prompts(config: Config, tokenizer: Tokenizer, training: Sequence[Problem]) -> list[EvaluationPrompt]:
    template = config.evaluation.template
    prompts: list[EvaluationPrompt] = []
    for name, file, settings in config_rules.evaluation_files(config):
        problems = load_problems(file)
        check_golds(problems, Verifier.for_evaluation(config))
        prompts += _prompts_of_set(name, problems, render_prompts(problems, tokenizer, config, template=template), settings)
    # The training problem is asked as in training: what is reported is the accuracy on the prompt that is trained.
    prompts += _prompts_of_set(TRAIN_SET, training, render_prompts(training, tokenizer, config), EvaluationSet())
    return prompts


def _prompts_of_set(name: str, problems: Sequence[Problem], prompts: dict[str, tuple[int, ...]], settings: EvaluationSet) -> list[EvaluationPrompt]:
    return [
        EvaluationPrompt(
            set_name=name,
            problem_id=problem.id,
            prompt_ids=prompts[problem.id],
            gold=problem.answer,
            samples=settings.samples_per_problem,
            temperature=settings.temperature,
        )
        for problem in problems
    ]
