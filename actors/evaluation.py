"""Evaluations: what an engine is asked, what it answered, and what that says of one policy version.

Owns the arithmetic from verdicts to an accuracy with its interval. The generator that evaluates samples, a verifier judges, the controller asks for
both and writes the result.
"""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from rlvr.config import RunConfig
from rlvr.passk import pass_at_k, wilson_interval
from rlvr.records import Unverified, Verdict, VerdictKind, Version

TRAIN_SET = "train"
"""The set of the training problems themselves; evaluated greedily beside the held-out sets."""


class EvaluationPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """One problem of one set: `samples` completions are drawn at `temperature` (0 = greedy)."""

    set_name: str
    problem_id: str
    prompt_ids: tuple[int, ...]
    gold: str
    samples: int = 1
    temperature: float = 0.0


class EvaluationSample(msgspec.Struct, frozen=True, kw_only=True):
    """One completion of one evaluation prompt, by its place in the list of prompts."""

    prompt: int
    text: str
    is_truncated: bool
    num_tokens: int


class EvaluationRun(msgspec.Struct, frozen=True, kw_only=True):
    """Every sample of an evaluation, all of exactly one policy version."""

    version: Version
    samples: tuple[EvaluationSample, ...]
    seconds: float


class EvaluationResult(msgspec.Struct, frozen=True, kw_only=True):
    """One set under one policy version; accuracies are fractions. A line of evals.jsonl.

    low, high: Wilson's 95% interval over the judged samples. pass_at: unbiased pass@k by k, over problems with more than one sample.
    unjudged: samples that a fault of ours left without a verdict; they are in no rate of verdicts. accuracy, format_rate: None where none was judged.
    truncated_rate, mean_tokens: of all samples.
    """

    step: int
    version: str
    set: str
    accuracy: float | None
    low: float
    high: float
    format_rate: float | None
    truncated_rate: float
    mean_tokens: float
    num_problems: int
    samples_per_problem: int
    unjudged: int
    pass_at: dict[str, float]
    grader: str
    extract: str
    seconds: float


def is_evaluated(step: int, run: RunConfig) -> bool:
    """Whether version `step` is evaluated: the first, the last, and every `eval_every_steps` between them."""
    return step in (0, run.num_steps) or (run.eval_every_steps > 0 and step % run.eval_every_steps == 0)


def headline_set(prompts: Sequence[EvaluationPrompt]) -> str | None:
    """The set of the summary's accuracies: the first held-out one that is asked greedily. None where there is none."""
    return next((prompt.set_name for prompt in prompts if prompt.set_name != TRAIN_SET and prompt.temperature == 0), None)


def as_unverified(prompts: Sequence[EvaluationPrompt], samples: Sequence[EvaluationSample]) -> list[Unverified]:
    """The samples as a verifier reads them, in order."""
    return [
        Unverified(
            rollout_id=f"evaluation/{index}",
            lease_id="evaluation",
            problem_id=prompts[sample.prompt].problem_id,
            text=sample.text,
            gold=prompts[sample.prompt].gold,
            is_truncated=sample.is_truncated,
            num_tokens=sample.num_tokens,
        )
        for index, sample in enumerate(samples)
    ]


def results(
    prompts: Sequence[EvaluationPrompt], run: EvaluationRun, verdicts: Sequence[Verdict], *, grader: str, extract: str
) -> list[EvaluationResult]:
    """One result a set, in the order in which the sets first appear among the prompts."""
    judged: dict[str, list[tuple[EvaluationSample, Verdict]]] = {prompt.set_name: [] for prompt in prompts}
    for sample, verdict in zip(run.samples, verdicts, strict=True):
        judged[prompts[sample.prompt].set_name].append((sample, verdict))
    return [_one_set(name, pairs, run, grader=grader, extract=extract) for name, pairs in judged.items()]


def _one_set(name: str, pairs: Sequence[tuple[EvaluationSample, Verdict]], run: EvaluationRun, *, grader: str, extract: str) -> EvaluationResult:
    counted = [(sample, verdict) for sample, verdict in pairs if not verdict.kind.is_ours]
    trials = len(counted)
    right = sum(verdict.kind is VerdictKind.CORRECT for _, verdict in counted)
    low, high = wilson_interval(right, trials) if trials else (0.0, 1.0)
    by_problem: dict[int, list[bool]] = defaultdict(list)
    for sample, verdict in counted:
        by_problem[sample.prompt].append(verdict.kind is VerdictKind.CORRECT)
    most = max((len(outcomes) for outcomes in by_problem.values()), default=1)
    return EvaluationResult(
        step=run.version.step,
        version=str(run.version),
        set=name,
        accuracy=right / trials if trials else None,
        low=low,
        high=high,
        format_rate=sum(verdict.kind is not VerdictKind.NO_ANSWER for _, verdict in counted) / trials if trials else None,
        truncated_rate=sum(sample.is_truncated for sample, _ in pairs) / max(len(pairs), 1),
        mean_tokens=sum(sample.num_tokens for sample, _ in pairs) / max(len(pairs), 1),
        num_problems=len({sample.prompt for sample, _ in pairs}),
        samples_per_problem=most,
        unjudged=len(pairs) - trials,
        pass_at=_pass_at(list(by_problem.values()), most),
        grader=grader,
        extract=extract,
        seconds=run.seconds,
    )


def _pass_at(outcomes: Sequence[Sequence[bool]], most: int) -> dict[str, float]:
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k <= most] if most > 1 else []
    rates = {}
    for k in ks:
        enough = [of_problem for of_problem in outcomes if len(of_problem) >= k]
        rates[str(k)] = sum(pass_at_k(len(of_problem), sum(of_problem), k) for of_problem in enough) / len(enough)
    return rates
