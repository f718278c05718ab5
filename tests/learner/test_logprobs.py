"""Logprobs in chunks against logits at once, and the promise about memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import batch, config, learner, qwen2, save
from torch.utils._python_dispatch import TorchDispatchMode

from learner.logprobs import token_logprobs
from rlvr.config import LearnerConfig

TOKENS, HIDDEN, VOCAB = 37, 16, 101


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(TOKENS, HIDDEN, requires_grad=True), torch.randn(VOCAB, HIDDEN, requires_grad=True)
    return hidden, weight, torch.randn(VOCAB, requires_grad=True), torch.randint(VOCAB, (TOKENS,))


def in_chunks(chunk_tokens: int, *, entropy_trains: bool) -> list[torch.Tensor]:
    """Logprobs, entropies and the gradients of a mixture of both."""
    hidden, weight, bias, targets = inputs()
    logprobs, entropies = token_logprobs(hidden, weight, bias, targets, chunk_tokens=chunk_tokens, temperature=0.6, entropy_trains=entropy_trains)
    (logprobs.square().sum() + (3.0 * entropies.sum() if entropy_trains else 0.0)).backward()
    return [logprobs.detach(), entropies.detach(), *(leaf.grad for leaf in (hidden, weight, bias) if leaf.grad is not None)]


def at_once(*, entropy_trains: bool) -> list[torch.Tensor]:
    hidden, weight, bias, targets = inputs()
    all_logprobs = torch.log_softmax((hidden @ weight.T + bias) / 0.6, dim=-1)
    logprobs = all_logprobs[torch.arange(TOKENS), targets]
    entropies = -(all_logprobs.exp() * all_logprobs).sum(-1)
    (logprobs.square().sum() + (3.0 * entropies.sum() if entropy_trains else 0.0)).backward()
    return [logprobs.detach(), entropies.detach(), *(leaf.grad for leaf in (hidden, weight, bias) if leaf.grad is not None)]


@pytest.mark.parametrize("entropy_trains", [False, True])
@pytest.mark.parametrize("chunk_tokens", [1, 8, 37, 1000])
def test_chunks_give_the_values_and_gradients_of_logits_at_once(chunk_tokens: int, entropy_trains: bool) -> None:
    for ours, reference in zip(in_chunks(chunk_tokens, entropy_trains=entropy_trains), at_once(entropy_trains=entropy_trains), strict=True):
        torch.testing.assert_close(ours, reference, atol=2e-4, rtol=1e-5)


def test_in_bf16_the_size_of_a_chunk_changes_the_gradient_by_rounding_only() -> None:
    gradients = []
    for chunk_tokens in (1, TOKENS):
        hidden, weight, _, targets = inputs()
        rounded = weight.detach().bfloat16().requires_grad_()
        logprobs, _ = token_logprobs(hidden.bfloat16(), rounded, None, targets, chunk_tokens=chunk_tokens, temperature=1.0, entropy_trains=False)
        logprobs.sum().backward()
        assert rounded.grad is not None
        gradients.append(rounded.grad.float())
    torch.testing.assert_close(gradients[0], gradients[1], atol=2e-2, rtol=2**-7)


def test_an_entropy_that_does_not_train_has_no_gradient() -> None:
    hidden, weight, bias, targets = inputs()
    _, entropies = token_logprobs(hidden, weight, bias, targets, chunk_tokens=8, temperature=1.0, entropy_trains=False)
    assert not entropies.requires_grad


class WidestOverVocabulary(TorchDispatchMode):
    """Remembers the most rows that any tensor over the vocabulary had."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and VOCAB in tensor.shape:
                self.rows = max(self.rows, tensor.numel() // VOCAB)
        return made


@pytest.mark.parametrize("entropy_trains", [False, True])
def test_logits_of_more_than_a_chunk_never_exist_forward_or_backward(entropy_trains: bool) -> None:
    with WidestOverVocabulary() as seen:
        in_chunks(8, entropy_trains=entropy_trains)
    assert 8 <= seen.rows <= max(8, HIDDEN)  # the head's own weight and gradient are [VOCAB, HIDDEN]
    with WidestOverVocabulary() as all_logits:
        at_once(entropy_trains=entropy_trains)
    assert all_logits.rows == TOKENS


@pytest.mark.usefixtures("alone")
def test_a_whole_training_step_never_holds_more_logits_than_a_chunk(tmp_path: Path) -> None:
    folder = save(qwen2(hidden=64, vocab=VOCAB), tmp_path / "model")
    run = config(folder, objective={"kl_coef": 0.1, "entropy_coef": 0.1}, learner=LearnerConfig(logprob_chunk_tokens=16))
    ours, made = learner(run), batch(num=32)
    assert sum(judged.rollout.num_tokens for judged in made.rollouts) > 200
    with WidestOverVocabulary() as seen:
        ours.train_step(made)
    assert 16 <= seen.rows <= 64  # 64 = the head's own hidden size
