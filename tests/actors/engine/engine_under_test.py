"""One real engine for a test module: a tiny model, a weight sender, an event loop that outlives single tests, and transformers as the reference."""

import asyncio
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from actors.engine.engine import BroadcastAddress, Completion, Engine, EngineSettings, SampleRequest, Sampling
from learner.weight_protocol import StagedVersion
from learner.weights import WeightSender
from rlvr.records import Version

Result = TypeVar("Result")
Weights = dict[str, torch.Tensor]

VOCABULARY = 64
CONTEXT = 256
EOS = 1


def tiny(*, tied: bool) -> PreTrainedModel:
    """A Qwen2 of two layers whose next-token distributions are far from flat; its weights are bf16 values in fp32."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=tied,
            initializer_range=0.15,
            bos_token_id=None,
            eos_token_id=EOS,
            pad_token_id=0,
            dtype=torch.float32,
        )
    )
    return with_weights(model, exported(model))


def exported(model: PreTrainedModel) -> Weights:
    """What a learner publishes: bf16, tied weights once."""
    names = {name for name, _ in model.named_parameters()}  # leaves the tied head out
    return {name: tensor.bfloat16() for name, tensor in model.state_dict().items() if name in names}


def with_weights(model: PreTrainedModel, weights: Weights) -> PreTrainedModel:
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    return model


def nudged(weights: Weights, *, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {name: (tensor.float() + 0.05 * torch.randn(tensor.shape, generator=generator)).bfloat16() for name, tensor in weights.items()}


class EngineUnderTest:
    """The engine, the weights of each version that was published, and shorthands that block."""

    def __init__(self, runner: asyncio.Runner, engine: Engine, sender: WeightSender, model: PreTrainedModel) -> None:
        self.runner = runner
        self.engine = engine
        self.sender = sender
        self.weights: dict[Version, Weights] = {Version(): exported(model)}
        self._model = model
        self._num_requests = 0

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    def request(self, prompt_ids: Sequence[int], *, seed: int | None = None, max_tokens: int = 20, **sampling: Any) -> SampleRequest:
        self._num_requests += 1
        return SampleRequest(
            rollout_id=f"r{self._num_requests:06d}", prompt_ids=tuple(prompt_ids), sampling=Sampling(max_tokens=max_tokens, **sampling), seed=seed
        )

    def sample(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        async def all_of_them() -> list[Completion]:
            return list(await asyncio.gather(*(self.engine.sample(request) for request in requests)))

        return self.run(all_of_them())

    async def all_submitted(self, count: int) -> None:
        async with asyncio.timeout(30.0):
            while self.engine.num_running < count:  # noqa: ASYNC110 - the engine has no reason to announce it
                await asyncio.sleep(0)

    def publish(self, *, keep: bool = False) -> Version:
        """Nudge the newest weights and bring them to the engine's worker, not yet into its model."""
        newest = max(self.weights)
        version = Version(step=newest.step + 1)
        self.weights[version] = nudged(self.weights[newest], seed=version.step)
        self.sender.publish(version, self.weights[version], keep=keep)
        assert self.run(self.staged(newest)).version == version
        return version

    async def staged(self, after: Version) -> StagedVersion:
        """What the engine can apply next; the patience of this is a minute."""
        async with asyncio.timeout(60.0):
            while (staged := await self.engine.next_staged(after, wait_s=0.5)) is None:
                pass
        return staged

    def distance(self, request: SampleRequest, completion: Completion) -> float:
        """The largest difference between the sampler's logprobs and transformers', each token under the weights that its span names."""
        return float(np.abs(completion.logprobs - self.reference(request, completion)).max())

    @torch.no_grad()
    def reference(self, request: SampleRequest, completion: Completion) -> NDArray[np.float32]:
        """Logprobs of transformers. Keys and values stay those of the weights under which they were made, as they do in the engine."""
        ids = torch.tensor([[*request.prompt_ids, *completion.token_ids.tolist()]])
        cache = DynamicCache(config=self._model.config)
        logits, start = [], 0
        for span in completion.spans:
            end = len(request.prompt_ids) + span.end - 1  # the last token of a span is first read under the next weights
            model = with_weights(self._model, self.weights[span.version])
            logits.append(model(ids[:, start:end], past_key_values=cache, use_cache=True).logits[0, -(span.end - span.start) :])
            start = end
        logprobs = torch.log_softmax(torch.cat(logits) / request.sampling.temperature, dim=-1)
        return logprobs.gather(1, torch.tensor(completion.token_ids.astype(np.int64))[:, None])[:, 0].numpy()


@contextmanager
def running_engine(*, tied: bool) -> Iterator[EngineUnderTest]:
    model = tiny(tied=tied)
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        model.save_pretrained(Path(folder))
        settings = EngineSettings(model=folder, dtype="float32", device="cpu", max_num_seqs=64, max_model_len=CONTEXT, kv_cache_gib=0.125, seed=7)
        engine = runner.run(Engine.start(settings))
        sender = WeightSender("127.0.0.1", deadline_s=20.0)
        try:
            host, port = sender.address
            runner.run(engine.join_broadcast(BroadcastAddress(host=host, port=port, generator="g0", deadline_s=20.0)))
            sender.form(["g0.0"])
            yield EngineUnderTest(runner, engine, sender, model)
        finally:
            runner.run(engine.shutdown())
            sender.close()
