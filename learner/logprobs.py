"""Logprobs and entropies of given tokens, from hidden states, in chunks: logits of more than one chunk never exist, forward or backward.

Owns the vocabulary-wide arithmetic and its gradient. Called by `learner.policy`; knows no model, no rank.
Shapes: M tokens, C tokens of one chunk, H hidden, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def token_logprobs(
    hidden_MH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_M: Tensor,
    *,
    chunk_tokens: int,
    temperature: float,
    entropy_trains: bool,
) -> tuple[Tensor, Tensor]:
    """Logprobs and entropies, [M] float32 nats each, of softmax(logits / temperature) at the targets.

    Logits are computed in the type of the weight and then float32. The backward pass computes each chunk's logits again and adds up the weight's
    gradient in float32, so that the size of a chunk changes nothing but memory. entropy_trains = False gives entropies without gradient.
    """
    return _ChunkedLogprobs.apply(hidden_MH, weight_VH, bias_V, targets_M, chunk_tokens, temperature, entropy_trains)


class _ChunkedLogprobs(torch.autograd.Function):
    """Checkpointing by chunk, with the gradient written out: autograd would sum the chunks' weight gradients in the weight's own type."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_M: Tensor,
        chunk_tokens: int,
        temperature: float,
        entropy_trains: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs_M, entropies_M, normalisers_M = (hidden_MH.new_empty(targets_M.shape, dtype=torch.float32) for _ in range(3))
        for chunk in _chunks(targets_M.numel(), chunk_tokens):
            logits_CV = _logits(hidden_MH[chunk], weight_VH, bias_V, temperature)
            normaliser_C = logits_CV.logsumexp(-1)
            normalisers_M[chunk] = normaliser_C
            logprobs_M[chunk] = logits_CV.gather(-1, targets_M[chunk, None]).squeeze(-1) - normaliser_C
            entropies_M[chunk] = normaliser_C - (logits_CV.softmax(-1) * logits_CV).sum(-1)
        ctx.save_for_backward(hidden_MH, weight_VH, bias_V, targets_M, normalisers_M, entropies_M)
        ctx.settings = (chunk_tokens, temperature, entropy_trains)
        if not entropy_trains:
            ctx.mark_non_differentiable(entropies_M)
        return logprobs_M, entropies_M

    @staticmethod
    def backward(ctx: Any, grad_logprobs_M: Tensor, grad_entropies_M: Tensor) -> tuple[Tensor | None, ...]:
        hidden_MH, weight_VH, bias_V, targets_M, normalisers_M, entropies_M = ctx.saved_tensors
        chunk_tokens, temperature, entropy_trains = ctx.settings
        grad_hidden_MH = torch.empty_like(hidden_MH)
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and ctx.needs_input_grad[2] else None
        for chunk in _chunks(targets_M.numel(), chunk_tokens):
            grad_logits_CV = _grad_logits(
                _logits(hidden_MH[chunk], weight_VH, bias_V, temperature),
                targets_M[chunk],
                normalisers_M[chunk, None],
                grad_logprobs_M[chunk, None],
                entropies_C1=entropies_M[chunk, None] if entropy_trains else None,
                grad_entropies_C1=grad_entropies_M[chunk, None],
            ).div_(temperature)
            if grad_bias_V is not None:
                grad_bias_V += grad_logits_CV.sum(0)
            rounded_CV = grad_logits_CV.to(weight_VH.dtype)
            grad_hidden_MH[chunk] = rounded_CV @ weight_VH
            if grad_weight_VH is not None:
                grad_weight_VH += rounded_CV.T @ hidden_MH[chunk]
        return (
            grad_hidden_MH,
            None if grad_weight_VH is None else grad_weight_VH.to(weight_VH.dtype),
            None if grad_bias_V is None else grad_bias_V.to(weight_VH.dtype),
            *(None,) * 4,
        )


def _chunks(num_tokens: int, chunk_tokens: int) -> list[slice]:
    return [slice(start, start + chunk_tokens) for start in range(0, num_tokens, chunk_tokens)]


def _logits(hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, temperature: float) -> Tensor:
    """[C, V] float32, divided by the temperature."""
    return functional.linear(hidden_CH, weight_VH, bias_V).float() / temperature


def _grad_logits(
    logits_CV: Tensor, targets_C: Tensor, normalisers_C1: Tensor, grad_logprobs_C1: Tensor, *, entropies_C1: Tensor | None, grad_entropies_C1: Tensor
) -> Tensor:
    """Gradient at the tempered logits x with p = softmax(x): of a logprob, onehot − p; of an entropy H, −p·(x − logsumexp(x) + H)."""
    log_p_CV = logits_CV.sub_(normalisers_C1)
    slope_CV = -grad_logprobs_C1 if entropies_C1 is None else -grad_logprobs_C1 - grad_entropies_C1 * (log_p_CV + entropies_C1)
    grad_CV = log_p_CV.exp().mul_(slope_CV)
    rows_C = torch.arange(targets_C.numel(), device=targets_C.device)
    grad_CV[rows_C, targets_C] += grad_logprobs_C1.squeeze(-1)
    return grad_CV
