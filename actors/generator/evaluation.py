"""One evaluation on one engine: every evaluation prompt under exactly one policy version.

Owns that every sample is of that version. Called by `actors.generator.weights`, which sees to it that no weights change meanwhile; knows no queue.
"""

import asyncio
import time

import msgspec

from actors.engine.engine import Completion, Engine, SampleRequest
from actors.evaluation import EvaluationPrompt, EvaluationRun, EvaluationSample
from actors.generator.settings import Decoder, GeneratorSettings
from rlvr.errors import EngineError
from rlvr.records import Version
from rlvr.seeds import derive_seed


async def evaluate(engine: Engine, version: Version, *, settings: GeneratorSettings, decoder: Decoder) -> EvaluationRun | None:
    """Sample the evaluation prompts; None where the engine was interrupted meanwhile. Raises EngineError where a sample is of another version."""
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [
            (index, group.create_task(_sample(engine, version, settings, index=index, number=number)))
            for index, prompt in enumerate(settings.evaluation)
            for number in range(prompt.samples)
        ]
    completions = [(index, task.result()) for index, task in tasks]
    if any(completion.finish_reason is None for _, completion in completions):
        return None
    samples = tuple(
        EvaluationSample(
            prompt=index,
            text=decoder.decode(completion.token_ids.tolist()),
            is_truncated=completion.is_truncated,
            num_tokens=len(completion.token_ids),
        )
        for index, completion in completions
    )
    return EvaluationRun(version=version, samples=samples, seconds=time.monotonic() - started)


async def _sample(engine: Engine, version: Version, settings: GeneratorSettings, *, index: int, number: int) -> Completion:
    assert settings.evaluation_sampling is not None
    prompt: EvaluationPrompt = settings.evaluation[index]
    name = f"evaluation/{version}/{index}/{number}"
    sampling = msgspec.structs.replace(settings.evaluation_sampling, temperature=prompt.temperature)
    seed = derive_seed(settings.seed, name) if prompt.temperature > 0 else None
    completion = await engine.sample(SampleRequest(rollout_id=name, prompt_ids=prompt.prompt_ids, sampling=sampling, seed=seed))
    if any(span.version != version for span in completion.spans):
        raise EngineError(f"{name} was sampled under {completion.spans}, an evaluation is of one version")
    return completion
