"""`firesteel eval`: accuracy, pass@k and format rate of one model on one problem file.

Owns the command; one engine and one verifier in this process, no Ray. The arithmetic is that of a run's evaluations (`actors.evaluation`).
"""

import asyncio
import json
import time
import typing
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from actors.engine.engine import Engine, SampleRequest, Sampling
from actors.engine.settings import EngineSettings
from actors.evaluation import EvaluationPrompt, EvaluationResult, EvaluationRun, EvaluationSample, as_unverified, results
from actors.prepare import check_golds, render_prompts
from actors.tokenizer import Tokenizer
from rlvr.config import Config, DType, Extract
from rlvr.config_file import load_config
from rlvr.errors import UserError
from rlvr.problems import load_problems
from rlvr.records import Verdict, Version
from rlvr.seeds import derive_seed
from verifier.verify import Verifier

DEFAULT_MAX_TOKENS = 3072


class EvaluationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the engine."""

    config: Config
    prompts: tuple[EvaluationPrompt, ...]
    sampling: Sampling
    max_model_len: int
    decoder: Any
    dtype: DType | None
    """In which the engine computes; None = what suits its device."""


def evaluate(
    model: Path,
    problems: Path,
    *,
    run_file: Path | None,
    extract: str | None,
    template: str | None,
    max_tokens: int | None,
    samples: int,
    temperature: float,
    out: Path | None,
) -> None:
    """Print one table, and write one line a completion where `out` is given. Raises UserError for bad input before the engine starts."""
    if not (model / "config.json").is_file():
        raise UserError(f"{model} is no model folder (it has no config.json); give a Hugging Face folder, such as a checkpoint of a run")
    if samples > 1 and temperature == 0:
        raise UserError(f"--samples {samples} with --temperature 0 draws the same completion every time; give a temperature above 0")
    config = configuration(model, run_file, extract=extract, template=template, max_tokens=max_tokens)
    plan = plan_evaluation(config, problems, samples=samples, temperature=temperature, has_run_file=run_file is not None)
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist")
    run, verdicts = asyncio.run(_sample_and_judge(plan))
    evaluation = config.evaluation
    result = results(plan.prompts, run, verdicts, grader=evaluation.grader, extract=evaluation.extract)[0]
    if out is not None:
        _write(out, plan, run, verdicts)
    _show(result, model)


def configuration(model: Path, run_file: Path | None, *, extract: str | None, template: str | None, max_tokens: int | None) -> Config:
    """The run file's [evaluation], completed from its [rollout] as in a run, or the defaults of this command; with what the options say on top."""
    config = load_config(run_file) if run_file is not None else Config()
    if run_file is not None:
        given, rollout = config.evaluation, config.rollout
        evaluation = msgspec.structs.replace(
            given,
            max_completion_tokens=given.max_completion_tokens or rollout.max_completion_tokens,
            stop_tokens=rollout.stop_tokens if given.stop_tokens is None else given.stop_tokens,
        )
    else:
        evaluation = msgspec.structs.replace(config.evaluation, extract="all")
    if extract is not None:
        if extract not in typing.get_args(Extract):
            raise UserError(f"--extract {extract}: use one of {', '.join(typing.get_args(Extract))}")
        evaluation = msgspec.structs.replace(evaluation, extract=extract)
    if template is not None:
        evaluation = msgspec.structs.replace(evaluation, template=template)
    if max_tokens is not None:
        evaluation = msgspec.structs.replace(evaluation, max_completion_tokens=max_tokens)
    return msgspec.structs.replace(
        config, model=msgspec.structs.replace(config.model, policy=str(model.absolute()), revision=""), evaluation=evaluation
    )


def plan_evaluation(config: Config, file: Path, *, samples: int, temperature: float, has_run_file: bool) -> EvaluationPlan:
    """What is asked of the engine. Raises UserError where problems, prompts, limits and model do not fit."""
    problems = load_problems(file)
    check_golds(problems, Verifier.for_evaluation(config))
    tokenizer = Tokenizer(config.model)
    prompts = render_prompts(problems, tokenizer, config, template=config.evaluation.template)
    limit, window = config.evaluation.max_completion_tokens, tokenizer.max_model_len
    longest = max(map(len, prompts.values()))
    max_tokens = min(limit or DEFAULT_MAX_TOKENS, window - longest)
    if max_tokens < 1 or (limit is not None and limit > max_tokens):
        raise UserError(
            f"the longest prompt has {longest} tokens and the model holds {window}: "
            f"at most {window - longest} tokens can be sampled; lower --max-tokens"
        )
    stops = config.evaluation.stop_tokens
    return EvaluationPlan(
        config=config,
        prompts=tuple(
            EvaluationPrompt(
                set_name=file.stem, problem_id=one.id, prompt_ids=prompts[one.id], gold=one.answer, samples=samples, temperature=temperature
            )
            for one in problems
        ),
        sampling=Sampling(
            temperature=temperature,
            max_tokens=max_tokens,
            stop_token_ids=tokenizer.end_token_ids if stops is None else tokenizer.known_stop_token_ids(stops, key="evaluation.stop_tokens"),
        ),
        max_model_len=longest + max_tokens,
        decoder=tokenizer,
        dtype=config.model.compute_dtype if has_run_file else None,
    )


async def _sample_and_judge(plan: EvaluationPlan) -> tuple[EvaluationRun, list[Verdict]]:
    config = plan.config
    verifier = Verifier.for_evaluation(config)
    verifier.start()
    try:
        engine = await Engine.start(engine_settings(plan, device=_device(config)))
        try:
            run = await _sample(engine, plan)
        finally:
            await engine.shutdown()
        return run, verifier.verify_many(as_unverified(plan.prompts, run.samples))
    finally:
        verifier.close()


async def _sample(engine: Engine, plan: EvaluationPlan) -> EvaluationRun:
    started = time.monotonic()

    async def one(index: int, prompt: EvaluationPrompt, sample: int) -> EvaluationSample:
        name = f"evaluation/{index}/{sample}"
        sampling = msgspec.structs.replace(plan.sampling, temperature=prompt.temperature)
        seed = derive_seed(plan.config.run.seed, name) if prompt.temperature > 0 else None
        completion = await engine.sample(SampleRequest(rollout_id=name, prompt_ids=prompt.prompt_ids, sampling=sampling, seed=seed))
        text = plan.decoder.decode(completion.token_ids.tolist())
        return EvaluationSample(prompt=index, text=text, is_truncated=completion.is_truncated, num_tokens=len(completion.token_ids))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(index, prompt, sample)) for index, prompt in enumerate(plan.prompts) for sample in range(prompt.samples)]
    return EvaluationRun(version=Version(), samples=tuple(task.result() for task in tasks), seconds=time.monotonic() - started)


def _device(config: Config) -> str:
    import torch  # here alone: whether this machine has a GPU

    return config.generators.device if config.generators.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")


def engine_settings(plan: EvaluationPlan, *, device: str) -> EngineSettings:
    config = plan.config
    return EngineSettings(
        model=config.model.policy,
        # Without a run file a CPU computes in float32: bf16 is many times slower on most of them.
        dtype=plan.dtype or ("float32" if device == "cpu" else "bfloat16"),
        device=device,
        tensor_parallel=config.generators.tensor_parallel,
        max_num_seqs=config.generators.max_num_seqs,
        max_model_len=plan.max_model_len,
        kv_cache_gib=config.generators.kv_cache_gib,
        gpu_memory_fraction=config.generators.gpu_memory_fraction,
        threads=config.generators.threads,
        enforce_eager=config.generators.enforce_eager,
        trust_remote_code=config.model.trust_remote_code,
        seed=derive_seed(config.run.seed, "engine", "eval", 0, bits=31),
    )


def _write(out: Path, plan: EvaluationPlan, run: EvaluationRun, verdicts: list[Verdict]) -> None:
    part = out.with_name(f".{out.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for sample, verdict in zip(run.samples, verdicts, strict=True):
            prompt = plan.prompts[sample.prompt]
            line = {"id": prompt.problem_id, "response": sample.text, "gold": prompt.gold, "kind": verdict.kind.value, "reward": verdict.reward}
            file.write(json.dumps({**line, "answer": verdict.answer, "tokens": sample.num_tokens, "truncated": sample.is_truncated}) + "\n")
    part.replace(out)


def _show(result: EvaluationResult, model: Path) -> None:
    console = Console()
    console.print(f"model           {model}", markup=False, highlight=False, soft_wrap=True)
    rows: dict[str, str] = {
        "problems": f"{result.num_problems} of {result.set}, {result.samples_per_problem} completions each",
        "accuracy": "not judged" if result.accuracy is None else f"{result.accuracy:.4f} (95% interval {result.low:.4f} to {result.high:.4f})",
        "format rate": "not judged" if result.format_rate is None else f"{result.format_rate:.4f}",
        "truncated": f"{result.truncated_rate:.4f}",
        **{f"pass@{k}": f"{rate:.4f}" for k, rate in result.pass_at.items()},
        "grader": f"{result.grader}, extract {result.extract}",
        "unjudged": str(result.unjudged),
        "seconds": f"{result.seconds:.1f}",
    }
    for name, value in rows.items():
        console.print(f"{name:<15} {value}", markup=False, highlight=False)
