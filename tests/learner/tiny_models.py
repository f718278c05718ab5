"""Models of the demo's size and smaller, and batches of invented rollouts, for the learner's tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from learner.learner import Learner
from rlvr.config import Config, ModelConfig, ObjectiveConfig, OptimizerConfig, RolloutConfig
from rlvr.records import LOGPROB_DTYPE, TOKEN_DTYPE, Batch, FinishReason, JudgedRollout, Rollout, Verdict, VerdictKind, Version, VersionSpan

CHARACTERS = "0123456789+-=?/.;,:()\\{}abcdefghijklmnopqrstuvwxyz "
PROMPT = "6.9+5.9=?"


def tokenizer() -> PreTrainedTokenizerFast:
    """One character, one token: the demo's."""
    vocabulary = {token: index for index, token in enumerate(("<pad>", "<eos>", *CHARACTERS))}
    characters = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>")


def qwen2(*, hidden: int = 128, layers: int = 2, tied: bool = False, seed: int = 0, vocab: int = 64) -> PreTrainedModel:
    """The demo's model by default: 345,472 parameters."""
    torch.manual_seed(seed)
    heads = hidden // 32
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=128,
            rope_theta=10000.0,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
            dtype=torch.float32,
        )
    )


def llama(*, seed: int = 0) -> PreTrainedModel:
    """Two layers, grouped key-value heads, untied."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
            dtype=torch.float32,
        )
    )


def save(model: PreTrainedModel, folder: Path) -> Path:
    """A Hugging Face folder with the demo's tokenizer."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def rollout(number: int, tokens: list[int], logprobs: list[float], *, group: str, problem: str, version: Version) -> Rollout:
    return Rollout(
        id=f"r{number:04d}",
        problem_id=problem,
        group_id=group,
        lease_id="l",
        token_data=np.array(tokens, TOKEN_DTYPE).tobytes(),
        logprob_data=np.array(logprobs, LOGPROB_DTYPE).tobytes(),
        spans=(VersionSpan(version, 0, len(tokens)),),
        finish_reason=FinishReason.STOP if tokens[-1] == 1 else FinishReason.LENGTH,
        seconds=0.1,
        text="",
    )


def batch(
    *, step: int = 1, lineage: int = 0, num: int = 8, groups: int = 1, lengths: tuple[int, int] = (3, 12), seed: int = 0, spread: float = 0.1
) -> Batch:
    """Random completions with random rewards; the sampler's logprobs lie around -4.2 (a fresh model's), `spread` apart."""
    draw = np.random.default_rng((seed, step))
    judged = []
    for number in range(num):
        length = int(draw.integers(lengths[0], lengths[1] + 1))
        tokens = [*draw.integers(2, 53, length - 1).tolist(), 1]
        group = number % groups
        made = rollout(
            number,
            tokens,
            (-4.2 + spread * draw.standard_normal(length)).tolist(),
            group=f"g{group}",
            problem=f"p{group}",
            version=Version(lineage, step - 1),
        )
        right = bool(draw.integers(2)) if number >= 2 * groups else number < groups
        kind = VerdictKind.CORRECT if right else VerdictKind.WRONG
        judged.append(JudgedRollout(rollout=made, verdict=Verdict(rollout_id=made.id, lease_id="l", kind=kind, reward=float(right))))
    prompts = {f"p{group}": tuple(draw.integers(2, 53, 9 + group).tolist()) for group in range(groups)}
    return Batch(step=step, lineage=lineage, rollouts=tuple(judged), prompts=prompts)


def config(
    folder: Path,
    *,
    objective: dict | None = None,
    optimizer: dict | None = None,
    rollout: dict | None = None,
    model: dict | None = None,
    **tables: Any,
) -> Config:
    """A run in fp32 at temperature 1 without KL and entropy terms; the named tables' keys replace those."""
    return Config(
        model=ModelConfig(
            policy=str(folder), **{"compute_dtype": "float32", "reference_dtype": "float32", "activation_checkpointing": False} | (model or {})
        ),
        objective=ObjectiveConfig(**{"kl_coef": 0.0, "entropy_coef": 0.0} | (objective or {})),
        optimizer=OptimizerConfig(**{"learning_rate": 1e-4} | (optimizer or {})),
        rollout=RolloutConfig(**{"temperature": 1.0} | (rollout or {})),
        **tables,
    )


def learner(config: Config) -> Learner:
    return Learner(config, rank=0, world_size=1, device="cpu")


def whole_weights(learner: Learner) -> dict[str, Tensor]:
    """The master weights, gathered and copied."""
    return {name: weight.detach().full_tensor().clone() for name, weight in learner.policy.weights().items()}
